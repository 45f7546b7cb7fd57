"""What each column of the raw tables may hold: the checks, how a cell becomes a value, what is said when it cannot.

A schema reads a frame of text cells (None where a cell is blank) and returns the same columns as values. Rules kept:

* a blank cell is a missing value, never a default; only `Esclusioni` reads a blank as "none stated";
* every check of one column is exclusive of the others, so that a cell fails for one reason and is counted once;
* the error names the first failing row; it shows the cell only where the table holds no person (`shows_values`).

The sentence of a check travels with it: a pandera check's `title` is what happened (`{value}` stands for the cell), its
`description` is the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaError, SchemaErrorReason, SchemaErrors

from common.errors import InputError, row_place
from common.tables import (
    COMPANY_SIZES,
    DISABILITIES,
    EDUCATION,
    OUTCOME_ENDINGS,
    OUTCOME_LADDER,
    SECTORS,
    RawCandidate,
    RawCompany,
    RawOutcome,
)
from data.gazetteer.spelling import normalise

Convert = Callable[[pd.Series], pd.Series]

ITALY_LATITUDES: Final = (35.0, 48.0)
ITALY_LONGITUDES: Final = (6.0, 19.0)
EARLIEST_FIRST_JOB: Final = 1930
LONGEST_CAREER_YEARS: Final = 80.0

_NUMBER: Final = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_DECIMAL_COMMA: Final = r"[+-]?[0-9]*(?:\.[0-9]{3})*,[0-9]+"
_COORDINATES: Final = rf"\(?\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)?"
_YEAR: Final = r"([0-9]{4})(?:\.0+)?"
_ISO_DATE: Final = r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ][0-9:.]+(?:Z|[+-][0-9:]+)?)?"
_FLAGS: Final = {"1": 1.0, "1 0": 1.0, "si": 1.0, "true": 1.0, "0": 0.0, "0 0": 0.0, "no": 0.0, "false": 0.0}
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


def _number(cells: pd.Series) -> pd.Series:
    """Numbers as float64; NaN where the cell is blank or not a number."""
    text = cells.where(cells.notna() & cells.str.fullmatch(_NUMBER, na=False).astype(bool))
    return text.astype("float64")


def _numeric(low: float = 0.0, high: float = float("inf"), *, whole: bool = False, limits: str) -> tuple[pa.Check, ...]:
    """A number in [low, high] written with a point; `limits` tells the range in words."""

    def out_of_range(cells: pd.Series) -> pd.Series:
        number = _number(cells)
        finite = number.abs() < float("inf")
        return number.isna() | (finite & number.between(low, high))

    def is_whole(cells: pd.Series) -> pd.Series:
        number = _number(cells)
        return ~number.between(low, high) | (number % 1 == 0)

    checks = [
        pa.Check(
            lambda cells: ~cells.str.fullmatch(_DECIMAL_COMMA).astype(bool),
            title="{value} is written with a decimal comma",
            description="use a point, as in 0.75",
        ),
        pa.Check(
            lambda cells: cells.str.fullmatch(f"(?:{_NUMBER})|(?:{_DECIMAL_COMMA})").astype(bool),
            title="{value} is not a number",
            description="write digits only, with a point for decimals, or leave the cell blank where it is not known",
        ),
        pa.Check(out_of_range, title=f"{{value}} is not {limits}", description="correct it, or leave the cell blank"),
    ]
    if whole:
        checks.append(
            pa.Check(
                is_whole,
                title="{value} is not a whole number",
                description="write it without decimals and without a point between thousands",
            )
        )
    return tuple(checks)


def _number_field(
    low: float = 0.0,
    high: float = float("inf"),
    *,
    whole: bool = False,
    required: bool = False,
    limits: str = "zero or more",
) -> Field:
    return Field(_numeric(low, high, whole=whole, limits=limits), _number, required)


def _word_field(words: Iterable[str], kind: str, *, required: bool = False, blank_allowed: bool = True) -> Field:
    """One of `words`, compared without case and accents; read as the word is written in the vocabulary."""
    known = {normalise(word): word for word in words}
    check = pa.Check(
        lambda cells: cells.map(_each(cells, lambda text: normalise(text) in known)).astype(bool),
        title=f"{{value}} is not a known {kind}",
        description=f"write one of: {', '.join(known.values())}",
    )
    return Field(
        (check,),
        lambda cells: _text(cells.map(_each(cells, lambda text: known[normalise(text)]))),
        required,
        blank_allowed,
        words=tuple(known.values()),
    )


def _flag_field() -> Field:
    check = pa.Check(
        lambda cells: cells.map(_each(cells, lambda text: normalise(text) in _FLAGS)).astype(bool),
        title="{value} is neither 0 nor 1",
        description="write 1 or sì, 0 or no, or leave the cell blank where it is not known",
    )
    return Field(
        (check,), lambda cells: cells.map(_each(cells, lambda text: _FLAGS[normalise(text)])).astype("float64")
    )


def _each(cells: pd.Series, read: Callable[[str], Any]) -> dict[str, Any]:
    """`read` of each distinct cell, to map a column by: a column of many rows holds few words."""
    return {text: read(text) for text in cells.dropna().unique()}


def _text(values: pd.Series) -> pd.Series:
    """Text with None where missing, whatever a mapping made of it."""
    return values.astype(object).where(values.notna(), None)


def _year(cells: pd.Series) -> pd.Series:
    """The year of a year or of an ISO date, as float64; NaN for anything else."""
    text = pd.Series(cells.dropna().unique(), dtype=object)
    year = text.str.extract(f"^{_YEAR}$", expand=False).astype("float64").fillna(_date(text).dt.year)
    return cells.map(dict(zip(text, year, strict=True))).astype("float64")


def _date(cells: pd.Series) -> pd.Series:
    """The day of an ISO 8601 date or timestamp, as it is written there; NaT for anything else."""
    text = cells.astype(object).str.extract(f"^{_ISO_DATE}$", expand=False)
    return pd.to_datetime(text, format="%Y-%m-%d", errors="coerce")


def _year_field() -> Field:
    def possible(cells: pd.Series) -> pd.Series:
        year = _year(cells)
        return year.isna() | year.between(EARLIEST_FIRST_JOB, date.today().year)

    checks = (
        pa.Check(
            lambda cells: _year(cells).notna(),
            title="{value} is neither a year nor a date",
            description="write a year of four digits or a date such as 2009-05-31, or leave the cell blank",
        ),
        pa.Check(
            possible,
            title=f"{{value}} is not between {EARLIEST_FIRST_JOB} and the current year",
            description="correct it, or leave the cell blank",
        ),
    )
    return Field(checks, _year)


def split_coordinates(cells: pd.Series) -> pd.DataFrame:
    """Columns 0 (latitude) and 1 (longitude) as float64 from cells like `(45.52, 10.94)`; NaN where there is none."""
    return cells.astype(object).str.extract(f"^{_COORDINATES}$").astype("float64")


def _coordinates_field() -> Field:
    def in_italy(cells: pd.Series) -> pd.Series:
        pair = split_coordinates(cells)
        return pair[0].isna() | (pair[0].between(*ITALY_LATITUDES) & pair[1].between(*ITALY_LONGITUDES))

    checks = (
        pa.Check(
            lambda cells: cells.str.fullmatch(_COORDINATES).astype(bool),
            title="{value} is not a pair of coordinates",
            description="write latitude and longitude in degrees, as in (45.52, 10.94), or leave the cell blank",
        ),
        pa.Check(
            in_italy,
            title="{value} is outside Italy",
            description="write latitude (35 to 48) first and longitude (6 to 19) second, or leave the cell blank",
        ),
    )
    return Field(checks)


def _both_or_neither(latitude: str, longitude: str) -> pa.Check:
    def agree(frame: pd.DataFrame) -> pd.Series:
        blank = [
            frame[name].isna() if name in frame else pd.Series(True, index=frame.index)
            for name in (latitude, longitude)
        ]
        return blank[0] == blank[1]

    return pa.Check(
        agree,
        ignore_na=False,
        title=f"only one of '{latitude}' and '{longitude}' is filled in",
        description="fill in both or leave both blank",
    )


_LATITUDE: Final = _number_field(*ITALY_LATITUDES, limits="a latitude in Italy, 35 to 48 degrees")
_LONGITUDE: Final = _number_field(*ITALY_LONGITUDES, limits="a longitude in Italy, 6 to 19 degrees")
_YEARS: Final = _number_field(high=LONGEST_CAREER_YEARS, limits=f"a number of years from 0 to {LONGEST_CAREER_YEARS:g}")

CANDIDATE_SCHEMA: Final = TableSchema(
    {
        RawCandidate.ID: Field(blank_allowed=False, unique=True),
        RawCandidate.RESIDENCE: Field(required=True),
        RawCandidate.ATTITUDE: _number_field(0.0, 1.0, required=True, limits="between 0 and 1"),
        RawCandidate.EXCLUSIONS: Field(convert=lambda cells: cells.where(cells.notna(), ""), required=True),
        RawCandidate.LATITUDE: _LATITUDE,
        RawCandidate.LONGITUDE: _LONGITUDE,
        RawCandidate.COORDINATES: _coordinates_field(),
        RawCandidate.DISABILITY: _word_field(DISABILITIES.values(), "kind of disability"),
        RawCandidate.EDUCATION: _word_field(EDUCATION.values(), "level of education"),
        RawCandidate.FIRST_JOB_YEAR: _year_field(),
        RawCandidate.UNEMPLOYMENT_YEARS: _YEARS,
        RawCandidate.EXPERIENCE_YEARS: _YEARS,
    },
    across=(_both_or_neither(RawCandidate.LATITUDE, RawCandidate.LONGITUDE),),
)

COMPANY_SCHEMA: Final = TableSchema(
    {
        RawCompany.NAME: Field(required=True, blank_allowed=False, unique=True),
        RawCompany.SEAT: Field(required=True),
        RawCompany.SECTOR: _word_field(SECTORS.values(), "sector", required=True),
        RawCompany.EMPLOYEES: _number_field(whole=True, required=True),
        RawCompany.QUOTA: _number_field(required=True),
        RawCompany.HIRED: _number_field(whole=True, required=True),
        RawCompany.OPENINGS: _number_field(required=True),
        RawCompany.COMPATIBILITY: Field(required=True),
        RawCompany.LATITUDE: _LATITUDE,
        RawCompany.LONGITUDE: _LONGITUDE,
        RawCompany.COORDINATES: _coordinates_field(),
        RawCompany.SIZE: _word_field(COMPANY_SIZES, "company size"),
        RawCompany.CERTIFICATION: _flag_field(),
        RawCompany.REMOTE: _flag_field(),
        RawCompany.RETENTION: _number_field(),
    },
    across=(_both_or_neither(RawCompany.LATITUDE, RawCompany.LONGITUDE),),
    shows_values=True,
)

OUTCOME_SCHEMA: Final = TableSchema(
    {
        RawOutcome.CANDIDATE: Field(required=True, blank_allowed=False),
        RawOutcome.COMPANY: Field(required=True, blank_allowed=False),
        RawOutcome.DATE: Field(
            (
                pa.Check(
                    lambda cells: _date(cells).notna(),
                    title="{value} is not an ISO 8601 date",
                    description="write year, month and day, as in 2024-03-31",
                ),
            ),
            _date,
            required=True,
            blank_allowed=False,
        ),
        RawOutcome.STEP: _word_field(
            (*OUTCOME_LADDER, *OUTCOME_ENDINGS), "step of a placement", required=True, blank_allowed=False
        ),
    }
)
