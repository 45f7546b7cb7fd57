"""What a budget buys, before anything is spent: the noise multiplier is solved from ε, never guessed.

`solve_noise_multiplier` bisects on the RDP accountant, the one that later states what was spent. The answer's ε is
never above the ε asked for, and an answer smaller by more than `PRECISION` was not found to keep it.

    wanted = plan(epsilon=1.0, delta=1e-6, people=2000, rounds=10, local_steps=8, batch_people=400)
    wanted.noise_multiplier, wanted.sampling_rate, wanted.steps
    [wanted.event(site="CPI_Verona", run="2026-01", round=number) for number in range(1, 11)]

Whatever else the run releases, such as noised evaluation counts of each round, is handed over as `releases`, and what
the people have already paid in earlier runs too: the noise is solved so that all of it together keeps ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from common.errors import InputError
from privacy.accounting import LEAST_DELTA, best_order, cost_beside, epsilon_rdp
from privacy.events import PrivacyEvent, Unit, training_event

PRECISION = 1e-4
"""Relative: how much larger than needed a solved noise multiplier may be. Its ε is then within 0.02 % of the budget."""

LEAST_PLANNED_NOISE = 0.1
"""A budget that less noise would keep gets this much: further down, accountants answer in thousands."""
LARGEST_PLANNED_NOISE = 1000.0
"""Beyond it a sum of a thousand people is drowned in each coordinate, and no model learns from it."""


class PlanRefused(InputError):
    """A plan that cannot be, or that would protect nobody."""

    def __init__(self, what: str, *, where: str = "privacy plan", remedy: str) -> None:
        super().__init__(what, where=where, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every site does to keep ε: `epsilon` is what it costs, never more than was asked for, `releases` included.

    `people` are those of one site; for the unit "site", they are the sites.
    """

    unit: Unit
    noise_multiplier: float
    sampling_rate: float
    steps: int
    epsilon: float
    delta: float
    people: int
    batch_people: int
    rounds: int
    local_steps: int
    releases: tuple[PrivacyEvent, ...] = ()

    def event(self, *, site: str, run: str, round: int) -> PrivacyEvent:
        """The privacy event of one site's training in one round."""
        alike = _training(self.noise_multiplier, self.sampling_rate, self.local_steps, self.unit)
        return replace(alike, site=site, run=run, round=round)


def plan(
    epsilon: float,
    delta: float,
    people: int,
    rounds: int,
    local_steps: int,
    batch_people: int,
    *,
    unit: Unit = "candidate",
    releases: Sequence[PrivacyEvent] = (),
) -> Plan:
    """The plan of a run of so many rounds, each of `local_steps` batches of `batch_people` of the `people` on average.

    With the unit "site", every site's update is noised once a round: `local_steps` is 1, `batch_people` all `people`.
    Raises PlanRefused.
    """
    for name, count in (("people", people), ("rounds", rounds), ("local steps", local_steps), ("batch", batch_people)):
        if count < 1:
            raise PlanRefused(f"{name}: {count}", remedy="write a whole number of 1 or more")
    if people < batch_people:
        raise PlanRefused(
            f"{people} people are fewer than a batch of {batch_people}",
            remedy="take smaller batches, or join this site with a neighbouring one",
        )
    _require_epsilon(epsilon)
    _require_delta(delta)
    if delta * people > 1.0:
        raise PlanRefused(
            f"δ {delta:g} is above one over {people} people, so it would allow to publish somebody",
            remedy=f"write at most {1 / people:.1g}, better a tenth of it",
        )
    if unit == "site" and (local_steps != 1 or batch_people != people):
        raise PlanRefused(
            "with the unit 'site' every site gives one noised update a round",
            remedy="plan with local_steps 1 and all sites in a batch",
        )
    rate, steps = batch_people / people, rounds * local_steps
    noise = solve_noise_multiplier(epsilon, delta, rate, steps, releases=releases, unit=unit)
    return Plan(
        unit=unit,
        noise_multiplier=noise,
        sampling_rate=rate,
        steps=steps,
        epsilon=epsilon_rdp([*releases, _training(noise, rate, steps, unit)], delta),
        delta=delta,
        people=people,
        batch_people=batch_people,
        rounds=rounds,
        local_steps=local_steps,
        releases=tuple(releases),
    )


def solve_noise_multiplier(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    *,
    releases: Sequence[PrivacyEvent] = (),
    unit: Unit = "candidate",
) -> float:
    """The smallest noise multiplier, within `PRECISION` above, whose `steps` and `releases` cost at most ε.

    Within `LEAST_PLANNED_NOISE` and `LARGEST_PLANNED_NOISE`. Raises PlanRefused when no noise in between keeps ε, and
    EventRefused for a sampling rate or a number of steps that cannot be.
    """
    _require_epsilon(epsilon)
    _require_delta(delta)
    if releases and (already := epsilon_rdp(releases, delta)) >= epsilon:
        raise PlanRefused(
            f"the other releases alone cost ε {already:.4g}, and ε {epsilon:g} was asked for",
            remedy="release less, with more noise, or ask for a larger ε",
        )

    def keeps(near: float | None) -> Callable[[float], bool]:
        cost = cost_beside(releases, delta, near=near)
        return lambda noise: cost(_training(noise, sampling_rate, steps, unit)) <= epsilon

    if not keeps(None)(LARGEST_PLANNED_NOISE):
        raise PlanRefused(
            f"no noise multiplier up to {LARGEST_PLANNED_NOISE:g} can reach ε {epsilon:g} at δ {delta:g} in {steps} "
            f"steps with sampling rate {sampling_rate:g}",
            remedy="ask for fewer rounds, fewer local steps, smaller batches, or a larger ε",
        )
    # Whole orders give no smaller ε: their answer is an upper end. The fractional ones around the best then lower it.
    upper = _bisect(keeps(None), LEAST_PLANNED_NOISE, LARGEST_PLANNED_NOISE)
    order = best_order([*releases, _training(upper, sampling_rate, steps, unit)], delta)
    return _refine(keeps(order), upper)


def _bisect(keeps: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest noise in [low, high] that keeps ε, from above. `high` is taken to keep it."""
    if keeps(low):
        return low
    while high > low * (1 + PRECISION):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def _refine(keeps: Callable[[float], bool], high: float) -> float:
    """From a noise that keeps ε, look below it in growing steps, then bisect the last one."""
    shrink = 1 + PRECISION
    while high > LEAST_PLANNED_NOISE:
        low = max(LEAST_PLANNED_NOISE, high / shrink)
        if not keeps(low):
            return _bisect(keeps, low, high) if shrink > 1 + PRECISION else high
        high, shrink = low, shrink**3
    return high


def _training(noise: float, rate: float, steps: int, unit: Unit) -> PrivacyEvent:
    return training_event(
        unit=unit, site="any", run="plan", round=0, noise_multiplier=noise, sampling_rate=rate, steps=steps
    )


def _require_epsilon(epsilon: float) -> None:
    if not 0.0 < epsilon < math.inf:
        raise PlanRefused(f"ε is {epsilon!r}", remedy="write a number above 0, such as 1")


def _require_delta(delta: float) -> None:
    if not LEAST_DELTA <= delta < 1.0:
        raise PlanRefused(
            f"δ is {delta!r}", remedy=f"write a number from {LEAST_DELTA:g} to below 1, at most one over the people"
        )
