"""`djms federate`: one federated run over tables that are already there, by simulation or by real processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from anchoring.anchor_folder import AnchorFolder
from common.dataset_info import DatasetInfo
from common.metrics import METRICS
from common.model import ModelCard, read_model
from common.progress import Steps
from common.settings import Settings
from data.partition import find_partition
from federation.baselines import NAMES
from federation.comparison import evaluate_here, hidden_office, load_sites
from federation.deployment import require_consent, run_deployment
from federation.plots import plot_progress
from federation.results import check_out, new_run_directory, note_of, protections_of, read_result, write_summary
from federation.simulation import run_simulation
from server.job import Job
from server.outcome import MODEL_FILE, ROUNDS_FILE


def run_federation(
    settings: Settings,
    data: Path | None,
    engine: Literal["simulation", "deployment"],
    insecure: bool,
    out: Path | None,
    bars: Steps,
) -> dict[str, Any]:
    """Train over the offices' tables in `data`; returns the summary, which also stands in the run's folder.

    Metrics are the federation's own, from sums over its sites; with differential privacy no site gives any, and they
    are null but for synthetic people, whose tables are evaluated here. Baselines and offices' own metrics are null:
    they would need everybody's pairs in one place.
    """
    if engine == "deployment":
        require_consent(insecure)
    started = time.monotonic()
    check_out(out)
    if settings.anchoring.enabled:
        AnchorFolder.open(settings.paths.anchor_dir).signer()
    directory = data if data is not None else settings.paths.federated_dir
    tables = find_partition(directory, settings.offices)
    info = DatasetInfo.read(directory)
    with bars.step("Checking the offices' tables"):
        sites = load_sites(tables, settings)
    run = new_run_directory(settings, "federate", out)
    card = ModelCard(info.labels, settings.hidden, info.synthetic)
    with bars.step(f"Federated training ({engine})", settings.federated.rounds) as advance:
        anchor = settings.paths.anchor_dir if settings.anchoring.enabled else None
        job = Job(settings, tuple(tables), card, run, anchor=anchor, on_round=lambda _row: advance())
        _run(engine, job, tables, insecure)
    result = read_result(run)
    nothing: dict[str, float | None] = dict.fromkeys(METRICS)
    test_people, metrics = result["test_people"], result["test_metrics"]
    if result["differential_privacy"] is None:
        note = f"{note_of(info.labels, info.synthetic)} · validation people"
        plot_progress(pd.read_csv(run / ROUNDS_FILE), {}, run / "progress.png", note=note)
    elif info.synthetic:
        test_people, metrics = evaluate_here(read_model(run / MODEL_FILE)[0], sites)
    else:
        metrics = nothing
    summary = {
        "run": run.name,
        "seed": settings.seed,
        "seconds": round(time.monotonic() - started, 1),
        "synthetic": info.synthetic,
        "labels": info.labels,
        "engine": engine,
        "aggregator": settings.federated.aggregator,
        "rounds": settings.federated.rounds,
        "model_sha256": result["model_sha256"],
        "cohort": result["cohort"],
        "threshold": result["threshold"],
        "test_people": test_people,
        **protections_of(result),
        "metrics_by_office": {office: hidden_office() for office in tables},
        "metrics": {name: metrics if name == "federated" else nothing for name in NAMES},
    }
    write_summary(run, summary)
    return {**summary, "directory": str(run)}


def _run(engine: str, job: Job, tables: dict[str, Path], insecure: bool) -> None:
    if engine == "simulation":
        run_simulation(job, tables)
        return
    told = 0

    def on_rounds(done: int) -> None:
        nonlocal told
        for _ in range(done - told):
            job.on_round({})
        told = max(told, done)

    run_deployment(job, tables, insecure=insecure, on_rounds=on_rounds)
