"""The histogram a coordinator evaluates from: within its stated distance of the exact metrics, and additive."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RunError
from common.metrics import best_f1_threshold, evaluate, person_weights
from common.score_histogram import ScoreHistogram


@st.composite
def pairs(draw):
    """Outcomes, scores (with exact edges, 0 and 1 among them) and unequal people."""
    counts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    person = np.repeat(np.arange(len(counts)), counts)
    fine, coarse = st.floats(0, 1), st.integers(0, 40).map(lambda step: step / 40)
    score = np.array(draw(st.lists(st.one_of(fine, coarse), min_size=person.size, max_size=person.size)))
    outcome = np.array(draw(st.lists(st.integers(0, 1), min_size=person.size, max_size=person.size)))
    return outcome, score, person


BINS = st.sampled_from([1, 4, 7, 40, 45, 1000])


@settings(max_examples=200, deadline=None)
@given(pairs(), BINS)
def test_roc_auc_is_within_its_stated_margin(data, bins):
    exact = evaluate(*data, threshold=0.5)["roc_auc"]
    histogram = ScoreHistogram.from_scores(*data, bins=bins)
    found, margin = histogram.roc_auc(), histogram.roc_auc_margin()
    assert (found is None) == (exact is None) == (margin is None)
    if exact is not None:
        assert abs(found - exact) <= margin + 1e-12
        assert 0 <= margin <= 0.5


@settings(max_examples=200, deadline=None)
@given(pairs(), BINS)
def test_pr_auc_lies_where_its_docstring_says(data, bins):
    exact = evaluate(*data, threshold=0.5)["pr_auc"]
    histogram = ScoreHistogram.from_scores(*data, bins=bins)
    found = histogram.pr_auc()
    if exact is None:
        assert found is None
        return
    low = high = above_p = above_n = 0.0
    for p, n in histogram.to_array().T[::-1]:
        if p > 0:
            high += p * (above_p + p) / (above_p + above_n + p)
            low += p * above_p / (above_p + above_n + n) if above_p else 0.0
        above_p, above_n = above_p + p, above_n + n
    assert low / above_p - 1e-9 <= exact <= high / above_p + 1e-9
    assert low / above_p - 1e-9 <= found <= high / above_p + 1e-9


@settings(max_examples=200, deadline=None)
@given(pairs(), BINS, st.data())
def test_answers_are_exact_at_every_lower_edge(data, bins, chosen):
    edge = chosen.draw(st.integers(0, bins - 1)) / bins
    exact = evaluate(*data, threshold=edge)
    found = ScoreHistogram.from_scores(*data, bins=bins).at(edge)
    assert found == pytest.approx({name: exact[name] for name in ("f1", "accuracy", "balanced_accuracy")})


def test_answers_between_edges_are_those_of_the_nearest_and_none_is_yes_above_one():
    outcome, score = np.array([1, 0, 1, 0]), np.array([0.1, 0.3, 0.6, 0.9])
    histogram = ScoreHistogram.from_scores(outcome, score, np.arange(4), bins=10)
    assert histogram.at(0.62) == histogram.at(0.6)
    assert histogram.at(0.58) == histogram.at(0.6)
    assert histogram.at(-3.0) == histogram.at(0.0)
    assert histogram.at(1.5)["f1"] == histogram.at(1.0)["f1"] == 0


@settings(max_examples=200, deadline=None)
@given(pairs(), BINS)
def test_brier_is_within_one_bins_width(data, bins):
    exact = evaluate(*data, threshold=0.5)["brier"]
    assert abs(ScoreHistogram.from_scores(*data, bins=bins).brier() - exact) <= 1 / bins + 1e-12


@settings(max_examples=200, deadline=None)
@given(pairs(), BINS)
def test_log_loss_is_within_its_bins_and_always_finite(data, bins):
    outcome, score, person = data
    found = ScoreHistogram.from_scores(*data, bins=bins).log_loss()
    assert np.isfinite(found)
    happened = np.where(outcome == 1, score, 1 - score)
    index = np.maximum(np.ceil(happened * bins - 1e-9) - 1, 0)  # the lower bin where an edge belongs to two
    if (index >= 1).all():
        margin = np.average(np.log((index + 0.5) / index), weights=person_weights(person))
        assert abs(found - evaluate(*data, threshold=0.5)["log_loss"]) <= margin + 1e-9


@settings(max_examples=200, deadline=None)
@given(pairs(), BINS)
def test_calibration_error_is_within_its_stated_margin(data, bins):
    _, score, person = data
    found = ScoreHistogram.from_scores(*data, bins=bins).ece()
    exact = evaluate(*data, threshold=0.5)["ece"]
    lower = np.minimum(np.floor(score * bins), bins - 1)
    straddles = np.floor(lower * 15 / bins + 1e-9) != np.ceil((lower + 1) * 15 / bins - 1e-9) - 1
    margin = 1 / (2 * bins) + 2 * np.average(straddles, weights=person_weights(person))
    assert abs(found - exact) <= margin + 1e-9


@settings(max_examples=150, deadline=None)
@given(pairs(), BINS)
def test_its_best_threshold_beats_every_other_edge(data, bins):
    histogram = ScoreHistogram.from_scores(*data, bins=bins)
    if not data[0].any():
        with pytest.raises(RunError, match="positive"):
            histogram.best_f1_threshold()
        return
    best = histogram.best_f1_threshold()
    f1 = [histogram.at(b / bins)["f1"] for b in range(bins)]
    assert histogram.at(best)["f1"] == pytest.approx(max(f1))
    assert evaluate(*data, threshold=best)["f1"] == pytest.approx(max(f1))
    exact = evaluate(*data, threshold=best_f1_threshold(*data))["f1"]
    assert max(f1) <= exact + 1e-12


@settings(max_examples=100, deadline=None)
@given(pairs(), pairs(), BINS)
def test_the_sum_of_sites_is_the_histogram_of_all(one, other, bins):
    pooled = [np.concatenate(columns) for columns in zip(one[:2], other[:2], strict=True)]
    everybody = ScoreHistogram.from_scores(*pooled, np.concatenate([one[2], other[2] + 1000]), bins=bins)
    total = sum((ScoreHistogram.from_scores(*site, bins=bins) for site in (one, other)), ScoreHistogram.empty(bins))
    np.testing.assert_allclose(total.to_array(), everybody.to_array(), atol=1e-12)
    again = ScoreHistogram.from_array(total.to_array())
    assert again.roc_auc() == total.roc_auc()


def test_a_thousand_bins_are_close_on_smooth_scores():
    rng = np.random.default_rng(1)
    score, person = rng.beta(4, 2, 100_000), np.repeat(np.arange(2_000), 50)
    outcome = (rng.random(score.size) < score).astype(int)
    histogram = ScoreHistogram.from_scores(outcome, score, person)
    exact = evaluate(outcome, score, person, threshold=histogram.best_f1_threshold())
    assert histogram.roc_auc() == pytest.approx(exact["roc_auc"], abs=2e-5)
    assert histogram.pr_auc() == pytest.approx(exact["pr_auc"], abs=1e-3)
    assert histogram.brier() == pytest.approx(exact["brier"], abs=1e-5)
    assert histogram.log_loss() == pytest.approx(exact["log_loss"], abs=1e-4)
    assert histogram.ece() == pytest.approx(exact["ece"], abs=2e-3)
    assert histogram.at(histogram.best_f1_threshold())["f1"] == pytest.approx(exact["f1"])


def test_the_histogram_of_nobody_has_no_metric():
    empty = ScoreHistogram.empty()
    assert empty.to_array().shape == (2, 1000)
    assert empty.to_array().dtype == np.float64
    metrics = (empty.roc_auc(), empty.pr_auc(), empty.brier(), empty.log_loss(), empty.ece(), *empty.at(0.5).values())
    assert metrics == (None,) * 8


def test_a_histogram_does_not_change_with_the_array_it_came_from():
    array = np.ones((2, 3))
    histogram = ScoreHistogram.from_array(array)
    array[:] = 5
    assert histogram.to_array().sum() == 6
    with pytest.raises(ValueError, match="read-only"):
        histogram.positive[0] = 2


@pytest.mark.parametrize(
    "array", [np.zeros(4), np.zeros((3, 4)), np.zeros((2, 0)), -np.ones((2, 4)), np.full((2, 4), np.inf)]
)
def test_what_is_no_histogram_is_refused(array):
    with pytest.raises(ValueError, match=r"shape|weights"):
        ScoreHistogram.from_array(array)


def test_histograms_of_other_bins_are_not_added_and_scores_outside_are_refused():
    with pytest.raises(ValueError, match="cannot be added"):
        ScoreHistogram.empty(3) + ScoreHistogram.empty(4)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        ScoreHistogram.from_scores(np.array([1]), np.array([1.5]), np.array([0]))
    with pytest.raises(ValueError, match="at least one bin"):
        ScoreHistogram.from_scores(np.array([1]), np.array([0.5]), np.array([0]), bins=0)
