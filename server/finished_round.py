"""What is known of a finished round until a manifest tells of it."""

from __future__ import annotations

import math
from typing import Any

from flwr.app import ArrayRecord, MetricRecord

from common import messages as names
from common.evaluation_sums import EvaluationSums


class FinishedRound:
    """What a round's replies gave: the model, who had a part, the sum of weights, and how good the model sent was."""

    def __init__(self, arrays: ArrayRecord, participants: tuple[str, ...], metrics: MetricRecord | None) -> None:
        self.arrays = arrays
        self.participants = participants
        record: dict[str, Any] = {} if metrics is None else dict(metrics)
        weight = float(record.get(names.PEOPLE_KEY, record.get(names.WEIGHT_KEY, math.nan)))
        self.weight = weight if math.isfinite(weight) and weight >= 0 else None
        self.evaluation: dict[str, float] | None = None
        if names.TRAIN_LOSS_KEY not in record:
            return
        try:
            sums = EvaluationSums.from_record(record, names.VALIDATION)
            values: dict[str, Any] = {"train_loss": record[names.TRAIN_LOSS_KEY] / record[names.PEOPLE_KEY]}
            values |= sums.metrics(sums.best_f1_threshold())
        except (KeyError, ValueError, ZeroDivisionError):
            return  # sums that nobody can have: such a round is abandoned, and has no metrics
        known = {name: float(value) for name, value in values.items() if value is not None}
        self.evaluation = {name: value for name, value in known.items() if math.isfinite(value)}

    def to_json(self) -> dict[str, Any]:
        """All but the model."""
        return {"participants": self.participants, "weight": self.weight, "evaluation": self.evaluation}

    @classmethod
    def from_json(cls, content: dict[str, Any], arrays: ArrayRecord) -> FinishedRound:
        """What `to_json` gave."""
        done = cls(arrays, tuple(content["participants"]), None)
        done.weight, done.evaluation = content["weight"], content["evaluation"]
        return done
