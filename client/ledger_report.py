"""What the people of offices have paid, read from their privacy ledgers: the figures behind `djms privacy ledger`.

Ledgers are read and never written. Everything is computed anew from the events in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from client.budget import BUDGET_FILE, LEDGER_FILE, read_budget
from client.ledger import Budget, as_one_site, counted_entries
from client.ledger_file import Entry, read_entries, seal_path
from common.errors import InputError
from privacy.accounting import epsilon_rdp, spent
from privacy.events import PrivacyEvent


def ledger_paths(path: Path) -> list[Path]:
    """The ledger that `path` is, lies in `path`, or those of the offices with a folder below it.

    A ledger that is gone and left its seal or its budget behind is among them, so that reading says so. Raises
    InputError where there is none.
    """
    remedy = "name an office's ledger, or the folder with a folder for each office"
    if not path.exists() and not seal_path(path).exists():
        raise InputError("there is no privacy ledger, so nothing was spent here", where=path, remedy=remedy)
    if not path.is_dir():
        return [path]
    found = [folder / LEDGER_FILE for folder in (path, *sorted(path.iterdir())) if folder.is_dir() and _had_one(folder)]
    if not found:
        raise InputError(f"no {LEDGER_FILE} lies here or one folder below", where=path, remedy=remedy)
    return found


def office_report(path: Path, delta: float, today: date) -> dict[str, Any]:
    """One ledger as a JSON object; ε is at the δ of the budget beside it, or at `delta` where there is no budget.

    Raises InputError, LedgerDamaged, LedgerUnavailable, and what `privacy.accounting.spent` raises.
    """
    entries = read_entries(path)
    budget_path = path.absolute().with_name(BUDGET_FILE)
    budget = read_budget(budget_path) if budget_path.exists() else None
    delta = delta if budget is None else budget.delta
    counted = counted_entries(entries)
    events = as_one_site([entry.event for entry in counted])
    price = spent(events, delta)
    office = events[-1].site if events else path.absolute().parent.name
    return {
        "office": office,
        "path": str(path),
        "entries": len(entries),
        "epsilon": _finite(price.epsilon),
        "delta": delta,
        "unit": price.unit,
        "neighbouring_relation": price.neighbouring_relation,
        "by_accountant": {name: _finite(value) for name, value in price.by_accountant.items()},
        "budget": None if budget is None else _budget_as_json(budget, today),
        "left": None if budget is None else max(0.0, budget.max_epsilon - price.epsilon),
        "runs": _runs(counted, events, delta),
    }


def _had_one(folder: Path) -> bool:
    ledger = folder / LEDGER_FILE
    return any(file.exists() for file in (ledger, seal_path(ledger), folder / BUDGET_FILE))


def _runs(counted: Sequence[Entry], events: Sequence[PrivacyEvent], delta: float) -> list[dict[str, Any]]:
    """By run, in the order in which runs began; `epsilon_after` is what this and all runs before it cost together."""
    names = list(dict.fromkeys(entry.event.run for entry in counted))
    return [
        {
            "run": name,
            "epsilon_after": _finite(epsilon_rdp([event for event in events if event.run in names[:number]], delta)),
            "rounds": [_as_json(entry) for entry in counted if entry.event.run == name],
        }
        for number, name in enumerate(names, start=1)
    ]


def _as_json(entry: Entry) -> dict[str, Any]:
    kept = ("round", "purpose", "mechanism", "noise_multiplier", "sampling_rate", "steps")
    content = entry.event.to_json()
    return {key: content[key] for key in kept} | {"state": entry.kind, "time": entry.time}


def _budget_as_json(budget: Budget, today: date) -> dict[str, Any]:
    until = budget.valid_until
    return {
        "max_epsilon": budget.max_epsilon,
        "delta": budget.delta,
        "valid_until": None if until is None else until.isoformat(),
        "ended": until is not None and today > until,
    }


def _finite(value: float) -> float | None:
    """None for what JSON cannot hold."""
    return value if math.isfinite(value) else None
