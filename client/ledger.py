"""A site's privacy ledger: what its people have paid, and the budget that nothing the coordinator sends can pass.

    ledger = PrivacyLedger.open(folder / "privacy.sqlite", create=False)
    reservation = ledger.reserve(worst_case, budget)  # before training: BudgetExceeded, or recorded and on disk
    executed = train(...)
    reservation.confirm(executed)  # before anything leaves the site

Rules kept here:

* a release is recorded before it happens; a reservation that nobody confirmed, as after a crash, counts in full;
* every event counts for good, whatever its run, model or site's name: people do not change with names, and what was
  released is not forgotten when a budget's period ends;
* only one process at a time reads or writes; all it reads is verified first, and damage stops it before it writes;
* what was acknowledged is on disk, in the ledger and in its seal, and survives kill -9 and a power cut.

Each entry's `hash` is SHA-256 over a label, the hash before it, and the rest of the entry as RFC 8785 JSON. The last
one and the number of entries stand in the table `head` and in a seal beside the ledger, `<ledger>.head`, written after
the entry; so a seal may be one entry behind, when its writer was killed in between. Edited, moved or missing entries
are noticed, and so is a ledger cut short. Not noticed: older copies of *both* files put back, or both written anew by
somebody who computes the hashes. Against that stand `export`ed events, published elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import rfc8785
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, create_engine, event, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from common.errors import InputError, RunError
from common.files import atomic_path
from privacy.accounting import LEAST_DELTA, Spent, spent
from privacy.events import EventRefused, PrivacyEvent

SEAL_SUFFIX = ".head"
PATIENCE = 60.0
"""Seconds to wait for another process: it may be pricing a reservation, with accountants just being imported."""

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


class LedgerDamaged(InputError):
    """The ledger, or its seal, is not what was written."""

    def __init__(
        self, what: str, *, where: str | Path, remedy: str = "train nothing, keep both files, find who changed them"
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)


class LedgerUnavailable(RunError):
    """The ledger is in order, as far as is known, and cannot be used now."""


class BudgetExceeded(RunError):
    """A training that the site's budget does not allow; nothing was recorded."""


class ConfirmationRefused(RunError):
    """An executed event that does not belong to its reservation, or costs more than it."""


class Accountant(Protocol):
    """Prices events, as `privacy.accounting.spent` does."""

    def __call__(self, events: Sequence[PrivacyEvent], delta: float, *, cross_checked: bool) -> Spent:
        """What the events cost at δ."""


@dataclass(frozen=True)
class Budget:
    """What the site lets its people pay in all: ε at δ, for trainings up to and including a day (UTC), or for good.

    A later budget is a new promise about everything since the first event, not a fresh amount. Raises InputError.
    """

    max_epsilon: float
    delta: float
    valid_until: date | None = None

    def __post_init__(self) -> None:
        """Refuse what promises nothing."""
        if not 0.0 < self.max_epsilon < float("inf"):
            raise InputError(
                f"max_epsilon is {self.max_epsilon!r}", where="privacy budget", remedy="write a number above 0"
            )
        if not LEAST_DELTA <= self.delta < 1.0:
            remedy = f"write a number from {LEAST_DELTA:g} to below 1, at most one over the number of people"
            raise InputError(f"δ is {self.delta!r}", where="privacy budget", remedy=remedy)


@dataclass(frozen=True)
class Entry:
    """One row: a reservation, or a confirmation of the entry `reservation` by what was executed."""

    sequence: int
    time: str
    kind: Literal["reserved", "confirmed"]
    reservation: int | None
    event: PrivacyEvent
    hash: str


@dataclass(frozen=True)
class Reservation:
    """Leave to train, already counted with the worst case `event`."""

    sequence: int
    event: PrivacyEvent
    ledger: PrivacyLedger = field(repr=False, compare=False)

    def confirm(self, executed: PrivacyEvent) -> None:
        """Record what was executed; it counts from now on instead of the worst case.

        Raises ConfirmationRefused for a second confirmation or another site's, run's, round's or kind of event, which
        changes nothing; and for one that costs more than was reserved, which *is recorded*: it must not be sent.
        """
        self.ledger._confirm(self, executed)


class PrivacyLedger:
    """A site's ledger in one SQLite file and its seal. May be used by several threads and processes."""

    def __init__(self, path: Path, accountant: Accountant, clock: Callable[[], datetime]) -> None:
        self.path, self._accountant, self._clock = path, accountant, clock
        self._prices: dict[tuple[str, float], Spent] = {}
        self._engine = create_engine("sqlite://", creator=lambda: _connect(path), poolclass=NullPool)
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool,
        accountant: Accountant = spent,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> PrivacyLedger:
        """Open and verify the ledger; with `create`, make an empty one where neither it nor its seal exists.

        Raises InputError when there is none, LedgerDamaged, and LedgerUnavailable.
        """
        path = path.absolute()
        if not path.exists():
            if _seal_path(path).exists():
                raise LedgerDamaged("the ledger is gone, and its seal is still there", where=path)
            if not create:
                remedy = "put the site's ledger back, or create one if it never had any"
                raise InputError("there is no privacy ledger", where=path, remedy=remedy)
            _create(path)
        ledger = cls(path, accountant, clock)
        ledger.entries()
        return ledger

    def entries(self) -> tuple[Entry, ...]:
        """Every entry, verified. Raises LedgerDamaged and LedgerUnavailable."""
        with self._alone() as (_, entries):
            return entries

    def spent(self, delta: float) -> Spent:
        """What all entries cost at δ, recomputed from them by accountants that must agree; kept until the next entry.

        Raises LedgerDamaged, LedgerUnavailable, and what `privacy.accounting.spent` raises.
        """
        return self._spent(self.entries(), delta)

    def export(self, run: str) -> list[dict[str, str | int | float]]:
        """The events of one run, as in `results/<run>/privacy_ledger.json`; unconfirmed ones in full."""
        return [event.to_json() for event in _counted(self.entries()) if event.run == run]

    def reserve(self, event: PrivacyEvent, budget: Budget) -> Reservation:
        """Record the worst case of a training before it starts, if the budget allows it together with all before.

        Raises BudgetExceeded and, also without a change, MixedEvents, AccountantsDisagree, and as `entries` does.
        """
        with self._alone() as (connection, entries):
            price = self._affordable(entries, event, budget)
            entry = self._append(connection, entries, "reserved", None, event)
        self.entries()  # seals it
        self._prices = {(entry.hash, budget.delta): price}
        return Reservation(entry.sequence, event, self)

    def _confirm(self, reservation: Reservation, executed: PrivacyEvent) -> None:
        with self._alone() as (connection, entries):
            _require_open(reservation, executed, entries, self.path)
            self._append(connection, entries, "confirmed", reservation.sequence, executed)
        self.entries()
        if not _at_most(executed, reservation.event):
            raise ConfirmationRefused(
                f"entry {reservation.sequence} reserved less than was executed, which is recorded and counts",
                where=self.path,
                remedy="send nothing of this training, and report it: the site did not train as it had planned",
            )

    def _affordable(self, entries: tuple[Entry, ...], event: PrivacyEvent, budget: Budget) -> Spent:
        together = _one_sites([*_counted(entries), event])
        price = self._accountant(together, budget.delta, cross_checked=False)
        ended = budget.valid_until is not None and self._clock().astimezone(UTC).date() > budget.valid_until
        if price.epsilon <= budget.max_epsilon and not ended:
            return self._accountant(together, budget.delta, cross_checked=True)  # tenfold work, so only here
        before = self._spent(entries, budget.delta).epsilon
        until = f"until {budget.valid_until}" if budget.valid_until else "with no end date"
        asked, left = price.epsilon - before, max(0.0, budget.max_epsilon - before)
        raise BudgetExceeded(
            f"{event.purpose} of run {event.run}, round {event.round}, asks for ε {_shown(asked, up=True)}, and of the "
            f"site's ε {budget.max_epsilon:g} at δ {budget.delta:g} {until} there is {_shown(left, up=False)} left"
            + (", and that day is over" if ended else ""),
            where=f"privacy budget of {event.site}",
            remedy="nothing was trained; "
            + (
                "the site may set a new budget, to which all that was spent counts"
                if ended
                else "plan with more noise or fewer rounds, or the site sets a larger budget"
            ),
        )

    def _spent(self, entries: tuple[Entry, ...], delta: float) -> Spent:
        key = (_head(entries), delta)
        prices = self._prices
        if key not in prices:
            price = self._accountant(_one_sites(_counted(entries)), delta, cross_checked=True)
            self._prices = {kept: prices[kept] for kept in prices if kept[0] == key[0]} | {key: price}
            return price
        return prices[key]

    def _append(
        self,
        connection: Connection,
        entries: tuple[Entry, ...],
        kind: Literal["reserved", "confirmed"],
        reservation: int | None,
        event: PrivacyEvent,
    ) -> Entry:
        row: dict[str, str | int | None] = {
            "sequence": len(entries) + 1,
            "time": self._clock().astimezone(UTC).isoformat(timespec="microseconds"),
            "kind": kind,
            "reservation": reservation,
            "event": rfc8785.dumps(dict(event.to_json())).decode(),
        }
        row["hash"] = _chained(_head(entries), row)
        connection.execute(insert(_ENTRIES).values(**row))
        return Entry(len(entries) + 1, str(row["time"]), kind, reservation, event, str(row["hash"]))

    @contextmanager
    def _alone(self) -> Iterator[tuple[Connection, tuple[Entry, ...]]]:
        """The ledger verified, sealed and locked; what the block writes is on disk when it has ended well."""
        try:
            with self._engine.begin() as connection:
                entries = _verified(connection, self.path)
                yield connection, entries
        except DBAPIError as error:
            raise _translated(error, self.path) from error
        except UnicodeDecodeError as error:  # SQLite quoting damaged bytes in its message, or in a cell
            raise LedgerDamaged("a text in the file is not UTF-8", where=self.path) from error
        except OSError as error:
            remedy = "make room, or restore the folder's rights; what was recorded counts"
            raise LedgerUnavailable(f"{error.strerror}", where=error.filename or self.path, remedy=remedy) from error


def _verified(connection: Connection, path: Path) -> tuple[Entry, ...]:
    """All entries, after every check; a seal that is one entry behind is brought up. Raises LedgerDamaged."""
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
        _write_seal(path, len(entries), hashes[-1])
    elif seal != (len(entries), hashes[-1]):
        raise LedgerDamaged(
            f"the ledger has {len(entries)} entries, and its seal {SEAL_SUFFIX} is of {seal[0]}"
            + (" others" if seal[0] == len(entries) else ""),
            where=path,
        )
    return tuple(entries)


def _chained(previous: str, row: Mapping[str, Any]) -> str:
    return hashlib.sha256(_LABEL + bytes.fromhex(previous) + rfc8785.dumps(dict(row))).hexdigest()


def _head(entries: Sequence[Entry]) -> str:
    return entries[-1].hash if entries else _GENESIS


def _counted(entries: Iterable[Entry]) -> list[PrivacyEvent]:
    """Each reservation's event, or what confirmed it, in the order of reservations."""
    counted: dict[int, PrivacyEvent] = {}
    for entry in entries:
        counted[entry.sequence if entry.reservation is None else entry.reservation] = entry.event
    return list(counted.values())


def _one_sites(events: Sequence[PrivacyEvent]) -> list[PrivacyEvent]:
    """The events under the latest name: accountants take names for disjoint people, and these are all this site's."""
    return [replace(event, site=events[-1].site) for event in events]


def _at_most(executed: PrivacyEvent, reserved: PrivacyEvent) -> bool:
    return (
        executed.mechanism == reserved.mechanism
        and executed.noise_multiplier >= reserved.noise_multiplier
        and executed.sampling_rate <= reserved.sampling_rate
        and executed.steps <= reserved.steps
    )


def _require_open(reservation: Reservation, executed: PrivacyEvent, entries: Sequence[Entry], path: Path) -> None:
    number = reservation.sequence
    known = [entry for entry in entries if entry.sequence == number and entry.kind == "reserved"]
    if not known or known[0].event != reservation.event:
        what = f"entry {number} is not this reservation"
    elif any(entry.reservation == number for entry in entries):
        what = f"entry {number} is confirmed already"
    elif different := [key for key in _SAME if getattr(executed, key) != getattr(reservation.event, key)]:
        what = f"entry {number} was reserved for another {different[0]}"
    else:
        return
    remedy = "send nothing of this training; the reservation goes on counting"
    raise ConfirmationRefused(what, where=path, remedy=remedy)


def _shown(epsilon: float, *, up: bool) -> str:
    """Four decimals, so that what was asked never looks like what is left."""
    if not math.isfinite(epsilon):
        return "∞"
    scaled = epsilon * 1e4
    return f"{(math.ceil(scaled) if up else math.floor(scaled)) / 1e4:.10g}"


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw never creates; SQLAlchemy's "begin" above begins, so the driver must not.
    connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=PATIENCE, isolation_level=None)
    connection.execute("PRAGMA synchronous = EXTRA")
    return connection


def _create(path: Path) -> None:
    """Make an empty ledger, whole, under its name at once; somebody else's that came first is left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")  # mode 0600
    os.close(handle)
    try:
        with closing(_connect(Path(name))) as connection:
            connection.executescript(
                f"BEGIN; {'; '.join(_SCHEMA.values())}; INSERT INTO head VALUES (1, 0, '{_GENESIS}'); COMMIT"
            )
        with suppress(FileExistsError):
            path.hardlink_to(name)
    finally:
        Path(name).unlink()


def _seal_path(path: Path) -> Path:
    return path.with_name(path.name + SEAL_SUFFIX)


def _read_seal(path: Path, *, empty: bool) -> tuple[int, str] | None:
    """Count and hash; None for an empty ledger that was just created."""
    seal = _seal_path(path)
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
    with atomic_path(_seal_path(path)) as temporary:
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


_SAME = ("unit", "neighbouring_relation", "site", "run", "round", "purpose")
_ENVIRONMENT = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOMEM,
}
