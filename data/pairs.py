"""From people and companies to candidate-company pairs with their attributes: the training table without its labels.

Which pairs: `k` companies drawn without replacement for each person among those of the person's own labour market (the
companies seated in the territory of the person's office), or every combination, or a given list of pairs.

A value that is not known stays NaN; a one-hot group of an unknown value is all zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    DISABILITIES,
    EDUCATION,
    FEATURE_COLUMNS,
    KEY_COLUMNS,
    OFFICE,
    SECTORS,
)
from data.compatibility import compatibility_matrix
from data.distance import haversine_km

Index = NDArray[np.int64]
_BLOCK = 2_000_000  # random numbers drawn at once


@dataclass(frozen=True)
class PairIndex:
    """Pairs as row positions: `candidate[i]` of the candidates' frame goes with `company[i]` of the companies'."""

    candidate: Index
    company: Index


def choose_pairs(
    candidates: pd.DataFrame,
    companies: pd.DataFrame,
    pairs_per_candidate: int | Literal["all"],
    *,
    rng: np.random.Generator,
) -> PairIndex:
    """Pairs for every person, ordered by person. Raises InputError where a person's office has no company at all."""
    if pairs_per_candidate == "all":
        count = len(companies)
        return PairIndex(np.repeat(np.arange(len(candidates)), count), np.tile(np.arange(count), len(candidates)))
    people, drawn = [], []
    office_of_company = companies[OFFICE].astype(object).to_numpy()
    for office, rows in _rows_by_office(candidates).items():
        market = np.flatnonzero(office_of_company == office)
        if len(market) == 0:
            raise InputError(
                f"no company is seated in the territory of {office}, so its {len(rows)} people cannot be paired",
                where="companies' file",
                remedy="add that office's companies, or set data.pairs_per_candidate=all",
            )
        people.append(np.repeat(rows, min(pairs_per_candidate, len(market))))
        drawn.append(_draw(market, len(rows), pairs_per_candidate, rng))
    candidate, company = np.concatenate(people), np.concatenate(drawn)
    order = np.argsort(candidate, kind="stable")
    return PairIndex(candidate[order], company[order])


def locate_pairs(candidates: pd.DataFrame, companies: pd.DataFrame, pairs: pd.DataFrame, path: Path) -> PairIndex:
    """Row positions of listed pairs (`candidate_id`, `company_id`) of one delivery; `path` is the list's file.

    Raises InputError when a pair names a person or a company that is not in the tables; a person is never named.
    """
    candidate = _positions(candidates[CANDIDATE_ID], pairs[CANDIDATE_ID])
    if missing := int((candidate < 0).sum()):
        raise InputError(
            f"{missing} of {len(pairs)} recorded pairs speak of a person who is not in the candidates' file",
            where=path,
            remedy="export both files on the same day, or remove those rows",
        )
    company = _positions(companies[COMPANY_ID], pairs[COMPANY_ID])
    if missing := int((company < 0).sum()):
        first = pairs[COMPANY_ID].iloc[int(np.argmax(company < 0))]
        raise InputError(
            f"{missing} of {len(pairs)} recorded pairs name a company that is not in the companies' file, the first "
            f"is '{first}'",
            where=path,
            remedy="write the company's name as in the companies' file",
        )
    return PairIndex(candidate, company)


def build_pairs(candidates: pd.DataFrame, companies: pd.DataFrame, index: PairIndex) -> pd.DataFrame:
    """The attributes of each pair: key columns and `FEATURE_COLUMNS`, one row per pair, in the order of `index`."""
    person, company = index.candidate, index.company
    columns: dict[str, object] = {
        CANDIDATE_ID: _categorical(candidates[CANDIDATE_ID], person),
        COMPANY_ID: _categorical(companies[COMPANY_ID], company),
        OFFICE: _categorical(candidates[OFFICE], person),
        "attitude_score": _numbers(candidates["attitude_score"])[person],
        "years_experience": _numbers(candidates["years_experience"])[person],
        "unemployment_duration": _numbers(candidates["unemployment_duration"])[person],
        "compatibility_score": _compatibility(candidates, companies, index),
        "distance_km": _distance(candidates, companies, index),
        "company_size": _numbers(companies["company_size"])[company],
        "retention_rate": _numbers(companies["retention_rate"])[company],
        "remote_work": _numbers(companies["remote_work"])[company],
        "certification": _numbers(companies["certification"])[company],
    }
    columns |= _one_hot("edu", EDUCATION, candidates["education"], person)
    columns |= _one_hot("dis", DISABILITIES, candidates["disability"], person)
    columns |= _one_hot("sector", SECTORS, companies["sector"], company)
    return pd.DataFrame(columns)[[*KEY_COLUMNS, *FEATURE_COLUMNS]]


def _rows_by_office(frame: pd.DataFrame) -> dict[str, Index]:
    offices = frame[OFFICE].astype(str)
    return {name: np.flatnonzero(offices == name) for name in sorted(offices.unique())}


def _positions(known: pd.Series, wanted: pd.Series) -> Index:
    return pd.Index(known.astype(str)).get_indexer(pd.Index(wanted.astype(str))).astype(np.int64)


def _draw(market: Index, people: int, k: int, rng: np.random.Generator) -> Index:
    """`min(k, len(market))` companies without replacement for each of `people`, flattened person by person."""
    if k >= len(market):
        return np.tile(market, people)
    drawn = []
    step = max(1, _BLOCK // len(market))
    for start in range(0, people, step):
        size = min(step, people - start)
        keys = rng.random((size, len(market)), dtype=np.float32)
        drawn.append(np.sort(np.argpartition(keys, k, axis=1)[:, :k], axis=1))
    return market[np.concatenate(drawn).ravel()]


def _numbers(column: pd.Series) -> NDArray[np.float32]:
    return column.to_numpy(dtype=np.float32, na_value=np.nan)


def _categorical(column: pd.Series, rows: Index) -> pd.Categorical:
    codes, names = pd.factorize(column.astype(str))
    return pd.Categorical.from_codes(codes[rows], categories=pd.Index(names))


def _compatibility(candidates: pd.DataFrame, companies: pd.DataFrame, index: PairIndex) -> NDArray[np.float32]:
    sets, set_of = _distinct(candidates["exclusions"].tolist())
    texts, text_of = _distinct([None if pd.isna(text) else text for text in companies["compatibility_text"]])
    return compatibility_matrix(sets, texts).astype(np.float32)[set_of[index.candidate], text_of[index.company]]


def _distinct(values: list[object]) -> tuple[list, Index]:  # type: ignore[type-arg]
    position: dict[object, int] = {}
    codes = [position.setdefault(value, len(position)) for value in values]
    return list(position), np.array(codes, dtype=np.int64)


def _distance(candidates: pd.DataFrame, companies: pd.DataFrame, index: PairIndex) -> NDArray[np.float32]:
    home_latitude, home_longitude = (candidates[axis].to_numpy(np.float64) for axis in ("latitude", "longitude"))
    seat_latitude, seat_longitude = (companies[axis].to_numpy(np.float64) for axis in ("latitude", "longitude"))
    return haversine_km(
        home_latitude[index.candidate],
        home_longitude[index.candidate],
        seat_latitude[index.company],
        seat_longitude[index.company],
    ).astype(np.float32)


def _one_hot(prefix: str, words: Mapping[str, str], values: pd.Series, rows: Index) -> dict[str, NDArray[np.uint8]]:
    slugs = values.astype(object).to_numpy()
    return {f"{prefix}_{slug}": (slugs == slug).astype(np.uint8)[rows] for slug in words}
