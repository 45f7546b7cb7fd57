"""Which office serves which place.

An office's territory is a set of provinces, of comuni, or both. The rules:

* a comune that is named wins over its province, so that one office can serve a province and another one town in it;
* a comune is named as in the gazetteer; case, accents and abbreviated saints do not matter, and a name that several
  comuni bear can carry its province: `Castro (BG)`;
* no place is served twice (`check_territories`), and a place nobody serves has no office, never the nearest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import pandas as pd

from common.errors import InputError
from data.gazetteer.spelling import loosen, normalise


class Territory(Protocol):
    """What an office serves: codes of provinces and names of comuni."""

    @property
    def provinces(self) -> tuple[str, ...]:
        """Two-letter codes."""

    @property
    def comuni(self) -> tuple[str, ...]:
        """Names, with or without `(XX)`, the province's code."""


def assign_office(province: str | None, comune: str | None, offices: Mapping[str, Territory]) -> str | None:
    """The office that serves a comune of a province (both as the gazetteer gives them); None where nobody does."""
    names = [] if comune is None else [_key(f"{comune} {province or ''}"), _key(comune)]
    for name in names:
        for office, territory in offices.items():
            if name in map(_key, territory.comuni):
                return office
    code = _code(province or "")
    return next((office for office, t in offices.items() if code in map(_code, t.provinces)), None)


def assign_offices(places: pd.DataFrame, offices: Mapping[str, Territory]) -> pd.Series:
    """The office of each row of `places` (columns `province`, `comune`), object with None where nobody serves it.

    Raises InputError where two offices claim one place.
    """
    check_territories(offices)
    stated = places[["province", "comune"]].astype(object)
    stated = stated.where(stated.notna(), None)
    pairs = list(zip(stated["province"], stated["comune"], strict=True))
    served = {(province, comune): assign_office(province, comune, offices) for province, comune in set(pairs)}
    return pd.Series([served[pair] for pair in pairs], index=places.index, dtype=object)


def check_territories(offices: Mapping[str, Territory]) -> None:
    """Raise InputError where two offices claim the same comune or the same province."""
    claims: dict[tuple[str, str], str] = {}
    for office, territory in offices.items():
        places = [("province", name, _code(name)) for name in territory.provinces]
        places += [("comune", name, _key(name)) for name in territory.comuni]
        for kind, name, key in places:
            other = claims.setdefault((kind, key), office)
            if other != office:
                raise InputError(
                    f"{kind} '{name}' is claimed by both {other} and {office}",
                    where="setting offices",
                    remedy="leave it to one of them",
                )


def _key(comune: str) -> str:
    return loosen(normalise(comune))


def _code(province: str) -> str:
    return province.strip().upper()
