"""A site's scores as a histogram, from which a coordinator evaluates a federation by sums alone.

Rules that hold:

* A histogram holds two rows of weights: positives and negatives, in B equal bins of [0, 1]. Bin b holds the scores s
  with b/B <= s < (b+1)/B; the last one holds 1 as well. Each person weighs one (see `common.metrics`).
* The sum of sites' histograms is the histogram of their pooled pairs (to rounding), provided nobody is at two sites. So
  secure aggregation of `to_array()` is enough: no score, no person and no site's own result is seen.
* A metric of a histogram takes a bin's scores to be equal and to lie at its midpoint. Each method says how far that is
  from the metric of the scores themselves. None means what it means in `common.metrics`.

    total = sum((ScoreHistogram.from_array(a) for a in arrays), start=ScoreHistogram.empty())
    total.roc_auc(), total.at(total.best_f1_threshold())
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from common.metrics import (
    Floats,
    answers_from_masses,
    average_precision_of_levels,
    best_f1_level,
    calibration_error,
    check_pairs,
    person_weights,
    roc_auc_of_levels,
    weigh_by_bin,
)

BINS: Final = 1000


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """Weights of positive and of negative pairs by score; both have shape (B,), are finite and not negative."""

    positive: Floats
    negative: Floats

    def __post_init__(self) -> None:
        """Take read-only copies; raises ValueError for anything but two equal rows of finite weights >= 0."""
        for name in ("positive", "negative"):
            row = np.array(getattr(self, name), dtype=np.float64)
            row.flags.writeable = False
            object.__setattr__(self, name, row)
        if self.positive.ndim != 1 or self.positive.shape != self.negative.shape or self.positive.size == 0:
            raise ValueError(f"rows of shape {self.positive.shape} and {self.negative.shape} are no histogram")
        rows = self.to_array()
        if not np.isfinite(rows).all() or (rows < 0).any():
            raise ValueError("a histogram's weights must be finite and not negative")

    @classmethod
    def from_scores(
        cls, outcome: NDArray[Any], score: NDArray[Any], person: NDArray[Any], bins: int = BINS
    ) -> ScoreHistogram:
        """Histogram of probabilities; arguments and errors as in `common.metrics.evaluate`."""
        truth, scores, people = check_pairs(outcome, score, person, probability=True)
        weight = person_weights(people)
        # Searching the edges, not multiplying, makes `score >= edge` and `bin >= edge's bin` the same statement.
        index = np.searchsorted(_edges(bins)[1:-1], scores, side="right")
        return cls(*weigh_by_bin(index, truth, weight, bins))

    @classmethod
    def empty(cls, bins: int = BINS) -> ScoreHistogram:
        """The histogram of no pairs: where a sum starts."""
        return cls(np.zeros(bins), np.zeros(bins))

    @classmethod
    def from_array(cls, array: NDArray[Any]) -> ScoreHistogram:
        """What `to_array` gave, or a sum of such; raises ValueError for another shape or weights below 0."""
        rows = np.asarray(array, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[0] != 2:
            raise ValueError(f"shape {rows.shape} is not (2, bins)")
        return cls(rows[0], rows[1])

    def to_array(self) -> Floats:
        """Float64 of shape (2, B): the positives' row, then the negatives'."""
        return np.stack([self.positive, self.negative])

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        """The histogram of both groups of people; raises ValueError where the bins differ."""
        if self.bins != other.bins:
            raise ValueError(f"histograms of {self.bins} and {other.bins} bins cannot be added")
        return ScoreHistogram(self.positive + other.positive, self.negative + other.negative)

    @property
    def bins(self) -> int:
        """How many bins [0, 1] is cut into."""
        return int(self.positive.size)

    def roc_auc(self) -> float | None:
        """Exact up to binning: off by at most half the share of opposite-label pairs of pairs within one bin.

        That is `roc_auc_margin()`. Opposite labels in different bins are ordered as their scores are; those in one bin
        count half, whatever their order.
        """
        return roc_auc_of_levels(self.positive, self.negative)

    def roc_auc_margin(self) -> float | None:
        """The farthest the exact ROC-AUC can be from `roc_auc()`: sum_b p_b n_b / (2 P N)."""
        both = float(self.positive.sum() * self.negative.sum())
        return float(self.positive @ self.negative) / (2 * both) if both > 0 else None

    def pr_auc(self) -> float | None:
        """Average precision with each bin as one tie; exact where no bin holds both labels.

        With TP and FP the weights above a bin that holds p and n, the bin's share p/P of recall counts with precision
        (TP+p) / (TP+FP+p+n). Its precision on the scores themselves lies between TP / (TP+FP+n), the bin's negatives
        being first, and (TP+p) / (TP+FP+p), its positives being first.
        """
        return average_precision_of_levels(self.positive, self.negative)

    def at(self, threshold: float) -> dict[str, float | None]:
        """f1, accuracy and balanced_accuracy of the answers `score >= threshold`.

        Exact where the threshold is a bin's lower edge, as `best_f1_threshold()` is. Any other threshold is first moved
        to the nearest edge, which changes the answers to the pairs scored between the two: at most half a bin. From the
        upper edge of the last bin on, nothing is answered yes.
        """
        cut = int(np.clip(np.rint(threshold * self.bins), 0, self.bins))
        return answers_from_masses(
            true_positive=float(self.positive[cut:].sum()),
            false_negative=float(self.positive[:cut].sum()),
            false_positive=float(self.negative[cut:].sum()),
            true_negative=float(self.negative[:cut].sum()),
        )

    def brier(self) -> float | None:
        """Mean squared error of the midpoints; off by less than 1/B: (m-y)^2 - (s-y)^2 = (m-s)(m+s-2y)."""
        total = self._total()
        if total <= 0:
            return None
        middle = self._middles()
        return float(self.positive @ (1 - middle) ** 2 + self.negative @ middle**2) / total

    def log_loss(self) -> float | None:
        """Mean surprise of the midpoints: always finite, because a midpoint is never 0 or 1.

        A pair whose outcome was given a probability in bin k, counted from 0, is off by at most log((k+1/2) / k), about
        1/(2k). In bin 0 it counts as log(2B), 7.6 at 1,000 bins: at most log 2 too much, but too little without limit,
        for the exact log-loss may be infinite.
        """
        total = self._total()
        if total <= 0:
            return None
        middle = self._middles()
        return float(self.positive @ -np.log(middle) + self.negative @ -np.log1p(-middle)) / total

    def ece(self) -> float | None:
        """Calibration error over 15 bins; off by at most 1/(2B) + twice the share of weight in bins that straddle two.

        A bin of the histogram goes whole to the calibration bin of its midpoint. None straddles where 15 divides B.
        """
        total = self._total()
        if total <= 0:
            return None
        middle = self._middles()
        return calibration_error(middle, middle * (self.positive + self.negative) - self.positive) / total

    def best_f1_threshold(self) -> float:
        """The bin's edge with the greatest F1, the lowest among equals (to 1e-12) that has weight in its bin.

        F1 there is exactly that of `score >= edge`; a threshold within a bin may do better, by what one bin's order can
        give. Raises RunError without a positive.
        """
        filled = np.flatnonzero(self.positive + self.negative)
        best = best_f1_level(self.positive[filled], self.negative[filled])
        return float(_edges(self.bins)[filled[best]])

    def _total(self) -> float:
        return float(self.positive.sum() + self.negative.sum())

    def _middles(self) -> Floats:
        return (np.arange(self.bins) + 0.5) / self.bins


def _edges(bins: int) -> Floats:
    """The B + 1 edges b/B."""
    if bins < 1:
        raise ValueError("a histogram has at least one bin")
    return np.arange(bins + 1) / bins
