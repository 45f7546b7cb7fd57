"""A site's side of secure aggregation, as a state machine: bytes in, bytes out.

    advertise -> share -> begin -> ( mask -> [attest ->] unmask )*        one set-up, then a new `advertise`

Rules kept here and in the steps (`site_set_up`, `site_sum`) and the state (`site_state`), each with its error:

* terms weaker than the site's own limits are refused (TermsRefused); a set-up never goes back in time (PastRound);
* a peer's keys count only under the signature of the identity in the site's own roster (KeyNotSigned); the site's own
  keys must come back as it sent them (OwnKeyAltered); no key serves two sites (DuplicateKey);
* cohorts under the threshold or the minimum get nothing (CohortTooSmall), also when the list of survivors is too short;
* one vector a slot, and slots only forward (PastRound); one list signed and one answered a slot (SecondUnmasking);
* of a peer either the share of its seed or the share of its key is revealed, never both (SurvivorAndDropped), and where
  the coordinator may cheat only after enough holders of that peer's shares signed the same list (TooFewSignatures);
* secrets of a slot are erased once it is answered, and those of earlier slots when a later one begins;
* a site whose values go beyond their bounds leaves the run (ValueOutOfRange), so that refusals measure nothing.

Any other refusal leaves the state as it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.distributed_noise import NoiseShare
from privacy.roster import Identity, Roster
from privacy.secure_aggregation import site_set_up, site_sum
from privacy.secure_aggregation.errors import TermsRefused, ValueOutOfRange
from privacy.secure_aggregation.keys import Entropy
from privacy.secure_aggregation.site_state import SiteState
from privacy.secure_aggregation.terms import Limits, Terms


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
        state, advert = site_set_up.advertised(identity, terms, limits, last_slot=last_slot, entropy=entropy)
        return cls(state), advert

    def share(self, encoded: bytes, roster: Roster, *, entropy: Entropy = os.urandom) -> bytes:
        """Check everybody's keys and share one's own secrets; returns the sealed shares to send."""
        self._state, sealed = site_set_up.shared(self._state, encoded, roster, entropy=entropy)
        return sealed

    def begin(self, encoded: bytes) -> None:
        """Open the shares meant for this site; the same message again changes nothing."""
        self._state = site_set_up.begun(self._state, encoded)

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
        before = self._state
        before.require_open(slot)
        try:
            self._state, vector = site_sum.masked(before, slot, kind, topic, shapes, values, weights=weights, rng=rng)
        except ValueOutOfRange:
            self._state = before.leaving(slot)
            raise
        return vector

    def require_open(self, slot: int) -> None:
        """Raise UnknownSetUp, PastRound or ValueOutOfRange when no vector can be sent in this slot (any more)."""
        self._state.require_open(slot)

    def noise_share(
        self, kind: str, segment: str, *, noise_multiplier: float, norm: float, weight: float
    ) -> NoiseShare:
        """This site's share of the noise on a segment of a sum, from the terms that the site itself has agreed to.

        Values of the segment are in units of 1/`weight`. Raises UnknownSetUp before the set-up has begun, ShapeChanged,
        GridTooCoarse, and TermsRefused where the words have no room for the noise.
        """
        state = self._state
        state.require_phase("begun")
        encoding = self.terms.encoding(kind, len(state.cohort))
        share = NoiseShare(
            noise_multiplier, norm, weight * 2.0 ** encoding.exponent(segment), state.topology().least_honest
        )
        bound = next(part.bound for part in encoding.segments if part.name == segment)
        if share.reach * weight > bound:
            raise TermsRefused(
                f"noise on updates of norm {norm:g} may reach {share.reach * weight:.4g}, and the words of the secure "
                f"sum carry {bound:g}",
                remedy="raise privacy.secure_agg.value_bound, or lower privacy.dp.update_norm",
            )
        return share

    def require_part(self) -> None:
        """Raise ValueOutOfRange when the site has left the run."""
        self._state.require_part()

    def attest(self, encoded: bytes, identity: Identity) -> bytes:
        """Sign the list of survivors this site was shown: one list a slot."""
        self._state, signature = site_sum.attested(self._state, encoded, identity)
        return signature

    def unmask(self, encoded: bytes, roster: Roster) -> bytes:
        """Reveal what the sum over the survivors needs, once, and erase the slot's secrets."""
        self._state, shares = site_sum.unmasked(self._state, encoded, roster)
        return shares
