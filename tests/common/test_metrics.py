"""The exact metrics, against scikit-learn, against brute force, and where they are not defined."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    ndcg_score,
    roc_auc_score,
)

from common.errors import RunError
from common.metrics import METRICS, RankingSums, best_f1_threshold, evaluate


@st.composite
def pairs(draw, people=8, most=9, grid=None, both=True):
    """Outcome, score and person of unequal people; scores on a coarse grid tie often."""
    counts = draw(st.lists(st.integers(1, most), min_size=2, max_size=people))
    person = np.repeat(np.arange(len(counts)) * 3 + 7, counts)
    size = person.size
    steps = grid or draw(st.sampled_from([3, 20, 10_007]))
    score = np.array(draw(st.lists(st.integers(1, steps - 1), min_size=size, max_size=size))) / steps
    outcome = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    if both and len(set(outcome.tolist())) < 2:
        outcome[0], outcome[-1] = 0, 1
    return outcome, score, person


def weights_of(person):
    return np.array([1 / np.sum(person == one) for one in person])


@settings(max_examples=150, deadline=None)
@given(pairs(), st.floats(0.05, 0.95))
def test_metrics_are_scikit_learns_with_each_person_weighing_one(data, threshold):
    outcome, score, person = data
    found = evaluate(outcome, score, person, threshold=threshold)
    answer, by = (score >= threshold).astype(int), {"sample_weight": weights_of(person)}
    assert tuple(found) == METRICS
    assert found["roc_auc"] == pytest.approx(roc_auc_score(outcome, score, **by))
    assert found["pr_auc"] == pytest.approx(average_precision_score(outcome, score, **by))
    assert found["f1"] == pytest.approx(f1_score(outcome, answer, zero_division=0, **by))
    assert found["accuracy"] == pytest.approx(accuracy_score(outcome, answer, **by))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(outcome, answer, **by))
    assert found["log_loss"] == pytest.approx(log_loss(outcome, score, **by))
    assert found["brier"] == pytest.approx(brier_score_loss(outcome, score, **by))


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_ndcg_is_the_mean_of_scikit_learns_over_people_with_a_positive(data):
    outcome, score, person = data
    expected = []
    for one in np.unique(person):
        mine = person == one
        if outcome[mine].any():
            alone = mine.sum() == 1  # scikit-learn refuses a list of one; its only order is the ideal one
            expected.append(1.0 if alone else ndcg_score([outcome[mine]], [score[mine]], k=5))
    found = evaluate(outcome, score, person, threshold=0.5)["ndcg_at_5"]
    assert found == pytest.approx(np.mean(expected))


def every_order(outcome, score, k):
    """Mean NDCG@k and hit@k over all orders that a sort by descending score may give."""
    ndcg, hit = [], []
    for order in itertools.permutations(range(len(score))):
        if any(score[a] < score[b] for a, b in itertools.pairwise(order)):
            continue
        gains = np.array([outcome[i] for i in order[:k]])
        ideal = np.sort(outcome)[::-1][:k]
        discount = 1 / np.log2(np.arange(2, len(gains) + 2))
        ndcg.append((gains @ discount) / (ideal @ discount))
        hit.append(float(gains.any()))
    return np.mean(ndcg), np.mean(hit)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), min_size=1, max_size=6).filter(
        lambda rows: any(hit for hit, _ in rows)
    ),
    st.integers(1, 7),
)
def test_ties_are_averaged_over_all_their_orders(rows, k):
    outcome, score = np.array(rows).T
    sums = RankingSums.from_scores(outcome, score / 4, np.zeros(len(rows), int), k=k)
    assert (sums.ndcg(), sums.hit()) == pytest.approx(every_order(outcome, score, k))


def test_a_constant_score_is_a_random_order():
    outcome = np.array([1, 0, 0, 1, 0, 0, 0])
    found = evaluate(outcome, np.full(7, 0.3), np.zeros(7, int), threshold=0.5)
    assert found["roc_auc"] == 0.5
    assert found["pr_auc"] == pytest.approx(2 / 7)
    assert (found["ndcg_at_5"], found["hit_at_5"]) == pytest.approx(every_order(outcome, np.ones(7), 5))
    assert found["hit_at_5"] == pytest.approx(1 - 1 / 21)  # C(5,5) of the C(7,5) draws are without a positive


@settings(max_examples=50, deadline=None)
@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(data, chance):
    outcome, score, person = data
    order = list(range(outcome.size))
    chance.shuffle(order)
    one = evaluate(outcome, score, person, threshold=0.5)
    other = evaluate(outcome[order], score[order], person[order], threshold=0.5)
    assert one == pytest.approx(other)
    assert best_f1_threshold(outcome, score, person) == best_f1_threshold(outcome[order], score[order], person[order])


def test_a_persons_pairs_written_twice_change_nothing():
    rng = np.random.default_rng(3)
    outcome, score, person = rng.integers(0, 2, 60), rng.random(60), np.repeat(np.arange(6), 10)
    twice = np.concatenate([np.arange(60), np.flatnonzero(person == 2)])
    one = evaluate(outcome, score, person, threshold=0.5)
    other = evaluate(outcome[twice], score[twice], person[twice], threshold=0.5)
    for name in set(METRICS) - {"ndcg_at_5", "hit_at_5"}:  # a list of twenty companies is another list
        assert one[name] == pytest.approx(other[name])


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_calibration_error_is_its_definition(data):
    outcome, score, person = data
    weight = weights_of(person)
    expected = 0.0
    for b in range(15):
        inside = np.floor(score * 15) == b
        if inside.any():
            means = [np.average(values[inside], weights=weight[inside]) for values in (score, outcome)]
            expected += weight[inside].sum() / weight.sum() * abs(means[0] - means[1])
    assert evaluate(outcome, score, person, threshold=0.5)["ece"] == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(pairs(grid=12))
def test_no_threshold_beats_the_chosen_one_and_it_is_the_smallest_of_its_equals(data):
    outcome, score, person = data
    chosen = best_f1_threshold(outcome, score, person)
    by = {"sample_weight": weights_of(person), "zero_division": 0}
    f1 = {level: f1_score(outcome, score >= level, **by) for level in np.unique(score)}
    assert f1[chosen] == pytest.approx(max(f1.values()))
    assert all(value < f1[chosen] - 1e-13 for level, value in f1.items() if level < chosen)
    assert evaluate(outcome, score, person, threshold=chosen)["f1"] == pytest.approx(f1[chosen])


def test_a_threshold_cannot_be_chosen_without_a_positive():
    with pytest.raises(RunError, match="no pair has a positive outcome"):
        best_f1_threshold(np.zeros(3), np.array([0.1, 0.2, 0.3]), np.arange(3))


def test_what_one_class_leaves_undefined_is_none():
    negative = evaluate(np.zeros(4), np.array([0.1, 0.2, 0.3, 0.9]), np.array([0, 0, 1, 1]), threshold=0.5)
    undefined = {name for name, value in negative.items() if value is None}
    assert undefined == {"roc_auc", "pr_auc", "f1", "balanced_accuracy", "ndcg_at_5", "hit_at_5"}
    positive = evaluate(np.ones(4), np.array([0.1, 0.2, 0.3, 0.9]), np.array([0, 0, 1, 1]), threshold=0.5)
    assert {name for name, value in positive.items() if value is None} == {"roc_auc", "balanced_accuracy"}
    assert (positive["pr_auc"], positive["ndcg_at_5"], positive["hit_at_5"]) == pytest.approx((1, 1, 1))


def test_no_pairs_have_no_metric():
    nothing = np.zeros(0)
    assert evaluate(nothing, nothing, nothing.astype(int), threshold=0.5) == dict.fromkeys(METRICS)


def test_a_certain_prediction_that_is_wrong_has_no_log_loss_and_a_right_one_costs_nothing():
    person = np.arange(3)
    wrong = evaluate(np.array([1, 0, 1]), np.array([0.0, 0.5, 0.5]), person, threshold=0.5)
    assert wrong["log_loss"] is None
    assert wrong["brier"] == pytest.approx(0.5)
    right = evaluate(np.array([1, 0, 1]), np.array([1.0, 0.0, 1.0]), person, threshold=0.5)
    assert (right["log_loss"], right["brier"], right["ece"]) == (0, 0, 0)
    json.dumps([wrong, right], allow_nan=False)


def test_scores_that_are_no_probabilities_have_only_the_metrics_of_order_and_answers():
    score = np.array([-3.0, 12.0, 0.5])
    found = evaluate(np.array([0, 1, 1]), score, np.arange(3), threshold=0.0, probability=False)
    assert {name for name, value in found.items() if value is None} == {"log_loss", "brier", "ece"}
    assert found["roc_auc"] == 1
    with pytest.raises(ValueError, match="probability=False"):
        evaluate(np.array([0, 1, 1]), score, np.arange(3), threshold=0.0)


def test_people_without_a_positive_pair_do_not_lower_the_ranking():
    score, person = np.array([0.9, 0.1, 0.9, 0.1]), np.array([0, 0, 1, 1])
    found = evaluate(np.array([1, 0, 0, 0]), score, person, threshold=0.5)
    assert (found["ndcg_at_5"], found["hit_at_5"]) == (1, 1)


@settings(max_examples=50, deadline=None)
@given(pairs(both=False), pairs(both=False))
def test_ranking_sums_of_sites_add_up_to_those_of_all_people(one, other):
    person = np.concatenate([one[2], other[2] + 1000])
    pooled = RankingSums.from_scores(np.r_[one[0], other[0]], np.r_[one[1], other[1]], person)
    total = RankingSums.from_scores(*one) + RankingSums.from_scores(*other)
    assert total.people == pooled.people
    assert (total.ndcg(), total.hit()) == pytest.approx((pooled.ndcg(), pooled.hit()))


def test_ranking_of_nobody_is_none():
    nothing = np.zeros(0, int)
    sums = RankingSums.from_scores(nothing, nothing, nothing)
    assert (sums.people, sums.ndcg(), sums.hit()) == (0, None, None)


def test_a_model_that_diverged_is_named_and_no_score_is_shown():
    with pytest.raises(RunError, match="not a finite number"):
        evaluate(np.array([0, 1]), np.array([0.3, np.nan]), np.arange(2), threshold=0.5)


@pytest.mark.parametrize(
    ("outcome", "score", "person"),
    [
        ([0, 1, 1], [0.1, 0.2], [0, 1]),
        ([0, 2], [0.1, 0.2], [0, 1]),
        ([0, np.nan], [0.1, 0.2], [0, 1]),
        ([[0, 1]], [[0.1, 0.2]], [[0, 1]]),
    ],
)
def test_arrays_that_are_no_pairs_are_refused(outcome, score, person):
    with pytest.raises(ValueError, match="outcome"):
        evaluate(np.array(outcome), np.array(score), np.array(person), threshold=0.5)


def test_half_a_million_pairs_are_measured_right():
    rng = np.random.default_rng(0)
    score, person = rng.random(500_000), rng.permutation(np.repeat(np.arange(10_000), 50))
    outcome = (rng.random(500_000) < score).astype(np.uint8)
    found = evaluate(outcome, score, person, threshold=0.5)
    assert found["roc_auc"] == pytest.approx(5 / 6, abs=0.01)
    assert all(type(value) is float for value in found.values())
