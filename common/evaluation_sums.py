"""What a site says about how well a model does, as sums that add up over sites; and the metrics they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.messages import HISTOGRAM_KEY, HIT_KEY, NDCG_KEY, RANKED_KEY
from common.metrics import METRICS, MINIMUM_PEOPLE, NEUTRAL_THRESHOLD, RankingSums
from common.score_histogram import ScoreHistogram


@dataclass(frozen=True)
class EvaluationSums:
    """A score histogram and ranking sums over some people."""

    histogram: ScoreHistogram
    ranking: RankingSums

    @classmethod
    def from_scores(cls, outcome: NDArray[Any], score: NDArray[Any], person: NDArray[Any]) -> EvaluationSums:
        """Sums over the people of `person`; arrays of shape (pairs,)."""
        return cls(ScoreHistogram.from_scores(outcome, score, person), RankingSums.from_scores(outcome, score, person))

    @classmethod
    def empty(cls) -> EvaluationSums:
        """The sums over nobody."""
        return cls(ScoreHistogram.empty(), RankingSums(0.0, 0.0, 0))

    def __add__(self, other: EvaluationSums) -> EvaluationSums:
        """The sums over both groups of people, which must be disjoint."""
        return EvaluationSums(self.histogram + other.histogram, self.ranking + other.ranking)

    def to_record(self, prefix: str) -> dict[str, float | list[float]]:
        """As numbers for a message, under keys that begin with `prefix`."""
        return {
            f"{prefix}{HISTOGRAM_KEY}": self.histogram.to_array().ravel().tolist(),
            f"{prefix}{NDCG_KEY}": float(self.ranking.ndcg_sum),
            f"{prefix}{HIT_KEY}": float(self.ranking.hit_sum),
            f"{prefix}{RANKED_KEY}": float(self.ranking.people),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], prefix: str) -> EvaluationSums:
        """From a message's numbers. Raises ValueError when they are no such sums."""
        flat = np.asarray(record[f"{prefix}{HISTOGRAM_KEY}"], dtype=np.float64)
        return cls(
            ScoreHistogram.from_array(flat.reshape(2, -1)),
            RankingSums(
                float(record[f"{prefix}{NDCG_KEY}"]),
                float(record[f"{prefix}{HIT_KEY}"]),
                round(float(record[f"{prefix}{RANKED_KEY}"])),
            ),
        )

    @property
    def people(self) -> int:
        """How many people the sums are over: each weighs one."""
        return round(float(self.histogram.to_array().sum()))

    def best_f1_threshold(self) -> float:
        """The histogram's, or 0.5 where no pair is positive and no threshold is better than another."""
        return self.histogram.best_f1_threshold() if self.histogram.positive.any() else NEUTRAL_THRESHOLD

    def metrics(self, threshold: float) -> dict[str, float | None]:
        """Every metric of `common.metrics.METRICS`, exact up to binning; None under `MINIMUM_PEOPLE`."""
        if self.people < MINIMUM_PEOPLE:
            return dict.fromkeys(METRICS)
        histogram = self.histogram
        return {
            "roc_auc": histogram.roc_auc(),
            "pr_auc": histogram.pr_auc(),
            **histogram.at(threshold),
            "log_loss": histogram.log_loss(),
            "brier": histogram.brier(),
            "ece": histogram.ece(),
            "ndcg_at_5": self.ranking.ndcg(),
            "hit_at_5": self.ranking.hit(),
        }
