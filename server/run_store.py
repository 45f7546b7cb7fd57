"""The coordinator's database: runs, their rounds, and whom they wait for. It is there for people and pages to read.

    <folder>/coordinator.db      SQLite, its owner's alone
    <folder>/database.yaml       where there is one, `url: postgresql://…` names another database

What a run goes on from lies in its own folder (`server.run_state`): a database that is down or lost ends no run.
Opening brings an older database to this version's tables with Alembic; one of a newer version is refused. No error
shows the password of a URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
import yaml
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from common.errors import InputError, RunError
from server.job import Job
from server.run_tables import FAILED, FINISHED, ROUNDS, RUNS, STOPPED, SUBMITTED, WAITING

DATABASE_FILE = "coordinator.db"
URL_FILE = "database.yaml"
_MIGRATIONS = Path(__file__).parent / "migrations"
_SECONDS = 5
"""How long a database may take to connect, to answer, or to give up a lock."""


class StoreUnavailable(RunError):
    """The coordinator's database cannot be used just now."""


@dataclass(frozen=True)
class RunRecord:
    """One run, as it stands in the database; `status` is submitted, running, finished, failed or stopped."""

    name: str
    created: datetime
    status: str
    flower_run: int | None
    bundle_sha256: str | None
    settings: dict[str, Any]
    sites: tuple[str, ...]
    outcome: str | None
    model_sha256: str | None
    epsilon: float | None


@dataclass(frozen=True)
class Waiting:
    """Whom a run waits for: in which `step` of which round (None after the last one), and until when.

    Steps: identify, witness, advertise, share, train, attest, unmask, evaluate. Sites stand in it by their names, by
    "node N" where nobody knows them yet.
    """

    round: int | None
    step: str
    until: datetime
    asked: tuple[str, ...]
    answered: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Those that have not answered."""
        return tuple(site for site in self.asked if site not in self.answered)


class RunStore:
    """An open database; a context manager. Every method raises StoreUnavailable where the database does not answer."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._where = engine.url.render_as_string(hide_password=True)

    @classmethod
    def open(cls, folder: Path) -> RunStore:
        """Open the database of a coordinator's folder, and bring its tables to this version.

        Raises InputError for a `database.yaml` that names none, a missing driver and a newer database.
        """
        store = cls(_engine(folder))
        with store._usable():
            store._migrate()
        return store

    def close(self) -> None:
        """Give its connections back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def add_run(self, job: Job, *, status: str = SUBMITTED) -> None:
        """Enter a run, or that it was submitted once more."""
        values = {
            "status": status,
            "bundle_sha256": job.bundle_sha256,
            "settings": job.settings.model_dump(mode="json"),
            "sites": list(job.sites),
            "outcome": None,
        }
        if job.bundle_sha256 is None:
            del values["bundle_sha256"]
        with self._transaction() as connection:
            if not connection.execute(sa.update(RUNS).where(RUNS.c.name == job.run).values(values)).rowcount:
                connection.execute(sa.insert(RUNS).values(name=job.run, created=datetime.now(UTC), **values))

    def set_status(
        self,
        run: str,
        status: str,
        sentence: str | None = None,
        *,
        model_sha256: str | None = None,
        epsilon: float | None = None,
    ) -> None:
        """How a run stands, and in a sentence why; a model and its price where it is finished.

        A run that was stopped does not fail any more: what it says when it is ended changes nothing.
        """
        values: dict[str, Any] = {"status": status, "outcome": sentence}
        if status == FINISHED:
            values |= {"model_sha256": model_sha256, "epsilon": epsilon}
        if status == FAILED:
            self._update_run(run, values, RUNS.c.status != STOPPED)
        else:
            self._update_run(run, values)

    def set_flower_run(self, run: str, number: int) -> None:
        """Which run of the SuperLink carries it out."""
        self._update_run(run, {"flower_run": str(number)})

    def set_bundle(self, run: str, sha256: str) -> None:
        """The hash of the application that sites run."""
        self._update_run(run, {"bundle_sha256": sha256})

    def set_round(
        self, run: str, row: Mapping[str, Any], started: datetime | None = None, ended: datetime | None = None
    ) -> None:
        """Enter a round, a row of `server.history`, in place of what stood there."""
        values = {**row, "run": run, "started": started, "ended": ended}
        with self._transaction() as connection:
            connection.execute(sa.delete(ROUNDS).where(ROUNDS.c.run == run, ROUNDS.c.round == row["round"]))
            connection.execute(sa.insert(ROUNDS).values(values))

    def set_waiting(self, run: str, waiting: Waiting | None) -> None:
        """Whom the run waits for now; None where for nobody."""
        with self._transaction() as connection:
            connection.execute(sa.delete(WAITING).where(WAITING.c.run == run))
            if waiting is not None:
                values = {"run": run, "round": waiting.round, "step": waiting.step, "until": waiting.until}
                names = {"asked": list(waiting.asked), "answered": list(waiting.answered)}
                connection.execute(sa.insert(WAITING).values(**values, **names))

    def runs(self) -> list[RunRecord]:
        """All runs, the newest first."""
        found = self._rows(sa.select(RUNS).order_by(RUNS.c.created.desc(), RUNS.c.name))
        return [
            RunRecord(
                **{
                    **row,
                    "flower_run": None if row["flower_run"] is None else int(row["flower_run"]),
                    "sites": tuple(row["sites"]),
                }
            )
            for row in found
        ]

    def rounds(self, run: str) -> list[dict[str, Any]]:
        """A run's rounds in their order: the columns of `rounds.csv`, and `started` and `ended`."""
        columns = [column for column in ROUNDS.c if column.name != "run"]
        return [dict(row) for row in self._rows(sa.select(*columns).where(ROUNDS.c.run == run).order_by("round"))]

    def waiting(self, run: str) -> Waiting | None:
        """Whom a run waits for now."""
        for row in self._rows(sa.select(WAITING).where(WAITING.c.run == run)):
            asked, answered = tuple(row["asked"]), tuple(row["answered"])
            return Waiting(row["round"], row["step"], row["until"], asked, answered)
        return None

    def _update_run(self, run: str, values: Mapping[str, Any], *only: sa.ColumnElement[bool]) -> None:
        with self._transaction() as connection:
            connection.execute(sa.update(RUNS).where(RUNS.c.name == run, *only).values(**values))

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        with self._transaction() as connection:
            return connection.execute(query).mappings().all()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._usable(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Say in one sentence what a database's error comes from; its own words may quote what is secret."""
        try:
            yield
        except IntegrityError:
            raise StoreUnavailable(
                "the coordinator's database does not know this run", where=self._where, remedy="enter the run first"
            ) from None
        except DBAPIError as error:
            what, remedy = "does not answer, or turns the coordinator away", "see whether it runs, and its own log"
            if "locked" in str(error.orig) or type(error.orig).__name__ in ("LockNotAvailable", "QueryCanceled"):
                what, remedy = f"was locked for {_SECONDS} s", "end the program that keeps it locked"
            elif self._engine.dialect.name == "sqlite":
                what, remedy = (
                    f"cannot be read or written ({type(error.orig).__name__})",
                    "see its rights, or move it away",
                )
            raise StoreUnavailable(f"the coordinator's database {what}", where=self._where, remedy=remedy) from None
        except SQLAlchemyError as error:
            raise StoreUnavailable(
                f"the coordinator's database cannot be used ({type(error).__name__})",
                where=self._where,
                remedy="report this error",
            ) from None

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        scripts = ScriptDirectory.from_config(config)
        with self._engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        if found == scripts.get_current_head():
            return
        if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
            raise InputError(
                f"the coordinator's database was made by a newer version of DJMS (its tables are version {found})",
                where=self._where,
                remedy="install that version, or name another database",
            )
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _engine(folder: Path) -> sa.Engine:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = _url(folder)
    if url.get_backend_name() == "sqlite":
        if url.database and url.database != ":memory:":  # what SQLite puts beside it has the same rights
            os.close(os.open(url.database, os.O_CREAT | os.O_RDWR, 0o600))
        engine = sa.create_engine(url, connect_args={"timeout": _SECONDS})
        sa.event.listen(engine, "connect", _check_references)
        return engine
    milliseconds = _SECONDS * 1000
    arguments = {
        "connect_timeout": _SECONDS,
        "tcp_user_timeout": 2 * milliseconds,
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
    }
    try:
        return sa.create_engine(url, connect_args=arguments, pool_pre_ping=True)
    except ImportError:
        raise InputError(
            "the driver for PostgreSQL is not installed",
            where=folder / URL_FILE,
            remedy="install it with `pip install djms[postgresql]`",
        ) from None


def _check_references(connection: Any, _record: object) -> None:
    """SQLite checks that a round's run is there only where it is told to."""
    connection.execute("PRAGMA foreign_keys = ON")


def _url(folder: Path) -> sa.URL:
    path = folder / URL_FILE
    if not path.exists():
        return sa.URL.create("sqlite", database=str(folder / DATABASE_FILE))
    remedy = "write `url: postgresql://USER:PASSWORD@HOST/DATABASE` and nothing else"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or set(content) != {"url"}:
            raise ValueError
        url = sa.make_url(content["url"])
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        elif url.get_backend_name() != "sqlite":
            raise ValueError
    except (OSError, ValueError, TypeError, yaml.YAMLError, ArgumentError, NoSuchModuleError):
        raise InputError("this names no database that DJMS can use", where=path, remedy=remedy) from None
    if url.password is not None and os.name != "nt" and path.stat().st_mode & 0o077:
        raise InputError("others can read the database's password", where=path, remedy=f"run `chmod 600 {path}`")
    return url
