"""`djms privacy plan` and `djms privacy ledger`: what a run would cost people, and what they have paid already."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from common.cli import settings_of
from common.progress import progress_bars
from common.report import Report


def plan(
    context: typer.Context,
    candidates: Annotated[int, typer.Option(min=1, help="People of all sites together, those for testing included.")],
    epsilon: Annotated[float | None, typer.Option(help="What it may cost each [default: privacy.dp.epsilon].")] = None,
    delta: Annotated[float | None, typer.Option(help="Its chance to fail [default: privacy.dp.delta].")] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Number of sites [default: those of `offices`].")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds [default: federated.rounds].")] = None,
    local_steps: Annotated[
        int | None, typer.Option(min=1, help="A site's steps in a round [default: privacy.dp.local_steps].")
    ] = None,
) -> Report:
    """Say what noise a privacy budget needs and what quality to expect, before anything is spent."""
    settings = settings_of(context)
    dp = settings.privacy.dp
    with progress_bars() as bars, bars.step("Planning"):
        from client.expected_quality import measured_table
        from client.plan_report import Wanted, plan_report
        from client.privacy_texts import plan_text

        wanted = Wanted(
            epsilon=dp.epsilon if epsilon is None else epsilon,
            delta=dp.delta if delta is None else delta,
            candidates=candidates,
            sites=len(settings.offices) if sites is None else sites,
            rounds=settings.federated.rounds if rounds is None else rounds,
            local_steps=dp.local_steps if local_steps is None else local_steps,
        )
        found = plan_report(wanted, settings, measured_table())
    return Report(found, plan_text(found))


def ledger(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(help="A ledger, or a folder of offices' folders [default: paths.ledger_dir].")
    ] = None,
) -> Report:
    """Show what people have paid, run by run, and what is left of each office's budget. Reads only."""
    settings = settings_of(context)
    with progress_bars() as bars:
        with bars.step("Starting"):
            from client.ledger_report import ledger_paths, office_report
            from client.privacy_texts import ledger_text

            paths = ledger_paths(settings.paths.ledger_dir if path is None else path)
        today = datetime.now(UTC).date()
        offices: list[dict[str, Any]] = []
        with bars.step("Reading and adding up", len(paths)) as done:
            for place in paths:
                offices.append(office_report(place, settings.privacy.budget.delta, today))
                done()
    found = {"offices": offices}
    return Report(found, ledger_text(found))
