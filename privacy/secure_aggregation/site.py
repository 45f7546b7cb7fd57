"""A site's side of secure aggregation, as a state machine: bytes in, bytes out.

    advertise -> share -> begin -> ( mask -> [attest ->] unmask )*        one set-up, then a new `advertise`

Rules kept here, each with its error:

* terms weaker than the site's own limits are refused (TermsRefused); a set-up never goes back in time (PastRound);
* a peer's keys count only under the signature of the identity in the site's own roster (KeyNotSigned); the site's own
  keys must come back as it sent them (OwnKeyAltered); no key serves two sites (DuplicateKey);
* cohorts under the threshold or the minimum get nothing (CohortTooSmall), also when the list of survivors is too short;
* one vector a slot, and slots only forward (PastRound); one list signed and one answered a slot (SecondUnmasking);
* of a peer either the share of its seed or the share of its key is revealed, never both (SurvivorAndDropped), and where
  the coordinator may cheat only after enough holders of that peer's shares signed the same list (TooFewSignatures);
* secrets of a slot are erased once it is answered, and those of earlier slots when a later one begins.

* a site whose values go beyond their bounds leaves the run (ValueOutOfRange), so that refusals measure nothing.

Any other refusal leaves the state as it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray
from pydantic import Field

from privacy.roster import Identity, Roster
from privacy.secure_aggregation import checks
from privacy.secure_aggregation.errors import (
    CohortChanged,
    DuplicateKey,
    MalformedCiphertext,
    MalformedMessage,
    OwnKeyAltered,
    PastRound,
    SecondUnmasking,
    UnknownSetUp,
    ValueOutOfRange,
    WrongSurvivors,
)
from privacy.secure_aggregation.keys import (
    Entropy,
    commitment,
    join,
    pairwise_mask_key,
    private_key,
    public_key,
    seal,
    self_mask_key,
    unseal,
)
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
from privacy.secure_aggregation.secret_sharing import split
from privacy.secure_aggregation.terms import Limits, Terms
from privacy.secure_aggregation.topology import Topology
from privacy.secure_aggregation.wire import Name, WireMessage


class SiteState(WireMessage):
    """All a site remembers of a set-up. Secrets stay out of `repr`."""

    phase: Literal["advertised", "shared", "begun"]
    site: Name
    terms: Terms
    encryption_key: bytes = Field(repr=False)
    mask_keys: tuple[bytes, ...] = Field(repr=False)
    seeds: tuple[bytes, ...] = Field(repr=False)
    advert: bytes = Field(repr=False)
    members: dict[Name, bytes] = Field(default={}, repr=False)
    adverts: dict[Name, Advert] = Field(default={}, repr=False)
    cohort: Names = ()
    begin_digest: bytes = b""
    shares: dict[Name, bytes] = Field(default={}, repr=False)
    last_slot: int = 0
    attested: bytes = b""
    unmasked: bool = False
    left: bool = False
    tolerated_colluders: int = 0


class SiteSession:
    """One site in one set-up."""

    def __init__(self, state: SiteState) -> None:
        self._state = state

    def __repr__(self) -> str:
        """No secret, no key."""
        state = self._state
        return f"SiteSession({state.site!r}, set_up={state.terms.set_up}, {state.phase}, last_slot={state.last_slot})"

    @classmethod
    def from_bytes(cls, encoded: bytes) -> SiteSession:
        """A session that `to_bytes` wrote."""
        return cls(SiteState.from_bytes(encoded))

    def to_bytes(self) -> bytes:
        """The whole state, secrets included: for the site's own memory only."""
        return self._state.to_bytes()

    @property
    def terms(self) -> Terms:
        """What the set-up is about."""
        return self._state.terms

    @property
    def last_slot(self) -> int:
        """The last slot this site sent a vector in, over all set-ups."""
        return self._state.last_slot

    @classmethod
    def advertise(
        cls, identity: Identity, terms: Terms, limits: Limits, *, last_slot: int = 0, entropy: Entropy = os.urandom
    ) -> tuple[SiteSession, bytes]:
        """Make the set-up's keys; returns the session and the advert to send.

        `last_slot` is that of the previous set-up. Raises TermsRefused, PastRound.
        """
        limits.check(terms)
        if terms.first_slot <= last_slot:
            raise PastRound(
                f"the set-up begins at slot {terms.first_slot} and this site has answered slot {last_slot}",
                remedy="a round cannot be repeated: go on with the next",
            )
        context = terms.digest()
        mask_keys = tuple(entropy(32) for _ in range(terms.slots))
        seeds = tuple(entropy(32) for _ in range(terms.slots))
        encryption_key = entropy(32)
        unsigned = Advert(
            site=identity.name,
            encryption_key=public_key(encryption_key),
            mask_keys=tuple(public_key(key) for key in mask_keys),
            seed_commitments=tuple(
                commitment(seed, context=context, site=identity.name, slot=terms.first_slot + index)
                for index, seed in enumerate(seeds)
            ),
            signature=b"",
        )
        advert = unsigned.model_copy(update={"signature": identity.sign(unsigned.signed_part(context))}).to_bytes()
        state = SiteState(
            phase="advertised",
            site=identity.name,
            terms=terms,
            encryption_key=encryption_key,
            mask_keys=mask_keys,
            seeds=seeds,
            advert=advert,
            last_slot=last_slot,
            tolerated_colluders=limits.tolerated_colluders,
        )
        return cls(state), advert

    def share(self, encoded: bytes, roster: Roster, *, entropy: Entropy = os.urandom) -> bytes:
        """Check everybody's keys and share one's own secrets; returns the sealed shares to send."""
        state = self._in_phase("advertised")
        message = AdvertList.from_bytes(encoded)
        if message.members.get(state.site) != hashlib.sha256(state.advert).digest():
            raise OwnKeyAltered(
                f"the coordinator's list does not hold the keys that {state.site} advertised",
                remedy="do not go on with this coordinator before it is clear who altered them",
            )
        checks.require_known(message.members, roster)
        topology = Topology(state.terms, message.members)
        checks.require_withstanding(topology, state.tolerated_colluders)
        adverts = self._checked_adverts(message, topology, roster)
        secrets = b"".join(key + seed for key, seed in zip(state.mask_keys, state.seeds, strict=True))
        holders = topology.holders_of(state.site)
        shares = split(secrets, threshold=topology.threshold, holders=len(holders), entropy=entropy)
        private = private_key(state.encryption_key)
        sealed = {
            holder: seal(
                share,
                private,
                adverts[holder].encryption_key,
                context=topology.digest,
                sender=state.site,
                holder=holder,
                nonce=entropy(12),
            )
            for holder, share in zip(holders, shares, strict=True)
            if holder != state.site
        }
        own = {state.site: shares[holders.index(state.site)]}
        self._become(phase="shared", members=message.members, adverts=adverts, shares=own)
        return SealedShares(sealed=sealed).to_bytes()

    def begin(self, encoded: bytes) -> None:
        """Open the shares meant for this site; the same message again changes nothing."""
        digest = hashlib.sha256(encoded).digest()
        if self._state.phase == "begun" and digest == self._state.begin_digest:
            return
        if self._state.phase == "begun":
            raise CohortChanged("the set-up has begun with another cohort or other shares", remedy="make a new set-up")
        state = self._in_phase("shared")
        message = Begin.from_bytes(encoded)
        checks.require_sorted(message.cohort, "cohort")
        topology = Topology(state.terms, state.members)
        if state.site not in message.cohort or not set(message.cohort) <= set(state.members):
            raise WrongSurvivors(
                f"the cohort is not made of those who advertised, {state.site} among them", remedy="make a new set-up"
            )
        topology.require_recoverable(state.site, message.cohort)
        topology.groups(message.cohort, state.terms.first_slot)
        senders = set(topology.neighbours_of(state.site)) & set(message.cohort)
        if senders != set(message.sealed):
            raise MalformedCiphertext(
                f"the shares handed on to {state.site} are not those of its neighbours in the cohort",
                remedy="make a new set-up",
            )
        private = private_key(state.encryption_key)
        opened = {sender: self._open(sender, message.sealed[sender], topology, private) for sender in sorted(senders)}
        self._become(
            phase="begun",
            cohort=message.cohort,
            begin_digest=digest,
            shares={**state.shares, **opened},
            encryption_key=b"",
        )

    def mask(
        self,
        slot: int,
        kind: str,
        topic: bytes,
        shapes: str,
        values: Mapping[str, NDArray[np.floating[Any]]],
        *,
        weights: Mapping[str, float] | None = None,
        rng: np.random.Generator | None = None,
    ) -> bytes:
        """The site's vector of this slot, masked; `values` and `weights` as in `Encoding.encode`.

        `topic` is a digest (32 bytes) of the question the vector answers, the global model in it. Masks depend on it,
        so vectors that answer different questions never add up to anything readable (Pasquini et al. 2022).

        Raises PastRound, ShapeChanged, ValueOutOfRange. After a value out of range the site takes no further part in
        the run: one that chooses the question could else find out the value, one refusal after the other.
        """
        self.require_open(slot)
        state = self._state
        index = state.terms.index_of(slot)
        checks.require_shapes(state.terms, shapes)
        topology = Topology(state.terms, state.members)
        partners = topology.partners_of(state.site, state.cohort, slot)
        encoding = state.terms.encoding(kind, len(state.cohort))
        try:
            words = encoding.encode(values, weights=weights or {}, rounding=state.terms.rounding, rng=rng)
        except ValueOutOfRange:
            everything = state.terms.slots
            self._erase(own=everything, shares=everything, last_slot=slot, left=True)
            raise
        bound: dict[str, Any] = {"context": topology.digest, "slot": slot, "topic": join(kind, topic)}
        add_mask(encoding, words, self_mask_key(state.seeds[index], **bound), sign=1)
        private = private_key(state.mask_keys[index])
        for partner in partners:
            public = state.adverts[partner].mask_keys[index]
            key = pairwise_mask_key(private, public, pair=(state.site, partner), **bound)
            add_mask(encoding, words, key, sign=1 if state.site < partner else -1)
        vector = MaskedVector(slot=slot, kind=kind, topic=topic, words=words.tobytes()).to_bytes()
        self._erase(own=index + 1, shares=index, last_slot=slot, attested=b"", unmasked=False)
        return vector

    def require_open(self, slot: int) -> None:
        """Raise UnknownSetUp, PastRound or ValueOutOfRange when no vector can be sent in this slot (any more)."""
        state = self._in_phase("begun")
        state.terms.index_of(slot)
        if slot <= state.last_slot:
            raise PastRound(
                f"slot {slot} is over: this site has answered slot {state.last_slot}",
                remedy="a round cannot be repeated: go on with the next",
            )

    def require_part(self) -> None:
        """Raise ValueOutOfRange when the site has left the run."""
        if self._state.left:
            raise ValueOutOfRange(
                f"{self._state.site} left the run because a value was beyond its bound in slot {self._state.last_slot}",
                remedy="find out why, raise privacy.secure_agg.max_people or value_bound, and start a new run",
            )

    def attest(self, encoded: bytes, identity: Identity) -> bytes:
        """Sign the list of survivors this site was shown: one list a slot."""
        message = Survivors.from_bytes(encoded)
        state, topology = self._checked_list(message)
        if state.attested:
            raise SecondUnmasking(
                f"{state.site} has signed a list of survivors of slot {message.slot} already",
                remedy="go on with the next round",
            )
        signed = message.signed_part(topology.context, topology.digest, state.cohort)
        self._become(attested=hashlib.sha256(signed).digest())
        return Attestation(slot=message.slot, signature=identity.sign(signed)).to_bytes()

    def unmask(self, encoded: bytes, roster: Roster) -> bytes:
        """Reveal what the sum over the survivors needs, once, and erase the slot's secrets."""
        message = UnmaskRequest.from_bytes(encoded)
        state, topology = self._checked_list(message.list)
        wanted = message.list
        peers = [name for name in topology.holders_of(state.site) if name in state.shares]
        if state.terms.malicious_coordinator:
            signed = wanted.signed_part(topology.context, topology.digest, state.cohort)
            if state.attested != hashlib.sha256(signed).digest():
                raise WrongSurvivors(
                    f"the list of survivors is not the one that {state.site} signed",
                    remedy="do not go on with this coordinator before it is clear why it shows different lists",
                )
            judged = [name for name in topology.peers_of(state.site, state.cohort) if name in state.cohort]
            checks.require_signatures(topology, wanted, message.signatures, signed, judged, roster)
        revealed = topology.revealed_survivors(state.cohort, wanted.slot, wanted.survivors)
        start = state.terms.index_of(wanted.slot) * SHARES_PER_SLOT
        dropped = set(wanted.dropped)
        keys = {name: state.shares[name][start : start + 32] for name in peers if name in dropped}
        seeds = {name: state.shares[name][start + 32 : start + 64] for name in peers if name in revealed}
        answered = state.terms.index_of(wanted.slot) + 1
        self._erase(own=answered, shares=answered, unmasked=True)
        return Revealed(slot=wanted.slot, seeds=seeds, keys=keys).to_bytes()

    def _in_phase(self, phase: str) -> SiteState:
        self.require_part()
        if self._state.phase != phase:
            raise UnknownSetUp(
                f"{self._state.site} is in phase '{self._state.phase}' of the set-up and the step needs '{phase}'",
                remedy="make a new set-up",
            )
        return self._state

    def _become(self, **changes: Any) -> None:
        self._state = self._state.model_copy(update=changes)

    def _checked_adverts(self, message: AdvertList, topology: Topology, roster: Roster) -> dict[str, Advert]:
        state = self._state
        adverts = {advert.site: advert for advert in message.adverts}
        checks.require_unique([advert.site for advert in message.adverts])
        if set(adverts) != set(topology.acquaintances_of(state.site, message.members)):
            raise MalformedMessage(
                f"the adverts handed on to {state.site} are not those of its neighbours", remedy="make a new set-up"
            )
        for advert in message.adverts:
            checks.require_signed(advert, state.terms, topology.context, roster)
            if advert.digest() != message.members[advert.site]:
                raise MalformedMessage(
                    f"the advert of {advert.site} is not the one in the list", remedy="make a new set-up"
                )
        own = Advert.from_bytes(state.advert)
        keys = [key for advert in (own, *message.adverts) for key in advert.public_keys()]
        if len(set(keys)) < len(keys):
            raise DuplicateKey(
                "one key is advertised twice, by two sites or for two rounds",
                remedy="give every site keys of its own, made by DJMS",
            )
        return adverts

    def _open(self, sender: str, sealed: bytes, topology: Topology, private: X25519PrivateKey) -> bytes:
        state = self._state
        shares = unseal(
            sealed,
            private,
            state.adverts[sender].encryption_key,
            context=topology.digest,
            sender=sender,
            holder=state.site,
        )
        if len(shares) != state.terms.slots * SHARES_PER_SLOT:
            raise MalformedCiphertext(
                f"the shares that {sender} sealed for {state.site} have another length than they should",
                remedy=f"use the same version of DJMS at {sender}",
            )
        return shares

    def _checked_list(self, message: Survivors) -> tuple[SiteState, Topology]:
        state = self._in_phase("begun")
        if message.slot != state.last_slot:
            raise PastRound(
                f"slot {message.slot} is not the one this site sent its last vector in, {state.last_slot}",
                remedy="go on with the next round",
            )
        if state.unmasked:
            raise SecondUnmasking(
                f"{state.site} has answered for slot {message.slot} already", remedy="go on with the next round"
            )
        topology = Topology(state.terms, state.members)
        checks.require_partition(message, state.cohort, state.site)
        checks.require_recovery_allowed(state.terms, message)
        topology.require_recoverable(state.site, message.survivors)
        return state, topology

    def _erase(self, *, own: int, shares: int, **changes: Any) -> None:
        """Forget one's own secrets of the first `own` slots and everybody's shares of the first `shares` slots."""
        state = self._state
        gone = shares * SHARES_PER_SLOT
        self._become(
            mask_keys=(*(b"",) * own, *state.mask_keys[own:]),
            seeds=(*(b"",) * own, *state.seeds[own:]),
            shares={name: bytes(gone) + share[gone:] for name, share in state.shares.items()},
            **changes,
        )
