"""What a set-up is about: everything its parties must agree on before they make a key.

Every key, mask and signature of a set-up is bound to the digest of its terms, so parties that were told different terms
cannot even open each other's messages. A site compares the terms with its own limits and refuses what is weaker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from common.settings_rules import SMALLEST_GROUP
from privacy.secure_aggregation.errors import PastRound, ShapeChanged, TermsRefused
from privacy.secure_aggregation.fixed_point import Encoding, Segment
from privacy.secure_aggregation.neighbours import Neighbourhood, plan_neighbourhood
from privacy.secure_aggregation.wire import Positive, WireMessage

PROTOCOL = 1
Share = Annotated[float, Field(ge=0.0, lt=0.5)]


class SegmentTerms(WireMessage):
    """One part of a vector: `length` values, none beyond `bound`, as words of `bits` bits."""

    name: str
    length: Annotated[int, Field(ge=0, lt=2**31)]
    bound: Annotated[float, Field(gt=0)]
    bits: Literal[32, 64]


class Terms(WireMessage):
    """The terms of one set-up.

    `slots` secure sums can be made with it, numbered from `first_slot` on over the whole run; `layouts` names the
    vectors that may be summed; `shapes` is a digest of the model's shapes.
    """

    protocol: Literal[1]
    run: Annotated[str, Field(min_length=1, max_length=128)]
    set_up: Positive
    first_slot: Positive
    slots: Annotated[int, Field(ge=1, le=10_000)]
    threshold: str
    minimum_cohort: Annotated[int, Field(ge=SMALLEST_GROUP)]
    malicious_coordinator: bool
    dropout_recovery: bool
    groups: Annotated[int, Field(ge=0)]
    colluders: Share
    dropouts: Share
    rounding: Literal["nearest", "stochastic"]
    layouts: dict[str, tuple[SegmentTerms, ...]]
    shapes: str

    def index_of(self, slot: int) -> int:
        """The slot's number within this set-up, from 0. Raises PastRound outside it."""
        if not self.first_slot <= slot < self.first_slot + self.slots:
            raise PastRound(
                f"slot {slot} is not among the {self.slots} of this set-up, which begin at {self.first_slot}",
                remedy="make a new set-up",
            )
        return slot - self.first_slot

    def encoding(self, kind: str, cohort: int) -> Encoding:
        """How vectors of this kind become words. Raises ShapeChanged for a kind that the terms do not name."""
        if kind not in self.layouts:
            raise ShapeChanged(f"the terms name no vector of kind {kind!r}", remedy="make a new set-up")
        segments = [Segment(part.name, part.length, part.bound, part.bits) for part in self.layouts[kind]]
        return Encoding(segments, cohort)

    def neighbourhood(self, sites: int) -> Neighbourhood:
        """Who shares with how many, in a cohort of so many sites. Raises CohortTooSmall, ThresholdTooLow."""
        return plan_neighbourhood(
            sites,
            self.threshold,
            colluders=self.colluders,
            dropouts=self.dropouts,
            malicious_coordinator=self.malicious_coordinator,
        )


@dataclass(frozen=True)
class Limits:
    """What a site asks of any terms, whatever the coordinator sends."""

    minimum_cohort: int = SMALLEST_GROUP
    malicious_coordinator: bool = True
    colluders: float = 0.0
    dropouts: float = 0.0
    groups: bool = True
    tolerated_colluders: int = 0
    """How many sites may work with the coordinator; checked once the cohort is known."""
    least_bounds: Mapping[str, float] = field(default_factory=dict)
    """By segment: tighter bounds would make a refused vector tell how large its values are."""

    def check(self, terms: Terms) -> None:
        """Raise TermsRefused when the terms are weaker than this site allows."""
        refused: list[str] = []
        if terms.minimum_cohort < self.minimum_cohort:
            refused.append(f"cohorts of {terms.minimum_cohort} sites, where this site asks for {self.minimum_cohort}")
        if self.malicious_coordinator and not terms.malicious_coordinator:
            refused.append("no check of the survivors' list, which this site asks for")
        if terms.colluders < self.colluders or terms.dropouts < self.dropouts:
            refused.append("smaller shares of colluding or vanishing sites than this site reckons with")
        tight = sorted(
            {
                part.name
                for layout in terms.layouts.values()
                for part in layout
                if part.bound < self.least_bounds.get(part.name, 0.0)
            }
        )
        if tight:
            refused.append(f"a tighter bound on {', '.join(tight)} than this site allows")
        if terms.groups and not self.groups:
            refused.append("sums over groups, where this site takes part in sums over everybody only")
        if refused:
            raise TermsRefused(
                f"the coordinator's terms ask for {'; '.join(refused)}",
                remedy="change the run's settings, or the limits of this site",
            )
