"""Geocoding against a real HTTP server on this machine that speaks Nominatim's search."""

from __future__ import annotations

import json
import logging
import sqlite3
import stat
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from common.errors import InputError, RunError
from data import geocoding
from data.geocoding import Coordinates, NominatimGeocoder

SECRET = "Vicolo Segretissimo 7"
PLACES = {
    "Verona": ("45.4384", "10.9917"),
    SECRET: ("45.5", "11.5"),
    "Parigi": ("48.8566", "2.3522"),
}


class Nominatim(ThreadingHTTPServer):
    """Answers `/search` as Nominatim does, or misbehaves as told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[float, dict[str, str], str]] = []
        self.status = 200
        self.body: bytes | None = None
        self.delay = 0.0

    @property
    def domain(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Nominatim

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.server.asked.append((time.monotonic(), {"path": url.path, **query}, self.headers["User-Agent"]))
        time.sleep(self.server.delay)
        body = self.server.body if self.server.body is not None else self.answer(query["q"])
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @staticmethod
    def answer(text: str) -> bytes:
        if text not in PLACES:
            return b"[]"
        latitude, longitude = PLACES[text]
        return json.dumps([{"place_id": 1, "lat": latitude, "lon": longitude, "display_name": text}]).encode()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nominatim]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Nominatim()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def geocoder(server: Nominatim, cache: Path, timeout: float = 10.0) -> NominatimGeocoder:
    return NominatimGeocoder(
        user_agent="djms-test (ufficio@example.org)", cache=cache, domain=server.domain, scheme="http", timeout=timeout
    )


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between requests, for tests that are not about it."""
    monkeypatch.setattr(geocoding, "SECONDS_BETWEEN_REQUESTS", 0.0)


def test_a_place_is_found_and_the_request_says_who_asks_and_where(server: Nominatim, tmp_path: Path) -> None:
    assert geocoder(server, tmp_path / "cache.sqlite").find("Verona") == Coordinates(45.4384, 10.9917)
    [(_, query, agent)] = server.asked
    assert query["path"] == "/search"
    assert query["countrycodes"] == "it"
    assert query["format"] == "json"
    assert agent == "djms-test (ufficio@example.org)"


def test_nothing_is_asked_before_find_nor_for_an_empty_text(server: Nominatim, tmp_path: Path) -> None:
    finder = geocoder(server, tmp_path / "cache.sqlite")
    assert [finder.find(text) for text in ("", "   ", " , ")] == [None, None, None]
    assert server.asked == []


def test_a_text_is_asked_once_in_any_spelling_and_over_restarts(server: Nominatim, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    first = geocoder(server, cache)
    for text in ("Verona", "verona", " VERONA "):
        assert first.find(text) == Coordinates(45.4384, 10.9917)
    assert geocoder(server, cache).find("Verona") == Coordinates(45.4384, 10.9917)
    assert len(server.asked) == 1


def test_a_place_not_found_is_remembered_too(server: Nominatim, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    assert geocoder(server, cache).find("Nessunluogo") is None
    assert geocoder(server, cache).find("Nessunluogo") is None
    assert len(server.asked) == 1


def test_requests_are_a_second_apart_and_the_cache_does_not_wait(server: Nominatim, tmp_path: Path) -> None:
    finder = geocoder(server, tmp_path / "cache.sqlite")
    for text in ("Verona", "Uno", "Due"):
        finder.find(text)
    times = [when for when, _, _ in server.asked]
    assert all(later - earlier > 0.95 for earlier, later in pairwise(times))
    start = time.monotonic()
    assert finder.find("Verona") is not None
    assert time.monotonic() - start < 0.5


def test_the_cache_is_private_even_if_it_was_not(server: Nominatim, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    geocoder(server, cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    cache.chmod(0o644)
    geocoder(server, cache).find("Verona")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["cache.sqlite"]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (429, "fewer requests"),
        (403, "refused"),
        (401, "refused"),
        (500, "failed"),
        (503, "busy"),
        (404, "failed"),
        (400, "failed"),
    ],
)
@pytest.mark.usefixtures("unhurried")
def test_a_failing_service_is_a_run_error_with_a_remedy_and_is_not_remembered(
    server: Nominatim, tmp_path: Path, status: int, says: str
) -> None:
    finder = geocoder(server, tmp_path / "cache.sqlite")
    server.status, server.body = status, f'{{"error": "{SECRET}"}}'.encode()
    with pytest.raises(RunError, match=says) as raised:
        finder.find(SECRET)
    assert raised.value.exit_code == 2
    assert server.domain in str(raised.value)
    server.status, server.body = 200, None
    assert finder.find(SECRET) == Coordinates(45.5, 11.5)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>no</html>",
        b"\xff\xfe",
        b"7",
        b'"text"',
        b"[7]",
        b"[{}]",
        b'[{"lat": "x", "lon": "y"}]',
        b'{"a": 1}',
    ],
)
@pytest.mark.usefixtures("unhurried")
def test_an_answer_that_is_not_nominatims_is_a_run_error(server: Nominatim, tmp_path: Path, body: bytes) -> None:
    finder = geocoder(server, tmp_path / "cache.sqlite")
    server.body = body
    with pytest.raises(RunError):
        finder.find("Verona")
    server.body = None
    assert finder.find("Verona") is not None


def test_a_place_abroad_is_not_believed(server: Nominatim, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="outside Italy"):
        geocoder(server, tmp_path / "cache.sqlite").find("Parigi")


def test_a_slow_service_times_out(server: Nominatim, tmp_path: Path) -> None:
    server.delay = 1.0
    with pytest.raises(RunError, match="in time"):
        geocoder(server, tmp_path / "cache.sqlite", timeout=0.2).find("Verona")


def test_a_service_that_is_not_there_is_a_run_error(server: Nominatim, tmp_path: Path) -> None:
    gone = Nominatim()
    gone.server_close()
    with pytest.raises(RunError, match="switch geocoding off"):
        geocoder(gone, tmp_path / "cache.sqlite").find("Verona")


@pytest.mark.usefixtures("unhurried")
def test_the_place_is_never_logged_nor_shown_in_an_error(
    server: Nominatim, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    finder = geocoder(server, tmp_path / "cache.sqlite")
    shown = []
    for status in (500, 429, 403):
        server.status, server.body = status, f"no {SECRET}".encode()
        try:
            finder.find(SECRET)
        except RunError as error:
            shown.append("".join(traceback.format_exception(error)))
    server.status, server.body = 200, f'{{"error": "{SECRET}"}}'.encode()
    try:
        finder.find(SECRET)
    except RunError as error:
        shown.append("".join(traceback.format_exception(error)))
    server.body = None
    finder.find(SECRET)
    assert len(shown) == 4
    told = "".join([*shown, caplog.text, *capfd.readouterr()])
    assert "Segretissimo" not in told


def test_other_logging_of_the_library_is_restored(server: Nominatim, tmp_path: Path) -> None:
    geocoder(server, tmp_path / "cache.sqlite").find("Verona")
    assert logging.getLogger("geopy").filters == []


@pytest.mark.parametrize("settings", [{"user_agent": ""}, {"user_agent": "  "}, {"user_agent": "ok", "scheme": "ftp"}])
def test_unusable_settings_are_refused_before_anything_is_written(tmp_path: Path, settings: dict[str, str]) -> None:
    with pytest.raises(InputError):
        NominatimGeocoder(cache=tmp_path / "cache.sqlite", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_used_is_a_run_error_that_names_it(server: Nominatim, tmp_path: Path) -> None:
    geocoder(server, tmp_path / "new" / "cache.sqlite")
    assert (tmp_path / "new" / "cache.sqlite").stat().st_mode & 0o777 == 0o600
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file.cache\.sqlite"):
        geocoder(server, tmp_path / "file" / "cache.sqlite")
    with pytest.raises(RunError):
        geocoder(server, tmp_path)
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"this is not a database" * 100)
    with pytest.raises(RunError, match="delete it"):
        geocoder(server, broken)


def test_several_geocoders_share_one_cache(server: Nominatim, tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    finders = [geocoder(server, cache) for _ in range(8)]
    threads = [threading.Thread(target=finder.find, args=(f"Luogo {i}",)) for i, finder in enumerate(finders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sqlite3.connect(cache) as database:
        assert database.execute("SELECT count(*) FROM places WHERE latitude IS NULL").fetchone() == (8,)
    database.close()
