"""Attacks on secure aggregation by a coordinator that cheats, as scripts: what it asks whom, and what it can compute.

The coordinator here uses nothing but what it receives: adverts, masked vectors and revealed shares. It talks to sites
through `Cohort.attest` and `Cohort.unmask`, which are the sites' own state machines with all their refusals.

`different_lists` is the attack that the consistency check (Bonawitz et al. 2017, section 6.2) is there against. A site
reveals, of each peer, the share of its self-mask seed or the share of its mask key, as its list says. Shown different
lists the sites *vote* on every peer, and t votes decide. Each list must name t survivors, the asked site among them;
but no list need be the outcome of the votes. At 3-of-5, five lists of three survivors and two dropped sites each have
ten votes for "dropped", and nine are enough to have three sites dropped: what remains is the sum over two.

`divided_groups` is an attack on the check itself, where it asks too little: see there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from secure_federation import ANYTHING, TOPIC, Cohort, identity_of, listing, request, seeded

from privacy.secure_aggregation.errors import ProtocolError
from privacy.secure_aggregation.keys import join, pairwise_mask_key, private_key, self_mask_key
from privacy.secure_aggregation.masks import add_mask
from privacy.secure_aggregation.messages import (
    SHARES_PER_SLOT,
    Advert,
    AdvertList,
    Attestation,
    MaskedVector,
    Revealed,
    Survivors,
)
from privacy.secure_aggregation.secret_sharing import combine
from privacy.secure_aggregation.site import SiteSession


def votes(names: Sequence[str], victims: Iterable[str], threshold: int, slot: int) -> dict[str, Survivors]:
    """For every site a list with `threshold` survivors, itself among them, by which all but `victims` are voted out.

    Raises ValueError when so few victims cannot be singled out.
    """
    targets = sorted(set(names) - set(victims))
    count = dict.fromkeys(targets, 0)
    lists = {}
    for asked in names:
        others = sorted((name for name in targets if name != asked), key=lambda name: (count[name], name))
        dropped = others[: len(names) - threshold]
        for name in dropped:
            count[name] += 1
        lists[asked] = listing(slot, set(names) - set(dropped), dropped)
    if any(number < threshold for number in count.values()):
        raise ValueError(f"{len(names)} lists of {threshold} survivors do not vote {len(targets)} sites out")
    return lists


def handed_on(cohort: Cohort, name: str, adverts: Mapping[str, Advert]) -> bytes:
    """The list for a site with some adverts replaced or added."""
    everybody = cohort.set_up.adverts | adverts
    members = {other: everybody[other].digest() for other in sorted(everybody)}
    return AdvertList(
        members=members, adverts=tuple(everybody[other] for other in sorted(everybody) if other != name)
    ).to_bytes()


def forged(cohort: Cohort, name: str, signer: str) -> Advert:
    """An advert in the name of a site, with keys whose secrets the coordinator has, signed by whom it can get."""
    own = SiteSession.advertise(identity_of(name), cohort.terms, ANYTHING, entropy=seeded(f"forged {name}"))[1]
    return resigned(cohort, Advert.from_bytes(own), signer)


def resigned(cohort: Cohort, advert: Advert, signer: str, **changes: Any) -> Advert:
    """An advert with changes and the signature of whom the coordinator colludes with."""
    unsigned = advert.model_copy(update=changes | {"signature": b""})
    signature = identity_of(signer).sign(unsigned.signed_part(cohort.terms.digest()))
    return unsigned.model_copy(update={"signature": signature})


class Loot:
    """Shares a coordinator has gathered in one slot, and what they open."""

    def __init__(self, cohort: Cohort, slot: int, *, kind: str = "train", topic: bytes = TOPIC) -> None:
        self.cohort, self.slot, self.kind, self.topic = cohort, slot, kind, topic
        self.topology = cohort.set_up.topology
        self.seeds: dict[str, dict[int, bytes]] = {}
        self.keys: dict[str, dict[int, bytes]] = {}
        self.known_seeds: dict[str, bytes] = {}
        self.known_keys: dict[str, bytes] = {}

    def add(self, holder: str, revealed: Revealed) -> None:
        """Keep what an honest site revealed."""
        for kept, shares in ((self.seeds, revealed.seeds), (self.keys, revealed.keys)):
            for owner, share in shares.items():
                kept.setdefault(owner, {})[self._place(owner, holder)] = share

    def add_colluder(self, name: str, before: bytes) -> None:
        """Keep what a colluding site knew before it masked: its own secrets, and both kinds of shares of everybody."""
        state = SiteSession.from_bytes(before)._state
        index = self.cohort.terms.index_of(self.slot)
        self.known_seeds[name], self.known_keys[name] = state.seeds[index], state.mask_keys[index]
        start = index * SHARES_PER_SLOT
        for owner, share in state.shares.items():
            place = self._place(owner, name)
            self.keys.setdefault(owner, {})[place] = share[start : start + 32]
            self.seeds.setdefault(owner, {})[place] = share[start + 32 : start + 64]

    def opened(self, shares: Mapping[str, Mapping[int, bytes]]) -> dict[str, bytes]:
        """The secrets of which there are enough shares."""
        enough = self.topology.threshold
        return {name: combine(dict(sorted(own.items())[:enough])) for name, own in shares.items() if len(own) >= enough}

    def sum_over(self, victims: Iterable[str], masked: Mapping[str, bytes]) -> dict[str, NDArray[np.float64]]:
        """Take every mask off that can be taken off the sum of these sites' vectors; noise, if one is left."""
        seeds, keys = self.opened(self.seeds) | self.known_seeds, self.opened(self.keys) | self.known_keys
        encoding = self.cohort.encoding(self.kind)
        bound: dict[str, Any] = {
            "context": self.topology.digest,
            "slot": self.slot,
            "topic": join(self.kind, self.topic),
        }
        index = self.cohort.terms.index_of(self.slot)
        adverts = self.cohort.set_up.adverts
        among = sorted(victims)
        total = np.zeros(encoding.size, np.uint8)
        for name in among:
            words = MaskedVector.from_bytes(masked[name]).words
            encoding.add(total, np.frombuffer(words, np.uint8))
            if name in seeds:
                add_mask(encoding, total, self_mask_key(seeds[name], **bound), sign=-1)
            for other in self.topology.partners_of(name, self.cohort.set_up.cohort, self.slot):
                if other in among:
                    continue
                known = keys.get(other) or keys.get(name)
                if known is None:
                    continue
                theirs = name if other in keys else other
                key = pairwise_mask_key(
                    private_key(known), adverts[theirs].mask_keys[index], **bound, pair=(name, other)
                )
                add_mask(encoding, total, key, sign=-1 if name < other else 1)
        return encoding.decode(total)

    def _place(self, owner: str, holder: str) -> int:
        return self.topology.holders_of(owner).index(holder) + 1


def different_lists(
    cohort: Cohort, slot: int, masked: Mapping[str, bytes], victims: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Show every site another list of survivors, and read the sum over fewer sites than the threshold.

    Where the consistency check is on, each site is first asked to sign the list it will be asked to answer, and all
    signatures are handed on. Returns the sum over `victims`. Raises whatever the first site refuses with.
    """
    names = cohort.set_up.cohort
    lists = votes(names, victims, cohort.set_up.topology.threshold, slot)
    signatures: dict[str, bytes] = {}
    if cohort.terms.malicious_coordinator:
        for name in names:
            signatures[name] = Attestation.from_bytes(cohort.attest(name, lists[name].to_bytes())).signature
    loot = Loot(cohort, slot)
    for name in names:
        loot.add(name, Revealed.from_bytes(cohort.unmask(name, request(lists[name], signatures))))
    return loot.sum_over(victims, masked)


def divided_groups(
    cohort: Cohort, slot: int, masked: Mapping[str, bytes]
) -> tuple[str, dict[str, NDArray[np.float64]], list[ProtocolError]]:
    """With random groups in a sparse graph, show one list to one arc of the ring and another to the rest.

    Each site finds enough signatures on its list from the holders of those peers whose shares it holds: they stand next
    to it on the ring. But partners of a group stand anywhere. By the first list everybody survived, which uncovers the
    self-mask of one member of a group; by the second list the others of its group, far away, dropped out, which
    uncovers all its masks with them. So every site must see that the holders of everybody signed its list.

    Returns the victim, what the coordinator reads as its vector, and the refusals. Needs a graph in which such an arc
    exists; raises ValueError otherwise.
    """
    names = set(cohort.set_up.cohort)
    arc, group, victim = _arc(cohort, slot)
    away = set(group) - {victim}
    first, second = listing(slot, names), listing(slot, names - away, away)
    loot, refusals = Loot(cohort, slot), []
    for listed, shown in ((first, arc), (second, names - arc - away)):
        signatures = {
            name: Attestation.from_bytes(cohort.attest(name, listed.to_bytes())).signature for name in sorted(shown)
        }
        for name in sorted(shown):
            try:
                loot.add(name, Revealed.from_bytes(cohort.unmask(name, request(listed, signatures))))
            except ProtocolError as refusal:
                refusals.append(refusal)
    return victim, loot.sum_over([victim], masked), refusals


def _arc(cohort: Cohort, slot: int) -> tuple[set[str], tuple[str, ...], str]:
    """An arc of the ring, a group, and its only member within the reach of the arc; the others are out of it."""
    topology, names = cohort.set_up.topology, cohort.set_up.cohort
    ring = topology._graph._ring

    def reach(signing: set[str]) -> set[str]:
        def enough(peer: str, among: set[str]) -> bool:
            return len(set(topology.holders_of(peer)) & among) >= topology.threshold

        answering = {name for name in signing if all(enough(peer, signing) for peer in topology.holders_of(name))}
        return {peer for peer in names if enough(peer, answering)}

    for length in range(1, len(ring)):
        for start in range(len(ring)):
            arc = set((ring + ring)[start : start + length])
            within = reach(arc)
            for group in topology.groups(names, slot):
                inside = within & set(group)
                if len(inside) == 1 and set(group) - inside <= reach(set(names) - arc - set(group)):
                    return arc, group, inside.pop()
    raise ValueError("no arc of this ring separates one member from its group")
