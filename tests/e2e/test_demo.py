"""`djms demo`, as a newcomer runs it: its results, its claims about quality, and that one seed gives one model."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import Outcome
from e2e.independent_writer import TOWNS, write_office_files, write_outcomes

from common.metrics import METRICS

Djms = Callable[..., Outcome]
CONTESTANTS = {"federated", "centralised", "local", "rule", "yes_to_everybody", "best_possible"}
COMMAND = Path(sys.executable).with_name("djms")


@pytest.mark.slow
def test_on_the_reference_scenario_federating_privately_costs_little_and_little_is_left_to_gain(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "demo", "--json", "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    auc = {name: metrics["roc_auc"] for name, metrics in summary["metrics"].items()}
    assert summary["seed"] == 42
    assert summary["people"] == 10_000
    assert auc["federated"] >= auc["centralised"] - 0.005
    assert auc["federated"] >= auc["best_possible"] - 0.01
    assert auc["yes_to_everybody"] == 0.5
    assert summary["protections"]["secure_aggregation"] is True
    assert summary["secure_aggregation"]["sums"] == 10, "a sum was made that the noise does not cover"
    assert summary["protections"]["differential_privacy"] is True
    assert 0.99 < summary["differential_privacy"]["epsilon"] <= 1.0
    assert summary["secure_aggregation"]["malicious_coordinator"] is True
    federated = summary["metrics"]["federated"]
    assert federated["f1"] > summary["metrics"]["yes_to_everybody"]["f1"] + 0.01
    assert federated["ece"] < 0.03  # clipping makes probabilities a little too cautious
    assert set(summary["metrics"]) == CONTESTANTS
    assert all(set(metrics) == set(METRICS) for metrics in summary["metrics"].values())
    assert set(summary["metrics_by_office"]) == set(TOWNS)
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["metrics"] == summary["metrics"]


@pytest.mark.slow
def test_where_offices_differ_the_small_ones_gain_most_by_federating(djms: Djms, tmp_path: Path) -> None:
    done = djms("demo", "--scenario", "heterogeneous", "--dp.enabled", "false", "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    metrics, offices = done.data["metrics"], done.data["metrics_by_office"]
    assert metrics["federated"]["roc_auc"] > metrics["local"]["roc_auc"]
    assert metrics["federated"]["roc_auc"] > metrics["rule"]["roc_auc"] + 0.01
    for office in ("CPI_Treviso", "CPI_Venezia"):  # the two smallest
        assert offices[office]["federated"]["roc_auc"] > offices[office]["local"]["roc_auc"] + 0.004


@pytest.mark.slow
def test_on_raw_files_of_another_writer_the_same_holds_and_no_record_stays_behind(djms: Djms, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "run"
    write_office_files(raw, people=4_000, companies=500, seed=11)
    done = djms("demo", "--raw", raw, "--out", out, "--json", "--ledger_dir", tmp_path / "ledgers")
    assert done.code == 0, done.err
    summary = done.data
    auc = {name: metrics["roc_auc"] for name, metrics in summary["metrics"].items()}
    assert auc["federated"] >= auc["centralised"] - 0.015  # the noise differs from run to run
    assert summary["differential_privacy"]["epsilon"] <= 1.0
    assert summary["labels"] == "rule"
    assert summary["synthetic"] is False
    assert summary["people"] == 4_000
    assert summary["cohort"] == sorted(TOWNS)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    proofs = {name for name in written if name.startswith(("demo-log/", "receipts/"))}
    assert len(proofs) > 20
    assert not [name for name in proofs if name.endswith(".key")], "a private key stayed behind"
    models = {name for name in written if name.startswith("models/round-")}
    assert len(models) == summary["rounds"]
    assert written - proofs - models == {
        *(".lock", "run_state.jsonl"),
        *("summary.json", "settings.yaml", "versions.json", "rounds.csv", "model.safetensors", "federation.json"),
        *("privacy_ledger.json", "comparison.png", "offices.png", "flower.log", "pseudonyms.json"),
    }
    assert summary["ranking"] is None, "a real person's distances to companies tell where the person lives"
    for path in out.rglob("*"):
        if path.is_file():
            assert b"C000001" not in path.read_bytes(), f"{path.name} names a person"


@pytest.mark.slow
def test_labels_come_from_recorded_outcomes_where_there_are_any(djms: Djms, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "run"
    write_office_files(raw, people=1_500, companies=60, seed=5)
    _add_identifiers(raw / "Dataset_Candidati_Aggiornato.csv")
    random_ = random.Random(1)
    rows = []
    for person in range(1_500):
        for company in random_.sample(range(person % 5, 60, 5), 4):
            steps = ["proposto", "colloquio", "assunto", "cessato"][: random_.choice([1, 2, 3, 4])]
            rows += [(f"P{person}", f"Ditta inventata, n. {company}", "2025-03-01", step) for step in steps]
    write_outcomes(raw, rows)
    done = djms("demo", "--raw", raw, "--out", out, "--json", "--federated.rounds", "2", "--ledger_dir", tmp_path)
    assert done.code == 0, done.err
    assert done.data["labels"] == "outcomes"
    assert done.data["pairs"] == 6_000
    assert set(done.data["metrics"]["best_possible"].values()) == {None}
    assert 0.45 < done.data["metrics"]["federated"]["roc_auc"] < 0.55, "these outcomes are chance"


@pytest.mark.slow
def test_two_runs_of_one_seed_give_one_model_one_ranking_and_one_set_of_metrics(djms: Djms, tmp_path: Path) -> None:
    runs, plain = {}, ("--dp.enabled", "false", "--json")  # noise that follows from a seed would be no noise
    for name, seed in (("one", 42), ("two", 42), ("other", 43)):
        done = djms(*("demo", "--quick", "--federated.rounds", "1", "--seed", seed, "--out", tmp_path / name, *plain))
        assert done.code == 0, done.err
        runs[name] = done.data
        file = tmp_path / name / "model.safetensors"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == done.data["model_sha256"]
    assert runs["one"]["model_sha256"] == runs["two"]["model_sha256"]
    assert runs["one"]["ranking"] == runs["two"]["ranking"]
    assert runs["one"]["metrics"] == runs["two"]["metrics"]


@pytest.mark.slow
def test_what_a_person_reads_says_what_was_trained_how_good_where_and_what_next(djms: Djms, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = djms("demo", "--quick", "--scenario", "heterogeneous", "--out", out, "--federated.rounds", "1")
    assert done.code == 0, done.err
    for words in ("5 offices", "synthetic", "labels: rule", "yes to everybody", "best possible", str(out), "Next"):
        assert words in done.out.replace("\n", "") or words in done.out
    assert "Secure aggregation: only sums over sites were seen; 3 of 5 sites unmask a sum." in done.out
    assert "Differential privacy: ε 1 for each person" in done.out
    assert "Anchoring: 3 models of this run are in the log djms-demo-" in done.out
    assert "5 of 5 offices cosigned its last checkpoint, 3 are needed: it is published." in done.out
    ranking = pd.read_csv(out / "ranking.csv")
    assert ranking["probability"].is_monotonic_decreasing
    assert ranking["distance_km"].max() <= 30
    assert json.loads((out / "data" / "raw" / "SYNTHETIC.json").read_text(encoding="utf-8"))["synthetic"] is True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_at_once_and_leaves_no_record_behind(tmp_path: Path, number: signal.Signals) -> None:
    raw, temporary = tmp_path / "raw", Path(tempfile.mkdtemp(prefix="d"))  # Ray's sockets need a short path
    write_office_files(raw, people=1_000, companies=100, seed=3)
    out = tmp_path / "run"
    command = [COMMAND, "demo", "--raw", raw, "--out", out, "--federated.rounds", "500"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (out / "rounds.csv").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.2)
        assert list(temporary.glob("djms-*/data/federated/*.csv")), (
            "the offices' tables were not where they were sought"
        )
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not list(temporary.glob("djms-*")), "records stayed behind"
    shutil.rmtree(temporary, ignore_errors=True)
    assert not (out / "summary.json").exists()


def _add_identifiers(path: Path) -> None:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ID_Candidato", *rows[0]])
        writer.writerows([f"P{number}", *row] for number, row in enumerate(rows[1:]))
