"""`djms privacy plan` and `djms privacy ledger`, as an operator uses them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Outcome

from client.budget import BUDGET_FILE, LEDGER_FILE
from client.expected_quality import measured_table
from client.ledger import Budget, PrivacyLedger
from common.model import MatchingModel, parameters_of
from privacy.accounting import epsilon_rdp
from privacy.events import training_event

Djms = Callable[..., Outcome]


def test_a_plan_says_what_noise_keeps_epsilon_and_what_to_expect(djms: Djms) -> None:
    done = djms("privacy", "plan", "--epsilon", "1", "--candidates", "2000", "--json")
    assert done.code == 0, done.err
    plan = done.data
    assert plan["steps"] == 80
    event = training_event(
        site="any",
        run="any",
        round=1,
        noise_multiplier=plan["noise_multiplier"],
        sampling_rate=plan["sampling_rate"],
        steps=80,
    )
    assert 0.9998 < epsilon_rdp([event], 1e-6) <= 1.0
    text = djms("privacy", "plan", "--epsilon", "1", "--candidates", "2000").out
    for words in ("noise multiplier", "sampling rate", "log-loss", "synthetic people", "Nothing was spent"):
        assert words in text


def test_a_plan_for_whole_offices_says_how_the_noise_compares_with_them(djms: Djms) -> None:
    asked = ("privacy", "plan", "--epsilon", "1", "--candidates", "100000", "--dp.unit", "site", "--json")
    few, many = (djms(*asked, "--sites", sites).data for sites in ("5", "500"))
    assert few["unit"] == "site"
    assert few["noise_multiplier"] == many["noise_multiplier"]
    assert few["noise_in_mean"] == pytest.approx(100 * many["noise_in_mean"])
    model = MatchingModel((), seed=0)
    length = math.sqrt(sum(values.size for values in parameters_of(model).values()))
    assert few["noise_in_mean"] == pytest.approx(few["noise_multiplier"] * length / 5)


def test_an_audit_of_what_it_cannot_attack_is_refused(djms: Djms) -> None:
    refused = djms("privacy", "audit", "--dp.unit", "site")
    assert refused.code == 1
    assert "whole offices" in refused.err


def test_more_rounds_need_more_noise(djms: Djms) -> None:
    noises = [
        djms("privacy", "plan", "--candidates", "5000", "--rounds", rounds, "--json").data["noise_multiplier"]
        for rounds in (5, 10, 20)
    ]
    assert noises == sorted(noises)
    assert noises[2] / noises[0] == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--epsilon", "0", "--candidates", "2000"), "ε is 0"),
        (("--epsilon", "-2", "--candidates", "2000"), "ε is -2"),
        (("--delta", "1", "--candidates", "2000"), "δ is 1"),
        (("--delta", "0.01", "--candidates", "2000"), "above one over"),
        (("--candidates", "3"), "people"),
        (("--candidates", "2000", "--epsilon", "0.0001", "--delta", "1e-10"), "no noise multiplier"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(djms: Djms, flags: tuple[str, ...], words: str) -> None:
    refused = djms("privacy", "plan", *flags)
    assert refused.code == 1
    assert len(refused.err.strip().splitlines()) == 1
    assert words in refused.err


def test_the_measured_table_holds_what_the_issue_asks_for() -> None:
    table = measured_table()
    assert table is not None
    best = {row.people: row.roc_auc for row in table.rows if row.epsilon is None}
    cost = {(row.people, row.epsilon): best[row.people] - row.roc_auc for row in table.rows}
    assert cost[10_000, 1.0] <= 0.003
    assert cost[10_000, 0.5] <= 0.008
    assert cost[1_000, 1.0] <= 0.02


@pytest.fixture
def ledgers(tmp_path: Path) -> Path:
    """Two offices' ledgers; the first has trained in two rounds, and one training broke off."""
    for office in ("CPI_Padova", "CPI_Verona"):
        folder = tmp_path / "ledgers" / office
        folder.mkdir(parents=True)
        own = PrivacyLedger.open(folder / LEDGER_FILE, create=True)
        budget = {"max_epsilon": 3.0, "delta": 1e-6, "valid_until": "2999-12-31"}
        (folder / BUDGET_FILE).write_text(yaml.safe_dump(budget), encoding="utf-8")
        for number in (1, 2, 3) if office == "CPI_Padova" else ():
            event = training_event(
                site=office, run="run-a", round=number, noise_multiplier=40.0, sampling_rate=1.0, steps=8
            )
            reservation = own.reserve(event, Budget(3.0, 1e-6))
            if number < 3:
                reservation.confirm(event)
    return tmp_path / "ledgers"


def test_a_ledger_is_shown_by_run_with_two_accountants_and_what_is_left(djms: Djms, ledgers: Path) -> None:
    done = djms("privacy", "ledger", ledgers, "--json")
    assert done.code == 0, done.err
    spent, fresh = done.data["offices"]
    assert [office["office"] for office in (spent, fresh)] == ["CPI_Padova", "CPI_Verona"]
    assert fresh["epsilon"] == 0
    event = training_event(site="x", run="x", round=1, noise_multiplier=40.0, sampling_rate=1.0, steps=24)
    assert spent["epsilon"] == pytest.approx(epsilon_rdp([event], 1e-6))
    assert set(spent["by_accountant"]) == {"rdp", "pld", "opacus"}
    assert spent["left"] == pytest.approx(3.0 - spent["epsilon"])
    (run,) = spent["runs"]
    assert [entry["state"] for entry in run["rounds"]] == ["confirmed", "confirmed", "reserved"]
    text = djms("privacy", "ledger", ledgers).out
    for words in ("CPI_Padova", "2999-12-31", "run-a", "reserved"):
        assert words in text


def test_reading_a_ledger_writes_nothing_and_a_damaged_one_is_named(djms: Djms, ledgers: Path) -> None:
    files = sorted(path for path in ledgers.rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    assert djms("privacy", "ledger", ledgers).code == 0
    assert sorted(path for path in ledgers.rglob("*") if path.is_file()) == files
    assert [path.read_bytes() for path in files] == before
    path = ledgers / "CPI_Padova" / LEDGER_FILE
    path.write_bytes(path.read_bytes()[:-4096])
    refused = djms("privacy", "ledger", ledgers)
    assert refused.code == 1
    assert len(refused.err.strip().splitlines()) == 1
    assert str(path) in refused.err


def test_where_there_is_no_ledger_nothing_is_made(djms: Djms, tmp_path: Path) -> None:
    refused = djms("privacy", "ledger", tmp_path / "nowhere")
    assert refused.code == 1
    assert not (tmp_path / "nowhere").exists()
