"""From the raw tables to the extended ones: places, offices, and every attribute in the form that pairs are built of.

The rules:

* what the office did not state stays missing (None in text, NaN in numbers): nothing is estimated from something else,
  except a company's size from its employees and its retention from hired ÷ quota, which are definitions;
* coordinates that are given win over the town's; a town is looked up offline first, each distinct text once;
* every person belongs to an office, or the import stops; a company outside every territory has none;
* nothing is written before everything is known to be good, and a file is replaced whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from common.errors import InputError, row_place
from common.files import atomic_path
from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    COMPANY_SIZES,
    DISABILITIES,
    EDUCATION,
    OFFICE,
    SECTORS,
    RawCandidate,
    RawCompany,
)
from data.gazetteer import Gazetteer
from data.offices import Territory, assign_offices
from data.places import Geocoder, UnknownPlaces, locate, numbers, texts
from data.raw_tables import RawFiles
from data.table_schema import and_more

EXTENDED_CANDIDATES_FILE: Final = "Dataset_Candidati_Aggiornato_Extended.csv"
EXTENDED_COMPANIES_FILE: Final = "Dataset_Aziende_con_Stima_Assunzioni_Extended.csv"

_SIZE_LIMITS: Final = (50, 250)


def extend_candidates(
    raw: pd.DataFrame,
    files: RawFiles,
    offices: Mapping[str, Territory],
    *,
    gazetteer: Gazetteer,
    geocoder: Geocoder | None = None,
    unknown_places: UnknownPlaces,
) -> pd.DataFrame:
    """People, one row each, in the order of the file.

    `candidate_id`, `office`, the four columns of `locate`, `attitude_score` (0..1), `exclusions` (tuple of text, empty
    where none is stated), `disability`, `education` (slugs), `years_experience`, `unemployment_duration` (years).
    Raises InputError where a person of a flat delivery has no residence or lives in no office's territory.
    """
    places = locate(
        raw,
        "candidate",
        files.candidates,
        gazetteer=gazetteer,
        geocoder=geocoder,
        unknown_places=unknown_places,
        provinces=_preferred_provinces(files, offices),
    )
    office = _offices(places, files, offices)
    _refuse_without_office(office, places, files)
    return pd.DataFrame(
        {
            CANDIDATE_ID: raw[RawCandidate.ID],
            OFFICE: office,
            **places,
            "attitude_score": numbers(raw, RawCandidate.ATTITUDE),
            "exclusions": _exclusions(raw[RawCandidate.EXCLUSIONS]),
            "disability": _slugs(raw, RawCandidate.DISABILITY, DISABILITIES),
            "education": _slugs(raw, RawCandidate.EDUCATION, EDUCATION),
            "years_experience": numbers(raw, RawCandidate.EXPERIENCE_YEARS),
            "unemployment_duration": numbers(raw, RawCandidate.UNEMPLOYMENT_YEARS),
        }
    ).reset_index(drop=True)


def extend_companies(
    raw: pd.DataFrame,
    files: RawFiles,
    offices: Mapping[str, Territory],
    *,
    gazetteer: Gazetteer,
    geocoder: Geocoder | None = None,
    unknown_places: UnknownPlaces,
) -> pd.DataFrame:
    """Companies, one row each, in the order of the file.

    `company_id`, `office` (the labour market of the seat, None outside all of them), the four columns of `locate`,
    `sector` (slug), `employees`, `quota`, `hired`, `openings`, `company_size` (0 small, 1 medium, 2 large),
    `retention_rate`, `remote_work`, `certification` (0/1), `compatibility_text`.
    """
    places = locate(
        raw,
        "company",
        files.companies,
        gazetteer=gazetteer,
        geocoder=geocoder,
        unknown_places=unknown_places,
        provinces=_preferred_provinces(files, offices),
    )
    return pd.DataFrame(
        {
            COMPANY_ID: raw[RawCompany.NAME],
            OFFICE: _offices(places, files, offices),
            **places,
            "sector": _slugs(raw, RawCompany.SECTOR, SECTORS),
            "employees": numbers(raw, RawCompany.EMPLOYEES),
            "quota": numbers(raw, RawCompany.QUOTA),
            "hired": numbers(raw, RawCompany.HIRED),
            "openings": numbers(raw, RawCompany.OPENINGS),
            "company_size": _company_size(raw),
            "retention_rate": _retention(raw),
            "remote_work": numbers(raw, RawCompany.REMOTE),
            "certification": numbers(raw, RawCompany.CERTIFICATION),
            "compatibility_text": raw[RawCompany.COMPATIBILITY],
        }
    ).reset_index(drop=True)


def write_extended(candidates: pd.DataFrame, companies: pd.DataFrame, directory: Path) -> None:
    """Write both extended tables into `directory` (made if absent), readable by their owner only.

    Exclusions are joined by commas, a missing value is an empty cell. Both files are written before either takes its
    name.
    """
    people = candidates.assign(exclusions=candidates["exclusions"].map(", ".join))
    with (
        atomic_path(directory / EXTENDED_CANDIDATES_FILE) as candidates_part,
        atomic_path(directory / EXTENDED_COMPANIES_FILE) as companies_part,
    ):
        people.to_csv(candidates_part, index=False, lineterminator="\n")
        companies.to_csv(companies_part, index=False, lineterminator="\n")


def _preferred_provinces(files: RawFiles, offices: Mapping[str, Territory]) -> tuple[str, ...]:
    """The provinces in which a name that leaves a choice is taken: the office's own, or every office's."""
    if files.office is None:
        return tuple(code for territory in offices.values() for code in territory.provinces)
    if files.office not in offices:
        raise InputError(
            f"no territory is known for {files.office}", where=files.candidates, remedy="add it to the setting offices"
        )
    return tuple(offices[files.office].provinces)


def _offices(places: pd.DataFrame, files: RawFiles, offices: Mapping[str, Territory]) -> pd.Series:
    """The office of each row: the one whose folder held the file, or the one that serves the place."""
    if files.office is not None:
        return pd.Series(files.office, index=places.index, dtype=object)
    return assign_offices(places, offices)


def _refuse_without_office(office: pd.Series, places: pd.DataFrame, files: RawFiles) -> None:
    lost = places[office.isna()]
    if lost.empty:
        return
    unknown = lost["comune"].isna()
    alike = int((unknown == unknown.iloc[0]).sum()) - 1
    what = "the residence is blank or unknown" if unknown.iloc[0] else "the residence lies in no office's territory"
    first_aid = "fill the residence in" if unknown.iloc[0] else "add the comune to an office in the setting offices"
    raise InputError(
        f"{what}, so the person belongs to no office{and_more(alike)}",
        where=row_place(files.candidates, lost.index[0], RawCandidate.RESIDENCE),
        remedy=f"{first_aid}, or deliver the file in that office's own folder",
    )


def _slugs(frame: pd.DataFrame, column: str, vocabulary: Mapping[str, str]) -> pd.Series:
    """The slug of each word of `vocabulary` (slug to word), None where it is missing."""
    if column not in frame:
        return texts([None] * len(frame), frame.index)
    slug_of = {word: slug for slug, word in vocabulary.items()}
    return texts([None if pd.isna(word) else slug_of[word] for word in frame[column]], frame.index)


def _exclusions(cells: pd.Series) -> pd.Series:
    """Tuples of what the cells list, each said once (case apart), in the file's order."""
    split: dict[str, tuple[str, ...]] = {}
    for cell in cells.unique():
        said: dict[str, str] = {}
        for part in filter(None, (piece.strip() for piece in cell.split(","))):
            said.setdefault(part.casefold(), part)
        split[cell] = tuple(said.values())
    return pd.Series([split[cell] for cell in cells], index=cells.index, dtype=object)


def _company_size(raw: pd.DataFrame) -> pd.Series:
    employees = numbers(raw, RawCompany.EMPLOYEES)
    counted = sum((employees >= limit).astype("float64") for limit in _SIZE_LIMITS)
    size = pd.Series(counted, index=raw.index).where(employees.notna())
    if RawCompany.SIZE not in raw:
        return size
    index_of = {word: float(index) for index, word in enumerate(COMPANY_SIZES)}
    return raw[RawCompany.SIZE].map(index_of).astype("float64").fillna(size)


def _retention(raw: pd.DataFrame) -> pd.Series:
    """The rate that is given; else hired ÷ quota, 0 where the quota is 0, NaN where either is unknown."""
    quota, hired = numbers(raw, RawCompany.QUOTA), numbers(raw, RawCompany.HIRED)
    rate = (hired / quota.where(quota > 0)).mask(quota == 0, 0.0)
    return numbers(raw, RawCompany.RETENTION).fillna(rate)
