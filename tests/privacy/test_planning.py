"""The noise is solved: it keeps ε, hardly any less would, and what cannot be is refused in one sentence."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import epsilon_rdp
from privacy.events import EventRefused, PrivacyEvent
from privacy.planning import LEAST_PLANNED_NOISE, PRECISION, Plan, PlanRefused, plan, solve_noise_multiplier

USUAL: dict[str, Any] = {
    "epsilon": 1.0,
    "delta": 1e-6,
    "people": 2000,
    "rounds": 10,
    "local_steps": 8,
    "batch_people": 400,
}


def spends(wanted: Plan) -> float:
    rounds = [wanted.event(site="a", run="r", round=number) for number in range(1, wanted.rounds + 1)]
    return epsilon_rdp([*rounds, *wanted.releases], wanted.delta)


def counts(noise: float, steps: int = 10, unit: Any = "candidate") -> PrivacyEvent:
    return PrivacyEvent(
        mechanism="gaussian",
        unit=unit,
        site="a",
        noise_multiplier=noise,
        sampling_rate=1.0,
        steps=steps,
        neighbouring_relation="add-or-remove-one",
        purpose="evaluation",
        run="r",
        round=0,
    )


def test_a_plan_says_what_its_events_will_cost() -> None:
    wanted = plan(**USUAL)
    assert (wanted.sampling_rate, wanted.steps) == (0.2, 80)
    assert spends(wanted) == wanted.epsilon <= 1.0
    assert wanted.epsilon > 0.999
    event = wanted.event(site="CPI_Verona", run="2026-01", round=3)
    assert (event.site, event.run, event.round, event.steps) == ("CPI_Verona", "2026-01", 3, 8)


@given(st.floats(0.1, 20.0), st.sampled_from([1e-8, 1e-6, 1e-4]), st.floats(0.002, 1.0), st.integers(1, 1000))
@settings(max_examples=8, deadline=None)
def test_the_noise_keeps_epsilon_and_hardly_any_less_would(
    epsilon: float, delta: float, rate: float, steps: int
) -> None:
    noise = solve_noise_multiplier(epsilon, delta, rate, steps)

    def cost(multiplier: float) -> float:
        sampled = plan(1.0, 1e-6, 10, 1, 1, 10).event(site="a", run="r", round=1).to_json()
        changed = {"noise_multiplier": multiplier, "sampling_rate": rate, "steps": steps}
        return epsilon_rdp([PrivacyEvent.from_json(sampled | changed)], delta)

    assert cost(noise) <= epsilon
    assert noise == LEAST_PLANNED_NOISE or cost(noise * (1 - 10 * PRECISION)) > epsilon


def test_a_gaussian_needs_the_noise_of_its_formula() -> None:
    """RDP's own optimum for the Gaussian, ε = 1/(2σ²) + √(2 ln(1/δ))/σ, is an upper bound (Mironov 2017)."""
    noise = solve_noise_multiplier(1.0, 1e-6, 1.0, 1)
    assert 3.5 < noise < (math.sqrt(2 * math.log(1e6)) + math.sqrt(2 * math.log(1e6) + 2)) / 2


def test_smaller_budgets_more_steps_and_larger_samples_need_more_noise() -> None:
    usual = (1.0, 1e-6, 0.1, 100)
    for more in [(0.5, 1e-6, 0.1, 100), (1.0, 1e-8, 0.1, 100), (1.0, 1e-6, 0.2, 100), (1.0, 1e-6, 0.1, 200)]:
        assert solve_noise_multiplier(*more) > solve_noise_multiplier(*usual) * 1.01


def test_every_release_is_in_the_calibration() -> None:
    wanted = plan(**USUAL, releases=[counts(20.0)])
    assert spends(wanted) == wanted.epsilon <= 1.0
    assert wanted.noise_multiplier > plan(**USUAL).noise_multiplier * 1.05
    with pytest.raises(PlanRefused, match="alone cost"):
        plan(**USUAL, releases=[counts(2.0)])


def test_sites_are_planned_as_people_are() -> None:
    wanted = plan(1.0, 1e-6, 5, 10, 1, 5, unit="site", releases=[counts(50.0, unit="site")])
    event = wanted.event(site="a", run="r", round=1)
    assert (event.mechanism, event.unit, event.sampling_rate) == ("gaussian", "site", 1.0)
    assert spends(wanted) == pytest.approx(wanted.epsilon, rel=1e-12)
    with pytest.raises(PlanRefused, match="one noised update"):
        plan(1.0, 1e-6, 5, 10, 1, 3, unit="site")


def test_a_generous_budget_still_gets_noise() -> None:
    assert solve_noise_multiplier(1e6, 1e-6, 0.1, 1) == LEAST_PLANNED_NOISE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epsilon": 0.0}, "ε is 0.0"),
        ({"epsilon": -1.0}, "ε is -1.0"),
        ({"epsilon": math.nan}, "ε is nan"),
        ({"epsilon": math.inf}, "ε is inf"),
        ({"delta": 1.0}, "δ is 1.0"),
        ({"delta": 0.0}, "δ is 0.0"),
        ({"delta": math.nan}, "δ is nan"),
        ({"delta": 1e-3}, "above one over 2000 people"),
        ({"people": 399}, "fewer than a batch of 400"),
        ({"people": 0}, "people: 0"),
        ({"rounds": 0}, "rounds: 0"),
        ({"local_steps": 0}, "local steps: 0"),
        ({"batch_people": 0}, "batch: 0"),
        ({"epsilon": 0.01, "rounds": 100_000, "batch_people": 2000}, "no noise multiplier up to 1000 can reach ε 0.01"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanRefused) as refused:
        plan(**USUAL | change)
    assert said in str(refused.value)
    assert str(refused.value).count(". ") == 0
    assert str(refused.value).endswith(".")


def test_a_sampling_rate_that_cannot_be_is_refused() -> None:
    for rate in (0.0, 1.5, math.nan):
        with pytest.raises(EventRefused, match="sampling_rate"):
            solve_noise_multiplier(1.0, 1e-6, rate, 10)


def test_one_site_is_planned_within_a_second_of_computing() -> None:
    plan(**USUAL)
    began = time.process_time()
    plan(**USUAL)
    assert time.process_time() - began < 1.0
