"""The sampler against the formula of its distribution: nothing it draws may be a little off."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from scipy import stats

from privacy.discrete_gaussian import discrete_gaussian


def probabilities(variance: int, reach: int) -> np.ndarray:
    """Of -reach ... reach, by the formula."""
    values = np.arange(-reach, reach + 1)
    weights = np.exp(-(values**2) / (2 * variance))
    return weights / weights.sum()


@pytest.mark.parametrize("variance", [1, 2, 7, 100])
def test_each_number_comes_as_often_as_the_formula_says(variance: int) -> None:
    reach = math.ceil(3 * math.sqrt(variance))
    drawn = discrete_gaussian(20_000, variance)
    whole = probabilities(variance, 60 * math.isqrt(variance) + 60)
    middle = len(whole) // 2
    expected = whole[middle - reach : middle + reach + 1]
    counts = [np.count_nonzero(drawn == value) for value in range(-reach, reach + 1)]
    cells = [*counts, np.count_nonzero(np.abs(drawn) > reach)]
    assert stats.chisquare(cells, 20_000 * np.append(expected, 1 - expected.sum())).pvalue > 1e-9


@pytest.mark.parametrize("variance", [10**6 + 1, 10**14])
def test_wide_ones_have_the_shape_of_a_normal_distribution(variance: int) -> None:
    drawn = discrete_gaussian(10_000, variance) / math.sqrt(variance)
    assert stats.kstest(drawn, "norm").pvalue > 1e-9
    assert len(np.unique(drawn)) > 2_500, "the grid of the draws is 1, not coarser"


def test_the_bytes_decide_and_nothing_else() -> None:
    first, second = (np.random.default_rng(5) for _ in range(2))
    assert (discrete_gaussian(50, 40, first.bytes) == discrete_gaussian(50, 40, second.bytes)).all()
    assert (discrete_gaussian(50, 40) != discrete_gaussian(50, 40)).any()


@pytest.mark.parametrize("variance", [0, -1, 2**100 + 1])
def test_a_variance_that_cannot_be_is_refused(variance: int) -> None:
    with pytest.raises(ValueError, match="variance"):
        discrete_gaussian(1, variance, os.urandom)
