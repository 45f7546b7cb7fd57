"""The three raw tables, column by column: kinds of cells, vocabularies, ranges, what must be there.

Only `Esclusioni` reads a blank cell as "none stated"; everywhere else a blank is a missing value.
"""

from __future__ import annotations

from typing import Final

import pandas as pd
import pandera.pandas as pa

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
from data.raw_cells import (
    ITALY_LATITUDES,
    ITALY_LONGITUDES,
    LONGEST_CAREER_YEARS,
    coordinates_field,
    flag_field,
    iso_date,
    number_field,
    word_field,
    year_field,
)
from data.table_schema import Field, TableSchema


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


MOST_PEOPLE: Final = 10_000_000.0
_HEADCOUNT: Final = "a number of people from 0 to ten million"
_LATITUDE: Final = number_field(*ITALY_LATITUDES, limits="a latitude in Italy, 35 to 48 degrees")
_LONGITUDE: Final = number_field(*ITALY_LONGITUDES, limits="a longitude in Italy, 6 to 19 degrees")
_YEARS: Final = number_field(high=LONGEST_CAREER_YEARS, limits=f"a number of years from 0 to {LONGEST_CAREER_YEARS:g}")

CANDIDATE_SCHEMA: Final = TableSchema(
    {
        RawCandidate.ID: Field(blank_allowed=False, unique=True),
        RawCandidate.RESIDENCE: Field(required=True),
        RawCandidate.ATTITUDE: number_field(0.0, 1.0, required=True, limits="between 0 and 1"),
        RawCandidate.EXCLUSIONS: Field(convert=lambda cells: cells.where(cells.notna(), ""), required=True),
        RawCandidate.LATITUDE: _LATITUDE,
        RawCandidate.LONGITUDE: _LONGITUDE,
        RawCandidate.COORDINATES: coordinates_field(),
        RawCandidate.DISABILITY: word_field(DISABILITIES.values(), "kind of disability"),
        RawCandidate.EDUCATION: word_field(EDUCATION.values(), "level of education"),
        RawCandidate.FIRST_JOB_YEAR: year_field(),
        RawCandidate.UNEMPLOYMENT_YEARS: _YEARS,
        RawCandidate.EXPERIENCE_YEARS: _YEARS,
    },
    across=(_both_or_neither(RawCandidate.LATITUDE, RawCandidate.LONGITUDE),),
)

COMPANY_SCHEMA: Final = TableSchema(
    {
        RawCompany.NAME: Field(required=True, blank_allowed=False, unique=True),
        RawCompany.SEAT: Field(required=True),
        RawCompany.SECTOR: word_field(SECTORS.values(), "sector", required=True),
        RawCompany.EMPLOYEES: number_field(high=MOST_PEOPLE, whole=True, required=True, limits=_HEADCOUNT),
        RawCompany.QUOTA: number_field(high=MOST_PEOPLE, required=True, limits=_HEADCOUNT),
        RawCompany.HIRED: number_field(high=MOST_PEOPLE, whole=True, required=True, limits=_HEADCOUNT),
        RawCompany.OPENINGS: number_field(high=MOST_PEOPLE, required=True, limits=_HEADCOUNT),
        RawCompany.COMPATIBILITY: Field(required=True),
        RawCompany.LATITUDE: _LATITUDE,
        RawCompany.LONGITUDE: _LONGITUDE,
        RawCompany.COORDINATES: coordinates_field(),
        RawCompany.SIZE: word_field(COMPANY_SIZES, "company size"),
        RawCompany.CERTIFICATION: flag_field(),
        RawCompany.REMOTE: flag_field(),
        RawCompany.RETENTION: number_field(),
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
                    lambda cells: iso_date(cells).notna(),
                    title="{value} is not an ISO 8601 date",
                    description="write year, month and day, as in 2024-03-31",
                ),
            ),
            iso_date,
            required=True,
            blank_allowed=False,
        ),
        RawOutcome.STEP: word_field(
            (*OUTCOME_LADDER, *OUTCOME_ENDINGS), "step of a placement", required=True, blank_allowed=False
        ),
    }
)
