"""Pairs ready for a model: inputs, labels, and who each pair belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.encoding import encode
from common.tables import CANDIDATE_ID, MATCH_PROBABILITY, OFFICE, OUTCOME


@dataclass(frozen=True)
class PairData:
    """Pairs sorted by person.

    `inputs` (pairs, INPUT_SIZE) float32; `outcome` (pairs,) float32 of 0 and 1; `person` (pairs,) int64, 0 .. people-1
    in ascending order; `probability` (pairs,) float64, what each label was drawn with, or None where nobody knows.
    """

    inputs: NDArray[np.float32]
    outcome: NDArray[np.float32]
    person: NDArray[np.int64]
    probability: NDArray[np.float64] | None

    @property
    def people(self) -> int:
        """How many people the pairs belong to."""
        return int(self.person[-1]) + 1 if len(self.person) else 0

    @property
    def pairs_per_person(self) -> NDArray[np.int64]:
        """Shape (people,)."""
        return np.bincount(self.person, minlength=self.people)

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> PairData:
        """Encode a training table. Rows are put in order of person; the order within a person is kept."""
        codes, order = by_person(table)
        ordered = table.iloc[order]
        known = MATCH_PROBABILITY in table.columns
        return cls(
            inputs=encode(ordered),
            outcome=ordered[OUTCOME].to_numpy(np.float32),
            person=codes[order],
            probability=ordered[MATCH_PROBABILITY].to_numpy(np.float64) if known else None,
        )

    @classmethod
    def pooled(cls, parts: list[PairData]) -> PairData:
        """The pairs of several disjoint groups of people as one."""
        offsets = np.cumsum([0, *(part.people for part in parts)])
        known = [part.probability for part in parts if part.probability is not None]
        return cls(
            inputs=np.concatenate([part.inputs for part in parts]),
            outcome=np.concatenate([part.outcome for part in parts]),
            person=np.concatenate([part.person + offset for part, offset in zip(parts, offsets, strict=False)]),
            probability=np.concatenate(known) if len(known) == len(parts) else None,
        )


def by_person(table: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each row's person as a number, and the order of rows in which `PairData` keeps them; both of shape (rows,)."""
    keys = pd.MultiIndex.from_arrays([table[OFFICE].astype(str), table[CANDIDATE_ID].astype(str)])
    codes, _ = pd.factorize(keys, sort=True)
    return codes.astype(np.int64), np.argsort(codes, kind="stable")
