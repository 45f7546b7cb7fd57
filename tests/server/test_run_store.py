"""The coordinator's database, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from postgresql_server import PASSWORD, PostgresqlServer, binaries, postgresql

from common.errors import InputError
from common.metrics import METRICS
from common.model import ModelCard
from common.settings_loading import load_settings
from server.history import COLUMNS, History
from server.job import Job
from server.run_store import DATABASE_FILE, URL_FILE, RunStore, StoreUnavailable, Waiting
from server.run_tables import METADATA

SITES = ("CPI_A", "CPI_B", "CPI_C")
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    found = binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    with postgresql(found) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A coordinator's folder with an empty database."""
    folder = tmp_path / "coordinator"
    if request.param == "postgresql":
        running: PostgresqlServer = request.getfixturevalue("server")
        folder.mkdir()
        name_empty_database(folder, running)
    return folder


def name_empty_database(folder: Path, running: PostgresqlServer) -> None:
    engine = sa.create_engine(running.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    name_database(folder, running.url)


def name_database(folder: Path, url: str) -> None:
    (folder / URL_FILE).touch(mode=0o600)
    (folder / URL_FILE).write_text(f"url: {url}\n", encoding="utf-8")


def job_of(folder: Path, run: str = "run-1", **more: object) -> Job:
    settings = load_settings([], environment={})
    return Job(settings, SITES, ModelCard("rule", (), synthetic=True), folder / "out", run=run, **more)  # type: ignore[arg-type]


def history() -> History:
    rows = History()
    rows.finish(1, seconds=1.5, participants=SITES, people=120, train_loss=0.5, model_sha256="a" * 64)
    rows.rows[0] |= {"threshold": 0.25, **{metric: 0.5 for metric in METRICS}}
    rows.abandon(2, seconds=None, sites=0, model_sha256="a" * 64, reason="the coordinator was interrupted – è così")
    return rows


def test_what_was_written_is_read_by_whoever_opens_the_database_later(folder: Path) -> None:
    job = job_of(folder, bundle_sha256="b" * 64)
    with RunStore.open(folder) as store:
        store.add_run(job)
        store.set_flower_run(job.run, 2**64 - 1)
        store.set_status(job.run, "running")
        for row in history().rows:
            store.set_round(job.run, row, NOW - timedelta(seconds=2), NOW)
        store.set_waiting(job.run, Waiting(3, "train", NOW, SITES, SITES[:1]))
    with RunStore.open(folder) as store:
        (run,) = store.runs()
        assert (run.name, run.status, run.flower_run, run.sites) == (job.run, "running", 2**64 - 1, SITES)
        assert run.settings == job.settings.model_dump(mode="json")
        assert (run.bundle_sha256, run.outcome, run.model_sha256, run.epsilon) == ("b" * 64, None, None, None)
        assert NOW <= run.created <= datetime.now(UTC)
        rows = store.rounds(job.run)
        assert [{key: row[key] for key in COLUMNS} for row in rows] == history().rows
        assert [(row["started"], row["ended"]) for row in rows] == [(NOW - timedelta(seconds=2), NOW)] * 2
        assert set(rows[0]) == {*COLUMNS, "started", "ended"}
        waiting = store.waiting(job.run)
        assert waiting == Waiting(3, "train", NOW, SITES, SITES[:1])
        assert waiting is not None
        assert waiting.missing == SITES[1:]
        store.set_waiting(job.run, None)
        assert store.waiting(job.run) is None
        assert store.rounds("another") == []


def test_a_run_that_ended_says_how_and_one_that_is_resumed_says_nothing_yet(folder: Path) -> None:
    with RunStore.open(folder) as store:
        store.add_run(job_of(folder, bundle_sha256="b" * 64))
        store.set_status("run-1", "failed", "Three sites are missing.")
        assert [(one.status, one.outcome) for one in store.runs()] == [("failed", "Three sites are missing.")]
        store.add_run(job_of(folder))  # once more, by somebody who does not know the bundle
        assert [(one.status, one.outcome, one.bundle_sha256) for one in store.runs()] == [("submitted", None, "b" * 64)]
        store.set_status("run-1", "finished", "3 of 3.", model_sha256="c" * 64, epsilon=2.5)
        assert [(one.model_sha256, one.epsilon) for one in store.runs()] == [("c" * 64, 2.5)]
        store.add_run(job_of(folder, "run-2"))
        assert [one.name for one in store.runs()] == ["run-2", "run-1"]


def test_a_run_that_was_stopped_does_not_fail_any_more(folder: Path) -> None:
    with RunStore.open(folder) as store:
        store.add_run(job_of(folder))
        store.set_status("run-1", "stopped", "It was stopped.")
        store.set_status("run-1", "failed", "The server is gone.")
        assert [(one.status, one.outcome) for one in store.runs()] == [("stopped", "It was stopped.")]
        store.add_run(job_of(folder), status="running")
        store.set_status("run-1", "failed", "The server is gone.")
        assert [(one.status, one.outcome) for one in store.runs()] == [("failed", "The server is gone.")]


def test_a_round_is_entered_once_however_often_it_is_written(folder: Path) -> None:
    first, second = history().rows
    with RunStore.open(folder) as store:
        store.add_run(job_of(folder))
        for row in (second, first, {**first, "people": 7}):
            store.set_round("run-1", row)
        assert [(row["round"], row["people"]) for row in store.rounds("run-1")] == [(1, 7), (2, None)]


def test_the_migrations_make_the_tables_that_the_code_speaks_of(folder: Path) -> None:
    RunStore.open(folder).close()
    with RunStore.open(folder) as store, store._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == "0001"


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(folder: Path) -> None:
    with RunStore.open(folder) as store, store._engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match=r"made by a newer version of DJMS \(its tables are version 9999\)"):
        RunStore.open(folder)


def test_the_folder_and_the_file_are_the_coordinators_alone(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    RunStore.open(folder).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / DATABASE_FILE).stat().st_mode & 0o777 == 0o600
    assert {path.name for path in folder.iterdir()} == {DATABASE_FILE}


def test_a_locked_database_is_one_sentence(tmp_path: Path) -> None:
    with RunStore.open(tmp_path) as store:
        store.add_run(job_of(tmp_path))
        other = sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match=r"was locked for 5 s; end the program that keeps it locked\.$"):
            store.set_status("run-1", "running")
        other.execute("ROLLBACK")
        other.close()
        store.set_status("run-1", "running")


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(b"these are no tables" * 100)
    with pytest.raises(StoreUnavailable, match=r"cannot be read or written \(DatabaseError\)"):
        RunStore.open(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "url:",
        "url: 7",
        "- url",
        "url: mysql://a:secret@b/c",
        "url: nonsense",
        "url: sqlite://\nmore: 1",
        "url: [",
        "u: a",
    ],
)
def test_a_file_that_names_no_database_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / URL_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"names no database that DJMS can use") as caught:
        RunStore.open(tmp_path)
    assert "secret" not in str(caught.value)


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    name_database(tmp_path, "postgresql://user:hidden@127.0.0.1:1/x")
    (tmp_path / URL_FILE).chmod(0o640)
    with pytest.raises(InputError, match=r"others can read the database's password; run `chmod 600") as caught:
        RunStore.open(tmp_path)
    assert "hidden" not in str(caught.value)


def test_no_error_shows_the_password(tmp_path: Path, server: PostgresqlServer) -> None:
    sentences = []
    for url in (
        server.url.replace(f":{server.port}", ":1"),  # nobody listens there
        server.url.replace("secret", "SECRET"),  # a wrong password
        server.url.replace("/postgres", "/nothing"),
        server.url.replace("127.0.0.1", "host.invalid"),
    ):
        name_database(tmp_path, url)
        with pytest.raises(StoreUnavailable) as caught:
            RunStore.open(tmp_path)
        sentences.append(str(caught.value))
        assert caught.value.__cause__ is None
    for sentence in sentences:
        assert "***@" in sentence
        assert "does not answer, or turns the coordinator away" in sentence
        assert PASSWORD.split()[1] not in sentence.lower()
        assert "\n" not in sentence


def test_a_missing_driver_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_database(tmp_path, "postgresql://user@127.0.0.1:1/x")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"install it with `pip install djms\[postgresql\]`"):
        RunStore.open(tmp_path)


def test_a_table_that_somebody_keeps_locked_is_one_sentence(tmp_path: Path, server: PostgresqlServer) -> None:
    name_empty_database(tmp_path, server)
    with RunStore.open(tmp_path) as store, store._engine.begin() as other:
        other.execute(sa.text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(StoreUnavailable, match=r"was locked for 5 s"):
            store.runs()


def test_names_of_runs_are_told_apart_and_nobodys_round_is_refused(folder: Path) -> None:
    names = ("A", "a", "a'; DROP TABLE runs; --")
    with RunStore.open(folder) as store:
        for name in names:
            store.add_run(replace(job_of(folder), run=name))
            store.set_status(name, "failed", name)
        assert {one.name: one.outcome for one in store.runs()} == {name: name for name in names}
        with pytest.raises(StoreUnavailable, match="does not know this run"):
            store.set_round("nobody", history().rows[0])
