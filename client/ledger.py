"""A site's privacy ledger: what its people have paid, and the budget that nothing the coordinator sends can pass.

    ledger = PrivacyLedger.open(folder / "privacy.sqlite", create=False)
    reservation = ledger.reserve(worst_case, budget)  # before training: BudgetExceeded, or recorded and on disk
    executed = train(...)
    reservation.confirm(executed)  # before anything leaves the site

Rules kept here:

* a release is recorded before it happens; a reservation that nobody confirmed, as after a crash, counts in full;
* every event counts for good, whatever its run, model or site's name: people do not change with names, and what was
  released is not forgotten when a budget's period ends;
* only one process at a time writes; the file, its seal and what they withstand are in `client.ledger_file`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol

from client.ledger_file import Entry, LedgerDamaged, LedgerFile, LedgerUnavailable, head_of
from common.errors import InputError, RunError
from privacy.accounting import LEAST_DELTA, Spent, spent
from privacy.events import PrivacyEvent

__all__ = [
    "Accountant",
    "Budget",
    "BudgetExceeded",
    "ConfirmationRefused",
    "Entry",
    "LedgerDamaged",
    "LedgerUnavailable",
    "PrivacyLedger",
    "Reservation",
    "as_one_site",
    "counted_entries",
    "shown",
]


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

    def __init__(self, file: LedgerFile, accountant: Accountant, clock: Callable[[], datetime]) -> None:
        self._file, self._accountant, self._clock = file, accountant, clock
        self._prices: dict[tuple[str, float], Spent] = {}

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
        return cls(LedgerFile.open(path, create=create), accountant, clock)

    @property
    def path(self) -> Path:
        """Where the ledger lies."""
        return self._file.path

    def entries(self) -> tuple[Entry, ...]:
        """Every entry, verified. Raises LedgerDamaged and LedgerUnavailable."""
        with self._file.locked() as ledger:
            return ledger.entries

    def spent(self, delta: float) -> Spent:
        """What all entries cost at δ, recomputed from them by accountants that must agree; kept until the next entry.

        Raises LedgerDamaged, LedgerUnavailable, and what `privacy.accounting.spent` raises.
        """
        return self._spent(self.entries(), delta)

    def export(self, run: str) -> list[dict[str, str | int | float]]:
        """The events of one run, as in `results/<run>/privacy_ledger.json`; unconfirmed ones in full."""
        return [event.to_json() for event in _events(self.entries()) if event.run == run]

    def reserve(self, event: PrivacyEvent, budget: Budget, *, steps_to_come: int = 0) -> Reservation:
        """Record the worst case of a training before it starts, if the budget allows it together with all before.

        A run's first training is allowed only if the budget allows `steps_to_come` like it as well: nobody pays for a
        run that this site cannot finish. Raises BudgetExceeded and, also without a change, MixedEvents,
        AccountantsDisagree, and as `entries` does.
        """
        with self._file.locked() as ledger:
            if steps_to_come and not any(entry.event.run == event.run for entry in ledger.entries):
                whole = replace(event, steps=event.steps + steps_to_come)
                self._affordable(ledger.entries, whole, budget, f"{event.purpose} of run {event.run}, to its end,")
            what = f"{event.purpose} of run {event.run}, round {event.round},"
            price = self._affordable(ledger.entries, event, budget, what)
            entry = ledger.append("reserved", None, event, self._clock())
        self.entries()  # seals it
        self._prices = {(entry.hash, budget.delta): price}
        return Reservation(entry.sequence, event, self)

    def _confirm(self, reservation: Reservation, executed: PrivacyEvent) -> None:
        with self._file.locked() as ledger:
            _require_open(reservation, executed, ledger.entries, self.path)
            ledger.append("confirmed", reservation.sequence, executed, self._clock())
        self.entries()
        if not executed.costs_at_most(reservation.event):
            raise ConfirmationRefused(
                f"entry {reservation.sequence} reserved less than was executed, which is recorded and counts",
                where=self.path,
                remedy="send nothing of this training, and report it: the site did not train as it had planned",
            )

    def _affordable(self, entries: tuple[Entry, ...], event: PrivacyEvent, budget: Budget, what: str) -> Spent:
        together = as_one_site([*_events(entries), event])
        price = self._accountant(together, budget.delta, cross_checked=False)
        ended = budget.valid_until is not None and self._clock().astimezone(UTC).date() > budget.valid_until
        if price.epsilon <= budget.max_epsilon and not ended:
            return self._accountant(together, budget.delta, cross_checked=True)  # tenfold work, so only here
        before = self._spent(entries, budget.delta).epsilon
        until = f"until {budget.valid_until}" if budget.valid_until else "with no end date"
        asked, left = price.epsilon - before, max(0.0, budget.max_epsilon - before)
        raise BudgetExceeded(
            f"{what} asks for ε {shown(asked, up=True)}, and of the site's "
            f"ε {budget.max_epsilon:g} at δ {budget.delta:g} {until} there is {shown(left, up=False)} left"
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
        key = (head_of(entries), delta)
        prices = self._prices
        if key not in prices:
            price = self._accountant(as_one_site(_events(entries)), delta, cross_checked=True)
            self._prices = {kept: prices[kept] for kept in prices if kept[0] == key[0]} | {key: price}
            return price
        return prices[key]


def counted_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Each reservation, or what confirmed it, in the order of reservations."""
    counted: dict[int, Entry] = {}
    for entry in entries:
        counted[entry.sequence if entry.reservation is None else entry.reservation] = entry
    return list(counted.values())


def as_one_site(events: Sequence[PrivacyEvent]) -> list[PrivacyEvent]:
    """The events under the latest name: accountants take names for disjoint people, and these are all this site's."""
    return [replace(event, site=events[-1].site) for event in events]


def _events(entries: Iterable[Entry]) -> list[PrivacyEvent]:
    return [entry.event for entry in counted_entries(entries)]


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


def shown(epsilon: float, *, up: bool) -> str:
    """Four decimals, so that what was asked never looks like what is left."""
    if not math.isfinite(epsilon):
        return "∞"
    scaled = epsilon * 1e4
    return f"{(math.ceil(scaled) if up else math.floor(scaled)) / 1e4:.10g}"


_SAME = ("unit", "neighbouring_relation", "site", "run", "round", "purpose")
