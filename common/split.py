"""Who trains, who chooses the threshold, who tests: decided per person, the same at every site and for ever.

A person's part follows from a hash of the seed, the office and the person's id alone, so it does not change when
people are added or removed, when rows are reordered, or when two offices compare notes.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.tables import CANDIDATE_ID, OFFICE

_LABEL = b"djms/v1/split"


class Part(IntEnum):
    """The part of the data a person belongs to."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


def split_people(table: pd.DataFrame, *, seed: int, validation_share: float, test_share: float) -> NDArray[np.uint8]:
    """The `Part` of each row of a training table, shape (rows,); all rows of one person get the same."""
    keys = table[[OFFICE, CANDIDATE_ID]].drop_duplicates()
    position = [
        _position(seed, office, person) for office, person in zip(keys[OFFICE], keys[CANDIDATE_ID], strict=True)
    ]
    part = np.full(len(keys), Part.TRAIN, dtype=np.uint8)
    drawn = np.array(position)
    part[drawn < validation_share + test_share] = Part.VALIDATION
    part[drawn < test_share] = Part.TEST
    by_person = pd.Series(part, index=pd.MultiIndex.from_frame(keys.astype(str)))
    rows = pd.MultiIndex.from_arrays([table[OFFICE].astype(str), table[CANDIDATE_ID].astype(str)])
    return by_person.reindex(rows).to_numpy(dtype=np.uint8)


def _position(seed: int, office: object, person: object) -> float:
    """Uniform on [0, 1): the first 64 bits of SHA-256(label, seed, office, person), each part length-prefixed."""
    parts = [_LABEL, str(seed).encode(), str(office).encode(), str(person).encode()]
    digest = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
