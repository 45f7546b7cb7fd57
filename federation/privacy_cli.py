"""`djms privacy`: what the protections of people's data cost."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from client.privacy_cli import ledger, plan
from common.cli import DjmsCommand, new_group, settings_of
from common.errors import InputError
from common.progress import progress_bars
from common.report import Report
from federation.audit_cli import audit

SITES = "5,20,100,550"
QUICK_SITES = "5"
_THRESHOLD = "privacy.secure_agg.threshold=70%"  # the default, "3-of-5", fits one size of cohort only
_FEWEST, _MOST = 4, 2_000
_FIGURES = {
    "client_ratio": "a site's work in a round / Flower's SecAgg+",
    "server_ratio": "unmasking with one dropout / Flower's SecAgg+",
    "peak_memory_ratio": "a site's peak memory / its vector",
    "bytes_ratio": "bytes a site sends in a round / its vector",
    "seconds_550": "seconds of a full round with 550 sites",
}

app = new_group("What the protections of people's data cost.")


@app.callback()
def group() -> None:
    """What the protections of people's data cost."""


app.command("plan", cls=DjmsCommand)(plan)
app.command("ledger", cls=DjmsCommand)(ledger)
app.command("audit", cls=DjmsCommand)(audit)


@app.command("bench", cls=DjmsCommand)
def bench(
    context: typer.Context,
    sites: Annotated[str | None, typer.Option(help=f"Numbers of sites to run a round with [default: {SITES}].")] = None,
    parameters: Annotated[
        int, typer.Option(min=1_000, help="Length of the vectors in the comparison with Flower's SecAgg+.")
    ] = 1_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Turns whose median is taken.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="Run no round with more than 5 sites.")] = False,
) -> Report:
    """Measure secure aggregation: work, memory and bytes beside Flower's SecAgg+, and rounds in the simulation."""
    numbers = _numbers(sites or (QUICK_SITES if quick else SITES))
    settings = settings_of(context, _THRESHOLD, "privacy.dp.enabled=false", "anchoring.enabled=false")
    with progress_bars() as bars:
        with bars.step("Starting"):
            from federation.secure_bench import run_bench

        result = run_bench(settings, numbers, parameters, repeats, bars)
    return Report(result, _text(result))


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and _FEWEST <= int(part) <= _MOST for part in parts):
        raise InputError(
            f"{text!r} are not numbers of sites from {_FEWEST} to {_MOST}",
            where="--sites",
            remedy=f"separate them by commas, for example {SITES}",
        )
    return [int(part) for part in parts]


def _text(result: dict[str, Any]) -> Group:
    reference = result["measured"]["reference"]
    head = Text.assemble(
        ("\nSecure aggregation, measured\n", "bold"),
        f"{result['n']} sites, {result['parameters']:,} numbers each; Flower {reference['version']}.\n",
    )
    figures = Table(box=None, pad_edge=False)
    for column in ("", "measured", "at most", ""):
        figures.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, title in _FIGURES.items():
        kept = {True: "kept", False: "NOT KEPT", None: "not measured"}[result["within_limits"][name]]
        measured = "–" if result[name] is None else f"{result[name]:.3f}"
        figures.add_row(title, measured, f"{result['limits'][name]:g}", kept)
    middle = Text(
        f"\nExchanges a round: {result['exchanges_per_round']}, and {result['exchanges_per_round_with_a_gap']} "
        f"where a site is missing.\nWith its share of a set-up for {result['setup_rounds']} rounds a "
        f"site's work is {result['client_ratio_with_setup']:.3f} of Flower's.\n"
    )
    scale = Table(title="One round in Flower's simulation, set-up included", title_justify="left", box=None)
    for column in ("sites", "neighbours", "threshold", "dropped out", "seconds", "set-up", "round", "KB from a site"):
        scale.add_column(column, justify="right")
    for row in result["scale"]:
        counts = [row["n"], row["neighbours"], row["threshold"], row["dropouts"]]
        seconds = [row["seconds"], row["seconds_setup"], row["seconds_round"]]
        scale.add_row(
            *(str(count) for count in counts),
            *(f"{value:.1f}" for value in seconds),
            f"{row['bytes'] / 1000:.1f}",
        )
    return Group(head, figures, middle, scale)
