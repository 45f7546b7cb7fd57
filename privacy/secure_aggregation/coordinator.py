"""The coordinator's side of secure aggregation: it relays keys and shares, adds masked vectors, and takes masks off.

    SetUp:      add_advert* -> close_adverts -> add_shares* -> close_shares
    SecureSum:  add_masked* -> close -> [add_attestation* ->] add_revealed* -> result

It is given nothing it could read one vector from. It checks what it relays, so that a site that errs is left out before
others would refuse because of it; and it checks every secret it rebuilds against its owner's commitment or public key,
so what it returns is the sum of the vectors that arrived, or an error, and never something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy.roster import Roster
from privacy.secure_aggregation import checks
from privacy.secure_aggregation.errors import (
    CohortTooSmall,
    DuplicateKey,
    DuplicateSite,
    MalformedMessage,
    PastRound,
    ShapeChanged,
    WrongTopic,
)
from privacy.secure_aggregation.keys import join, pairwise_mask_key, private_key, sealed_size, self_mask_key
from privacy.secure_aggregation.masks import add_mask
from privacy.secure_aggregation.messages import (
    SHARES_PER_SLOT,
    Advert,
    AdvertList,
    Attestation,
    Begin,
    MaskedVector,
    Names,
    Revealed,
    SealedShares,
    Survivors,
    UnmaskRequest,
)
from privacy.secure_aggregation.recovery import recover_key, recover_seed
from privacy.secure_aggregation.terms import Terms
from privacy.secure_aggregation.topology import Topology


class SetUp:
    """One set-up with those sites that take part in it."""

    def __init__(self, terms: Terms, roster: Roster) -> None:
        self.terms = terms
        self.roster = roster
        self.adverts: dict[str, Advert] = {}
        self.cohort: Names = ()
        self._members: dict[str, bytes] = {}
        self._sealed: dict[str, SealedShares] = {}
        self._context = terms.digest()
        self._topology: Topology | None = None

    def add_advert(self, site: str, encoded: bytes) -> None:
        """Take a site's advert. Raises ProtocolError when it must be left out."""
        if self._topology is not None:
            raise PastRound(
                f"{site} sent its keys after they were closed", remedy="it can take part in the next set-up"
            )
        advert = Advert.from_bytes(encoded)
        if advert.site != site:
            raise MalformedMessage(f"{site} sent an advert of {advert.site}", remedy="give every site its own identity")
        if site in self.adverts:
            raise DuplicateSite(f"two nodes advertise as {site}", remedy="give every site its own identity")
        checks.require_signed(advert, self.terms, self._context, self.roster)
        known = {key for other in self.adverts.values() for key in other.public_keys()}
        if known & set(advert.public_keys()):
            raise DuplicateKey(f"{site} advertises a key that another site has", remedy=f"set {site} up anew")
        self.adverts[site] = advert

    def close_adverts(self) -> None:
        """No more adverts. Raises CohortTooSmall, ThresholdTooLow."""
        self._members = {site: self.adverts[site].digest() for site in sorted(self.adverts)}
        self._topology = Topology(self.terms, self._members)

    def adverts_for(self, site: str) -> bytes:
        """The list of everybody, with the adverts this site needs."""
        wanted = self.topology.acquaintances_of(site, self._members)
        return AdvertList(members=self._members, adverts=tuple(self.adverts[name] for name in wanted)).to_bytes()

    def add_shares(self, site: str, encoded: bytes) -> None:
        """Take a site's sealed shares. Raises MalformedMessage unless there is one for each of its neighbours."""
        if site not in self.adverts or self.cohort:
            raise PastRound(
                f"{site} sent shares without keys, or after they were closed",
                remedy="it can take part in the next set-up",
            )
        shares = SealedShares.from_bytes(encoded)
        if set(shares.sealed) != set(self.topology.neighbours_of(site)):
            raise MalformedMessage(f"{site} sealed no share for one of its neighbours", remedy=f"set {site} up anew")
        if {len(sealed) for sealed in shares.sealed.values()} - {sealed_size(self.terms.slots * SHARES_PER_SLOT)}:
            raise MalformedMessage(f"{site} sealed shares of another length", remedy=f"set {site} up anew")
        self._sealed[site] = shares

    def close_shares(self) -> None:
        """The cohort is fixed: those who shared and have enough holders. Raises CohortTooSmall."""
        cohort = set(self._sealed)
        while True:
            without = {site for site in cohort if not self._has_holders(site, cohort)}
            if not without:
                break
            cohort -= without
        if len(cohort) < self.terms.minimum_cohort:
            raise CohortTooSmall(
                f"{len(cohort)} sites shared their keys and at least {self.terms.minimum_cohort} must",
                remedy="wait for more sites",
            )
        self.cohort = tuple(sorted(cohort))
        self.topology.groups(self.cohort, self.terms.first_slot)

    def begin_for(self, site: str) -> bytes:
        """The cohort, and the shares its members sealed for this site."""
        senders = set(self.topology.neighbours_of(site)) & set(self.cohort)
        sealed = {sender: self._sealed[sender].sealed[site] for sender in sorted(senders)}
        return Begin(cohort=self.cohort, sealed=sealed).to_bytes()

    @property
    def topology(self) -> Topology:
        """Who has to do with whom; known once adverts are closed."""
        if self._topology is None:
            raise PastRound("the set-up's adverts are not closed", remedy="close them first")
        return self._topology

    def _has_holders(self, site: str, cohort: set[str]) -> bool:
        return len(set(self.topology.holders_of(site)) & cohort) >= self.topology.threshold


@dataclass(frozen=True)
class GroupSum:
    """The sum over `members`, decoded: one float64 array for each segment."""

    members: Names
    values: dict[str, NDArray[np.float64]]


class SecureSum:
    """One slot: vectors come in masked, their sum goes out."""

    def __init__(self, set_up: SetUp, slot: int, kind: str, topic: bytes) -> None:
        self.set_up = set_up
        self.slot = slot
        self.kind = kind
        self.topic = topic
        self._bound_topic = join(kind, topic)
        self._index = set_up.terms.index_of(slot)
        self._topology = set_up.topology
        self._encoding = set_up.terms.encoding(kind, len(set_up.cohort))
        self._groups = self._topology.groups(set_up.cohort, slot)
        self._totals: dict[Names, NDArray[np.uint8]] = {}
        self._delivered: set[str] = set()
        self._list: Survivors | None = None
        self._signatures: dict[str, bytes] = {}
        self._revealed: dict[str, Revealed] = {}

    def add_masked(self, site: str, encoded: bytes) -> None:
        """Add a site's vector. Raises ProtocolError when it must be left out."""
        message = MaskedVector.from_bytes(encoded)
        if self._list is not None:
            raise PastRound(f"{site} sent its vector after the sum was closed", remedy="go on with the next round")
        if (message.slot, message.kind) != (self.slot, self.kind):
            raise PastRound(f"{site} sent a vector of slot {message.slot}", remedy=f"this is slot {self.slot}")
        if message.topic != self.topic:
            raise WrongTopic(f"{site} answered another question than was asked", remedy="send everybody the same model")
        if site not in self.set_up.cohort or site in self._delivered:
            raise DuplicateSite(
                f"{site} sent a second vector, or is not in the cohort", remedy="send one vector a round"
            )
        if len(message.words) != self._encoding.size:
            raise ShapeChanged(f"the vector of {site} has another length", remedy="use the same version of DJMS there")
        group = next(group for group in self._groups if site in group)
        if group not in self._totals:
            self._totals[group] = np.zeros(self._encoding.size, dtype=np.uint8)
        self._encoding.add(self._totals[group], np.frombuffer(message.words, dtype=np.uint8))
        self._delivered.add(site)

    def close(self) -> bytes:
        """No more vectors; the list to sign, or to unmask by. Raises CohortTooSmall: then nothing may be unmasked."""
        if len(self._delivered) < self.set_up.terms.minimum_cohort:
            raise CohortTooSmall(
                f"{len(self._delivered)} of {len(self.set_up.cohort)} sites sent a vector and at least "
                f"{self.set_up.terms.minimum_cohort} must",
                remedy="this sum is given up and nothing is revealed",
            )
        dropped = tuple(site for site in self.set_up.cohort if site not in self._delivered)
        message = Survivors(slot=self.slot, survivors=tuple(sorted(self._delivered)), dropped=dropped)
        checks.require_recovery_allowed(self.set_up.terms, message)
        if not self._topology.revealed_survivors(self.set_up.cohort, self.slot, message.survivors):
            raise CohortTooSmall("no group has enough survivors", remedy="this sum is given up and nothing is revealed")
        for site in self.set_up.cohort:
            self._topology.require_recoverable(site, message.survivors)
        self._list = message
        return message.to_bytes()

    def add_attestation(self, site: str, encoded: bytes) -> None:
        """Take a survivor's signature on the list. Raises KeyNotSigned when it does not verify."""
        message = Attestation.from_bytes(encoded)
        signed = self.survivors.signed_part(self._topology.context, self._topology.digest, self.set_up.cohort)
        self.set_up.roster.verify(site, signed, message.signature)
        self._signatures[site] = message.signature

    def unmask_request_for(self, site: str) -> bytes:
        """The list, with the signatures of those whose word this site needs."""
        wanted: set[str] = set()
        for peer in self._topology.peers_of(site, self.set_up.cohort):
            wanted.update(self._topology.holders_of(peer))
        signatures = {name: self._signatures[name] for name in sorted(wanted & set(self._signatures))}
        return UnmaskRequest(list=self.survivors, signatures=signatures).to_bytes()

    def add_revealed(self, site: str, encoded: bytes) -> None:
        """Take a survivor's shares. Raises MalformedMessage for shares it was not asked for."""
        message = Revealed.from_bytes(encoded)
        if message.slot != self.slot or site not in self._delivered:
            raise MalformedMessage(f"{site} revealed shares of another round", remedy=f"set {site} up anew")
        held, dropped = set(self._topology.holders_of(site)), set(self.survivors.dropped)
        if not (set(message.keys) <= held & dropped and set(message.seeds) <= held - dropped):
            raise MalformedMessage(f"{site} revealed shares it was not asked for", remedy=f"set {site} up anew")
        self._revealed[site] = message

    def result(self) -> list[GroupSum]:
        """Take the masks off; one sum for each group that had enough survivors, in the order of their members.

        Raises CohortTooSmall when fewer shares came than the threshold, RecoveryFailed when they give a wrong secret.
        """
        survivors = self.survivors
        revealed = self._topology.revealed_survivors(self.set_up.cohort, self.slot, survivors.survivors)
        groups = {tuple(site for site in group if site in revealed): total for group, total in self._totals.items()}
        # Nothing is taken off before every secret is there, so that more shares can still be added after a failure.
        found = [(members, groups[members], list(self._masks_on(members))) for members in sorted(groups) if members]
        for _, total, masks in found:
            for key, sign in masks:
                add_mask(self._encoding, total, key, sign=-1 if sign == 1 else 1)
        self._totals = {}
        return [GroupSum(members, self._encoding.decode(total)) for members, total, _ in found]

    @property
    def wants_signatures(self) -> bool:
        """Whether sites sign the list before they answer it; known once the sum is closed."""
        checked = self.set_up.terms.malicious_coordinator
        return checked and not self._topology.goes_without_signatures(self.survivors.survivors, self.set_up.cohort)

    @property
    def delivered(self) -> int:
        """How many sites sent a vector."""
        return len(self._delivered)

    @property
    def survivors(self) -> Survivors:
        """Whose vectors are in the sum; known once it is closed."""
        if self._list is None:
            raise PastRound("the sum is not closed", remedy="close it first")
        return self._list

    def _masks_on(self, members: Names) -> Iterator[tuple[bytes, Literal[1, -1]]]:
        """Key and sign of each mask that is left on the sum of these members' vectors."""
        bound: dict[str, Any] = {"context": self._topology.digest, "slot": self.slot, "topic": self._bound_topic}
        present = set(members)
        for site in members:
            expected = self.set_up.adverts[site].seed_commitments[self._index]
            seed = recover_seed(self._shares_of(site, dropped=False), expected, self._topology, site, self.slot)
            yield self_mask_key(seed, **bound), 1
        for site in self.survivors.dropped:
            partners = [name for name in self._partners_of(site) if name in present]
            if not partners:
                continue
            public = self.set_up.adverts[site].mask_keys[self._index]
            private = private_key(recover_key(self._shares_of(site, dropped=True), public, self._topology, site))
            for partner in partners:
                public = self.set_up.adverts[partner].mask_keys[self._index]
                yield pairwise_mask_key(private, public, pair=(site, partner), **bound), 1 if partner < site else -1

    def _partners_of(self, site: str) -> Names:
        return self._topology.partners_of(site, self.set_up.cohort, self.slot)

    def _shares_of(self, site: str, *, dropped: bool) -> Mapping[int, bytes]:
        """The revealed shares of one site's secret by the holders' index."""
        shares: dict[int, bytes] = {}
        for index, holder in enumerate(self._topology.holders_of(site), start=1):
            message = self._revealed.get(holder)
            kind = None if message is None else message.keys if dropped else message.seeds
            if kind is not None and site in kind:
                shares[index] = kind[site]
        return shares
