"""From the training table to the model's inputs, with public knots and nobody's statistics.

Numeric columns are encoded piecewise-linearly (Gorishniy, Rubachev, Babenko 2022, "On Embeddings for Numerical Features
in Tabular Deep Learning", section 3.2): one input per segment, the share of that segment the value has passed. Knots
come from what a column means, never from data, so encoding costs no privacy and needs no exchange between sites. A
value that is not known gives zeros and sets its own indicator; a one-hot group that is all zero sets the group's.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.tables import NUMERIC_COLUMNS, ONE_HOT_COLUMNS, ONE_HOT_GROUPS

ENCODING_VERSION: Final = 1
"""Raised whenever inputs change their meaning or order: a model fits only the encoding it was trained with."""

KNOTS: Final = MappingProxyType(
    {
        "attitude_score": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        "years_experience": (0.0, 2.0, 5.0, 10.0, 20.0, 40.0),
        "unemployment_duration": (0.0, 0.5, 1.0, 2.0, 5.0, 10.0),
        "compatibility_score": (0.0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0),
        "distance_km": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 60.0, 100.0),
        "company_size": (0.0, 1.0, 2.0),
        "retention_rate": (0.0, 0.25, 0.5, 0.75, 1.0),
        "remote_work": (0.0, 1.0),
        "certification": (0.0, 1.0),
    }
)


def _names() -> tuple[str, ...]:
    names: list[str] = []
    for column in NUMERIC_COLUMNS:
        names += [f"{column}[{segment}]" for segment in range(len(KNOTS[column]) - 1)]
        names.append(f"{column}[unknown]")
    names += ONE_HOT_COLUMNS
    names += [f"{group}_[unknown]" for group in ONE_HOT_GROUPS]
    return tuple(names)


INPUT_NAMES: Final = _names()
INPUT_SIZE: Final = len(INPUT_NAMES)


def encode(table: pd.DataFrame) -> NDArray[np.float32]:
    """The model's inputs, shape (rows, INPUT_SIZE), each within [0, 1], from a training table's feature columns."""
    inputs = np.zeros((len(table), INPUT_SIZE), dtype=np.float32)
    position = 0
    for column in NUMERIC_COLUMNS:
        knots = np.asarray(KNOTS[column], dtype=np.float32)
        width = len(knots) - 1
        values = table[column].to_numpy(dtype=np.float32)
        unknown = np.isnan(values)
        passed = (np.where(unknown, knots[0], values)[:, None] - knots[:-1]) / np.diff(knots)
        np.clip(passed, 0.0, 1.0, out=inputs[:, position : position + width])
        inputs[:, position + width] = unknown
        position += width + 1
    for column in ONE_HOT_COLUMNS:
        inputs[:, position] = table[column].to_numpy()
        position += 1
    for columns in ONE_HOT_GROUPS.values():
        inputs[:, position] = ~table[list(columns)].to_numpy().any(axis=1)
        position += 1
    return inputs
