"""The contract of the tables that rooms hand to one another: column names, vocabularies, order.

Three kinds of names live here and nowhere else:

* the raw tables' Italian columns, as offices export them (`RawCandidate`, `RawCompany`, `RawOutcome`);
* the vocabularies (disability, education, sector, exclusions, steps of an outcome), each with a stable English-free
  slug that names its one-hot column;
* the training table, one row per candidate-company pair (`TRAINING_COLUMNS`).

The training table's values are what the office wrote, unscaled; a missing value is an empty cell (NaN), and a one-hot
group that is all zero means "not stated".
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

RAW_CANDIDATES_FILE: Final = "Dataset_Candidati_Aggiornato.csv"
RAW_COMPANIES_FILE: Final = "Dataset_Aziende_con_Stima_Assunzioni.csv"
RAW_OUTCOMES_FILE: Final = "Esiti_Collocamento.csv"
SYNTHETIC_MARK_FILE: Final = "SYNTHETIC.json"
TRAINING_FILE: Final = "Enhanced_Training_Dataset.csv"


class RawCandidate(StrEnum):
    """Columns of `Dataset_Candidati_Aggiornato.csv`."""

    ID = "ID_Candidato"
    RESIDENCE = "Area di Residenza"
    ATTITUDE = "Score Attitudine al Collocamento"
    EXCLUSIONS = "Esclusioni"
    LATITUDE = "Lat"
    LONGITUDE = "Lon"
    COORDINATES = "Coord_Residenza"
    DISABILITY = "Tipo di Disabilità"
    EDUCATION = "Titolo di Studio"
    FIRST_JOB_YEAR = "Data Inizio Prima Occupazione"
    UNEMPLOYMENT_YEARS = "Durata Disoccupazione"
    EXPERIENCE_YEARS = "Years_of_Experience"


class RawCompany(StrEnum):
    """Columns of `Dataset_Aziende_con_Stima_Assunzioni.csv`."""

    NAME = "Nome Azienda"
    SEAT = "Area di Attività"
    SECTOR = "Tipo di Attività"
    EMPLOYEES = "Numero Dipendenti"
    QUOTA = "Quota Dipendenti Categoria Protetta"
    HIRED = "Assunti Categoria Protetta"
    OPENINGS = "Posizioni Aperte"
    COMPATIBILITY = "Compatibilità"
    LATITUDE = "Lat_a"
    LONGITUDE = "Lon_a"
    COORDINATES = "Coord_Attività"
    SIZE = "Company_Size"
    CERTIFICATION = "Certification"
    REMOTE = "Remote"
    RETENTION = "Retention_Rate"


class RawOutcome(StrEnum):
    """Columns of `Esiti_Collocamento.csv`."""

    CANDIDATE = "ID_Candidato"
    COMPANY = "Nome Azienda"
    DATE = "Data"
    STEP = "Esito"


OUTCOME_LADDER: Final = (
    "proposto",
    "accettato",
    "inviato",
    "colloquio",
    "tirocinio",
    "assunto",
    "in forza 6 mesi",
    "in forza 12 mesi",
)
"""Steps of a placement, in order; a pair's label looks at the furthest one reached."""

OUTCOME_ENDINGS: Final = ("cessato", "rifiutato")
"""Events that end a placement and reach nothing further."""

DISABILITIES: Final = MappingProxyType(
    {
        "motoria": "Motoria",
        "intellettiva": "Intellettiva",
        "sensoriale": "Sensoriale",
        "psichica": "Psichica",
        "dsa": "Disturbi Specifici dell'Apprendimento",
        "linguaggio": "Disturbi del linguaggio e della comunicazione",
        "altro": "Altro non specificato",
    }
)
EDUCATION: Final = MappingProxyType(
    {
        "nessuno": "Nessuno",
        "licenza_media": "Licenza Media",
        "diploma": "Diploma",
        "laurea": "Laurea",
        "master": "Master",
    }
)
SECTORS: Final = MappingProxyType(
    {
        "agricoltura": "Agricoltura",
        "logistica": "Logistica e trasporti",
        "it": "Servizi IT",
        "consulenza": "Consulenza aziendale",
        "costruzioni": "Costruzioni",
        "educazione": "Educazione",
        "ristorazione": "Ristorazione",
        "industria": "Produzione industriale",
        "sanita": "Sanità e assistenza sociale",
        "commercio": "Commercio al dettaglio",
    }
)
EXCLUSIONS: Final = (
    "Turni e orari notturni",
    "Orari notturni",
    "Lavoro in quota",
    "Mansioni pesanti",
    "Sollevamento carichi pesanti",
    "Uso di macchinari",
    "Limitazioni motorie",
    "Limitazioni fisiche",
    "Ambiente rumoroso",
    "Ambiente polveroso",
    "Lavoro da remoto",
)
COMPANY_SIZES: Final = ("small", "medium", "large")
"""small: under 50 employees; medium: under 250; large: 250 and more. The training table holds the index (0, 1, 2)."""

CANDIDATE_ID: Final = "candidate_id"
COMPANY_ID: Final = "company_id"
OFFICE: Final = "office"
OUTCOME: Final = "outcome"
MATCH_PROBABILITY: Final = "match_probability"
"""The probability the label was drawn with: only where labels come from a rule. It is the answer, never a feature."""

KEY_COLUMNS: Final = (CANDIDATE_ID, COMPANY_ID, OFFICE)
NUMERIC_COLUMNS: Final = (
    "attitude_score",
    "years_experience",
    "unemployment_duration",
    "compatibility_score",
    "distance_km",
    "company_size",
    "retention_rate",
    "remote_work",
    "certification",
)
EDUCATION_COLUMNS: Final = tuple(f"edu_{slug}" for slug in EDUCATION)
DISABILITY_COLUMNS: Final = tuple(f"dis_{slug}" for slug in DISABILITIES)
SECTOR_COLUMNS: Final = tuple(f"sector_{slug}" for slug in SECTORS)
ONE_HOT_GROUPS: Final = MappingProxyType(
    {"edu": EDUCATION_COLUMNS, "dis": DISABILITY_COLUMNS, "sector": SECTOR_COLUMNS}
)
ONE_HOT_COLUMNS: Final = EDUCATION_COLUMNS + DISABILITY_COLUMNS + SECTOR_COLUMNS
FEATURE_COLUMNS: Final = NUMERIC_COLUMNS + ONE_HOT_COLUMNS
TRAINING_COLUMNS: Final = (*KEY_COLUMNS, OUTCOME, *FEATURE_COLUMNS)
"""Columns of the training table, in order; `match_probability` follows them where labels come from a rule."""
