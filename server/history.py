"""What is known of each round of a run: one row each, finished or abandoned, in the order of their numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from common.evaluation_sums import EvaluationSums
from common.metrics import METRICS

FINISHED: Final = "finished"
ABANDONED: Final = "abandoned"
INTERRUPTED: Final = "the coordinator was interrupted"
"""Reason of a round that no site is to blame for."""
COLUMNS: Final = (
    *("round", "status", "seconds", "sites", "people", "train_loss", "model_sha256", "threshold"),
    *METRICS,
    "reason",
)
"""Of a row. People, loss, threshold and metrics are empty for an abandoned round; the reason says why it was given up,
or why sites had no part in a finished one."""


@dataclass
class History:
    """The rows, and the names of all sites that had a part in a finished round."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    _cohort: set[str] = field(default_factory=set)

    def finish(
        self,
        number: int,
        *,
        seconds: float,
        participants: tuple[str, ...],
        people: int | None,
        train_loss: float | None,
        model_sha256: str,
        reason: str = "",
    ) -> None:
        """A finished round; how good its model is follows with `evaluated`, `reason` says why sites were left out.

        `people` and `train_loss` are None where sites keep them to themselves.
        """
        self._cohort.update(participants)
        self._add(
            number,
            FINISHED,
            seconds,
            len(participants),
            people=people,
            train_loss=train_loss,
            model_sha256=model_sha256,
            reason=reason,
        )

    def abandon(self, number: int, *, seconds: float | None, sites: int, model_sha256: str, reason: str) -> None:
        """A round after which the model is what it was; `sites` had replied with a result.

        `seconds` is None where nobody knows how long it took.
        """
        self._add(number, ABANDONED, seconds, sites, model_sha256=model_sha256, reason=reason)

    def evaluated(self, sums: EvaluationSums) -> float:
        """Enter the validation metrics of the last finished round's model, which is the one sites evaluate.

        Returns the threshold they were taken at.
        """
        threshold = sums.best_f1_threshold()
        if finished := self.finished_rows:
            finished[-1] |= {"threshold": threshold, **sums.metrics(threshold)}
        return threshold

    @property
    def cohort(self) -> list[str]:
        """Every site that had a part in a finished round, in order."""
        return sorted(self._cohort)

    @property
    def finished_rows(self) -> list[dict[str, Any]]:
        """Those of finished rounds."""
        return [row for row in self.rows if row["status"] == FINISHED]

    @property
    def abandoned_rounds(self) -> list[int]:
        """Their numbers, ascending."""
        return [row["round"] for row in self.rows if row["status"] == ABANDONED]

    @property
    def abandoned_in_a_row(self) -> int:
        """How many of the last rounds were abandoned, one after the other, but for interrupted ones."""
        finished = [index for index, row in enumerate(self.rows, start=1) if row["status"] == FINISHED]
        return sum(row["reason"] != INTERRUPTED for row in self.rows[max(finished, default=0) :])

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table with the columns `COLUMNS`; whole numbers stay whole beside empty cells."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS)).astype({"people": "Int64"})

    def _add(self, number: int, status: str, seconds: float | None, sites: int, **more: Any) -> None:
        empty = dict.fromkeys(COLUMNS)
        taken = None if seconds is None else round(seconds, 3)
        values = {"round": number, "status": status, "seconds": taken, "sites": sites, "reason": ""}
        self.rows.append({**empty, **values, **more})
