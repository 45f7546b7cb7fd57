"""`djms demo`: from raw CSV files to a trained model, its comparison, and a ranking, on one machine.

    raw CSV -> data.preparation -> one table per office -> federation on Flower's simulation -> comparison -> results

Synthetic tables stay beside the results. Tables made from real files are kept in a temporary folder for the length of
the run: a results folder gets passed around, and records do not travel.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from client.ranking import rank_companies
from common.files import atomic_path
from common.model import ModelCard, parameters_of, read_model, sha256_of
from common.progress import Steps
from common.settings import Settings
from common.split import Part, split_people
from data.generator import generate, write_raw
from data.partition import partition
from data.preparation import Dataset, prepare, raw_files_of
from federation.comparison import Comparison, baseline_steps, compare, load_sites
from federation.plots import plot_comparison, plot_offices, plot_progress
from federation.results import new_run_directory, note_of, read_result, write_summary
from federation.simulation import run_simulation
from server.job import Job
from server.rounds import MODEL_FILE, ROUNDS_FILE

RANKING_FILE = "ranking.csv"


@dataclass(frozen=True)
class Source:
    """Where the raw files come from: a folder of the office's own, or the generator."""

    raw: Path | None
    candidates: int
    companies: int
    scenario: Literal["reference", "heterogeneous"]


def run_demo(settings: Settings, source: Source, out: Path | None, bars: Steps) -> dict[str, Any]:
    """Do all of it; returns the summary (which also stands in the run's folder), with `directory`, `top`, `person`."""
    started = time.monotonic()
    with _workspace(settings, source, out, bars) as (directory, dataset, tables):
        with bars.step("Checking the offices' tables"):
            sites = load_sites(tables, settings)
        card = ModelCard(dataset.info.labels, settings.training.hidden, dataset.info.synthetic)
        with bars.step("Federated training", settings.federated.rounds) as advance:
            job = Job(settings, tuple(sites), card, directory, on_round=lambda _row: advance())
            run_simulation(job, tables)
        result = read_result(directory)
        model, _ = read_model(directory / MODEL_FILE)
        with bars.step("Training the baselines", baseline_steps(settings, len(sites))) as advance:
            comparison = compare(model, result["threshold"], sites, tables, settings, advance)
        with bars.step("Ranking and drawing"):
            ranking, person = _rank(model, dataset, settings, directory)
            _draw(directory, comparison, note_of(dataset.info.labels, dataset.info.synthetic))
    summary = {
        "run": directory.name,
        "seed": settings.seed,
        "seconds": round(time.monotonic() - started, 1),
        "scenario": source.scenario if source.raw is None else None,
        "synthetic": dataset.info.synthetic,
        "labels": dataset.info.labels,
        "engine": "simulation",
        "aggregator": settings.federated.aggregator,
        "rounds": settings.federated.rounds,
        "people": len(dataset.candidates),
        "companies": len(dataset.companies),
        "pairs": len(dataset.table),
        "model_sha256": sha256_of(parameters_of(model), card),
        "cohort": result["cohort"],
        "threshold": result["threshold"],
        "protections": {"differential_privacy": False, "secure_aggregation": False, "anchoring": False},
        "metrics": comparison.pooled,
        "metrics_by_office": comparison.by_office,
        "ranking": {"office": person["office"], "companies": ranking.head(5)["company_id"].tolist()},
    }
    write_summary(directory, summary)
    return {**summary, "directory": str(directory), "top": ranking.head(5), "person": person}


@contextmanager
def _workspace(
    settings: Settings, source: Source, out: Path | None, bars: Steps
) -> Iterator[tuple[Path, Dataset, dict[str, Path]]]:
    """The run's folder, the data, and the offices' tables; no folder is made before the input is known to be good."""
    if source.raw is not None:
        with bars.step("Reading and pairing"):
            dataset = prepare(raw_files_of(settings, source.raw), settings)
        with tempfile.TemporaryDirectory(prefix="djms-") as temporary:
            with bars.step("Splitting by office"):
                tables = partition(dataset.table, dataset.info, settings.offices, Path(temporary))
            load_sites(tables, settings)  # before the run's folder is made: a bad table leaves nothing behind
            yield new_run_directory(settings, "demo", out), dataset, tables
        return
    with bars.step("Drawing synthetic people and companies"):
        drawn = generate(
            candidates=source.candidates, companies=source.companies, seed=settings.seed, scenario=source.scenario
        )
        directory = new_run_directory(settings, "demo", out)
        raw = directory / "data" / "raw"
        write_raw(drawn, raw)
    with bars.step("Reading and pairing"):
        dataset = prepare(raw_files_of(settings, raw), settings)
    with bars.step("Splitting by office"):
        tables = partition(dataset.table, dataset.info, settings.offices, directory / "data" / "federated")
    yield directory, dataset, tables


def _rank(model: Any, dataset: Dataset, settings: Settings, directory: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rank for the first person that nobody trained on; the file says nothing about the person."""
    shares = {"validation_share": settings.data.validation_share, "test_share": settings.data.test_share}
    part = split_people(dataset.candidates, seed=settings.seed, **shares)
    person = int(np.argmax(part == Part.TEST))
    ranking = rank_companies(
        model, dataset.candidates, dataset.companies, person, distance_max_km=settings.ui.distance_max_km
    )
    with atomic_path(directory / RANKING_FILE) as path:
        ranking.round({"probability": 6, "distance_km": 2, "compatibility_score": 4}).to_csv(path, index=False)
    row = dataset.candidates.iloc[person]
    shown = str(row["candidate_id"]) if dataset.info.synthetic else None
    return ranking, {"office": str(row["office"]), "id": shown}


def _draw(directory: Path, comparison: Comparison, note: str) -> None:
    rounds = pd.read_csv(directory / ROUNDS_FILE)
    plot_progress(rounds, comparison.validation, directory / "progress.png", note=f"{note} · validation people")
    plot_comparison(comparison.pooled, directory / "comparison.png", note=f"{note} · test people")
    offices = {
        office: {name: metrics[name] for name in ("federated", "local", "best_possible")}
        for office, metrics in comparison.by_office.items()
    }
    plot_offices(offices, directory / "offices.png", note=f"{note} · test people")
