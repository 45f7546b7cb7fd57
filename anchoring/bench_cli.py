"""`djms anchor bench`: what anchoring costs on this machine and this disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from common.progress import progress_bars
from common.report import Report

TURNS, QUICK_TURNS = 5, 2
_FIGURES = {
    "root_ratio": ("a root's time / as many hashes', largest of all n", ".2f", ""),
    "inclusion_us": ("an inclusion proof of 10,000 entries in memory, µs", ".1f", ""),
    "verification_us": (
        "its verification without a signature, µs",
        ".1f",
        "{verification_hashlib_us:.1f} for as many hashes",
    ),
    "beyond_signature_us": (
        "a receipt's verification less its signature check, µs",
        ".1f",
        "{signature_us:.1f} for the bare check",
    ),
    "commit_seconds": (
        "10,000 records committed, receipts written, s",
        ".2f",
        "{commit_hashing_seconds:.2f} hashing + {commit_files_seconds:.2f} bare files",
    ),
    "appends_per_second": (
        "entries a second, one at a time",
        ",.0f",
        "{appends_bare_per_second:,.0f} with bare files",
    ),
    "batch_entries_per_second": (
        "entries a second, in a batch of 10,000",
        ",.0f",
        "{batch_bare_entries_per_second:,.0f} with bare files",
    ),
    "memory_mb": ("memory of a tree of 1,000,000 leaves, MB", ".1f", ""),
}
"""Figures with limits: what they are, how they are written, and what was measured beside them."""

_COLUMNS = ("n", "root ms", "hashes ms", "ratio", "tree ms", "proof µs", "verify µs", "MB")


def bench(
    folder: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, writable=True, help="Folder on the disk to measure [default: the system's]."
        ),
    ] = None,
    turns: Annotated[
        int | None,
        typer.Option(min=1, help=f"Turns of which the best is taken [default: {TURNS}; {QUICK_TURNS} if quick]."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out trees of more than 10,000 leaves.")] = False,
) -> Report:
    """Measure the log: hashing, proofs, receipts, appends and records, each beside the least that it could cost."""
    with progress_bars() as bars:
        with bars.step("Starting"):
            from anchoring.bench import run_bench

        where = Path(tempfile.gettempdir() if folder is None else folder)
        result = run_bench(where, turns or (QUICK_TURNS if quick else TURNS), bars, quick=quick)
    return Report(result, _text(result))


def _text(result: dict[str, Any]) -> Group:
    measured = result["measured"]
    head = Text.assemble(
        ("\nAnchoring, measured\n", "bold"),
        f"Best of up to {measured['turns']} turns; files below {measured['folder']}; {measured['hashlib']}.\n",
    )
    figures = Table(box=None, pad_edge=False)
    for column in ("", "measured", "limit", "", "beside it, in the same run"):
        figures.add_column(column, justify="right" if column in ("measured", "limit") else "left", no_wrap=True)
    for name, (title, form, beside) in _FIGURES.items():
        kept = {True: "kept", False: "NOT KEPT", None: "not measured"}[result["within_limits"][name]]
        value = "–" if result[name] is None else format(result[name], form)
        side = "≥" if name in result["at_least"] else "≤"
        figures.add_row(title, value, f"{side} {result['limits'][name]:,g}", kept, beside.format(**result))
    scale = Table(title="Trees in memory", title_justify="left", box=None)
    for column in _COLUMNS:
        scale.add_column(column, justify="right")
    for row in result["table"]:
        times = (row["root_ms"], row["hashlib_ms"], row["root_ratio"], row["tree_ms"])
        scale.add_row(
            f"{row['n']:,}",
            *(f"{value:,.2f}" for value in times),
            *(f"{row[name]:.1f}" for name in ("inclusion_us", "verification_us", "memory_mb")),
        )
    note = Text("\nThe root keeps no node, the tree all of them for proofs; hashes are as many as either takes.")
    return Group(head, figures, Text(remarks(result)), scale, note)


def remarks(result: dict[str, Any]) -> str:
    """What has no limit, and what the disk alone explains."""
    slow = result["appends_bare_per_second"] < result["limits"]["appends_per_second"]
    disk = "This disk, as busy as it is, does not reach that limit for appends with bare files either.\n"
    return (
        f"\nReading a receipt's text takes {result['receipt_reading_us']:.0f} µs more. A proof from the log's files, "
        f"once verified, takes {result['log_inclusion_us']:.0f} µs.\n"
        f"With the lock taken and the log verified before each: {result['appends_reopened_per_second']:,.0f} entries "
        f"a second, one at a time.\n{disk if slow else ''}"
    )
