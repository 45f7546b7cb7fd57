"""What a table of text cells must keep to, and the one sentence that says where it does not.

A schema reads a frame of text cells (None where a cell is blank) and returns the same columns as values. Rules kept:

* every check of one column is exclusive of the others, so that a cell fails for one reason and is counted once;
* the error names the first failing row; it shows the cell only where the table holds no person (`shows_values`).

The sentence of a check travels with it: a pandera check's `title` is what happened (`{value}` stands for the cell), its
`description` is the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaError, SchemaErrorReason, SchemaErrors

from common.errors import InputError, row_place
from data.gazetteer.spelling import normalise

Convert = Callable[[pd.Series], pd.Series]

_SHOWN_CHARACTERS: Final = 60


@dataclass(frozen=True)
class Field:
    """One column: its checks, how its text becomes values, and whether the file and each cell must have it."""

    checks: tuple[pa.Check, ...] = ()
    convert: Convert = lambda cells: cells
    required: bool = False
    blank_allowed: bool = True
    unique: bool = False
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableSchema:
    """One raw table: its known columns, the checks across columns, and whether an error may show a cell."""

    fields: Mapping[str, Field]
    across: tuple[pa.Check, ...] = ()
    shows_values: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """Columns a file must have."""
        return tuple(name for name, field in self.fields.items() if field.required)

    def read(self, cells: pd.DataFrame, path: Path) -> pd.DataFrame:
        """The frame's values; raises InputError for the first row (index: spreadsheet row) that breaks a check."""
        failures = self._failures(cells)
        if failures:
            raise self._error(cells, failures, path)
        values = {name: self.fields[name].convert(cells[name]) for name in cells.columns if name in self.fields}
        return cells.assign(**values)

    def _failures(self, cells: pd.DataFrame) -> list[SchemaError]:
        """Pandera's failures; returned, not chained, so that no traceback of ours carries its data."""
        columns = {
            name: pa.Column(
                None,
                list(field.checks),
                nullable=field.blank_allowed,
                unique=field.unique,
                report_duplicates="exclude_first",
                required=field.required,
            )
            for name, field in self.fields.items()
        }
        try:
            pa.DataFrameSchema(columns, checks=list(self.across)).validate(cells, lazy=True)
        except SchemaErrors as errors:
            return list(errors.schema_errors)
        return []

    def _error(self, cells: pd.DataFrame, failures: list[SchemaError], path: Path) -> InputError:
        rows = [sorted(set(failure.failure_cases["index"].astype(int))) for failure in failures]
        order = {name: position for position, name in enumerate(cells.columns)}
        names = [failure.schema.name if failure.schema.name in order else None for failure in failures]
        first = min(range(len(failures)), key=lambda i: (rows[i][0], order.get(names[i] or "", len(order))))
        failure, name, row = failures[first], names[first], rows[first][0]
        what, remedy = self._sentence(cells, failure, name, row)
        return InputError(what + and_more(len(rows[first]) - 1), where=row_place(path, row, name), remedy=remedy)

    def _sentence(self, cells: pd.DataFrame, failure: SchemaError, name: str | None, row: int) -> tuple[str, str]:
        if failure.reason_code is SchemaErrorReason.SERIES_CONTAINS_NULLS:
            return "the cell is blank", "fill it in, or remove the row"
        if name is None:
            return failure.check.title, failure.check.description
        value = str(cells.at[row, name])
        if failure.reason_code is SchemaErrorReason.SERIES_CONTAINS_DUPLICATES:
            earlier = cells.index[cells[name] == value][0]
            return (
                f"{self._shown(value)} stands in row {earlier} already",
                "make the names distinct, for example by adding the town"
                if self.shows_values
                else "give each person one row and an identifier of their own",
            )
        what = failure.check.title.replace("{value}", self._shown(value))
        words = self.fields[name].words
        if words and self.shows_values:
            what += f", the nearest is '{nearest(value, words)}'"
        return what, failure.check.description

    def _shown(self, value: str) -> str:
        if not self.shows_values:
            return "the value"
        value = " ".join(value.split())
        return f"'{value}'" if len(value) <= _SHOWN_CHARACTERS else f"'{value[:_SHOWN_CHARACTERS]}…'"


def and_more(count: int) -> str:
    """` (and 3 more rows)`: how many rows beside the named one fail in the same way."""
    return "" if count == 0 else f" (and {count} more row{'s' if count > 1 else ''})"


def nearest(text: str, words: Iterable[str], cutoff: float = 0.0) -> str | None:
    """The word most like `text`, letters compared only; None where none is at least `cutoff` (0..1) alike."""
    folded = {normalise(word): word for word in words}
    close = difflib.get_close_matches(normalise(text), list(folded), n=1, cutoff=cutoff)
    return folded[close[0]] if close else None
