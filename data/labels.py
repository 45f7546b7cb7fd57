"""Where a pair's label comes from: recorded outcomes, or, without them, a rule with known probabilities.

Outcomes: the furthest step of the ladder a pair reached; success from `assunto` on (a setting). An ending (`cessato`,
`rifiutato`) reaches nothing further. A pair that was never proposed has no label.

Rule: a probability p from six attributes; the label is 1 with probability p where p is above the rule's threshold, and
0 elsewhere. What is not known about a pair counts as half of its term. Because p is known, so is the best any model
can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    DISABILITIES,
    OFFICE,
    OUTCOME,
    OUTCOME_LADDER,
    SECTORS,
    RawOutcome,
)

Array = NDArray[np.float64]


class LabelRule(BaseModel):
    """The label rule; its defaults are the reference rule.

    `p = 0.3 min(1, a / 0.3) + 0.4 min(1, c / 0.5) + 0.2 max(0, 1 - d / 40) + 0.05 r + 0.0025 m + 0.0025 k`, plus, in
    other rules than the reference, `sector[s] + sector_disability[s, t]`; always within [0, 1].
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attitude: float = 0.3
    attitude_full: float = 0.3
    compatibility: float = 0.4
    compatibility_full: float = 0.5
    distance: float = 0.2
    distance_zero_km: float = 40.0
    retention: float = 0.05
    remote: float = 0.0025
    certification: float = 0.0025
    threshold: float = 0.6
    sector: dict[str, float] = {}
    sector_disability: dict[str, float] = {}
    """Keyed `sector/disability` by their slugs."""

    @field_validator("sector", "sector_disability")
    @classmethod
    def _slugs_are_known(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            sector, _, disability = key.partition("/")
            if sector not in SECTORS or (disability and disability not in DISABILITIES):
                raise ValueError(f"'{key}' names no known sector or disability")
        return value

    def probability(self, pairs: pd.DataFrame) -> Array:
        """p of each row of a training table, shape (pairs,); uses its numeric columns and its one-hot groups."""
        p = (
            self.attitude * _or_half(np.minimum(1.0, _column(pairs, "attitude_score") / self.attitude_full))
            + self.compatibility
            * _or_half(np.minimum(1.0, _column(pairs, "compatibility_score") / self.compatibility_full))
            + self.distance * _or_half(np.maximum(0.0, 1.0 - _column(pairs, "distance_km") / self.distance_zero_km))
            + self.retention * _or_half(np.minimum(1.0, _column(pairs, "retention_rate")))
            + self.remote * _or_half(_column(pairs, "remote_work"))
            + self.certification * _or_half(_column(pairs, "certification"))
        )
        for slug, bonus in self.sector.items():
            p += bonus * _column(pairs, f"sector_{slug}")
        for key, bonus in self.sector_disability.items():
            sector, disability = key.split("/")
            p += bonus * _column(pairs, f"sector_{sector}") * _column(pairs, f"dis_{disability}")
        return np.clip(p, 0.0, 1.0)

    def success_probability(self, pairs: pd.DataFrame) -> Array:
        """The probability that a pair's label is 1: p where it is above the threshold, 0 elsewhere."""
        p = self.probability(pairs)
        return np.where(p > self.threshold, p, 0.0)


REFERENCE_RULE = LabelRule()


def draw_labels(
    pairs: pd.DataFrame, rules: Mapping[str, LabelRule], *, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Array]:
    """Labels drawn by each office's rule (the reference rule where it has none of its own), and their probabilities.

    Returns two arrays of shape (pairs,): the labels 0/1 and the probability each was drawn with.
    """
    probability = np.zeros(len(pairs))
    office = pairs[OFFICE].astype(str).to_numpy()
    for name in np.unique(office):
        rows = office == name
        probability[rows] = rules.get(str(name), REFERENCE_RULE).success_probability(pairs.loc[rows])
    return (rng.random(len(pairs)) < probability).astype(np.uint8), probability


def outcome_labels(outcomes: pd.DataFrame, *, success_from: str) -> pd.DataFrame:
    """One row per proposed pair (`candidate_id`, `company_id`, `outcome` 0/1), in order of first appearance."""
    rank = {step: index for index, step in enumerate(OUTCOME_LADDER)}
    reached = outcomes[RawOutcome.STEP].map(lambda step: rank.get(step, -1)).astype(int)
    keys = {CANDIDATE_ID: outcomes[RawOutcome.CANDIDATE], COMPANY_ID: outcomes[RawOutcome.COMPANY], "reached": reached}
    furthest = pd.DataFrame(keys).groupby([CANDIDATE_ID, COMPANY_ID], sort=False)["reached"].max().reset_index()
    return pd.DataFrame(
        {
            CANDIDATE_ID: furthest[CANDIDATE_ID],
            COMPANY_ID: furthest[COMPANY_ID],
            OUTCOME: (furthest["reached"] >= rank[success_from]).astype(np.uint8),
        }
    )


def _column(pairs: pd.DataFrame, name: str) -> Any:
    return pairs[name].to_numpy(dtype=np.float64)


def _or_half(term: Array) -> Array:
    return np.where(np.isnan(term), 0.5, term)
