"""What a site remembers of a set-up, what may be done in that state, and what is erased from it.

A state is a frozen value: `site_set_up` and `site_sum` make the next one out of it, and `site` keeps the last.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field

from privacy.secure_aggregation.errors import PastRound, UnknownSetUp, ValueOutOfRange
from privacy.secure_aggregation.messages import SHARES_PER_SLOT, Advert, Names
from privacy.secure_aggregation.terms import Terms
from privacy.secure_aggregation.topology import Topology
from privacy.secure_aggregation.wire import Name, WireMessage

Phase = Literal["advertised", "shared", "begun"]


class SiteState(WireMessage):
    """All a site remembers of a set-up. Secrets stay out of `repr`."""

    phase: Phase
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

    def topology(self) -> Topology:
        """Who has to do with whom; known once the site has shared its secrets."""
        return Topology(self.terms, self.members)

    def require_part(self) -> None:
        """Raise ValueOutOfRange when the site has left the run."""
        if self.left:
            raise ValueOutOfRange(
                f"{self.site} left the run because a value was beyond its bound in slot {self.last_slot}",
                remedy="find out why, raise privacy.secure_agg.max_people or value_bound, and start a new run",
            )

    def require_phase(self, phase: Phase) -> None:
        """Raise UnknownSetUp when the set-up is at another step, ValueOutOfRange when the site has left the run."""
        self.require_part()
        if self.phase != phase:
            raise UnknownSetUp(
                f"{self.site} is in phase '{self.phase}' of the set-up and the step needs '{phase}'",
                remedy="make a new set-up",
            )

    def require_open(self, slot: int) -> None:
        """Raise UnknownSetUp, PastRound or ValueOutOfRange when no vector can be sent in this slot (any more)."""
        self.require_phase("begun")
        self.terms.index_of(slot)
        if slot <= self.last_slot:
            raise PastRound(
                f"slot {slot} is over: this site has answered slot {self.last_slot}",
                remedy="a round cannot be repeated: go on with the next",
            )

    def becoming(self, **changes: Any) -> Self:
        """The state with these fields changed."""
        return self.model_copy(update=changes)

    def erased(self, *, own: int, shares: int, **changes: Any) -> Self:
        """The state without one's own secrets of the first `own` slots and everybody's shares of the first `shares`."""
        gone = shares * SHARES_PER_SLOT
        return self.becoming(
            mask_keys=(*(b"",) * own, *self.mask_keys[own:]),
            seeds=(*(b"",) * own, *self.seeds[own:]),
            shares={name: bytes(gone) + share[gone:] for name, share in self.shares.items()},
            **changes,
        )

    def leaving(self, slot: int) -> Self:
        """The state of a site that leaves the run in this slot, without any secret of a slot."""
        everything = self.terms.slots
        return self.erased(own=everything, shares=everything, last_slot=slot, left=True)
