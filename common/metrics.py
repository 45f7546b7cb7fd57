"""How good a model's scores are, with the person as the unit of evaluation.

Rules that hold everywhere here:

* A pair weighs 1 / (number of pairs of its person), so each person weighs one, however many companies were paired with
  that person. Where everybody has the same number of pairs this is the ordinary metric.
* Equal scores are one tie. It counts half in ROC-AUC, is entered as a whole in average precision, and is averaged over
  all its orders in NDCG and hit@k. The order of rows never changes a result.
* A metric that is not defined on the data (one class only, no pair at all, an infinite log-loss) is None: never 0,
  never NaN, which JSON lacks as well.

ROC-AUC, average precision and F1 depend on the scores only through *levels*: the weight of positive and of negative
pairs at each distinct score, in ascending order. `common.score_histogram` feeds the same functions with bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.errors import RunError

METRICS: Final = (
    "roc_auc",
    "pr_auc",
    "f1",
    "accuracy",
    "balanced_accuracy",
    "log_loss",
    "brier",
    "ece",
    "ndcg_at_5",
    "hit_at_5",
)
MINIMUM_PEOPLE: Final = 5
"""Metrics over fewer people are not shown."""
NEUTRAL_THRESHOLD: Final = 0.5
"""Where there is no positive pair to choose a threshold by."""

TOP: Final = 5
"""How many companies at the head of a person's list NDCG@5 and hit@5 look at."""
CALIBRATION_BINS: Final = 15

Floats = NDArray[np.float64]


def evaluate(
    outcome: NDArray[Any], score: NDArray[Any], person: NDArray[Any], *, threshold: float, probability: bool = True
) -> dict[str, float | None]:
    """Every metric of `METRICS`, as plain floats, over pairs that belong to people.

    `outcome` is 0 or 1, `score` is finite and higher for likelier pairs, `person` is an integer code that is the same
    for all pairs of one person and for no other; all three have shape (pairs,). A pair is answered yes where
    `score >= threshold`. Scores that are no probabilities (`probability=False`) have no log_loss, brier or ece.

    Raises ValueError for arrays of other shapes, an outcome other than 0 and 1, or a probability outside [0, 1];
    RunError for a score that is not finite.
    """
    truth, scores, people = check_pairs(outcome, score, person, probability=probability)
    weight = person_weights(people)
    _, positive, negative = score_levels(truth, scores, weight)
    ranking = RankingSums.from_scores(truth, scores, people)
    undefined: dict[str, float | None] = {"log_loss": None, "brier": None, "ece": None}
    return {
        "roc_auc": roc_auc_of_levels(positive, negative),
        "pr_auc": average_precision_of_levels(positive, negative),
        **answers_at(truth, scores >= threshold, weight),
        **(probability_metrics(truth, scores, weight) if probability else undefined),
        "ndcg_at_5": ranking.ndcg(),
        "hit_at_5": ranking.hit(),
    }


def best_f1_threshold(outcome: NDArray[Any], score: NDArray[Any], person: NDArray[Any]) -> float:
    """The threshold whose answers `score >= threshold` have the greatest person-weighted F1.

    It is one of the scores; among thresholds whose F1 is equal (to 1e-12) it is the smallest, so that a person is
    proposed rather than passed over. Raises RunError where no pair is positive: F1 is then defined nowhere.
    """
    truth, scores, people = check_pairs(outcome, score, person, probability=False)
    levels, positive, negative = score_levels(truth, scores, person_weights(people))
    return float(levels[best_f1_level(positive, negative)])


def check_pairs(
    outcome: NDArray[Any], score: NDArray[Any], person: NDArray[Any], *, probability: bool
) -> tuple[NDArray[np.bool_], Floats, NDArray[np.intp]]:
    """The three columns as (bool, float64, codes 0..people-1); raises as `evaluate` says."""
    truth, scores, people = np.asarray(outcome), np.asarray(score, dtype=np.float64), np.asarray(person)
    if truth.ndim != 1 or truth.shape != scores.shape or truth.shape != people.shape:
        raise ValueError(
            f"outcome {truth.shape}, score {scores.shape} and person {people.shape} must be equal and flat"
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("an outcome is neither 0 nor 1")
    if not np.isfinite(scores).all():
        raise RunError(
            "the model gave a score that is not a finite number",
            remedy="look for the round in which its loss grew, and lower the learning rate",
        )
    if probability and ((scores < 0) | (scores > 1)).any():
        raise ValueError("a score is outside [0, 1]: say probability=False for scores that are no probabilities")
    return truth.astype(np.bool_), scores, np.unique(people, return_inverse=True)[1]


def person_weights(people: NDArray[np.intp]) -> Floats:
    """Weight of each pair: 1 / (number of pairs of its person). `people` holds codes 0..people-1."""
    if people.size == 0:
        return np.zeros(0)
    return 1.0 / np.bincount(people)[people]


def score_levels(truth: NDArray[np.bool_], score: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Distinct scores in ascending order, with the weight of positive and of negative pairs at each."""
    levels, index = np.unique(score, return_inverse=True)
    positive, negative = weigh_by_bin(index, truth, weight, levels.size)
    return levels, positive, negative


def weigh_by_bin(index: NDArray[np.intp], truth: NDArray[np.bool_], weight: Floats, bins: int) -> tuple[Floats, Floats]:
    """Weight of the positive and of the negative pairs that fall in each of `bins` bins."""
    positive: Floats = np.bincount(index, weights=weight * truth, minlength=bins).astype(np.float64)
    negative: Floats = np.bincount(index, weights=weight * ~truth, minlength=bins).astype(np.float64)
    return positive, negative


def roc_auc_of_levels(positive: Floats, negative: Floats) -> float | None:
    """P(a positive scores above a negative) + half of P(they tie); None where a class is absent.

    Mann-Whitney form of the area under the ROC curve (Hanley & McNeil 1982): sum over levels of
    positive_l * (negative weight below l + negative_l / 2), over the product of the two total weights.
    """
    all_positive, all_negative = float(positive.sum()), float(negative.sum())
    if all_positive <= 0 or all_negative <= 0:
        return None
    below = np.cumsum(negative) - negative
    return min(1.0, float(np.sum(positive * (below + negative / 2))) / (all_positive * all_negative))


def average_precision_of_levels(positive: Floats, negative: Floats) -> float | None:
    """Sum over levels, from the top, of (gain in recall) * (precision at that level); None without a positive.

    The step-wise area under the precision-recall curve, without interpolation, as scikit-learn's average precision.
    """
    all_positive = float(positive.sum())
    if all_positive <= 0:
        return None
    hits, answered = np.cumsum(positive[::-1]), np.cumsum((positive + negative)[::-1])
    precision = np.divide(hits, answered, out=np.zeros_like(hits), where=answered > 0)
    return min(1.0, float(np.sum(positive[::-1] * precision)) / all_positive)


def best_f1_level(positive: Floats, negative: Floats) -> int:
    """Index of the lowest level l such that saying yes from l upwards has the greatest F1 (ties to 1e-12).

    F1 = 2 TP / (TP + FP + P). Raises RunError without a positive.
    """
    all_positive = float(positive.sum())
    if all_positive <= 0:
        raise RunError(
            "no pair has a positive outcome, so no decision threshold can be chosen",
            remedy="record outcomes that count as a success, or lower `data.success_from`",
        )
    hits = np.cumsum(positive[::-1])[::-1]
    answered = np.cumsum((positive + negative)[::-1])[::-1]
    f1 = 2 * hits / (answered + all_positive)
    return int(np.flatnonzero(f1 >= f1.max() - 1e-12)[0])


def answers_at(truth: NDArray[np.bool_], answer: NDArray[np.bool_], weight: Floats) -> dict[str, float | None]:
    """f1, accuracy and balanced_accuracy of yes/no answers, from the weights of the four kinds of pair."""
    return answers_from_masses(
        true_positive=float(weight[truth & answer].sum()),
        false_negative=float(weight[truth & ~answer].sum()),
        false_positive=float(weight[~truth & answer].sum()),
        true_negative=float(weight[~truth & ~answer].sum()),
    )


def answers_from_masses(
    *, true_positive: float, false_negative: float, false_positive: float, true_negative: float
) -> dict[str, float | None]:
    """F1 = 2 TP / (2 TP + FP + FN), accuracy, and balanced accuracy = mean of the two classes' recalls.

    F1 is None without a positive, balanced accuracy without one of the classes, accuracy without pairs.
    """
    positive, negative = true_positive + false_negative, true_negative + false_positive
    f1 = 2 * true_positive / (2 * true_positive + false_positive + false_negative) if positive > 0 else None
    accuracy = (true_positive + true_negative) / (positive + negative) if positive + negative > 0 else None
    both = positive > 0 and negative > 0
    balanced = (true_positive / positive + true_negative / negative) / 2 if both else None
    return {"f1": f1, "accuracy": accuracy, "balanced_accuracy": balanced}


def probability_metrics(truth: NDArray[np.bool_], score: Floats, weight: Floats) -> dict[str, float | None]:
    """log_loss, brier and ece of probabilities; log_loss is None where a certain prediction (0 or 1) was wrong.

    Probabilities are not clipped: log_loss = mean of -log(probability of what happened), brier = mean of
    (score - outcome)^2.
    """
    total = float(weight.sum())
    if total <= 0:
        return {"log_loss": None, "brier": None, "ece": None}
    happened = np.where(truth, score, 1.0 - score)
    certain_and_wrong = bool((happened <= 0).any())
    # log1p keeps the precision of scores near 0, where 1 - score rounds to 1.
    with np.errstate(divide="ignore"):
        surprise = -np.where(truth, np.log(score), np.log1p(-score))
    return {
        "log_loss": None if certain_and_wrong else float(weight @ surprise) / total,
        "brier": float(weight @ (score - truth) ** 2) / total,
        "ece": calibration_error(score, weight * (score - truth)) / total,
    }


def calibration_error(score: Floats, weighted_gap: Floats) -> float:
    """Sum over 15 equal bins of [0, 1] of |sum of weight * (score - outcome)|: ECE times the total weight.

    Expected calibration error (Naeini et al. 2015): sum over bins of share * |mean score - mean outcome|, in which the
    bin's weight cancels out. A bin holds its lower edge; the last one holds 1 as well.
    """
    index = np.minimum((score * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    return float(np.abs(np.bincount(index, weights=weighted_gap, minlength=CALIBRATION_BINS)).sum())


@dataclass(frozen=True)
class RankingSums:
    """NDCG@k and hit@k summed over people, so that sites can be added without showing a person.

    `people` counts those with at least one positive pair; a person without one has neither metric.
    """

    ndcg_sum: float
    hit_sum: float
    people: int

    @classmethod
    def from_scores(cls, outcome: NDArray[Any], score: NDArray[Any], person: NDArray[Any], k: int = TOP) -> RankingSums:
        """Sums over the people of these pairs (arguments as in `evaluate`); sums of another `k` must not be added.

        A tie is averaged over all orders of the tied pairs (McSherry & Najork 2008). For NDCG each place of a tie gains
        the tie's mean relevance, discounted by 1 / log2(rank + 1), over the ideal list's DCG. For hit@k the tie that
        straddles place k is a draw without replacement: P(no positive) is hypergeometric.
        """
        if k < 1:
            raise ValueError("k must be at least 1")
        truth, scores, people = check_pairs(outcome, score, person, probability=False)
        if truth.size == 0:
            return cls(0.0, 0.0, 0)
        owner, start, size, positive = _ties(truth, scores, people)
        gained = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
        gain = positive / size * (gained[np.minimum(start + size, k)] - gained[np.minimum(start, k)])
        first = np.flatnonzero(start == 0)
        positives = np.add.reduceat(positive, first)
        dcg = np.bincount(owner, weights=gain)
        missed = np.multiply.reduceat(_probability_of_missing(start, size, positive, k), first)
        ranked = positives > 0
        ideal = gained[np.minimum(positives[ranked], k)]
        return cls(float((dcg[ranked] / ideal).sum()), float((1.0 - missed[ranked]).sum()), int(ranked.sum()))

    def __add__(self, other: RankingSums) -> RankingSums:
        """The sums over both groups of people; nobody may be in both."""
        return RankingSums(self.ndcg_sum + other.ndcg_sum, self.hit_sum + other.hit_sum, self.people + other.people)

    def ndcg(self) -> float | None:
        """Mean NDCG@k over people with a positive pair; None where there are none."""
        return self.ndcg_sum / self.people if self.people else None

    def hit(self) -> float | None:
        """Mean probability that the first k hold a positive pair; None where nobody has one."""
        return self.hit_sum / self.people if self.people else None


def _ties(
    truth: NDArray[np.bool_], score: Floats, people: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Ties by person and descending score: (person, places before the tie, pairs in it, positives in it)."""
    order = np.lexsort((-score, people))
    person, value, hit = people[order], score[order], truth[order]
    changes = np.flatnonzero((person[1:] != person[:-1]) | (value[1:] != value[:-1])) + 1
    begin = np.concatenate([[0], changes]).astype(np.intp)
    size = np.diff(begin, append=person.size)
    owner = person[begin]
    pairs_before = np.cumsum(np.bincount(people)) - np.bincount(people)
    return owner, begin - pairs_before[owner], size, np.add.reduceat(hit.astype(np.intp), begin)


def _probability_of_missing(
    start: NDArray[np.intp], size: NDArray[np.intp], positive: NDArray[np.intp], k: int
) -> Floats:
    """P(none of the tie's pairs among the first k is positive), for a tie after `start` others in random order.

    Drawing q of `size` pairs, the product over j < q of (size - positive - j) / (size - j); 1 where q = 0.
    """
    drawn = np.clip(k - start, 0, size)
    missed = np.ones(start.size)
    for j in range(k):
        counts = j < drawn
        missed[counts] *= np.maximum(size - positive - j, 0)[counts] / (size - j)[counts]
    return missed
