"""What the offices of a synthetic federation are like.

Two scenarios:

* `reference`: five alike offices and the reference rule; the pairs of a labour market have the published match rate,
  mean distance and mean attitude;
* `heterogeneous`: offices differ in size, sectors, distances travelled, people, and in the rule itself, which also has
  effects of a sector on a disability that no office alone sees often enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from common.tables import SECTORS
from data.labels import REFERENCE_RULE, LabelRule

Scenario = Literal["reference", "heterogeneous"]

OFFICE_TOWNS: Mapping[str, tuple[str, ...]] = {
    "CPI_Verona": ("Verona", "Villafranca di Verona", "Legnago", "San Bonifacio", "Isola della Scala"),
    "CPI_Vicenza": ("Vicenza", "Bassano del Grappa", "Thiene", "Arzignano", "Schio"),
    "CPI_Padova": ("Padova", "Cittadella", "Piove di Sacco", "Camposampiero", "Este"),
    "CPI_Treviso": ("Treviso", "Castelfranco Veneto", "Conegliano", "Montebelluna", "Oderzo"),
    "CPI_Venezia": ("Venezia", "Mestre", "Portogruaro", "San Donà di Piave", "Chioggia"),
}


@dataclass(frozen=True)
class OfficeProfile:
    """What the people, the companies and the label rule of one office are like."""

    share: float
    attitude: tuple[float, float] = (3.4, 2.32)  # Beta(a, b) of those ready for placement
    far_from_ready: float = 0.064  # share of people whose attitude is uniform on [0, 0.06)
    town_weights: tuple[float, ...] = (0.51, 0.15, 0.14, 0.11, 0.09)
    spread_km: float = 4.6
    sector_weights: tuple[float, ...] = (0.1,) * len(SECTORS)
    hard_phrases: float = 0.35
    rule: LabelRule = field(default=REFERENCE_RULE)


def profiles(scenario: Scenario) -> dict[str, OfficeProfile]:
    """The offices of a scenario, by name."""
    if scenario == "reference":
        shares = (0.24, 0.20, 0.22, 0.18, 0.16)
        return {office: OfficeProfile(share) for office, share in zip(OFFICE_TOWNS, shares, strict=True)}
    # Effects of a sector on a disability, the same everywhere; each office has few pairs of most combinations.
    joint = {
        "it/motoria": 0.16, "it/sensoriale": -0.12, "logistica/motoria": -0.20, "logistica/intellettiva": 0.12,
        "costruzioni/motoria": -0.24, "costruzioni/psichica": -0.10, "educazione/linguaggio": -0.18,
        "ristorazione/intellettiva": 0.14, "ristorazione/psichica": -0.14, "sanita/psichica": -0.16,
        "agricoltura/intellettiva": 0.14, "industria/sensoriale": 0.10, "commercio/linguaggio": -0.16,
        "consulenza/dsa": -0.12, "it/dsa": 0.12, "commercio/altro": 0.06,
    }  # fmt: skip
    sectors = tuple(SECTORS)

    def mix(**weights: float) -> tuple[float, ...]:
        raw = np.array([weights.get(sector, 0.4) for sector in sectors])
        return tuple(float(share) for share in raw / raw.sum())

    def rule(**changes: float) -> LabelRule:
        return LabelRule.model_validate({"threshold": 0.5, "sector_disability": joint, **changes})

    return {
        "CPI_Verona": OfficeProfile(
            0.42, (2.8, 1.9), spread_km=5.0, sector_weights=mix(logistica=3, agricoltura=2), rule=rule()
        ),
        "CPI_Vicenza": OfficeProfile(
            0.25, (2.2, 2.0), sector_weights=mix(industria=3, costruzioni=2), hard_phrases=0.5, rule=rule(attitude=0.32)
        ),
        "CPI_Padova": OfficeProfile(
            0.20, (3.0, 2.0), spread_km=3.0, sector_weights=mix(sanita=2, educazione=2, it=2), rule=rule(distance=0.18)
        ),
        "CPI_Treviso": OfficeProfile(
            0.08, (2.0, 1.9), spread_km=7.0, sector_weights=mix(industria=3, agricoltura=2), rule=rule(distance=0.23)
        ),
        "CPI_Venezia": OfficeProfile(
            0.05,
            (1.9, 2.0),
            town_weights=(0.35, 0.30, 0.10, 0.15, 0.10),
            spread_km=6.0,
            sector_weights=mix(ristorazione=3, commercio=2),
            hard_phrases=0.25,
            rule=rule(distance_zero_km=44.0),
        ),
    }
