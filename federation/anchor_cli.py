"""`djms anchor`: the log of what was trained, put together from the rooms that know how."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from anchoring.bench_cli import bench
from anchoring.cli import Anchor, KeyOption, SignersOption, folder_of, init, log, prove, rotate, verify
from anchoring.publish_cli import publish
from anchoring.records_cli import app as records_app
from anchoring.verification import read_policy, read_signers
from client.witness_cli import app as witness_app
from common.cli import DjmsCommand, new_group
from common.progress import progress_bars
from common.report import Report

app = new_group("The append-only log of what was trained: make it, prove from it, check it.")


@app.callback()
def group() -> None:
    """The append-only log of what was trained: make it, prove from it, check it."""


for command in (init, log, prove, verify, rotate, publish, bench):
    app.command(command.__name__, cls=DjmsCommand)(command)
app.add_typer(records_app, name="records")
app.add_typer(witness_app, name="witness")


@app.command("audit", cls=DjmsCommand)
def audit(
    context: typer.Context,
    anchor: Anchor = None,
    signers: SignersOption = None,
    key: KeyOption = None,
    witnesses: Annotated[Path | None, typer.Option(help="File of the witnesses, as you know them.")] = None,
    earlier: Annotated[
        list[Path] | None, typer.Option(help="A receipt or checkpoint that you kept. Repeatable.")
    ] = None,
) -> Report:
    """Look through the whole log, recompute what can be recomputed, and name the first thing that does not fit."""
    from server.anchor_audit import audit as look_through

    trusted = None if signers is None and key is None else read_signers(signers, key)
    with progress_bars() as bars, bars.step("Looking through the log"):
        found = look_through(
            folder_of(context, anchor), signers=trusted, policy=read_policy(witnesses), earlier=earlier or ()
        )
    data = {**asdict(found), "entries": dict(found.entries), "own_signers": trusted is not None, "passed": True}
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.entries.items())) or "none"
    believed = "the signers you brought" if trusted is not None else "the signers in the folder itself: bring your own"
    return Report(
        data,
        f"Everything fits in the log {found.origin}.\n"
        f"  Entries       {found.size} ({kinds}), every one replayed\n"
        f"  Checkpoints   {found.checkpoints} kept, {found.published} published, each with the root recomputed\n"
        f"  Models        {found.models} manifests of {found.runs} runs; models, cards and ε recomputed\n"
        f"  Kept by you   {found.earlier} of earlier, all beginnings of this log\n"
        f"  Believed by   {believed}",
    )
