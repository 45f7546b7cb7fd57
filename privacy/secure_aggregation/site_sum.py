"""A site's steps of a secure sum: each takes a state and gives the next state and the bytes to send.

Of the rules that `site` lists, those are kept here on lists of survivors, on what is revealed of a peer, and on what is
erased when. A vector may be sent only in a slot that is open; whoever calls `masked` sees to that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.roster import Identity, Roster
from privacy.secure_aggregation import checks
from privacy.secure_aggregation.errors import PastRound, SecondUnmasking, WrongSurvivors
from privacy.secure_aggregation.keys import join, pairwise_mask_key, private_key, self_mask_key
from privacy.secure_aggregation.masks import add_mask
from privacy.secure_aggregation.messages import (
    SHARES_PER_SLOT,
    Attestation,
    MaskedVector,
    Revealed,
    Survivors,
    UnmaskRequest,
)
from privacy.secure_aggregation.site_state import SiteState
from privacy.secure_aggregation.topology import Topology


def masked(
    state: SiteState,
    slot: int,
    kind: str,
    topic: bytes,
    shapes: str,
    values: Mapping[str, NDArray[np.floating[Any]]],
    *,
    weights: Mapping[str, float] | None,
    rng: np.random.Generator | None,
) -> tuple[SiteState, bytes]:
    """The site's vector of this slot, masked: MaskedVector. Requires `state.require_open(slot)`.

    Raises ShapeChanged, and ValueOutOfRange, after which the state must be `state.leaving(slot)`.
    """
    index = state.terms.index_of(slot)
    checks.require_shapes(state.terms, shapes)
    topology = state.topology()
    partners = topology.partners_of(state.site, state.cohort, slot)
    encoding = state.terms.encoding(kind, len(state.cohort))
    words = encoding.encode(values, weights=weights or {}, rounding=state.terms.rounding, rng=rng)
    bound: dict[str, Any] = {"context": topology.digest, "slot": slot, "topic": join(kind, topic)}
    add_mask(encoding, words, self_mask_key(state.seeds[index], **bound), sign=1)
    private = private_key(state.mask_keys[index])
    for partner in partners:
        public = state.adverts[partner].mask_keys[index]
        key = pairwise_mask_key(private, public, pair=(state.site, partner), **bound)
        add_mask(encoding, words, key, sign=1 if state.site < partner else -1)
    vector = MaskedVector(slot=slot, kind=kind, topic=topic, words=words.tobytes()).to_bytes()
    return state.erased(own=index + 1, shares=index, last_slot=slot, attested=b"", unmasked=False), vector


def attested(state: SiteState, encoded: bytes, identity: Identity) -> tuple[SiteState, bytes]:
    """Sign the list of survivors this site was shown, one list a slot: Attestation."""
    message = Survivors.from_bytes(encoded)
    topology = _checked_list(state, message)
    if state.attested:
        raise SecondUnmasking(
            f"{state.site} has signed a list of survivors of slot {message.slot} already",
            remedy="go on with the next round",
        )
    signed = message.signed_part(topology.context, topology.digest, state.cohort)
    after = state.becoming(attested=hashlib.sha256(signed).digest())
    return after, Attestation(slot=message.slot, signature=identity.sign(signed)).to_bytes()


def unmasked(state: SiteState, encoded: bytes, roster: Roster) -> tuple[SiteState, bytes]:
    """Reveal what the sum over the survivors needs, once, and erase the slot's secrets: Revealed."""
    message = UnmaskRequest.from_bytes(encoded)
    wanted = message.list
    topology = _checked_list(state, wanted)
    unsigned = not state.attested and topology.goes_without_signatures(wanted.survivors, state.cohort)
    if state.terms.malicious_coordinator and not unsigned:
        _check_attested(state, message, topology, roster)
    peers = [name for name in topology.holders_of(state.site) if name in state.shares]
    revealed = topology.revealed_survivors(state.cohort, wanted.slot, wanted.survivors)
    start = state.terms.index_of(wanted.slot) * SHARES_PER_SLOT
    dropped = set(wanted.dropped)
    keys = {name: state.shares[name][start : start + 32] for name in peers if name in dropped}
    seeds = {name: state.shares[name][start + 32 : start + 64] for name in peers if name in revealed}
    answered = state.terms.index_of(wanted.slot) + 1
    after = state.erased(own=answered, shares=answered, unmasked=True)
    return after, Revealed(slot=wanted.slot, seeds=seeds, keys=keys).to_bytes()


def _check_attested(state: SiteState, message: UnmaskRequest, topology: Topology, roster: Roster) -> None:
    """Raise WrongSurvivors or TooFewSignatures unless this site and enough others signed the very list."""
    wanted = message.list
    signed = wanted.signed_part(topology.context, topology.digest, state.cohort)
    if state.attested != hashlib.sha256(signed).digest():
        raise WrongSurvivors(
            f"the list of survivors is not the one that {state.site} signed",
            remedy="do not go on with this coordinator before it is clear why it shows different lists",
        )
    judged = [name for name in topology.peers_of(state.site, state.cohort) if name in state.cohort]
    checks.require_signatures(topology, wanted, message.signatures, signed, judged, roster)


def _checked_list(state: SiteState, message: Survivors) -> Topology:
    """The topology, once the list is one that this site may sign or answer."""
    state.require_phase("begun")
    if message.slot != state.last_slot:
        raise PastRound(
            f"slot {message.slot} is not the one this site sent its last vector in, {state.last_slot}",
            remedy="go on with the next round",
        )
    if state.unmasked:
        raise SecondUnmasking(
            f"{state.site} has answered for slot {message.slot} already", remedy="go on with the next round"
        )
    topology = state.topology()
    checks.require_partition(message, state.cohort, state.site)
    checks.require_recovery_allowed(state.terms, message)
    topology.require_recoverable(state.site, message.survivors)
    return topology
