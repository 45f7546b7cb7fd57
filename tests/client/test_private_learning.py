"""A site under differential privacy: what it refuses, what it charges, and what leaves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from site_tables import table_of

import client.private_learning
from client.budget import BUDGET_FILE, LEDGER_FILE, read_budget
from client.learning import answer
from client.ledger import BudgetExceeded, LedgerDamaged, PrivacyLedger
from client.private_noise import PrivateOptimiser
from common import messages as names
from common.errors import InputError, RunError
from common.model import MatchingModel, from_array_record, parameters_of, to_array_record
from common.training_table import write_training_table
from privacy.accounting import epsilon_rdp
from privacy.events import NoNoise, PrivacyEvent, training_event

PEOPLE = 60


@pytest.fixture(autouse=True)
def _in_a_task() -> None:
    """Messages are made in one of Flower's processes."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "CPI_Verona.csv"
    write_training_table(table_of(PEOPLE, 6, office="CPI_Verona", seed=3), path)
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return ledger_at(tmp_path / "ledger")


def ledger_at(folder: Path, **budget: Any) -> Path:
    folder.mkdir()
    PrivacyLedger.open(folder / LEDGER_FILE, create=True)
    content = {"max_epsilon": 1.5, "delta": 1e-6, "valid_until": None, **budget}
    (folder / BUDGET_FILE).write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def question(kind: str = "train", **changes: Any) -> Message:
    config: dict[str, Any] = {
        names.VERSION_KEY: names.PROTOCOL_VERSION,
        names.ROUND_KEY: 1,
        names.ROUNDS_KEY: 2,
        names.SEED_KEY: 42,
        names.HIDDEN_KEY: [],
        names.EPOCHS_KEY: 1,
        names.BATCH_SIZE_KEY: 64,
        names.LEARNING_RATE_KEY: 0.01,
        names.VALIDATION_SHARE_KEY: 0.15,
        names.TEST_SHARE_KEY: 0.15,
        names.UNIT_KEY: "candidate",
        names.RUN_KEY: "run-1",
        names.NOISE_KEY: 13.0,
        names.CLIP_KEY: 0.1,
        names.STEPS_KEY: 8,
        names.SAMPLING_RATE_KEY: 1.0,
        names.MOMENTUM_KEY: 0.5,
        names.SITES_KEY: 5,
        names.TOTAL_PEOPLE_KEY: 0,
    }
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    arrays = to_array_record(parameters_of(MatchingModel((), seed=1, from_zero=True)))
    content = RecordDict({names.ARRAYS: arrays, names.CONFIG: ConfigRecord(config)})
    return Message(content=content, message_type=kind, dst_node_id=1)


def test_only_the_model_the_number_of_people_and_the_event_leave_the_site(table: Path, ledger: Path) -> None:
    reply = answer(question(), table, ledger)
    assert set(reply.content) == {names.ARRAYS, names.METRICS, names.SITE}
    assert set(reply.content[names.METRICS]) == {names.PEOPLE_KEY}
    assert set(reply.content[names.SITE]) == {names.NAME_KEY, names.EVENT_KEY}
    event = PrivacyEvent.from_json(json.loads(str(reply.content[names.SITE][names.EVENT_KEY])))
    assert (event.noise_multiplier, event.steps, event.sampling_rate, event.unit) == (13.0, 8, 1.0, "candidate")
    entries = PrivacyLedger.open(ledger / LEDGER_FILE, create=False).entries()
    assert [(entry.kind, entry.event) for entry in entries] == [("reserved", event), ("confirmed", event)]
    assert any(np.abs(values).max() > 0 for values in from_array_record(reply.content[names.ARRAYS]).values())


def test_the_site_stops_at_its_budget_whatever_the_coordinator_sends(table: Path, ledger: Path) -> None:
    replies, refusal = 0, None
    while refusal is None and replies < 20:
        changes = {names.ROUND_KEY: 1, names.ROUNDS_KEY: 1, names.RUN_KEY: f"run-{replies}"}
        try:
            answer(question(**changes), table, ledger)
            replies += 1
        except BudgetExceeded as exceeded:
            refusal = str(exceeded)
    entries = PrivacyLedger.open(ledger / LEDGER_FILE, create=False).entries()
    executed = [entry.event for entry in entries if entry.kind == "confirmed"]
    assert len(executed) == replies > 1
    assert epsilon_rdp(executed, 1e-6) <= 1.5
    assert refusal is not None
    for words in ("asks for ε", "there is", "left", "with no end date"):
        assert words in refusal
    assert len(entries) == 2 * replies, "what was refused was recorded"


def test_a_run_that_the_budget_cannot_pay_to_its_end_is_not_begun(table: Path, tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path / "ledger", max_epsilon=1.0)
    assert epsilon_rdp([event_of(1)], 1e-6) < 1.0 < epsilon_rdp([event_of(number) for number in range(1, 11)], 1e-6)
    with pytest.raises(BudgetExceeded, match=r"run-1, to its end, asks for ε 3\.4"):
        answer(question(**{names.ROUNDS_KEY: 10}), table, ledger)
    assert not PrivacyLedger.open(ledger / LEDGER_FILE, create=False).entries()
    answer(question(**{names.ROUNDS_KEY: 1}), table, ledger)


def event_of(number: int) -> PrivacyEvent:
    return training_event(
        site="CPI_Verona", run="run-1", round=number, noise_multiplier=13.0, sampling_rate=1.0, steps=8
    )


def test_a_budget_whose_last_day_is_over_allows_nothing(table: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded, match=r"until 2020-01-31"):
        answer(question(), table, ledger_at(tmp_path / "ledger", valid_until="2020-01-31"))


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_site_with_a_ledger_gives_nothing_without_noise(table: Path, ledger: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"without differential privacy, and this site gives none"):
        answer(question(kind, **{names.UNIT_KEY: None}), table, ledger)


def test_an_evaluation_is_not_given_because_the_question_says_private(table: Path, ledger: Path) -> None:
    with pytest.raises(InputError, match=r"an evaluation without differential privacy"):
        answer(question("evaluate"), table, ledger)


def test_a_site_without_a_ledger_does_not_train_privately(table: Path) -> None:
    with pytest.raises(InputError, match=r"no privacy ledger"):
        answer(question(), table, None)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({names.NOISE_KEY: 0.0}, NoNoise, "no noise"),
        ({names.NOISE_KEY: -5.0}, NoNoise, "no noise"),
        ({names.UNIT_KEY: "office"}, InputError, "unit 'office'"),
        ({names.STEPS_KEY: 0}, RunError, "steps"),
        ({names.SAMPLING_RATE_KEY: 1.5}, RunError, "sampling_rate"),
        ({names.RUN_KEY: "../../etc"}, RunError, "run is"),
        ({names.CLIP_KEY: -1.0}, InputError, "learning rate of -"),
        ({names.NOISE_KEY: 0.5}, BudgetExceeded, "left"),
    ],
)
def test_what_cannot_be_private_is_refused_and_the_model_stays(
    table: Path, ledger: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        answer(question(**changes), table, ledger)


def test_a_failed_training_counts_and_sends_nothing(table: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_noise(self: PrivateOptimiser) -> None:
        for p in self.params:
            p.grad = p.summed_grad.view_as(p)

    monkeypatch.setattr(PrivateOptimiser, "add_noise", without_noise)
    with pytest.raises(RunError):
        answer(question(), table, ledger)
    (entry,) = PrivacyLedger.open(ledger / LEDGER_FILE, create=False).entries()
    assert entry.kind == "reserved", "a training that was not as promised was confirmed"


def test_a_cut_ledger_stops_the_site_before_it_trains(
    table: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(question(), table, ledger)
    path = ledger / LEDGER_FILE
    path.write_bytes(path.read_bytes()[:-2000])
    monkeypatch.setattr(client.private_learning, "train_privately", None)
    with pytest.raises(LedgerDamaged):
        answer(question(**{names.ROUND_KEY: 2}), table, ledger)


def test_a_lost_ledger_is_not_begun_anew(table: Path, ledger: Path) -> None:
    answer(question(), table, ledger)
    (ledger / LEDGER_FILE).unlink()
    with pytest.raises(LedgerDamaged, match=r"the ledger is gone"):
        answer(question(**{names.ROUND_KEY: 2}), table, ledger)


def test_a_delta_that_would_allow_to_publish_somebody_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"above one over \d+ people"):
        answer(question(), table, ledger_at(tmp_path / "ledger", delta=0.5))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("max_epsilon: 1\ndelta: 1e-6\nepsilon: 4\n", "epsilon"),
        ("max_epsilon: -1\ndelta: 0.000001\n", "max_epsilon is -1"),
        ("max_epsilon: 1\ndelta: 2\n", "δ is 2"),
        ("delta: 0.1\n", "max_epsilon"),
        ("max_epsilon: [", "not YAML"),
        ("", "its content"),
    ],
)
def test_a_wrong_budget_file_is_named_with_its_key(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / BUDGET_FILE
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_budget(path)
