"""The file of a site's privacy ledger: entries that are only ever added, in SQLite, chained by hashes and sealed.

    file = LedgerFile.open(folder / "ledger.sqlite", create=False)
    with file.locked() as ledger:  # verified; on disk when the block has ended well
        ledger.append("reserved", None, event, time)
    read_entries(folder / "ledger.sqlite")  # verified, and nothing written, not even a seal

Only one process at a time writes; all it reads is verified first, and damage stops it before it writes. What was
acknowledged is on disk, in the ledger and in its seal, and survives kill -9 and a power cut.

Each entry's `hash` is SHA-256 over a label, the hash before it, and the rest of the entry as RFC 8785 JSON. The last
one and the number of entries stand in the table `head` and in a seal beside the ledger, `<ledger>.head`, written after
the entry; so a seal may be one entry behind, when its writer was killed in between. Edited, moved or missing entries
are noticed, and so is a ledger cut short. Not noticed: older copies of *both* files put back, or both written anew by
somebody who computes the hashes. Against that stand events published elsewhere (`PrivacyLedger.export`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import rfc8785
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, Text, create_engine, event, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from common.errors import InputError, RunError
from common.files import atomic_path
from privacy.events import EventRefused, PrivacyEvent

SEAL_SUFFIX = ".head"
PATIENCE = 60.0
"""Seconds to wait for another process: it may be pricing a reservation, with accountants just being imported."""

Kind = Literal["reserved", "confirmed"]

_LABEL = b"djms/v1/privacy-ledger\x00"
_GENESIS = "0" * 64
_REFUSE = "BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END"
# What every ledger of every year was made with, to the letter: `_verified` compares.
_SCHEMA = {
    "entries": "CREATE TABLE entries (sequence INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, "
    "reservation INTEGER, event TEXT NOT NULL, hash TEXT NOT NULL)",
    "head": "CREATE TABLE head (id INTEGER PRIMARY KEY, count INTEGER NOT NULL, hash TEXT NOT NULL)",
    "no_edit": f"CREATE TRIGGER no_edit BEFORE UPDATE ON entries {_REFUSE}",
    "no_removal": f"CREATE TRIGGER no_removal BEFORE DELETE ON entries {_REFUSE}",
    # INSERT OR REPLACE removes without a DELETE trigger, so only the next number is let in.
    "in_order": "CREATE TRIGGER in_order BEFORE INSERT ON entries "
    f"WHEN NEW.sequence IS NOT (SELECT count + 1 FROM head) {_REFUSE}",
    "to_head": "CREATE TRIGGER to_head AFTER INSERT ON entries "
    "BEGIN UPDATE head SET count = NEW.sequence, hash = NEW.hash; END",
    "head_follows": "CREATE TRIGGER head_follows BEFORE UPDATE ON head WHEN NEW.id <> OLD.id OR NEW.count <> "
    "OLD.count + 1 OR NOT EXISTS (SELECT 1 FROM entries WHERE sequence = NEW.count AND hash = NEW.hash) " + _REFUSE,
    "head_stays": f"CREATE TRIGGER head_stays BEFORE DELETE ON head {_REFUSE}",
    "one_head": f"CREATE TRIGGER one_head BEFORE INSERT ON head WHEN EXISTS (SELECT 1 FROM head) {_REFUSE}",
}
_TABLES = MetaData()
_ENTRIES = Table(
    "entries",
    _TABLES,
    Column("sequence", Integer, primary_key=True),
    *(Column(name, Text) for name in ("time", "kind")),
    Column("reservation", Integer),
    *(Column(name, Text) for name in ("event", "hash")),
)
_HEAD = Table("head", _TABLES, Column("count", Integer), Column("hash", Text))
_ENVIRONMENT = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOMEM,
}


class LedgerDamaged(InputError):
    """The ledger, or its seal, is not what was written."""

    def __init__(
        self, what: str, *, where: str | Path, remedy: str = "train nothing, keep both files, find who changed them"
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)


class LedgerUnavailable(RunError):
    """The ledger is in order, as far as is known, and cannot be used now."""


@dataclass(frozen=True)
class Entry:
    """One row: a reservation, or a confirmation of the entry `reservation` by what was executed."""

    sequence: int
    time: str
    kind: Kind
    reservation: int | None
    event: PrivacyEvent
    hash: str


class LockedLedger:
    """A ledger that is verified and held by this process; `entries` are those before anything is appended."""

    def __init__(self, connection: Connection, entries: tuple[Entry, ...]) -> None:
        self._connection, self.entries = connection, entries

    def append(self, kind: Kind, reservation: int | None, event: PrivacyEvent, time: datetime) -> Entry:
        """Add one entry; at most one in a block."""
        row: dict[str, str | int | None] = {
            "sequence": len(self.entries) + 1,
            "time": time.astimezone(UTC).isoformat(timespec="microseconds"),
            "kind": kind,
            "reservation": reservation,
            "event": rfc8785.dumps(dict(event.to_json())).decode(),
        }
        row["hash"] = _chained(head_of(self.entries), row)
        self._connection.execute(insert(_ENTRIES).values(**row))
        return Entry(len(self.entries) + 1, str(row["time"]), kind, reservation, event, str(row["hash"]))


class LedgerFile:
    """A ledger's SQLite file and its seal. May be used by several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path, self._engine = path, _engine(path, "rw", "BEGIN IMMEDIATE")

    @classmethod
    def open(cls, path: Path, *, create: bool) -> LedgerFile:
        """Open and verify; with `create`, make an empty ledger where neither it nor its seal exists.

        Raises InputError when there is none, LedgerDamaged, and LedgerUnavailable.
        """
        path = path.absolute()
        if not path.exists() and create:
            _refuse_orphaned_seal(path)
            _create(path)
        _require_ledger(path)
        file = cls(path)
        with file.locked():
            return file

    @contextmanager
    def locked(self) -> Iterator[LockedLedger]:
        """The ledger verified, sealed and locked; what the block appends is on disk when it has ended well."""
        with _errors_translated(self.path), self._engine.begin() as connection:
            entries, sealed = _verified(connection, self.path)
            if not sealed:
                _write_seal(self.path, len(entries), head_of(entries))
            yield LockedLedger(connection, entries)


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Every entry of a ledger, verified, for who only looks: nothing is created, sealed or locked against writers.

    Raises InputError when there is none, LedgerDamaged, and LedgerUnavailable.
    """
    path = path.absolute()
    _require_ledger(path)
    with _errors_translated(path), _engine(path, "ro", "BEGIN").begin() as connection:
        return _verified(connection, path)[0]


def head_of(entries: Sequence[Entry]) -> str:
    """The hash that stands for all entries."""
    return entries[-1].hash if entries else _GENESIS


def _require_ledger(path: Path) -> None:
    if not path.exists():
        _refuse_orphaned_seal(path)
        remedy = "put the site's ledger back, or create one if it never had any"
        raise InputError("there is no privacy ledger", where=path, remedy=remedy)


def _refuse_orphaned_seal(path: Path) -> None:
    if seal_path(path).exists():
        raise LedgerDamaged("the ledger is gone, and its seal is still there", where=path)


def _engine(path: Path, mode: Literal["rw", "ro"], begin: str) -> Engine:
    engine = create_engine("sqlite://", creator=lambda: _connect(path, mode), poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


@contextmanager
def _errors_translated(path: Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise _translated(error, path) from error
    except UnicodeDecodeError as error:  # SQLite quoting damaged bytes in its message, or in a cell
        raise LedgerDamaged("a text in the file is not UTF-8", where=path) from error
    except OSError as error:
        remedy = "make room, or restore the folder's rights; what was recorded counts"
        raise LedgerUnavailable(f"{error.strerror}", where=error.filename or path, remedy=remedy) from error


def _verified(connection: Connection, path: Path) -> tuple[tuple[Entry, ...], bool]:
    """All entries, after every check, and whether the seal is of them or one entry behind. Raises LedgerDamaged."""
    schema = {name: sql for name, sql in connection.exec_driver_sql("SELECT name, sql FROM sqlite_master")}
    if schema != _SCHEMA:
        raise LedgerDamaged("the tables and triggers are not those of a privacy ledger", where=path)
    entries: list[Entry] = []
    hashes = [_GENESIS]
    for number, row in enumerate(connection.execute(select(_ENTRIES).order_by(_ENTRIES.c.sequence)).mappings(), 1):
        if row["sequence"] != number:
            raise LedgerDamaged(f"entry {number} is missing", where=path)
        try:
            intact = row["hash"] == _chained(hashes[-1], {key: row[key] for key in row if key != "hash"})
            recorded = PrivacyEvent.from_json(json.loads(row["event"])) if intact else None
        except (ValueError, EventRefused):
            recorded = None
        if recorded is None:
            raise LedgerDamaged(f"entry {number} was changed, or stands in another's place", where=path)
        entries.append(Entry(number, row["time"], row["kind"], row["reservation"], recorded, row["hash"]))
        hashes.append(row["hash"])
    heads = [tuple(head) for head in connection.execute(select(_HEAD))]
    if heads != [(len(entries), hashes[-1])]:
        counted = heads[0][0] if len(heads) == 1 else "another number of"
        raise LedgerDamaged(f"{len(entries)} entries are left, and its head counts {counted}", where=path)
    seal = _read_seal(path, empty=not entries)
    if seal is None or (seal[0] + 1 == len(entries) and seal[1] == hashes[-2]):
        return tuple(entries), False
    if seal != (len(entries), hashes[-1]):
        raise LedgerDamaged(
            f"the ledger has {len(entries)} entries, and its seal {SEAL_SUFFIX} is of {seal[0]}"
            + (" others" if seal[0] == len(entries) else ""),
            where=path,
        )
    return tuple(entries), True


def _chained(previous: str, row: Mapping[str, Any]) -> str:
    return hashlib.sha256(_LABEL + bytes.fromhex(previous) + rfc8785.dumps(dict(row))).hexdigest()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Neither mode creates; SQLAlchemy's "begin" above begins, so the driver must not.
    connection = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=PATIENCE, isolation_level=None)
    connection.execute("PRAGMA synchronous = EXTRA")
    return connection


def _create(path: Path) -> None:
    """Make an empty ledger, whole, under its name at once; somebody else's that came first is left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")  # mode 0600
    os.close(handle)
    try:
        with closing(_connect(Path(name), "rw")) as connection:
            connection.executescript(
                f"BEGIN; {'; '.join(_SCHEMA.values())}; INSERT INTO head VALUES (1, 0, '{_GENESIS}'); COMMIT"
            )
        with suppress(FileExistsError):
            path.hardlink_to(name)
    finally:
        Path(name).unlink()


def seal_path(path: Path) -> Path:
    """Where the ledger's seal lies."""
    return path.with_name(path.name + SEAL_SUFFIX)


def _read_seal(path: Path, *, empty: bool) -> tuple[int, str] | None:
    """Count and hash; None for an empty ledger that was just created."""
    seal = seal_path(path)
    if not seal.exists():
        if empty:
            return None
        raise LedgerDamaged("the ledger has entries, and its seal is gone", where=seal)
    try:
        content = json.loads(seal.read_text(encoding="ascii"))
        if {"count": int, "hash": str} != {key: type(value) for key, value in content.items()}:
            raise ValueError("other keys")
    except (ValueError, AttributeError):
        raise LedgerDamaged("this is not a ledger's seal", where=seal) from None
    return content["count"], content["hash"]


def _write_seal(path: Path, count: int, head: str) -> None:
    with atomic_path(seal_path(path)) as temporary:
        temporary.write_text(json.dumps({"count": count, "hash": head}) + "\n", encoding="ascii")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too
    finally:
        os.close(folder)


def _translated(error: DBAPIError, path: Path) -> LedgerDamaged | LedgerUnavailable:
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        remedy = "end that process if it hangs, then try again"
        return LedgerUnavailable("another process is using the ledger", where=path, remedy=remedy)
    if code in _ENVIRONMENT:
        remedy = "make room, or restore the file's rights; what was recorded counts"
        return LedgerUnavailable(f"SQLite says: {error.orig}", where=path, remedy=remedy)
    return LedgerDamaged(f"SQLite says: {error.orig}", where=path)
