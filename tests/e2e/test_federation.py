"""Real runs: the simulation on Ray, and SuperLink and SuperNodes as processes on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import WITHOUT_PROTECTIONS, Outcome
from flwr.app import Message
from flwr.serverapp import Grid

import server.rounds
from anchoring.anchor_folder import AnchorFolder
from client.app import create_app as create_client_app
from common.dataset_info import DatasetInfo
from common.errors import RunError
from common.metrics import METRICS
from common.model import ModelCard, read_model
from common.settings_loading import load_settings
from common.training_table import read_training_table, write_training_table
from federation.simulation import run_simulation
from server.exchange import exchange
from server.job import Job

Djms = Callable[..., Outcome]
SMALL = ("--federated.rounds", "2", "--federated.local_epochs", "2")


@pytest.fixture
def two_offices(small_federation: Path, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """Tables of two offices, and the flags that say so."""
    data = tmp_path / "federated"
    data.mkdir()
    for name in ("CPI_Verona.csv", "CPI_Padova.csv", "dataset.json"):
        shutil.copy(small_federation / name, data / name)
    offices = "offices={CPI_Verona: {provinces: [VR]}, CPI_Padova: {provinces: [PD]}}"
    flags = ("--set", offices, "--federated.min_clients", "2", "--anchoring.witnesses", "2")
    return data, (*flags, "--privacy.enabled", "false", "--anchor_dir", tmp_path / "log")


@pytest.mark.slow
def test_processes_and_simulation_train_the_same_model_to_the_last_bit(
    djms: Djms, two_offices: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    data, flags = two_offices
    flags = (*flags, "--witness_dir", tmp_path / "witnesses")
    before = _flower_processes()
    assert djms("anchor", "init", "--anchor", tmp_path / "log").code == 0
    deployed = djms(
        *("federate", "--engine", "deployment", "--insecure", "--data", data, "--out", tmp_path / "deployed"),
        *(*flags, *SMALL, "--json"),
    )
    assert deployed.code == 0, deployed.err
    simulated = djms("federate", "--data", data, "--out", tmp_path / "simulated", *flags, *SMALL, "--json")
    assert simulated.code == 0, simulated.err
    assert deployed.data["anchoring"]["published"]
    assert simulated.data["anchoring"]["published"]
    committed = [json.loads(entry) for entry in AnchorFolder.open(tmp_path / "log").log.entries()]
    assert len(committed) == 8  # the model at the start, after two rounds, and released, of both runs in one log
    assert [one["model_sha256"] for one in committed[:4]] == [one["model_sha256"] for one in committed[4:]]
    assert len({one["bundle_sha256"] for one in committed}) == 1, "the hash of the code is another than sites were sent"
    assert deployed.data["cohort"] == ["CPI_Padova", "CPI_Verona"]
    assert deployed.data["model_sha256"] == simulated.data["model_sha256"]
    rounds = pd.read_csv(tmp_path / "deployed" / "rounds.csv")
    assert rounds["round"].tolist() == [1, 2]
    assert rounds["sites"].tolist() == [2, 2]
    assert _flower_processes() <= before, "a process outlived its run"


@pytest.mark.slow
def test_a_simulated_run_leaves_complete_results_whose_hash_is_the_files(
    djms: Djms, small_federation: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = djms("federate", "--data", small_federation, "--out", out, *WITHOUT_PROTECTIONS, *SMALL, "--json")
    assert done.code == 0, done.err
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["labels"] == "rule"
    assert summary["synthetic"] is True
    assert set(summary["metrics"]["federated"]) == set(METRICS)
    assert all(value is None for value in summary["metrics"]["centralised"].values())
    model = out / "model.safetensors"
    assert hashlib.sha256(model.read_bytes()).hexdigest() == summary["model_sha256"]
    assert read_model(model)[1] == ModelCard("rule", (32, 16), synthetic=True)
    last = pd.read_csv(out / "rounds.csv").iloc[-1]
    assert last["model_sha256"] == summary["model_sha256"]
    for name in ("settings.yaml", "versions.json", "progress.png"):
        assert (out / name).stat().st_size > 0
    assert not list(out.rglob("*.csv")) or {path.name for path in out.rglob("*.csv")} == {"rounds.csv"}


@pytest.mark.slow
def test_a_plain_round_is_one_exchange_and_one_more_closes_the_run(
    small_federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, int]] = []

    def counting(grid: Grid, messages: Iterable[Message], **limits: Any) -> list[Message]:
        messages = list(messages)
        sent.append((messages[0].metadata.message_type, len(messages)))
        return exchange(grid, messages, **limits)

    monkeypatch.setattr(server.rounds, "exchange", counting)
    settings = load_settings(
        ["federated.rounds=3", "federated.local_epochs=1", "privacy.enabled=false", "anchoring.enabled=false"],
        environment={},
    )
    sites = ("CPI_Padova", "CPI_Treviso", "CPI_Venezia")
    job = Job(settings, sites, ModelCard("rule", (32, 16), synthetic=True), tmp_path / "run")
    run_simulation(job, {site: small_federation / f"{site}.csv" for site in sites})
    assert sent == [("train", 3), ("train", 3), ("train", 3), ("evaluate", 3)]
    rounds = pd.read_csv(tmp_path / "run" / "rounds.csv")
    assert rounds["roc_auc"].notna().all(), "every round's model was evaluated all the same"


@pytest.mark.slow
def test_training_that_diverges_ends_with_one_sentence_and_code_2(
    djms: Djms, small_federation: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    flags = ("--federated.learning_rate", "1e36", "--federated.rounds", "2")
    done = djms("federate", "--data", small_federation, "--out", out, *flags, *WITHOUT_PROTECTIONS)
    assert done.code == 2, done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert "learning_rate" in done.err
    assert not (out / "summary.json").exists(), "a run that failed looks complete"


@pytest.mark.slow
@pytest.mark.parametrize("aggregator", ["trimmed_mean", "coordinate_median"])
def test_robust_aggregators_run_end_to_end(djms: Djms, small_federation: Path, tmp_path: Path, aggregator: str) -> None:
    out = tmp_path / "run"
    done = djms(
        *("federate", "--data", small_federation, "--out", out, "--aggregator", aggregator),
        *(*WITHOUT_PROTECTIONS, "--federated.rounds", "1", "--federated.local_epochs", "1", "--json"),
    )
    assert done.code == 0, done.err
    assert done.data["aggregator"] == aggregator


@pytest.mark.slow
def test_a_site_that_does_not_come_is_named_when_the_wait_is_over(small_federation: Path, tmp_path: Path) -> None:
    from flwr.simulation import run_simulation as run_flower

    from server.app import create_app as create_server_app

    settings = load_settings(
        ["federated.min_clients=3", "federated.wait_timeout=2", "privacy.enabled=false", "anchoring.enabled=false"],
        environment={},
    )
    sites = ("CPI_Padova", "CPI_Treviso", "CPI_Venezia")
    job = Job(settings, sites, ModelCard("rule", (32, 16), synthetic=True), tmp_path / "run")
    tables = [small_federation / f"{site}.csv" for site in sites]
    with pytest.raises(RunError) as caught:
        run_flower(
            server_app=create_server_app(job),
            client_app=create_client_app(tables),
            num_supernodes=2,
            backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}},
        )
    assert "only 2 of 3 sites" in str(caught.value)
    assert "missing: CPI_Venezia" in str(caught.value)
    assert "federated.wait_timeout" in str(caught.value)


@pytest.mark.slow
def test_a_sites_refusal_reaches_the_coordinator_as_one_sentence(small_federation: Path, tmp_path: Path) -> None:
    table = read_training_table(small_federation / "CPI_Padova.csv")
    table["outcome"] = table["outcome"] * 0 + 1
    write_training_table(table, tmp_path / "CPI_Padova.csv")
    tables = {site: small_federation / f"{site}.csv" for site in ("CPI_Treviso", "CPI_Venezia")}
    tables["CPI_Padova"] = tmp_path / "CPI_Padova.csv"
    settings = load_settings(
        ["federated.min_clients=3", "privacy.enabled=false", "anchoring.enabled=false"], environment={}
    )
    job = Job(settings, tuple(sorted(tables)), ModelCard("rule", (32, 16), synthetic=True), tmp_path / "run")
    with pytest.raises(RunError, match=r"CPI_Padova refused .*successes only") as caught:
        run_simulation(job, tables)
    assert not re.search(r"C\d{6}", str(caught.value)), "an error names a person"


def test_plain_text_needs_consent(djms: Djms, small_federation: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused = djms(
        *("federate", "--engine", "deployment", "--data", small_federation, "--out", out), *WITHOUT_PROTECTIONS
    )
    assert refused.code == 1
    assert "--insecure" in refused.err
    assert not out.exists()


@pytest.mark.parametrize("flags", [(), ("--privacy.enabled", "false")])
def test_a_run_that_asks_for_anchoring_and_has_no_log_is_not_started_and_makes_none(
    djms: Djms, small_federation: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    refused = djms("federate", "--data", small_federation, "--out", out, "--anchor_dir", log, *flags)
    assert refused.code == 1
    assert "djms anchor init" in refused.err
    assert not out.exists()
    assert not log.exists()


def test_the_tables_note_is_needed_to_say_where_labels_come_from(
    djms: Djms, two_offices: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    data, flags = two_offices
    (data / "dataset.json").write_text("{}", encoding="utf-8")
    refused = djms("federate", "--data", data, "--out", tmp_path / "run", *flags, "--anchoring.enabled", "false")
    assert refused.code == 1
    assert "where the labels of these tables come from" in refused.err
    DatasetInfo("rule", synthetic=True).write(data)
    assert DatasetInfo.read(data).labels == "rule"


def _flower_processes() -> set[int]:
    """Living processes of Flower on this machine."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"flower-super" in line or b"flwr-" in line:
            found.add(int(entry.name))
    return found - {os.getpid()}
