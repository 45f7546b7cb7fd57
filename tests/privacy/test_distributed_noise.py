"""Shares of noise: what one site can change, what survivors' shares add up to, and that missing noise is noticed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from secure_federation import Cohort, federation_of, masked_sum, terms_of

import privacy.distributed_noise
from common.errors import RunError
from privacy.distributed_noise import GridTooCoarse, NoiseShare
from privacy.secure_aggregation.errors import TermsRefused
from privacy.secure_aggregation.terms import SegmentTerms

SIZE = 400
LAYOUT = {"train": (SegmentTerms(name="update", length=SIZE, bound=4096.0, bits=32),)}


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    st.floats(1e-3, 1e3),
    st.integers(4, 30),
)
@settings(max_examples=200)
def test_no_update_is_longer_than_the_norm_on_the_grid(values: list[float], norm: float, bits: int) -> None:
    steps = 2.0**bits
    if norm * steps < 100:
        return
    share = NoiseShare(20.0, norm, steps, 3)
    grid = share.on_grid(np.array(values))
    assert sum(int(value) ** 2 for value in grid) <= (Fraction(norm) * Fraction(steps)) ** 2
    if np.linalg.norm(values) <= norm:
        assert (np.abs(grid / steps - values) <= 1 / steps + 1e-9 * np.abs(values)).all(), "short ones are only rounded"


@given(st.floats(0.5, 900), st.floats(1e-3, 1e3), st.integers(1, 600))
def test_relied_on_shares_reach_the_noise_asked_for(noise: float, norm: float, shares: int) -> None:
    share = NoiseShare(noise, norm, 2.0**40, shares)
    assert share.shares * share.variance >= (Fraction(noise) * share.sensitivity) ** 2
    assert share.executed_multiplier >= noise
    assert share.executed_multiplier == pytest.approx(noise, rel=1e-6)


def test_updates_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(RunError, match="diverged"):
        NoiseShare(5.0, 1.0, 2.0**20, 1).on_grid(np.array([1.0, math.nan]))


def test_a_grid_on_which_shares_would_not_add_up_to_a_gaussian_is_refused() -> None:
    with pytest.raises(GridTooCoarse, match="update_norm"):
        NoiseShare(5.0, 1.0, 4.0, 9)


@pytest.mark.parametrize("shares", [2, 3, 8])
def test_the_sum_of_discrete_gaussians_is_as_close_to_one_as_the_theorem_says(shares: int) -> None:
    """Kairouz, Liu and Steinke 2021, theorem 1, at a variance small enough for the difference to be seen at all."""
    variance = 0.6
    values = np.arange(-40, 41)
    one = np.exp(-(values**2) / (2 * variance))
    one /= one.sum()
    total = one
    for _ in range(shares - 1):
        total = np.convolve(total, one)
    places = np.arange(-(len(total) // 2), len(total) // 2 + 1)
    ideal = np.exp(-(places**2) / (2 * shares * variance))
    ideal /= ideal.sum()
    core = np.abs(places) <= 6 * math.sqrt(shares * variance)
    apart = np.abs(np.log(total[core] / ideal[core])).max()
    tau = 10 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, shares))
    assert 1e-6 < apart <= tau


def skipped(size: int, _variance: int, _random: object = None) -> NDArray[np.int64]:
    return np.zeros(size, dtype=np.int64)


def scaled(by: float) -> Callable[..., NDArray[np.int64]]:
    real = privacy.distributed_noise.discrete_gaussian
    return lambda size, variance, random: np.rint(real(size, variance, random) * by).astype(np.int64)


@pytest.mark.parametrize("wrong", [skipped, scaled(0.001), scaled(0.6), scaled(1.6)])
def test_noise_that_is_not_what_was_promised_is_not_released(
    wrong: Callable[..., NDArray[np.int64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    share = NoiseShare(5.0, 1.0, 2.0**16, 3)
    share.noised(share.on_grid(np.zeros(SIZE)), os.urandom)
    monkeypatch.setattr(privacy.distributed_noise, "discrete_gaussian", wrong)
    with pytest.raises(RunError, match="not the noise that was promised"):
        share.noised(share.on_grid(np.zeros(SIZE)), os.urandom)


@pytest.mark.parametrize("dropping", [0, 1, 2])
def test_what_survivors_shares_add_up_to_is_never_less_than_asked_for(dropping: int) -> None:
    cohort = Cohort(federation_of(5), terms_of(layouts=LAYOUT)).made()
    noise, norm = 5.0, 1.0
    shown = {}
    for name in cohort.federation.names[: 5 - dropping]:
        share = cohort.session(name).noise_share("train", "update", noise_multiplier=noise, norm=norm, weight=1.0)
        assert share.shares == 3, "three of five can unmask a sum: no more shares can be relied on"
        shown[name] = share.noised(share.on_grid(np.zeros(SIZE)), os.urandom)
    result = masked_sum(cohort, 1, {name: {"update": values} for name, values in shown.items()})
    total = sum(shown.values(), np.zeros(SIZE))
    assert (result[0].values["update"] == total).all(), "the grid carries shares exactly"
    variance, spread = float((total**2).mean()), 6 * math.sqrt(2 / SIZE)
    assert variance == pytest.approx((noise * norm) ** 2 * len(shown) / 3, rel=spread)


def test_colluders_shares_are_not_relied_on() -> None:
    cohort = Cohort(federation_of(5), terms_of(layouts=LAYOUT, threshold="5-of-5", minimum_cohort=5)).made()
    session = cohort.session("A")
    withstood = cohort.set_up.topology.neighbourhood.tolerated_colluders
    assert withstood is not None
    assert withstood > 0
    share = session.noise_share("train", "update", noise_multiplier=5.0, norm=1.0, weight=1.0)
    assert share.shares == 5 - withstood


def test_noise_that_words_have_no_room_for_is_refused_before_training() -> None:
    cohort = Cohort(federation_of(5), terms_of(layouts=LAYOUT)).made()
    with pytest.raises(TermsRefused, match="value_bound"):
        cohort.session("A").noise_share("train", "update", noise_multiplier=900.0, norm=1.0, weight=1.0)
