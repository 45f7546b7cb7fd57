"""The accountants against closed forms, limits, published figures and each other."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from common.errors import InputError
from privacy import accounting
from privacy.accounting import (
    LARGEST_COMPARED,
    AccountantsDisagree,
    MixedEvents,
    UnsupportedEvent,
    best_order,
    cost_beside,
    cross_check,
    epsilon_opacus,
    epsilon_pld,
    epsilon_rdp,
    spent,
)
from privacy.events import PrivacyEvent

ACCOUNTANTS = [epsilon_rdp, epsilon_pld, epsilon_opacus]


def training(noise: float, rate: float = 0.1, steps: int = 100, **other: Any) -> PrivacyEvent:
    content: dict[str, Any] = {
        "mechanism": "poisson-sampled-gaussian",
        "unit": "candidate",
        "site": "CPI_Verona",
        "noise_multiplier": noise,
        "sampling_rate": rate,
        "steps": steps,
        "neighbouring_relation": "add-or-remove-one",
        "purpose": "training",
        "run": "2026-01",
        "round": 1,
    }
    return PrivacyEvent(**content | other)


def gaussian(noise: float, steps: int = 1, **other: Any) -> PrivacyEvent:
    return training(noise, 1.0, steps, mechanism="gaussian", **other)


def rdp_of(events: list[PrivacyEvent], orders: Any) -> np.ndarray:
    accountant = dp_accounting.rdp.RdpAccountant(orders)
    for event in events:
        accountant.compose(event.to_dp_event())
    return np.asarray(accountant.rdp)


def balle_wang(noise: float, delta: float) -> float:
    """The tight ε of one Gaussian release (Balle and Wang 2018, Theorem 8), by root finding."""

    def excess(epsilon: float) -> float:
        left = norm.cdf(0.5 / noise - epsilon * noise)
        return float(left - math.exp(epsilon) * norm.cdf(-0.5 / noise - epsilon * noise)) - delta

    return float(brentq(excess, 0.0, 200.0, xtol=1e-12))


@pytest.mark.parametrize("relation", ["add-or-remove-one", "replace-one"])
def test_a_gaussian_release_has_the_divergence_of_its_closed_form(relation: str) -> None:
    orders = [1.5, 2, 10, 63, 512]
    for noise, steps in [(0.7, 1), (4.0, 25)]:
        found = rdp_of([gaussian(noise, steps, neighbouring_relation=relation)], orders)
        assert found == pytest.approx([steps * order / (2 * noise**2) for order in orders], rel=1e-12)
        assert rdp_of([training(noise, 1.0, steps)], orders) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0, 40.0])
@pytest.mark.parametrize("delta", [1e-8, 1e-6, 1e-3])
@pytest.mark.parametrize("relation", ["add-or-remove-one", "replace-one"])
def test_privacy_loss_distributions_reach_the_tight_formula(noise: float, delta: float, relation: str) -> None:
    tight = balle_wang(noise, delta)
    events = [gaussian(noise * 3, 9, neighbouring_relation=relation)]  # nine releases of a third of the loss each
    assert tight - 1e-9 <= epsilon_pld(events, delta) <= tight * (1 + 1e-3) + 1e-5
    assert tight < epsilon_rdp(events, delta) < tight * 1.15 + 0.02


def integrated(rate: float, noise: float, order: int) -> float:
    """Rényi divergence of the sampled Gaussian from its definition, by numerical integration."""
    grid = np.linspace(-12 * noise, 12 * noise + order, 400_001)
    ratio = np.log1p(rate * np.expm1((2 * grid - 1) / (2 * noise**2)))
    density = np.exp(order * ratio - grid**2 / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
    return float(math.log(np.trapezoid(density, grid)) / (order - 1))


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.1, 4.0), (0.5, 2.0)])
def test_sampling_has_the_divergence_of_its_definition(rate: float, noise: float) -> None:
    orders = [2, 5, 20]
    expected = [7 * integrated(rate, noise, order) for order in orders]
    assert rdp_of([training(noise, rate, 7)], orders) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("noise", "epochs", "published"),
    [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)],
)
def test_the_mnist_figures_of_tensorflow_privacy_come_out(noise: float, epochs: int, published: float) -> None:
    """60,000 people, batches of 256, δ = 1e-5, with the conversion of their day (Mironov 2017, Proposition 3)."""
    event = training(noise, 256 / 60_000, epochs * 60_000 // 256)
    orders = np.array([1 + tenth / 10 for tenth in range(1, 100)] + list(range(12, 64)))
    rdp = rdp_of([event], orders)
    assert float(np.min(rdp + math.log(1e5) / (orders - 1))) == pytest.approx(published, abs=0.02)
    assert epsilon_pld([event], 1e-5) < epsilon_rdp([event], 1e-5) < published


def test_the_example_of_the_opacus_documentation_comes_out() -> None:
    from opacus.accountants.analysis.rdp import get_privacy_spent

    orders = range(2, 33)
    rdp = rdp_of([training(1.0, 1e-5, 10), training(3.0, 1e-4, 4)], orders)
    epsilon, order = get_privacy_spent(orders=list(orders), rdp=list(rdp), delta=1e-5)
    assert (round(float(epsilon), 3), int(order)) == (0.336, 23)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_nothing_released_costs_nothing(accountant: Any) -> None:
    assert accountant([], 1e-6) == 0.0
    assert spent([], 1e-6).epsilon == 0.0


def test_without_bound_on_noise_the_cost_vanishes_and_without_noise_it_has_no_bound() -> None:
    for accountant in (epsilon_rdp, epsilon_pld):
        costs = [accountant([training(noise)], 1e-6) for noise in (1.0, 10.0, 100.0, 1e8)]
        assert costs == sorted(costs, reverse=True)
        assert costs[-1] < 1e-4
    assert epsilon_rdp([training(0.001)], 1e-6) > 1e6


def test_without_sampling_anybody_the_cost_vanishes() -> None:
    for accountant in (epsilon_rdp, epsilon_pld):
        assert accountant([training(2.0, 1e-12, 1)], 1e-6) < 1e-4
        assert accountant([training(2.0, 0.01)], 1e-6) < accountant([training(2.0, 1.0)], 1e-6)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_rounds_add_up_to_the_sum_of_their_steps(accountant: Any) -> None:
    rounds = [training(5.0, steps=8, round=number, run=run) for number in range(1, 11) for run in ("a", "b")]
    assert accountant(rounds, 1e-6) == accountant([training(5.0, steps=160)], 1e-6)
    mixed = [*rounds, gaussian(30.0, 10)]
    assert accountant(rounds, 1e-6) < accountant(mixed, 1e-6) == accountant(mixed[::-1], 1e-6)


def test_a_script_of_dp_accounting_alone_reproduces_what_was_spent() -> None:
    ledger = [training(4.0, steps=8, round=number).to_json() for number in range(1, 6)] + [gaussian(20.0).to_json()]
    accountant = dp_accounting.rdp.RdpAccountant()
    for entry in ledger:
        event: Any = dp_accounting.GaussianDpEvent(entry["noise_multiplier"])
        if entry["mechanism"] == "poisson-sampled-gaussian":
            event = dp_accounting.PoissonSampledDpEvent(entry["sampling_rate"], event)
        accountant.compose(event, entry["steps"])
    ours = spent([PrivacyEvent.from_json(entry) for entry in ledger], 1e-6)
    assert accountant.get_epsilon(1e-6) == pytest.approx(ours.epsilon, rel=1e-12)


releases = st.builds(training, st.floats(0.5, 100.0), st.floats(1e-3, 1.0), st.integers(1, 2000)) | st.builds(
    gaussian, st.floats(0.5, 100.0), st.integers(1, 50)
)


@given(st.lists(releases, min_size=1, max_size=3), st.floats(1e-9, 1e-3))
@settings(max_examples=25, deadline=None)
def test_the_accountants_agree_within_their_known_gaps(events: list[PrivacyEvent], delta: float) -> None:
    found = spent(events, delta)
    assert set(found.by_accountant) == {"rdp", "opacus"} | ({"pld"} if found.epsilon <= LARGEST_COMPARED else set())
    assert found.epsilon == found.by_accountant["rdp"] == epsilon_rdp(events, delta)


@given(releases, releases, st.floats(1e-9, 1e-3), st.floats(1.0, 10.0))
@settings(max_examples=25, deadline=None)
def test_more_costs_more_and_more_noise_costs_less(
    event: PrivacyEvent, other: PrivacyEvent, delta: float, factor: float
) -> None:
    cost = epsilon_rdp([event], delta)
    assert epsilon_rdp([event, other], delta) >= cost - 1e-9
    assert epsilon_rdp([event], delta * factor) <= cost + 1e-9
    quick, near = (cost_beside([other], delta, near=order) for order in (None, best_order([event, other], delta)))
    assert quick(event) >= near(event) >= epsilon_rdp([event, other], delta) * (1 - 1e-9)


def test_people_of_different_sites_are_disjoint() -> None:
    events = [training(5.0, steps=8, round=number, site=site) for number in (1, 2) for site in ("a", "b", "c")]
    events.append(gaussian(20.0, site="b"))
    found = spent(events, 1e-6)
    assert found.by_site["a"] == found.by_site["c"] == epsilon_rdp(events[:4:3], 1e-6)
    assert found.by_site["b"] == found.epsilon == max(found.by_site.values()) > found.by_site["a"]
    assert (found.unit, found.neighbouring_relation) == ("candidate", "add-or-remove-one")
    assert found.epsilon < epsilon_rdp(events, 1e-6)


def test_units_and_relations_are_never_mixed() -> None:
    for other in (gaussian(2.0, unit="site", site="b"), gaussian(2.0, neighbouring_relation="replace-one")):
        for price in (*ACCOUNTANTS, spent):
            with pytest.raises(MixedEvents):
                price([training(2.0), other], 1e-6)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, 1e-15, math.nan, math.inf])
def test_a_delta_that_cannot_be_is_refused(delta: float) -> None:
    for price in (*ACCOUNTANTS, spent):
        with pytest.raises(InputError):
            price([], delta)


def test_an_accountant_that_cannot_price_says_so_and_is_left_out() -> None:
    replaced = [gaussian(4.0, neighbouring_relation="replace-one", unit="site")]
    with pytest.raises(UnsupportedEvent, match="replace-one"):
        epsilon_opacus(replaced, 1e-6)
    found = spent(replaced, 1e-6)
    assert set(found.by_accountant) == {"rdp", "pld"}
    assert found.neighbouring_relation == "replace-one"
    with pytest.raises(UnsupportedEvent):
        epsilon_pld([training(1e-4)], 1e-6)
    assert spent([training(1e-4)], 1e-6).epsilon > 1e6
    assert set(spent([training(1e-4)], 1e-6, cross_checked=False).by_accountant) == {"rdp"}


@pytest.mark.parametrize(
    "prices",
    [
        {"rdp": 1.0, "pld": 1.001, "opacus": 1.0},
        {"rdp": 1.0, "pld": 0.9, "opacus": 1.001},
        {"rdp": 1.0, "pld": 0.9, "opacus": 0.9},
        {"rdp": 1.0, "pld": 0.9, "opacus": math.nan},
        {"rdp": 1.0, "pld": math.nan, "opacus": 1.0},
        {"rdp": math.nan},
        {"rdp": 0.0, "pld": 0.1},
        {"pld": 1.0},
    ],
)
def test_accountants_that_differ_too_much_stop_the_run(prices: dict[str, float]) -> None:
    with pytest.raises(AccountantsDisagree, match="CPI_Verona"):
        cross_check(prices, "CPI_Verona")


def test_an_accountant_that_forgets_sampling_or_steps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = epsilon_rdp

    def forgetful(events: Any, delta: float) -> float:
        return real([training(event.noise_multiplier, steps=1) for event in events], delta)

    monkeypatch.setattr(accounting, "epsilon_rdp", forgetful)
    with pytest.raises(AccountantsDisagree):
        spent([training(2.0)], 1e-6)
