"""How good a private model may be expected to be: read off a table of measured runs, and nowhere else.

The table, `privacy/utility.json`, holds what federated runs over synthetic people of several numbers reached at several
ε. In between, figures are interpolated, linearly in the logarithms of both; outside the table there is none.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import InputError
from privacy import events

TABLE_FILE = "utility.json"

Number = TypeVar("Number", int, float)


class MeasuredRow(BaseModel):
    """What runs over `people` people of all sites reached at ε; `epsilon` None is training without noise."""

    model_config = ConfigDict(frozen=True)

    people: int = Field(ge=1)
    epsilon: float | None = Field(default=None, gt=0)
    roc_auc: float
    roc_auc_sd: float
    log_loss: float
    log_loss_sd: float
    draws: int


class MeasuredTable(BaseModel):
    """The measured runs, and what they had in common."""

    model_config = ConfigDict(frozen=True)

    scenario: str
    sites: int
    delta: float
    rounds: int
    local_steps: int
    rows: tuple[MeasuredRow, ...]


@dataclass(frozen=True)
class Quality:
    """Figures on people nobody trained on; `_sd` is the larger standard deviation between the runs next to it."""

    roc_auc: float
    roc_auc_sd: float
    log_loss: float
    log_loss_sd: float


def measured_table() -> MeasuredTable | None:
    """The table that comes with DJMS; None where there is none. Raises InputError for a damaged one."""
    file = Path(events.__file__).with_name(TABLE_FILE)
    if not file.is_file():
        return None
    try:
        return MeasuredTable.model_validate_json(file.read_bytes())
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(
            f"this is not a table of measured quality{f' ({place})' if place else ''}",
            where=file,
            remedy="install DJMS anew, or measure it again",
        ) from None


def expected_quality(table: MeasuredTable, people: int, epsilon: float | None) -> Quality | None:
    """The figures at so many people of all sites and at ε (None: without noise); None outside the table."""
    rows = {(row.people, row.epsilon): row for row in table.rows}
    sizes = _around(people, sorted({row.people for row in table.rows}))
    noises: list[tuple[float | None, float]] = [(None, 1.0)]
    if epsilon is not None:
        noises = [*_around(epsilon, sorted({row.epsilon for row in table.rows if row.epsilon is not None}))]
    corners = [(rows.get((size, noise)), a * b) for (size, a), (noise, b) in itertools.product(sizes, noises)]
    found = [(row, weight) for row, weight in corners if row is not None]
    if not found or len(found) < len(corners):
        return None
    return Quality(
        roc_auc=sum(row.roc_auc * weight for row, weight in found),
        roc_auc_sd=max(row.roc_auc_sd for row, _ in found),
        log_loss=sum(row.log_loss * weight for row, weight in found),
        log_loss_sd=max(row.log_loss_sd for row, _ in found),
    )


def _around(value: float, known: list[Number]) -> list[tuple[Number, float]]:
    """The known values next to this one, and the weight of each by logarithms; none outside of them."""
    if same := [number for number in known if number == value]:
        return [(same[0], 1.0)]
    for low, high in itertools.pairwise(known):
        if low < value < high:
            weight = math.log(value / low) / math.log(high / low)
            return [(low, 1 - weight), (high, weight)]
    return []
