"""From raw files to labelled pairs: the whole way of a record through this room, as one function.

Each delivery (one flat folder, or each office's own folder) is read, extended and paired by itself, so that a company
of one office is never paired with a person of another. Labels come from recorded outcomes where the deliveries have
them, and otherwise from the label rule: the reference rule, or for synthetic data the rules of its manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.dataset_info import DatasetInfo
from common.errors import InputError
from common.settings import Settings
from common.tables import (
    CANDIDATE_ID,
    KEY_COLUMNS,
    MATCH_PROBABILITY,
    OFFICE,
    OUTCOME,
    RAW_OUTCOMES_FILE,
    SYNTHETIC_MARK_FILE,
    TRAINING_COLUMNS,
)
from data.extension import extend_candidates, extend_companies
from data.gazetteer import Gazetteer
from data.generator import read_rules
from data.geocoding import NominatimGeocoder
from data.labels import draw_labels, outcome_labels
from data.offices import check_territories
from data.pairs import PairIndex, build_pairs, choose_pairs, locate_pairs
from data.raw_tables import RawFiles, find_raw_files, read_candidates, read_companies, read_outcomes

_PAIR_STREAM, _LABEL_STREAM = 0xA1, 0xA2  # random streams that share the seed and nothing else


@dataclass(frozen=True)
class Dataset:
    """Extended people and companies of all deliveries, the labelled pairs, and where the labels come from."""

    candidates: pd.DataFrame
    companies: pd.DataFrame
    table: pd.DataFrame
    info: DatasetInfo


def raw_files_of(settings: Settings, directory: Path | None) -> tuple[RawFiles, ...]:
    """The deliveries in `directory`, or the two files that the settings name."""
    if directory is not None:
        return find_raw_files(directory, settings.offices)
    candidates, companies = settings.paths.raw_candidates, settings.paths.raw_companies
    for path in (candidates, companies):
        if not path.is_file():
            raise InputError(
                "the raw file does not exist", where=path, remedy="put it there, or name a folder with --raw"
            )
    outcomes = candidates.with_name(RAW_OUTCOMES_FILE)
    synthetic = candidates.with_name(SYNTHETIC_MARK_FILE).is_file()
    return (RawFiles(candidates, companies, outcomes if outcomes.is_file() else None, None, synthetic),)


def prepare(deliveries: tuple[RawFiles, ...], settings: Settings) -> Dataset:
    """Read, extend, pair and label. Writes nothing. Raises InputError for whatever does not fit."""
    check_territories(settings.offices)
    people, firms, tables = [], [], []
    labelled = deliveries[0].outcomes is not None
    for number, files in enumerate(deliveries):
        candidates, companies = _extended(files, settings)
        people.append(candidates)
        firms.append(companies)
        rng = np.random.default_rng([settings.seed, _PAIR_STREAM, number])
        if files.outcomes is not None:
            tables.append(_pairs_of_outcomes(files.outcomes, candidates, companies, settings))
        else:
            index = choose_pairs(candidates, companies, settings.data.pairs_per_candidate, rng=rng)
            tables.append(_by_rule(files, candidates, companies, index, settings, number))
    table = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
    for key in KEY_COLUMNS:  # categories of several deliveries do not join by themselves
        table[key] = table[key].astype("category")
    return Dataset(
        pd.concat(people, ignore_index=True),
        pd.concat(firms, ignore_index=True),
        table,
        DatasetInfo("outcomes" if labelled else "rule", deliveries[0].synthetic),
    )


def _extended(files: RawFiles, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    gazetteer = Gazetteer.load()
    geocoding = settings.data.geocoding
    geocoder = (
        NominatimGeocoder(
            user_agent=geocoding.user_agent,
            domain=geocoding.domain,
            cache=settings.paths.processed_dir / "geocoding_cache.sqlite",
        )
        if geocoding.enabled
        else None
    )
    places = {"gazetteer": gazetteer, "geocoder": geocoder, "unknown_places": settings.data.unknown_places}
    candidates = extend_candidates(read_candidates(files.candidates), files, settings.offices, **places)
    companies = extend_companies(read_companies(files.companies), files, settings.offices, **places)
    return candidates, companies


def _by_rule(
    files: RawFiles,
    candidates: pd.DataFrame,
    companies: pd.DataFrame,
    index: PairIndex,
    settings: Settings,
    number: int,
) -> pd.DataFrame:
    table = build_pairs(candidates, companies, index)
    folder = files.candidates.parent
    rules = read_rules(folder) or (read_rules(folder.parent) if files.office is not None else {})
    rng = np.random.default_rng([settings.seed, _LABEL_STREAM, number])
    outcome, probability = draw_labels(table, rules, rng=rng)
    table[OUTCOME] = outcome
    table[MATCH_PROBABILITY] = probability.astype(np.float32)
    return table[[*TRAINING_COLUMNS, MATCH_PROBABILITY]]


def _pairs_of_outcomes(
    path: Path, candidates: pd.DataFrame, companies: pd.DataFrame, settings: Settings
) -> pd.DataFrame:
    # Identifiers are unique in the delivery, so they tell the office.
    office_of = dict(zip(candidates[CANDIDATE_ID].astype(str), candidates[OFFICE].astype(str), strict=True))
    proposed = outcome_labels(read_outcomes(path), success_from=settings.data.success_from)
    proposed[OFFICE] = proposed[CANDIDATE_ID].map(office_of)
    table = build_pairs(candidates, companies, locate_pairs(candidates, companies, proposed, path))
    table[OUTCOME] = proposed[OUTCOME].to_numpy()
    return table[list(TRAINING_COLUMNS)]
