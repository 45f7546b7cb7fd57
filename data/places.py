"""Where people live and companies have their seat: coordinates, comune and province of each row of a raw table.

Coordinates that are given win over the town's; a town is looked up offline first, each distinct text once. A place
nobody knows stops the import, or stays unknown where the settings say so; it is never guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import pandas as pd

from common.errors import InputError, row_place
from common.tables import RawCandidate, RawCompany
from data.gazetteer import AmbiguousPlace, Comune, Gazetteer
from data.raw_cells import ITALY_LATITUDES, ITALY_LONGITUDES
from data.table_schema import and_more

UnknownPlaces = Literal["refuse", "keep"]


class Point(Protocol):
    """Where something is, in degrees."""

    @property
    def latitude(self) -> float:
        """North."""

    @property
    def longitude(self) -> float:
        """East."""


class Geocoder(Protocol):
    """Somebody to ask about a place that the gazetteer does not know."""

    def find(self, text: str) -> Point | None:
        """The place's coordinates, or None."""


@dataclass(frozen=True)
class _Source:
    """Where a raw table tells a place, and whether an error may repeat what it says."""

    place: str
    latitude: str
    longitude: str
    shows_values: bool


_SOURCES: Final = {
    "candidate": _Source(RawCandidate.RESIDENCE, RawCandidate.LATITUDE, RawCandidate.LONGITUDE, shows_values=False),
    "company": _Source(RawCompany.SEAT, RawCompany.LATITUDE, RawCompany.LONGITUDE, shows_values=True),
}


def locate(
    frame: pd.DataFrame,
    kind: Literal["candidate", "company"],
    path: Path,
    *,
    gazetteer: Gazetteer,
    geocoder: Geocoder | None = None,
    unknown_places: UnknownPlaces,
    provinces: Collection[str] = (),
) -> pd.DataFrame:
    """Columns `latitude`, `longitude` (float64, NaN unknown), `comune`, `province` (None unknown) of each raw row.

    Given coordinates come first; then the gazetteer, which prefers `provinces` where a name leaves a choice; then the
    geocoder. Raises InputError for a name several comuni bear, and, with "refuse", for a place nobody knows.
    """
    source = _SOURCES[kind]
    text = frame[source.place]
    latitude, longitude = numbers(frame, source.latitude), numbers(frame, source.longitude)
    given = latitude.notna() & longitude.notna()
    known, ambiguous = _look_up(text, gazetteer, provinces)
    _refuse_ambiguous(text[~given & text.isin(list(ambiguous))], ambiguous, source, path)
    asked = text[~given & text.notna() & ~text.isin(list(known))]
    if geocoder is not None:
        known |= _ask(asked, geocoder, gazetteer)
    if unknown_places == "refuse":
        _refuse_unknown(asked[~asked.isin(list(known))], gazetteer, source, path)
    homes = [known.get(name) for name in text]
    for row in np.flatnonzero(given & ~text.isin(list(known))):
        homes[row] = gazetteer.nearest(latitude.iloc[row], longitude.iloc[row])
    north = pd.Series([np.nan if home is None else home.latitude for home in homes], index=frame.index, dtype="float64")
    east = pd.Series([np.nan if home is None else home.longitude for home in homes], index=frame.index, dtype="float64")
    return pd.DataFrame(
        {
            "latitude": latitude.where(given, north),
            "longitude": longitude.where(given, east),
            "comune": texts([None if home is None else home.name for home in homes], frame.index),
            "province": texts([None if home is None else home.province for home in homes], frame.index),
        }
    )


def numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """The column as float64, all NaN where the office did not deliver it."""
    return frame[column].astype("float64") if column in frame else pd.Series(np.nan, index=frame.index, dtype="float64")


def texts(values: list[str | None], index: pd.Index) -> pd.Series:
    """Text as objects, None where missing."""
    return pd.Series(values, index=index, dtype=object)


def _look_up(
    text: pd.Series, gazetteer: Gazetteer, provinces: Collection[str]
) -> tuple[dict[str, Comune], dict[str, AmbiguousPlace]]:
    """What each distinct text means: the places known, and the errors of those that could be several."""
    known: dict[str, Comune] = {}
    ambiguous: dict[str, AmbiguousPlace] = {}
    for name in text.dropna().unique():
        try:
            found = gazetteer.find(name, provinces=provinces)
        except AmbiguousPlace as error:
            ambiguous[name] = error
        else:
            if found is not None:
                known[name] = found
    return known, ambiguous


def _ask(text: pd.Series, geocoder: Geocoder, gazetteer: Gazetteer) -> dict[str, Comune]:
    """What the geocoder answers for each distinct text; a place outside Italy is no answer."""
    answers: dict[str, Comune] = {}
    for name in text.unique():
        point = geocoder.find(name)
        if point is None or not (
            ITALY_LATITUDES[0] <= point.latitude <= ITALY_LATITUDES[1]
            and ITALY_LONGITUDES[0] <= point.longitude <= ITALY_LONGITUDES[1]
        ):
            continue
        comune = gazetteer.nearest(point.latitude, point.longitude)
        answers[name] = replace(comune, latitude=point.latitude, longitude=point.longitude)
    return answers


def _refuse_ambiguous(text: pd.Series, ambiguous: Mapping[str, AmbiguousPlace], source: _Source, path: Path) -> None:
    if text.empty:
        return
    what = "several comuni have the name written here"
    if source.shows_values:
        what = f"'{text.iloc[0]}' is the name of several comuni: {ambiguous[text.iloc[0]].what}"
    raise InputError(
        what + and_more(len(text) - 1),
        where=row_place(path, text.index[0], source.place),
        remedy=f"write the province after it, as in 'Castro (BG)', or add '{source.latitude}' and '{source.longitude}'",
    )


def _refuse_unknown(text: pd.Series, gazetteer: Gazetteer, source: _Source, path: Path) -> None:
    if text.empty:
        return
    what = "the place is no comune that is known"
    if source.shows_values:
        similar = gazetteer.suggest(text.iloc[0], 3)
        what = f"'{text.iloc[0]}' is no comune that is known"
        what += f", the nearest: {', '.join(similar)}" if similar else ""
    raise InputError(
        what + and_more(len(text) - 1),
        where=row_place(path, text.index[0], source.place),
        remedy=f"correct the spelling, add '{source.latitude}' and '{source.longitude}', or set "
        "data.unknown_places=keep to leave its distance unknown",
    )
