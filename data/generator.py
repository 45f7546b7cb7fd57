"""Synthetic raw tables for a federation of offices, in the offices' own Italian format.

Nothing here describes a real person or company: every value is drawn from a seeded generator, companies are called
"Sintetica", and a manifest (`SYNTHETIC.json`) beside the files says so and carries the label rules, so that the best
any model can do is known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.errors import InputError
from common.files import atomic_path
from common.tables import (
    DISABILITIES,
    EDUCATION,
    EXCLUSIONS,
    RAW_CANDIDATES_FILE,
    RAW_COMPANIES_FILE,
    SECTORS,
    SYNTHETIC_MARK_FILE,
    RawCandidate,
    RawCompany,
)
from data.gazetteer import Gazetteer
from data.labels import LabelRule
from data.scenarios import OFFICE_TOWNS, OfficeProfile, Scenario, profiles

DISABILITY_SHARES = (0.20, 0.20, 0.15, 0.15, 0.10, 0.05, 0.15)
EDUCATION_SHARES = (0.05, 0.25, 0.40, 0.20, 0.10)
EXCLUSION_COUNT_SHARES = (0.30, 0.40, 0.20, 0.10)  # none, one, two, three
COMPATIBILITY_PHRASES = (
    "Alta compatibilità con disabilità fisiche",
    "Compatibilità moderata con limitazioni fisiche",
    "Bassa compatibilità con limitazioni motorie",
    "Alta compatibilità con disabilità visive",
    "Compatibilità moderata con disabilità uditive",
    "Alta compatibilità con disabilità intellettive",
    "Sede accessibile e senza barriere",
    "Supporto tecnico e ausili disponibili",
    "Tutoraggio e affiancamento iniziale",
    "Orari flessibili",
    "Possibilità di part time",
    "Lavoro da remoto possibile",
    "Luogo protetto con supervisione",
    "Ambiente tranquillo",
    "Mansioni di responsabilità",
    "Uso di veicoli aziendali",
    "Ambiente rumoroso",
    "Mansioni pesanti e sollevamento carichi",
    "Uso di macchinari",
    "Turni e orari notturni",
    "Lavoro in quota",
)
_HARD_PHRASES = 6  # the last ones: demands that exclusions speak of


@dataclass(frozen=True)
class RawDataset:
    """Raw tables of all offices, and the manifest that marks them as synthetic."""

    candidates: pd.DataFrame
    companies: pd.DataFrame
    manifest: dict[str, object]


def generate(
    *, candidates: int, companies: int, seed: int, scenario: Scenario = "reference", year: int = 2025
) -> RawDataset:
    """Draw the raw tables of the five offices. Same arguments, same tables.

    Raises InputError for fewer than five candidates or companies: each office needs one.
    """
    offices = profiles(scenario)
    if candidates < len(offices) or companies < len(offices):
        raise InputError(
            f"{candidates} candidates and {companies} companies are too few for {len(offices)} offices",
            where="djms data generate",
            remedy=f"ask for at least {len(offices)} of each",
        )
    rng = np.random.default_rng([seed, 0xD1])
    shares = [profile.share for profile in offices.values()]
    people, firms = [], []
    for (office, profile), count, firm_count in zip(
        offices.items(), _apportion(candidates, shares), _apportion(companies, shares), strict=True
    ):
        people.append(_draw_candidates(office, profile, count, year, rng))
        firms.append(_draw_companies(office, profile, firm_count, rng))
    manifest: dict[str, object] = {
        "synthetic": True,
        "note": "Drawn by a seeded generator; no row describes a real person or company.",
        "scenario": scenario,
        "seed": seed,
        "rules": {office: profile.rule.model_dump() for office, profile in offices.items()},
    }
    return RawDataset(_numbered(people, RawCandidate.ID, "C"), _named(firms), manifest)


def write_raw(dataset: RawDataset, directory: Path) -> None:
    """Write the two CSV files and the manifest; the manifest first, so that no unmarked table ever lies there.

    Raises InputError where a table lies there that is not marked as synthetic: it may be an office's own.
    """
    if not (directory / SYNTHETIC_MARK_FILE).is_file():
        for path in (directory / RAW_CANDIDATES_FILE, directory / RAW_COMPANIES_FILE):
            if path.exists():
                raise InputError(
                    "a table that is not marked as synthetic lies here and would be overwritten",
                    where=path,
                    remedy="choose another folder with --out, or move it away",
                )
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_path(directory / SYNTHETIC_MARK_FILE) as path:
        path.write_text(json.dumps(dataset.manifest, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for name, table in ((RAW_CANDIDATES_FILE, dataset.candidates), (RAW_COMPANIES_FILE, dataset.companies)):
        with atomic_path(directory / name) as path:
            table.to_csv(path, index=False)


def read_rules(directory: Path) -> dict[str, LabelRule]:
    """The label rules of the manifest in `directory`; none where there is no manifest."""
    path = directory / SYNTHETIC_MARK_FILE
    if not path.is_file():
        return {}
    try:
        rules = json.loads(path.read_text(encoding="utf-8")).get("rules", {})
        return {office: LabelRule.model_validate(rule) for office, rule in rules.items()}
    except (ValueError, AttributeError):
        raise InputError(
            "the manifest of the synthetic tables cannot be read", where=path, remedy="generate the tables anew"
        ) from None


def _apportion(total: int, shares: list[float]) -> list[int]:
    """Whole numbers that add up to `total`, each at least one, in proportion to `shares` (largest remainder)."""
    spare = total - len(shares)
    exact = np.array(shares) / sum(shares) * spare
    counts = np.floor(exact).astype(int)
    for index in np.argsort(-(exact - counts), kind="stable")[: spare - counts.sum()]:
        counts[index] += 1
    return [int(count) + 1 for count in counts]


def _draw_places(
    office: str, profile: OfficeProfile, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.object_], NDArray[np.float64], NDArray[np.float64]]:
    """Town names, latitudes and longitudes: a town by weight, then a normal step from its centre."""
    gazetteer = Gazetteer.load()
    names = OFFICE_TOWNS[office]
    towns = [gazetteer.find(f"{name}, Veneto, Italy") for name in names]
    centre = np.array([(town.latitude, town.longitude) for town in towns if town is not None])
    chosen = rng.choice(len(names), size=count, p=profile.town_weights)
    step = rng.normal(0.0, profile.spread_km, size=(count, 2))
    latitude = centre[chosen, 0] + step[:, 0] / 111.2
    longitude = centre[chosen, 1] + step[:, 1] / (111.2 * np.cos(np.radians(centre[chosen, 0])))
    text = np.array([f"{name}, Veneto, Italy" for name in names], dtype=object)
    return text[chosen], latitude.round(5), longitude.round(5)


def _draw_candidates(
    office: str, profile: OfficeProfile, count: int, year: int, rng: np.random.Generator
) -> pd.DataFrame:
    residence, latitude, longitude = _draw_places(office, profile, count, rng)
    amount = rng.choice(len(EXCLUSION_COUNT_SHARES), size=count, p=EXCLUSION_COUNT_SHARES)
    exclusions = [", ".join(rng.choice(EXCLUSIONS, size=number, replace=False)) for number in amount]
    since = rng.integers(1, 36, size=count)
    unemployed = np.minimum(rng.exponential(2.0, size=count), since).round(1)
    return pd.DataFrame(
        {
            RawCandidate.RESIDENCE: residence,
            RawCandidate.ATTITUDE: _draw_attitude(profile, count, rng),
            RawCandidate.EXCLUSIONS: exclusions,
            RawCandidate.LATITUDE: latitude,
            RawCandidate.LONGITUDE: longitude,
            RawCandidate.DISABILITY: rng.choice(list(DISABILITIES.values()), size=count, p=DISABILITY_SHARES),
            RawCandidate.EDUCATION: rng.choice(list(EDUCATION.values()), size=count, p=EDUCATION_SHARES),
            RawCandidate.FIRST_JOB_YEAR: year - since,
            RawCandidate.UNEMPLOYMENT_YEARS: unemployed,
            RawCandidate.EXPERIENCE_YEARS: ((since - unemployed) * rng.uniform(0.3, 1.0, size=count)).round(1),
        }
    )


def _draw_attitude(profile: OfficeProfile, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    ready = rng.beta(*profile.attitude, size=count)
    far = rng.random(count) < profile.far_from_ready
    return np.where(far, rng.uniform(0.0, 0.06, size=count), ready).round(3)


def _draw_companies(office: str, profile: OfficeProfile, count: int, rng: np.random.Generator) -> pd.DataFrame:
    seat, latitude, longitude = _draw_places(office, profile, count, rng)
    employees = np.clip(rng.lognormal(4.0, 0.9, size=count), 15, 2000).astype(int)
    quota = np.select([employees <= 35, employees <= 50], [1, 2], default=(employees * 0.07).astype(int))
    hired = rng.binomial(quota, rng.beta(2.0, 2.0, size=count))
    return pd.DataFrame(
        {
            RawCompany.SEAT: seat,
            RawCompany.SECTOR: rng.choice(list(SECTORS.values()), size=count, p=profile.sector_weights),
            RawCompany.EMPLOYEES: employees,
            RawCompany.QUOTA: quota,
            RawCompany.HIRED: hired,
            RawCompany.OPENINGS: quota - hired,
            RawCompany.COMPATIBILITY: [_text(profile.hard_phrases, rng) for _ in range(count)],
            RawCompany.LATITUDE: latitude,
            RawCompany.LONGITUDE: longitude,
            RawCompany.CERTIFICATION: rng.binomial(1, 0.3, size=count),
            RawCompany.REMOTE: rng.binomial(1, 0.3, size=count),
        }
    )


def _text(hard_share: float, rng: np.random.Generator) -> str:
    """Two or three friendly phrases; with probability `hard_share` one or two demands among them."""
    friendly = COMPATIBILITY_PHRASES[:-_HARD_PHRASES]
    hard = COMPATIBILITY_PHRASES[-_HARD_PHRASES:]
    phrases = list(rng.choice(friendly, size=rng.integers(2, 4), replace=False))
    if rng.random() < hard_share:
        phrases.extend(rng.choice(hard, size=rng.integers(1, 3), replace=False))
    return ". ".join(phrases) + "."


def _numbered(tables: list[pd.DataFrame], column: str, prefix: str) -> pd.DataFrame:
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, column, [f"{prefix}{number:06d}" for number in range(1, len(table) + 1)])
    return table


def _named(tables: list[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(tables, ignore_index=True)
    towns = table[RawCompany.SEAT].str.partition(",")[0]
    names = [f"Sintetica {number:05d} {town}" for number, town in enumerate(towns, start=1)]
    table.insert(0, RawCompany.NAME, names)
    return table
