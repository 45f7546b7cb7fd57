"""The kinds of cells offices write: how each is checked and becomes a value.

A blank cell is a missing value, never a default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, Final

import pandas as pd
import pandera.pandas as pa

from data.gazetteer.spelling import normalise
from data.table_schema import Field

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


def number_field(
    low: float = 0.0,
    high: float = float("inf"),
    *,
    whole: bool = False,
    required: bool = False,
    limits: str = "zero or more",
) -> Field:
    """A number in [low, high], read as float64; `limits` tells the range in words."""
    return Field(_numeric(low, high, whole=whole, limits=limits), _number, required)


def word_field(words: Iterable[str], kind: str, *, required: bool = False, blank_allowed: bool = True) -> Field:
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


def flag_field() -> Field:
    """Yes or no, read as 1.0 or 0.0."""
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
    year = text.str.extract(f"^{_YEAR}$", expand=False).astype("float64").fillna(iso_date(text).dt.year)
    return cells.map(dict(zip(text, year, strict=True))).astype("float64")


def iso_date(cells: pd.Series) -> pd.Series:
    """The day of an ISO 8601 date or timestamp, as it is written there; NaT for anything else."""
    text = cells.astype(object).str.extract(f"^{_ISO_DATE}$", expand=False)
    return pd.to_datetime(text, format="%Y-%m-%d", errors="coerce")


def year_field() -> Field:
    """A year, or a date of which the year is read, as float64."""

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


def coordinates_field() -> Field:
    """Latitude and longitude in one cell, kept as text; `split_coordinates` reads them."""

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
