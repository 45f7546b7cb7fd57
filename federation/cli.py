"""`djms demo` and `djms federate`: a whole federation on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from common.cli import DjmsCommand, settings_of
from common.errors import InputError
from common.progress import progress_bars
from common.report import Report
from federation.protection_texts import protections_text

QUICK = ("data.pairs_per_candidate=20", "federated.rounds=3")
_SHOWN = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "f1": "F1",
    "log_loss": "log-loss",
    "brier": "Brier",
    "ece": "ECE",
    "ndcg_at_5": "NDCG@5",
}
_TITLES = {
    "federated": "federated",
    "centralised": "centralised",
    "local": "each office alone",
    "rule": "the rule alone",
    "yes_to_everybody": "yes to everybody",
    "best_possible": "best possible",
}

Scenario = Annotated[
    Literal["reference", "heterogeneous"],
    typer.Option(help="Synthetic offices: alike under the reference rule, or different, in the rule too."),
]
Out = Annotated[Path | None, typer.Option(help="Folder of the run [default: a new one under paths.results_dir].")]


def register(app: typer.Typer) -> None:
    """Add this room's commands to the `djms` command."""
    app.command("demo", cls=DjmsCommand)(demo)
    app.command("federate", cls=DjmsCommand)(federate)


def demo(
    context: typer.Context,
    raw: Annotated[Path | None, typer.Option(help="Real raw CSV files instead of synthetic ones.")] = None,
    scenario: Scenario = "reference",
    candidates: Annotated[int | None, typer.Option(min=1, help="Synthetic people [default: 10000].")] = None,
    companies: Annotated[int | None, typer.Option(min=1, help="Synthetic companies [default: 1000].")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small one, for a look around.")] = False,
    out: Out = None,
) -> Report:
    """Five offices train one model, from CSV files to ranked companies."""
    settings = settings_of(context, *(QUICK if quick else ()))
    if raw is not None and (candidates is not None or companies is not None):
        raise InputError(
            "the number of people and companies is what the files hold",
            where="--raw",
            remedy="leave --candidates and --companies out",
        )
    with progress_bars() as bars:
        with bars.step("Starting"):  # importing Flower and PyTorch takes seconds
            from federation.demo import Source, run_demo

        people, firms = candidates or (1_000 if quick else 10_000), companies or (200 if quick else 1_000)
        summary = run_demo(settings, Source(raw, people, firms, scenario), out, bars)
    top, person = summary.pop("top"), summary.pop("person")
    return Report(summary, _demo_text(summary, top, person))


def federate(
    context: typer.Context,
    engine: Annotated[
        Literal["simulation", "deployment"],
        typer.Option(help="Simulated sites, or real SuperLink and SuperNode processes on loopback."),
    ] = "simulation",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the offices' tables [default: paths.federated_dir].")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let the deployment engine speak plain text on loopback.")
    ] = False,
    out: Out = None,
) -> Report:
    """Train one model over the offices' tables that `djms data partition` wrote."""
    settings = settings_of(context)
    with progress_bars() as bars:
        with bars.step("Starting"):
            from federation.runs import run_federation

        summary = run_federation(settings, data, engine, insecure, out, bars)
    metrics = summary["metrics"]["federated"]
    text = Text.assemble(
        (f"Trained over {len(summary['cohort'])} sites, {summary['rounds']} rounds ", "bold"),
        f"({engine}; labels: {summary['labels']}{_synthetic(summary)}).\n",
        f"{_quality(summary)}: ROC-AUC {_shown(metrics['roc_auc'])}, "
        f"log-loss {_shown(metrics['log_loss'])}, NDCG@5 {_shown(metrics['ndcg_at_5'])}.\n",
        protections_text(summary),
        f"Model   {summary['model_sha256']}\nFiles   {summary['directory']}",
        no_wrap=True,
        overflow="ignore",
    )
    return Report(summary, text)


def _quality(summary: dict[str, Any]) -> str:
    """Where the figures come from."""
    if summary["differential_privacy"] is None:
        return "On test people, from sums over sites"
    if summary["synthetic"]:
        return "On synthetic test people, evaluated here because no site gives its evaluation"
    return "How good the model is, each office finds on its own people; no site gives its evaluation"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _synthetic(summary: dict[str, Any]) -> str:
    return ", synthetic data" if summary["synthetic"] else ""


def _demo_text(summary: dict[str, Any], top: Any, person: dict[str, Any]) -> Group:
    kind = "synthetic " if summary["synthetic"] else ""
    head = Text.assemble(
        ("\nOne model from ", "bold"),
        (f"{len(summary['cohort'])} offices", "bold"),
        (f", {summary['rounds']} rounds, {summary['seconds']:.0f} s\n", "bold"),
        f"{summary['people']:,} {kind}people, {summary['companies']:,} {kind}companies, {summary['pairs']:,} pairs; "
        f"labels: {summary['labels']}.\n",
        protections_text(summary),
    )
    comparison = Table(title="On test people nobody trained on", title_justify="left", box=None, pad_edge=False)
    comparison.add_column("", no_wrap=True)
    for heading in _SHOWN.values():
        comparison.add_column(heading, justify="right", no_wrap=True)
    for name, title in _TITLES.items():
        values = summary["metrics"][name]
        cells = [_shown(values[metric]) for metric in _SHOWN]
        comparison.add_row(title, *cells, style="bold" if name == "federated" else "")
    who = f"candidate {person['candidate_id']}" if summary["synthetic"] else "one candidate"
    heading = Text(f"\nCompanies for {who} of {person['office']}, best first", style="italic")
    ranking = Table(box=None, pad_edge=False)
    for column in ("", "company", "probability", "km"):
        ranking.add_column(column, justify="left" if column == "company" else "right")
    for row in top.itertuples():
        distance = "unknown" if row.distance_km != row.distance_km else f"{row.distance_km:.1f}"
        ranking.add_row(str(row.rank), row.company_id, f"{row.probability:.3f}", distance)
    directory = summary["directory"]
    foot = Text(
        f"\nModel   {summary['model_sha256']}\n"
        f"Files   {directory} (summary.json, rounds.csv, comparison.png and more)\n"
        "Next    djms demo --scenario heterogeneous      offices that differ\n"
        "        djms demo --raw DIR                     your own CSV files\n"
        "        djms data --help                        step by step",
        no_wrap=True,
        overflow="ignore",
    )
    return Group(head, comparison, heading, ranking, foot)
