"""`djms demo`: from raw CSV files to a trained model, its comparison, and a ranking, on one machine.

    raw CSV -> data.preparation -> one table per office -> federation on Flower's simulation -> comparison -> results

Synthetic tables stay beside the results. Tables made from real files are kept in a temporary folder for the length of
the run, and a real person's ranking is shown and not written: a results folder gets passed around, and records do not
travel.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from anchoring.anchor_folder import AnchorFolder
from client.ranking import rank_companies
from client.site import Site
from common.errors import InputError
from common.files import atomic_path
from common.model import MatchingModel, ModelCard, read_model
from common.progress import Steps
from common.settings import Settings
from common.split import Part, split_people
from data.generator import RawDataset, generate, write_raw
from data.partition import partition
from data.preparation import Dataset, prepare, raw_files_of
from data.scenarios import OFFICE_TOWNS
from federation.comparison import Comparison, baseline_steps, compare, load_sites
from federation.plots import plot_comparison, plot_offices, plot_progress
from federation.results import (
    DEMO_LOG,
    check_out,
    new_run_directory,
    note_of,
    protections_of,
    read_result,
    write_summary,
)
from federation.simulation import run_simulation
from server.job import Job
from server.outcome import MODEL_FILE, ROUNDS_FILE

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
    with _workspace(settings, source, out, bars) as (directory, dataset, tables, sites):
        card = ModelCard(dataset.info.labels, settings.hidden, dataset.info.synthetic)
        ledgers = settings.paths.ledger_dir if source.raw is not None else directory / "data" / "ledgers"
        with bars.step("Federated training", settings.federated.rounds) as advance:
            job = Job(settings, tuple(sites), card, directory, on_round=lambda _row: advance())
            with _log_of_its_own(job) as (job, witnesses):
                run_simulation(job, tables, ledgers, witnesses)
        result = read_result(directory)
        model, _ = read_model(directory / MODEL_FILE)
        with bars.step("Training the baselines", baseline_steps(settings, len(sites))) as advance:
            comparison = compare(model, result["threshold"], sites, tables, settings, advance)
        with bars.step("Ranking and drawing"):
            ranking, person = _rank(model, dataset, settings)
            if dataset.info.synthetic:  # a real person's distances would tell where the person lives
                _write_ranking(ranking, directory)
            _draw(directory, comparison, result, note_of(dataset.info.labels, dataset.info.synthetic))
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
        "model_sha256": result["model_sha256"],
        "cohort": result["cohort"],
        "threshold": result["threshold"],
        **protections_of(result),
        "metrics": comparison.pooled,
        "metrics_by_office": comparison.by_office,
        "ranking": None,
    }
    if dataset.info.synthetic:
        summary["ranking"] = {"office": person["office"], "companies": ranking.head(5)["company_id"].tolist()}
    write_summary(directory, summary)
    return {**summary, "directory": str(directory), "top": ranking.head(5), "person": person}


@contextmanager
def _workspace(
    settings: Settings, source: Source, out: Path | None, bars: Steps
) -> Iterator[tuple[Path, Dataset, dict[str, Path], dict[str, Site]]]:
    """The run's folder, the data, the offices' tables and sites.

    Everything is prepared in a temporary folder first, so that bad input leaves nothing behind; what is synthetic then
    moves into the run's folder, what is real vanishes with the temporary one.
    """
    check_out(out)
    settings.require_quorum(len(settings.offices))
    with tempfile.TemporaryDirectory(prefix="djms-") as temporary:
        data = Path(temporary) / "data"
        raw = source.raw
        if raw is None:
            raw = data / "raw"
            with bars.step("Drawing synthetic people and companies"):
                write_raw(_draw_synthetic(settings, source), raw)
        with bars.step("Reading and pairing"):
            dataset = prepare(raw_files_of(settings, raw), settings)
        with bars.step("Splitting by office"):
            tables = partition(dataset.table, dataset.info, settings.offices, data / "federated")
        with bars.step("Checking the offices' tables"):
            sites = load_sites(tables, settings)
        directory = new_run_directory(settings, "demo", out)
        if source.raw is None:
            shutil.move(data, directory / "data")
            tables = {office: directory / "data" / "federated" / path.name for office, path in tables.items()}
        yield directory, dataset, tables, sites


@contextmanager
def _log_of_its_own(job: Job) -> Iterator[tuple[Job, Path | None]]:
    """The job with a log in the run's folder, and where its witnesses are; private keys are gone after the run."""
    if not job.settings.anchoring.enabled:
        yield job, None
        return
    with tempfile.TemporaryDirectory(prefix="djms-keys-") as private:
        keys, folder = Path(private) / "log", job.output / DEMO_LOG
        AnchorFolder.create(folder, f"djms-demo-{job.run}", keys=keys)
        yield replace(job, anchor=folder, anchor_keys=keys), Path(private) / "witnesses"


def _draw_synthetic(settings: Settings, source: Source) -> RawDataset:
    if set(settings.offices) != set(OFFICE_TOWNS):
        raise InputError(
            "synthetic people live in the five offices of Veneto, and the settings name other offices",
            where="settings key 'offices'",
            remedy="leave that key out, or bring files of your own with --raw",
        )
    return generate(
        candidates=source.candidates, companies=source.companies, seed=settings.seed, scenario=source.scenario
    )


def _rank(model: MatchingModel, dataset: Dataset, settings: Settings) -> tuple[pd.DataFrame, pd.Series]:
    """The ranking for the first person that nobody trained on, and that person's row."""
    shares = {"validation_share": settings.data.validation_share, "test_share": settings.data.test_share}
    part = split_people(dataset.candidates, seed=settings.seed, **shares)
    person = int(np.argmax(part == Part.TEST))
    ranking = rank_companies(
        model, dataset.candidates, dataset.companies, person, distance_max_km=settings.ui.distance_max_km
    )
    return ranking, dataset.candidates.iloc[person]


def _write_ranking(ranking: pd.DataFrame, directory: Path) -> None:
    with atomic_path(directory / RANKING_FILE) as path:
        ranking.round({"probability": 6, "distance_km": 2, "compatibility_score": 4}).to_csv(path, index=False)


def _draw(directory: Path, comparison: Comparison, result: dict[str, Any], note: str) -> None:
    if result["differential_privacy"] is None:  # with it nobody but a site knows how good a round's model is
        rounds = pd.read_csv(directory / ROUNDS_FILE)
        plot_progress(rounds, comparison.validation, directory / "progress.png", note=f"{note} · validation people")
    plot_comparison(comparison.pooled, directory / "comparison.png", note=f"{note} · test people")
    offices = {
        office: {name: metrics[name] for name in ("federated", "local", "best_possible")}
        for office, metrics in comparison.by_office.items()
    }
    plot_offices(offices, directory / "offices.png", note=f"{note} · test people")
