"""Ask a Nominatim service where a place is. Only for offices that switch it on: the gazetteer asks nobody.

The rules that hold, because the place asked about may be where somebody lives:

* a text is asked once: every answer, also "not found", is kept in a file only its owner can read;
* nothing is logged, and no error repeats the text;
* the service is the one the caller names (an office may run its own), at most one request a second goes to it, and the
  search is limited to Italy;
* an unknown place is `None`; a service that fails is a `RunError`, and is not remembered as "not found".
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from geopy.adapters import URLLibAdapter
from geopy.exc import (
    ConfigurationError,
    GeocoderAuthenticationFailure,
    GeocoderInsufficientPrivileges,
    GeocoderRateLimited,
    GeocoderTimedOut,
    GeopyError,
)
from geopy.extra.rate_limiter import RateLimiter
from geopy.geocoders import Nominatim

from common.errors import InputError, RunError
from data.gazetteer.comuni import LATITUDES, LONGITUDES
from data.gazetteer.spelling import normalise

DEFAULT_DOMAIN = "nominatim.openstreetmap.org"
SECONDS_BETWEEN_REQUESTS = 1.0

_TABLE = """
CREATE TABLE IF NOT EXISTS places (
    text TEXT PRIMARY KEY,
    latitude REAL,
    longitude REAL,
    CHECK ((latitude IS NULL) = (longitude IS NULL))
)
"""


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Degrees, WGS 84."""

    latitude: float
    longitude: float


class NominatimGeocoder:
    """Finds places through Nominatim's search, with a cache on disk. Nothing is asked before `find`."""

    def __init__(
        self,
        *,
        user_agent: str,
        cache: Path,
        domain: str = DEFAULT_DOMAIN,
        scheme: str = "https",
        timeout: float = 10.0,
    ) -> None:
        """`user_agent` names the office to the service, as its rules demand; `cache` is a file, made if it is missing.

        `domain` may carry a port and a path (`127.0.0.1:8080/nominatim`); `timeout` is in seconds, for one request.
        Raises `InputError` for an unusable setting, `RunError` if the cache cannot be opened.
        """
        if not user_agent.strip():
            raise InputError("geocoding has no user agent", remedy="name the office and a contact address")
        try:
            service = Nominatim(
                user_agent=user_agent.strip(),
                domain=domain,
                scheme=scheme,
                timeout=timeout,
                adapter_factory=URLLibAdapter,  # the default one may log the address it asks for
            )
        except ConfigurationError:
            raise InputError(
                "the geocoding service cannot be set up",
                remedy="use scheme http or https, and a user agent that names the office",
            ) from None
        self._service = f"{scheme}://{domain}"
        self._ask = RateLimiter(
            service.geocode, min_delay_seconds=SECONDS_BETWEEN_REQUESTS, max_retries=0, swallow_exceptions=False
        )
        self._cache = cache
        self._create_cache()

    def find(self, text: str) -> Coordinates | None:
        """Where `text` is, from the cache or else from the service; `None` if the service knows no such place in Italy.

        Raises `RunError` if the service or the cache fails.
        """
        key = normalise(text)
        if not key:
            return None
        with self._open() as database:
            row = database.execute("SELECT latitude, longitude FROM places WHERE text = ?", (key,)).fetchone()
        if row is not None:
            return None if row[0] is None else Coordinates(*row)
        found = self._request(text.strip())
        answer = (None, None) if found is None else (found.latitude, found.longitude)
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", (key, *answer))
        return found

    def _request(self, text: str) -> Coordinates | None:
        # `from None` throughout: what is behind these errors may quote the request, and so the place
        try:
            with _silence("geopy"):
                location = self._ask(text, country_codes="it")
        except GeocoderTimedOut:
            raise self._failure("is busy or did not answer in time", "try again later") from None
        except GeocoderRateLimited:
            raise self._failure("wants fewer requests", "try again later, or run an own Nominatim") from None
        except (GeocoderAuthenticationFailure, GeocoderInsufficientPrivileges):
            raise self._failure(
                "refused the request", "read its rules of use, set a user agent with a contact"
            ) from None
        except GeopyError:
            raise self._failure("failed", "check its address and the connection, or switch geocoding off") from None
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._failure("sent an answer that is not Nominatim's", "check its address") from None
        if location is None:
            return None
        found = Coordinates(float(location.latitude), float(location.longitude))
        if not (LATITUDES[0] <= found.latitude <= LATITUDES[1] and LONGITUDES[0] <= found.longitude <= LONGITUDES[1]):
            raise self._failure("gave coordinates outside Italy", "check that it honours `countrycodes`") from None
        return found

    def _failure(self, what: str, remedy: str) -> RunError:
        return RunError(f"the geocoding service {what}", where=self._service, remedy=remedy)

    def _create_cache(self) -> None:
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._cache, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.fchmod(descriptor, 0o600)  # an older file may be open to others
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RunError(
                f"the geocoding cache cannot be made or kept private ({error.strerror})",
                where=self._cache,
                remedy="choose a file in a folder of your own",
            ) from None
        with self._open() as database:
            database.execute(_TABLE)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction on the cache."""
        try:
            with closing(sqlite3.connect(self._cache, timeout=30.0)) as database, database:
                yield database
        except sqlite3.Error:
            raise RunError(
                "the geocoding cache cannot be read or written",
                where=self._cache,
                remedy="delete it; it fills itself again",
            ) from None


@contextmanager
def _silence(logger: str) -> Iterator[None]:
    """Nothing goes through the logger while this lasts: it would log web addresses, and they hold the place."""

    def refuse(_: logging.LogRecord) -> bool:
        return False

    target = logging.getLogger(logger)
    target.addFilter(refuse)
    try:
        yield
    finally:
        target.removeFilter(refuse)
