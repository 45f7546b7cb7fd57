"""A run with differential privacy, end to end: what it costs, where that is written, and what stops it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import Outcome
from dp_accounting import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant

from client.budget import BUDGET_FILE, LEDGER_FILE
from client.ledger import PrivacyLedger
from common.model import read_model

Djms = Callable[..., Outcome]
OFFICES = ("CPI_Padova", "CPI_Treviso", "CPI_Venezia", "CPI_Verona", "CPI_Vicenza")
SMALL = ("--anchoring.enabled", "false", "--federated.rounds", "2", "--json")

RECOMPUTED = """
import json, sys
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
sites = {}
for e in json.load(open(sys.argv[1])):
    assert e["mechanism"] == "poisson-sampled-gaussian" and e["neighbouring_relation"] == "add-or-remove-one"
    release = PoissonSampledDpEvent(e["sampling_rate"], GaussianDpEvent(e["noise_multiplier"]))
    sites.setdefault(e["site"], RdpAccountant()).compose(release, e["steps"])
print(max(site.get_epsilon(float(sys.argv[2])) for site in sites.values()))
"""


def federate(djms: Djms, data: Path, folder: Path, name: str, *flags: Any) -> Outcome:
    return djms(
        *("federate", "--data", data, "--out", folder / name, "--ledger_dir", folder / "ledgers", *SMALL, *flags)
    )


@pytest.mark.slow
def test_what_a_run_cost_is_recomputed_from_its_ledger_and_is_what_sites_recorded(
    djms: Djms, small_federation: Path, tmp_path: Path
) -> None:
    done = federate(djms, small_federation, tmp_path, "run", "--dp.epsilon", "2")
    assert done.code == 0, done.err
    run, private = tmp_path / "run", done.data["differential_privacy"]
    assert done.data["protections"]["differential_privacy"] is True
    assert done.data["secure_aggregation"]["sums"] == 2
    assert 1.99 < private["epsilon"] <= 2.0
    ledger = run / "privacy_ledger.json"
    script = [sys.executable, "-c", RECOMPUTED, str(ledger), str(private["delta"])]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert float(printed) == pytest.approx(private["epsilon"], rel=1e-9)
    card = read_model(run / "model.safetensors")[1]
    assert (card.epsilon, card.delta, card.unit) == (private["epsilon"], private["delta"], "candidate")
    released = json.loads(ledger.read_text(encoding="utf-8"))
    for office in OFFICES:
        own = PrivacyLedger.open(tmp_path / "ledgers" / office / LEDGER_FILE, create=False)
        assert own.export(private["run"]) == [event for event in released if event["site"] == office]
        assert {entry.kind for entry in own.entries()} == {"reserved", "confirmed"}


@pytest.mark.slow
def test_a_site_whose_budget_is_spent_says_so_and_nothing_more_is_trained(
    djms: Djms, small_federation: Path, tmp_path: Path
) -> None:
    budget = ("--budget.max_epsilon", "1.2", "--budget.valid_until", "2999-12-31")
    first = federate(djms, small_federation, tmp_path, "first", *budget)
    assert first.code == 0, first.err
    assert yaml.safe_load((tmp_path / "ledgers" / OFFICES[0] / BUDGET_FILE).read_text())["max_epsilon"] == 1.2
    second = federate(djms, small_federation, tmp_path, "second", *budget, "--dp.epsilon", "1.2")
    assert second.code == 2
    assert len(second.err.strip().splitlines()) == 1, second.err
    for words in ("asks for ε", "left", "2999-12-31"):
        assert words in second.err
    assert not (tmp_path / "second" / "summary.json").exists()
    assert not (tmp_path / "second" / "model.safetensors").exists()
    for office in OFFICES:
        entries = PrivacyLedger.open(tmp_path / "ledgers" / office / LEDGER_FILE, create=False).entries()
        assert {entry.event.run for entry in entries} == {first.data["differential_privacy"]["run"]}


@pytest.mark.slow
@pytest.mark.parametrize(("secure", "by"), [("true", "sites"), ("false", "coordinator")])
def test_a_run_that_hides_whole_sites_keeps_its_epsilon_and_says_who_added_the_noise(
    djms: Djms, small_federation: Path, tmp_path: Path, secure: str, by: str
) -> None:
    done = federate(djms, small_federation, tmp_path, "run", "--dp.unit", "site", "--secure_agg.enabled", secure)
    assert done.code == 0, done.err
    private = done.data["differential_privacy"]
    assert (private["unit"], private["noise_added_by"]) == ("site", by)
    assert 0.999 < private["epsilon"] <= 1.0
    released = json.loads((tmp_path / "run" / "privacy_ledger.json").read_text(encoding="utf-8"))
    assert len(released) == 2 * len(OFFICES)
    for office in OFFICES:
        accountant = RdpAccountant()
        for event in released:
            if event["site"] == office:
                assert (event["mechanism"], event["unit"], event["steps"]) == ("gaussian", "site", 1)
                accountant.compose(GaussianDpEvent(event["noise_multiplier"]), event["steps"])
        assert accountant.get_epsilon(1e-6) == pytest.approx(private["epsilon"], rel=1e-6)
        own = PrivacyLedger.open(tmp_path / "ledgers" / office / LEDGER_FILE, create=False)
        assert 0.999 < own.spent(1e-6).epsilon <= 1.0
    rounds = pd.read_csv(tmp_path / "run" / "rounds.csv")
    assert rounds[["people", "train_loss"]].isna().all(axis=None), "how many people a site has is the site's secret"


@pytest.mark.slow
def test_nothing_that_the_noise_does_not_cover_leaves_a_site(
    djms: Djms, small_federation: Path, tmp_path: Path
) -> None:
    done = federate(djms, small_federation, tmp_path, "run")
    assert done.code == 0, done.err
    rounds = pd.read_csv(tmp_path / "run" / "rounds.csv")
    assert rounds["people"].notna().all()
    kept = ["train_loss", "threshold", "roc_auc", "log_loss", "ndcg_at_5"]
    assert rounds[kept].isna().all(axis=None)
    result = json.loads((tmp_path / "run" / "federation.json").read_text(encoding="utf-8"))
    assert (result["threshold"], result["test_people"], result["test_metrics"]) == (None, None, None)
    assert not (tmp_path / "run" / "progress.png").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dp.epsilon", "0"), ("epsilon", "greater than 0")),
        (("--dp.epsilon", "-1"), ("epsilon", "greater than 0")),
        (("--dp.delta", "1"), ("delta", "less than 1")),
        (
            ("--dp.unit", "site", "--federated.aggregator", "coordinate_median", "--secure_agg.enabled", "false"),
            ("unit", "fedavg"),
        ),
        (("--budget.max_epsilon", "0"), ("max_epsilon", "greater than 0")),
    ],
)
def test_what_cannot_be_private_is_refused_before_anything_starts(
    djms: Djms, small_federation: Path, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused = federate(djms, small_federation, tmp_path, "run", *flags)
    assert refused.code == 1
    assert len(refused.err.strip().splitlines()) == 1, refused.err
    assert all(word in refused.err for word in words), refused.err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "ledgers").exists()


@pytest.mark.slow
def test_an_edited_ledger_stops_the_run_before_anybody_trains(
    djms: Djms, small_federation: Path, tmp_path: Path
) -> None:
    assert federate(djms, small_federation, tmp_path, "first").code == 0
    ledger = tmp_path / "ledgers" / OFFICES[2] / LEDGER_FILE
    before = {office: (tmp_path / "ledgers" / office / LEDGER_FILE).read_bytes() for office in OFFICES}
    ledger.write_bytes(ledger.read_bytes()[: len(ledger.read_bytes()) // 2])
    refused = federate(djms, small_federation, tmp_path, "second")
    assert refused.code == 1
    assert len(refused.err.strip().splitlines()) == 1, refused.err
    assert str(ledger) in refused.err
    for office in set(OFFICES) - {OFFICES[2]}:
        assert (tmp_path / "ledgers" / office / LEDGER_FILE).read_bytes() == before[office]
