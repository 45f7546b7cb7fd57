"""A site's own limits hold whatever a run asks for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.keys import SiteFile, model_name
from client.limits import LimitRefused, require_within, run_epsilon
from common import messages as names
from privacy.planning import solve_noise_multiplier

DELTA = 1e-6


def asked(epsilon: float = 1.0, *, rounds: int = 10, steps: int = 8, hidden: tuple[int, ...] = ()) -> dict[str, Any]:
    """The settings of a training message whose run is planned for ε."""
    noise = solve_noise_multiplier(epsilon, DELTA, 1.0, rounds * steps, unit="candidate")
    return {
        names.HIDDEN_KEY: list(hidden),
        names.UNIT_KEY: "candidate",
        names.ROUNDS_KEY: rounds,
        names.STEPS_KEY: steps,
        names.NOISE_KEY: noise,
        names.SAMPLING_RATE_KEY: 1.0,
    }


def test_a_site_without_limits_of_its_own_refuses_nothing_here() -> None:
    require_within(SiteFile(name="CPI_Verona"), asked(3.0, hidden=(32, 16)), delta=DELTA)


def test_a_run_that_costs_more_than_the_site_allows_is_refused_with_both_figures() -> None:
    limits = SiteFile(name="CPI_Verona", max_run_epsilon=0.5)
    with pytest.raises(LimitRefused, match=r"cost ε 1 at δ 1e-06, and this site allows 0.5 a run"):
        require_within(limits, asked(1.0), delta=DELTA)
    require_within(limits, asked(0.49), delta=DELTA)


def test_the_price_is_that_of_the_whole_run_not_of_a_round() -> None:
    one, ten = asked(1.0, rounds=1), asked(1.0, rounds=1) | {names.ROUNDS_KEY: 10}
    limits = SiteFile(name="CPI_Verona", max_run_epsilon=1.01)
    require_within(limits, one, delta=DELTA)
    with pytest.raises(LimitRefused):
        require_within(limits, ten, delta=DELTA)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.2, 5.0), st.integers(1, 20), st.integers(1, 20))
def test_the_price_is_what_the_run_was_planned_for(epsilon: float, rounds: int, steps: int) -> None:
    price = run_epsilon(asked(epsilon, rounds=rounds, steps=steps), DELTA)
    assert price <= epsilon * (1 + 1e-9)
    assert price >= epsilon * 0.99


def test_whole_sites_pay_one_step_a_round() -> None:
    noise = solve_noise_multiplier(1.0, DELTA, 1.0, 10, unit="site")
    config = {names.UNIT_KEY: "site", names.ROUNDS_KEY: 10, names.NOISE_KEY: noise}
    assert 0.99 <= run_epsilon(config, DELTA) <= 1.0


@pytest.mark.parametrize(("hidden", "name"), [((), "logistic"), ((32, 16), "32-16"), ((8,), "8")])
def test_a_model_that_is_not_allowed_is_refused_by_its_name(hidden: tuple[int, ...], name: str) -> None:
    assert model_name(hidden) == name
    require_within(SiteFile(name="CPI_Verona", models=(name,)), asked(hidden=hidden), delta=DELTA)
    with pytest.raises(LimitRefused, match=f"'{name}', and this site allows 64"):
        require_within(SiteFile(name="CPI_Verona", models=("64",)), asked(hidden=hidden), delta=DELTA)


def test_a_model_of_no_name_is_no_limit() -> None:
    with pytest.raises(ValueError, match="models"):
        SiteFile(name="CPI_Verona", models=("32x16",))
