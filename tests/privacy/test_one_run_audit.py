"""The bound of the one-run audit: right where it is known, and seldom above the truth."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from privacy.one_run_audit import epsilon_lower_bound, p_value


@pytest.mark.parametrize(("right", "guesses"), [(10, 10), (80, 100), (500, 624), (51, 100)])
def test_without_delta_it_is_the_binomial_tail_of_randomised_response(right, guesses):
    epsilon = epsilon_lower_bound(right, guesses, guesses, 0.0)
    if epsilon == 0:
        assert binom.sf(right - 1, guesses, 0.5) > 0.05
    else:
        assert binom.sf(right - 1, guesses, 1 / (1 + math.exp(-epsilon))) == pytest.approx(0.05, rel=1e-4)


def test_all_right_gives_the_figure_that_can_be_computed_by_hand():
    bias = 0.05 ** (1 / 100)
    assert epsilon_lower_bound(100, 100, 100, 0.0) == pytest.approx(math.log(bias / (1 - bias)), abs=1e-5)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_randomised_response_of_exactly_epsilon_is_refuted_as_seldom_as_promised(epsilon):
    rng = np.random.default_rng(7)
    bias = 1 / (1 + math.exp(-epsilon))
    rights = rng.binomial(200, bias, size=2_000)
    bounds = {right: epsilon_lower_bound(int(right), 200, 200, 0.0) for right in set(rights.tolist())}
    refuted = np.mean([bounds[right] > epsilon for right in rights.tolist()])
    assert refuted <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2_000)
    assert np.mean([bounds[right] for right in rights.tolist()]) > 0.4 * epsilon, "it says nothing"


def test_more_delta_more_confidence_and_fewer_right_guesses_give_less():
    base = epsilon_lower_bound(90, 100, 100, 1e-6)
    assert epsilon_lower_bound(90, 100, 100, 1e-3) < base
    assert epsilon_lower_bound(90, 100, 100, 1e-6, confidence=0.99) < base
    assert epsilon_lower_bound(89, 100, 100, 1e-6) < base
    assert epsilon_lower_bound(50, 100, 100, 1e-6) == 0


def test_the_probability_grows_with_epsilon_and_ends_at_one():
    values = [p_value(90, 100, 100, epsilon, 1e-6) for epsilon in (0, 0.5, 1, 2, 4, 20)]
    assert values == sorted(values)
    assert values[-1] <= 1


@pytest.mark.parametrize("wrong", [(5, 4, 4, 1.0, 0.0), (1, 5, 4, 1.0, 0.0), (1, 2, 3, -1.0, 0.0), (1, 2, 3, 1.0, 2.0)])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="guesses"):
        p_value(*wrong)
