"""A site's steps of a set-up: each takes a state and a message, and gives the next state and the bytes to send.

Of the rules that `site` lists, those are kept here on the terms, on whose keys count, and on the size of a cohort;
besides, a set-up that has begun keeps its cohort and its shares (CohortChanged).
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.roster import Identity, Roster
from privacy.secure_aggregation import checks
from privacy.secure_aggregation.errors import (
    CohortChanged,
    DuplicateKey,
    MalformedCiphertext,
    MalformedMessage,
    OwnKeyAltered,
    PastRound,
    WrongSurvivors,
)
from privacy.secure_aggregation.keys import Entropy, commitment, private_key, public_key, seal, unseal
from privacy.secure_aggregation.messages import SHARES_PER_SLOT, Advert, AdvertList, Begin, SealedShares
from privacy.secure_aggregation.secret_sharing import split
from privacy.secure_aggregation.site_state import SiteState
from privacy.secure_aggregation.terms import Limits, Terms
from privacy.secure_aggregation.topology import Topology


def advertised(
    identity: Identity, terms: Terms, limits: Limits, *, last_slot: int, entropy: Entropy
) -> tuple[SiteState, bytes]:
    """Make the set-up's keys: the first state, and the advert. Raises TermsRefused, PastRound."""
    limits.check(terms)
    if terms.first_slot <= last_slot:
        raise PastRound(
            f"the set-up begins at slot {terms.first_slot} and this site has answered slot {last_slot}",
            remedy="a round cannot be repeated: go on with the next",
        )
    mask_keys = tuple(entropy(32) for _ in range(terms.slots))
    seeds = tuple(entropy(32) for _ in range(terms.slots))
    state = SiteState(
        phase="advertised",
        site=identity.name,
        terms=terms,
        encryption_key=entropy(32),
        mask_keys=mask_keys,
        seeds=seeds,
        advert=b"",
        last_slot=last_slot,
        tolerated_colluders=limits.tolerated_colluders,
    )
    advert = _advert(state, identity)
    return state.becoming(advert=advert), advert


def shared(state: SiteState, encoded: bytes, roster: Roster, *, entropy: Entropy) -> tuple[SiteState, bytes]:
    """Check everybody's keys and share one's own secrets: SealedShares."""
    state.require_phase("advertised")
    message = AdvertList.from_bytes(encoded)
    if message.members.get(state.site) != hashlib.sha256(state.advert).digest():
        raise OwnKeyAltered(
            f"the coordinator's list does not hold the keys that {state.site} advertised",
            remedy="do not go on with this coordinator before it is clear who altered them",
        )
    checks.require_known(message.members, roster)
    topology = Topology(state.terms, message.members)
    checks.require_withstanding(topology, state.tolerated_colluders)
    adverts = _checked_adverts(state, message, topology, roster)
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
    after = state.becoming(phase="shared", members=message.members, adverts=adverts, shares=own)
    return after, SealedShares(sealed=sealed).to_bytes()


def begun(state: SiteState, encoded: bytes) -> SiteState:
    """Open the shares meant for this site; the same message again changes nothing."""
    digest = hashlib.sha256(encoded).digest()
    if state.phase == "begun" and digest == state.begin_digest:
        return state
    if state.phase == "begun":
        raise CohortChanged("the set-up has begun with another cohort or other shares", remedy="make a new set-up")
    state.require_phase("shared")
    message = Begin.from_bytes(encoded)
    topology = state.topology()
    _check_cohort(state, message, topology)
    senders = set(topology.neighbours_of(state.site)) & set(message.cohort)
    if senders != set(message.sealed):
        raise MalformedCiphertext(
            f"the shares handed on to {state.site} are not those of its neighbours in the cohort",
            remedy="make a new set-up",
        )
    private = private_key(state.encryption_key)
    opened = {sender: _open(state, sender, message.sealed[sender], topology, private) for sender in sorted(senders)}
    return state.becoming(
        phase="begun",
        cohort=message.cohort,
        begin_digest=digest,
        shares={**state.shares, **opened},
        encryption_key=b"",
    )


def _advert(state: SiteState, identity: Identity) -> bytes:
    """The public side of the state's keys, signed."""
    context = state.terms.digest()
    unsigned = Advert(
        site=state.site,
        encryption_key=public_key(state.encryption_key),
        mask_keys=tuple(public_key(key) for key in state.mask_keys),
        seed_commitments=tuple(
            commitment(seed, context=context, site=state.site, slot=state.terms.first_slot + index)
            for index, seed in enumerate(state.seeds)
        ),
        signature=b"",
    )
    return unsigned.model_copy(update={"signature": identity.sign(unsigned.signed_part(context))}).to_bytes()


def _checked_adverts(state: SiteState, message: AdvertList, topology: Topology, roster: Roster) -> dict[str, Advert]:
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


def _check_cohort(state: SiteState, message: Begin, topology: Topology) -> None:
    checks.require_sorted(message.cohort, "cohort")
    if state.site not in message.cohort or not set(message.cohort) <= set(state.members):
        raise WrongSurvivors(
            f"the cohort is not made of those who advertised, {state.site} among them", remedy="make a new set-up"
        )
    topology.require_recoverable(state.site, message.cohort)
    topology.groups(message.cohort, state.terms.first_slot)


def _open(state: SiteState, sender: str, sealed: bytes, topology: Topology, private: X25519PrivateKey) -> bytes:
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
