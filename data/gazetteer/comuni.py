"""Find an Italian comune, and its coordinates, from the words people write: offline, from the tables beside this file.

The rules that hold:

* unknown is `None`, never a guess: spelling may differ in case, accents, apostrophes, abbreviated saints and small
  words (`S. Dona di Piave`, `Reggio Emilia`), never in letters. `suggest` looks for similar names, `find` does not;
* a name that several comuni bear is resolved by what the text adds (`Livo (CO)`, `Livo, Lombardia`), then by the
  provinces the caller prefers; if neither decides, `AmbiguousPlace` names the choices;
* what the text adds is binding: `Verona (MI)` and `Verona, Wisconsin, USA` are unknown;
* short names of daily use (`Bassano`) and hamlets count only inside the preferred provinces, or the region or province
  that the text names. They do not silently win over a comune elsewhere that is really called so, and never over the
  capital of a province;
* districts (Mestre), hamlets and former comuni (Puos d'Alpago) give the comune they are in, at their own coordinates.

    >>> gazetteer = Gazetteer.load()
    >>> gazetteer.find("Padua, Veneto, Italy")
    Comune(name='Padova', province='PD', region='Veneto', latitude=45.408, longitude=11.8859)
    >>> gazetteer.find("Castelfranco", provinces={"TV", "VR"}).name
    'Castelfranco Veneto'
"""

from __future__ import annotations

import csv
import difflib
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import islice, takewhile
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from data.distance import haversine_km
from data.gazetteer import areas
from data.gazetteer.spelling import loosen, normalise

LATITUDES = (35.0, 48.0)
LONGITUDES = (6.0, 19.0)

_RANKS = {"comune": 0, "name": 1, "former": 2, "known": 3, "everyday": 4, "place": 5, "short": 6}
_NAMES = frozenset({"comune", "name", "former", "known"})
_LISTED = 8


@dataclass(frozen=True, slots=True)
class Comune:
    """A comune, or a place inside it that has coordinates of its own; degrees, WGS 84."""

    name: str
    province: str
    region: str
    latitude: float
    longitude: float


class AmbiguousPlace(InputError):
    """Several comuni answer to the name; `choices` are ways of writing each so that it is found."""

    choices: tuple[str, ...] = ()

    @classmethod
    def between(cls, choices: Iterable[str], where: str | None = None) -> AmbiguousPlace:
        """The error that names the `choices` (a long list is cut) and asks for the province."""
        every = tuple(choices)
        more = f" and {len(every) - _LISTED} more" if len(every) > _LISTED else ""
        error = cls(
            f"the place may be {', '.join(every[:_LISTED])}{more}",
            where=where,
            remedy="write the full name with its province, as in the list, or set the office's provinces",
        )
        error.choices = every
        return error

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling with the choices."""
        return (type(self).between, (self.choices, self.where))


class _Entry(NamedTuple):
    """Something a name can mean."""

    name: str
    kind: str
    comune: Comune

    @property
    def label(self) -> str:
        own = self.kind in {"comune", "name", "everyday", "short"}
        return f"{self.comune.name if own else self.name + ', ' + self.comune.name} ({self.comune.province})"


class Gazetteer:
    """All comuni of Italy. Immutable; `load()` gives the same object every time."""

    def __init__(self, comuni: Sequence[Comune], entries: Iterable[_Entry]) -> None:
        """Index `comuni` and every name in `entries`; use `load()`."""
        self._comuni = tuple(comuni)
        self._exact: dict[str, list[_Entry]] = defaultdict(list)
        self._alike: dict[str, list[_Entry]] = defaultdict(list)
        for entry in entries:
            key = normalise(entry.name)
            self._exact[key].append(entry)
            self._alike[loosen(key)].append(entry)
        self._sorted = sorted(key for key, found in self._alike.items() if any(e.kind == "comune" for e in found))
        self._areas = areas.provinces_by_name((c.province, c.region) for c in comuni)
        self._positions = np.array([(c.latitude, c.longitude) for c in comuni], dtype=np.float64).T

    @classmethod
    def load(cls) -> Gazetteer:
        """The gazetteer of the tables shipped with this package."""
        return _load()

    def __len__(self) -> int:
        """How many comuni there are."""
        return len(self._comuni)

    def __iter__(self) -> Iterator[Comune]:
        """The comuni, by name."""
        return iter(self._comuni)

    def find(self, text: str, *, provinces: Collection[str] = ()) -> Comune | None:
        """The comune that `text` means, or `None` if it is unknown.

        `provinces` are two-letter codes to prefer when the text leaves a choice. Raises `AmbiguousPlace` if the choice
        stays open, `InputError` if a code is not a province's.
        """
        preferred = frozenset(code.upper() for code in provinces)
        if not preferred <= areas.PROVINCES.keys():
            wrong = ", ".join(sorted(preferred - areas.PROVINCES.keys()))
            raise InputError(f"no province has the code {wrong}", remedy="use two-letter codes such as VR or VI")
        for name, scope in self._readings(text):
            found = self._resolve(normalise(name), scope, preferred)
            if found is not None:
                return found
        return None

    def suggest(self, text: str, n: int = 3) -> list[str]:
        """Up to `n` names that look like `text`, nearest first, for a message to whoever has to correct it."""
        name = normalise(re.split(r"[,;(]", text)[0])
        close = difflib.get_close_matches(name, self._exact, n=4 * n, cutoff=0.7) if name else []
        names = [entry.name for key in close for entry in self._exact[key] if entry.kind in _NAMES]
        return list(dict.fromkeys(names))[:n]

    def nearest(self, latitude: float, longitude: float) -> Comune:
        """The comune whose own coordinates are nearest on the sphere (degrees).

        It is the nearest town, not always the comune whose boundary holds the point. Raises `InputError` outside
        35..48 N, 6..19 E.
        """
        if not (LATITUDES[0] <= latitude <= LATITUDES[1] and LONGITUDES[0] <= longitude <= LONGITUDES[1]):  # NaN too
            remedy = "write latitude first, longitude second, in decimal degrees"
            raise InputError("the coordinates are not in Italy (35..48 N, 6..19 E)", remedy=remedy)
        north, east = self._positions
        distances = haversine_km(north, east, np.array(latitude), np.array(longitude))
        return self._comuni[int(np.argmin(distances))]

    def _readings(self, text: str) -> Iterator[tuple[str, frozenset[str] | None]]:
        """Each way to take `text` apart: the name, and the provinces that what follows it restricts it to."""
        parts = [part.strip() for part in re.split(r"[,;()\[\]]", re.sub(r"\b\d{5}\b", " ", text)) if part.strip()]
        if not parts:
            return
        scope: frozenset[str] | None = None
        for part in parts[1:]:
            key = normalise(part)
            if key in areas.COUNTRY:
                continue
            area = self._areas.get(key)
            if area is None:
                return
            scope = area if scope is None else scope & area
        yield parts[0], scope
        trailing = re.fullmatch(r"(.*\S)[\s/-]+([A-Z]{2})", parts[0])
        if trailing and trailing[2] in areas.PROVINCES:
            code = frozenset({trailing[2]})
            yield trailing[1], code if scope is None else code & scope

    def _resolve(self, key: str, scope: frozenset[str] | None, preferred: frozenset[str]) -> Comune | None:
        meant = self._exact.get(key) or self._alike.get(loosen(key), [])
        named = [e for e in meant if e.kind in _NAMES and (scope is None or e.comune.province in scope)]
        nearby = [e for e in meant if e.kind not in _NAMES] + self._shortened(loosen(key))
        for context in (preferred if scope is None else preferred & scope, scope or frozenset()):
            here = [e for e in named if e.comune.province in context]
            if not here and not any(map(self._is_capital, named)):
                here = [e for e in nearby if e.comune.province in context]
                everyday = [e for e in here if e.kind == "everyday"]
                here = everyday or (here and here + named)
            if here:
                return _only(here)
        if named:
            return _only(named)
        open_choice = [e for e in nearby if e.kind in {"short", "everyday"}] if scope is None else []
        if len({e.comune for e in open_choice}) > 1:
            _only(open_choice)
        return None

    def _is_capital(self, entry: _Entry) -> bool:
        """Whether a province is called after it: those names are nobody else's short name."""
        return self._areas.get(normalise(entry.comune.name)) == frozenset({entry.comune.province})

    def _shortened(self, loose: str) -> list[_Entry]:
        """The comuni whose name starts with these words and goes on."""
        found: list[_Entry] = []
        start = loose + " "
        if len(loose) > 1:
            longer = islice(self._sorted, bisect_left(self._sorted, start), None)
            for key in takewhile(lambda key: key.startswith(start), longer):
                found += [e._replace(kind="short") for e in self._alike[key] if e.kind == "comune"]
        return found


def _only(entries: Iterable[_Entry]) -> Comune:
    """The one comune that all entries mean, at the coordinates of the best of them."""
    ranked = sorted(entries, key=lambda e: (_RANKS[e.kind], e.name, e.comune.province))
    if len({(e.comune.name, e.comune.province) for e in ranked}) > 1:
        raise AmbiguousPlace.between(dict.fromkeys(e.label for e in ranked))
    return ranked[0].comune


@cache
def _load() -> Gazetteer:
    comuni: list[Comune] = []
    entries: list[_Entry] = []
    for row in _rows("comuni.tsv"):
        comune = Comune(row["name"], row["province"], row["region"], float(row["latitude"]), float(row["longitude"]))
        comuni.append(comune)
        entries.append(_Entry(comune.name, "comune", comune))
        if row["other_name"]:
            entries += [
                _Entry(name, "name", comune) for name in (row["other_name"], f"{comune.name}/{row['other_name']}")
            ]
    whole = {(c.name, c.province): c for c in comuni}
    for row in _rows("localities.tsv"):
        place = whole[row["comune"], row["province"]]
        if row["latitude"]:
            place = replace(place, latitude=float(row["latitude"]), longitude=float(row["longitude"]))
        entries.append(_Entry(row["name"], row["kind"], place))
    return Gazetteer(comuni, entries)


def _rows(table: str) -> Iterator[dict[str, str]]:
    text = resources.files("data.gazetteer").joinpath(table).read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
