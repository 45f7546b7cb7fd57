"""What anchoring costs: the figures of `djms anchor bench`, each beside the limit it must keep.

Every figure is measured when it is asked for, in turns with what it is compared with, over trees, proofs and receipts
that are checked.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

from anchoring.bench_log import APPENDS, ENTRY_SIZE, measure_appends, measure_batches
from anchoring.bench_receipt import measure_receipts
from anchoring.bench_records import measure_commit
from anchoring.bench_tree import measure_size
from common.progress import Steps

LIMITS: Final = {
    "root_ratio": 1.5,
    "inclusion_us": 50.0,
    "verification_us": 50.0,
    "beyond_signature_us": 50.0,
    "commit_seconds": 2.0,
    "appends_per_second": 200.0,
    "batch_entries_per_second": 20_000.0,
    "memory_mb": 200.0,
}
AT_LEAST: Final = {"appends_per_second", "batch_entries_per_second"}
"""Limits from below; all others are from above."""

SIZES: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES: Final = SIZES[:3]
LOG_SIZE: Final = 10_000
"""Entries of the log whose proofs and batches have limits."""

_FEWER_TURNS = 3


def run_bench(folder: Path, turns: int, steps: Steps, *, quick: bool = False) -> dict[str, Any]:
    """All figures, files going to new folders below `folder`.

    What takes long is measured in three turns at most. `quick` leaves the largest trees out, which leaves `memory_mb`
    None, and takes one turn for records. `root_ratio` is the largest of all sizes measured. Raises RunError, or what
    an AnchoringError says, where a tree, a proof or a receipt is wrong.
    """
    fewer = min(turns, _FEWER_TURNS)
    sizes = QUICK_SIZES if quick else SIZES
    table = []
    with steps.step("Trees in memory", total=len(sizes)) as advance:
        for size in sizes:
            table.append(measure_size(size, turns if size <= LOG_SIZE else fewer))
            advance()
    of_log = next(row for row in table if row["n"] == LOG_SIZE)
    result: dict[str, Any] = {
        "root_ratio": max(row["root_ratio"] for row in table),
        "inclusion_us": of_log["inclusion_us"],
        "verification_us": of_log["verification_us"],
        "verification_hashlib_us": of_log["verification_hashlib_us"],
        "memory_mb": next((row["memory_mb"] for row in table if row["n"] == SIZES[-1]), None),
    }
    with steps.step("Receipts"):
        result |= measure_receipts(LOG_SIZE, turns)
    with steps.step("Appends to a log on disk"):
        result |= measure_appends(folder, turns)
    with steps.step("Batches"):
        result |= measure_batches(folder, LOG_SIZE, fewer)
    with steps.step("Records and their receipts"):
        result |= measure_commit(folder, 1 if quick else fewer)
    result["table"] = table
    result["limits"] = dict(LIMITS)
    result["at_least"] = sorted(AT_LEAST)
    result["within_limits"] = {name: is_within(name, result[name]) for name in LIMITS}
    result["measured"] = {
        "turns": turns,
        "folder": str(folder),
        "appends_in_a_turn": APPENDS,
        "entry_bytes": ENTRY_SIZE,
        "log_entries": LOG_SIZE,
        "hashlib": ssl.OPENSSL_VERSION,
    }
    return result


def is_within(name: str, value: float | None) -> bool | None:
    """Whether a figure keeps its limit; None where it was not measured."""
    if value is None:
        return None
    return value >= LIMITS[name] if name in AT_LEAST else value <= LIMITS[name]
