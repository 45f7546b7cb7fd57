"""A run that is executed again and again from its start, with the answers that came so far, as rounds by file are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from quick_sites import SITES, QuickSites, answer_of
from site_tables import table_of

from anchoring.anchor_folder import AnchorFolder
from client.app import create_app
from common import messages as names
from common.model import ModelCard
from common.settings_loading import load_settings
from common.training_table import write_training_table
from federation.identities import make_identities
from federation.ledgers import ledger_folders
from federation.witnesses import witness_folders
from server.anchor_audit import audit
from server.bound_noise import NoiseSource
from server.job import Job
from server.rounds import run

CARD = ModelCard("rule", (), synthetic=True)
QUICK = ("training.hidden=[]", "federated.local_epochs=1", "federated.rounds=2", "federated.round_timeout=0.3")
PLAIN = ("privacy.enabled=false",)
NOISED = ("privacy.dp.unit=site", "privacy.secure_agg.enabled=false")


@pytest.fixture(autouse=True)
def _inside_a_run() -> None:
    """Messages can be made only inside a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


def job_of(folder: Path, *overrides: str, **more: Any) -> Job:
    AnchorFolder.create(folder / "log", "test.example/log")
    settings = load_settings([*QUICK, *overrides], environment={})
    return Job(settings, SITES, CARD, folder / "run", anchor=folder / "log", run="the-run", secret=bytes(32), **more)


class MoreAnswersAreNeeded(Exception):
    """The execution comes no further with the answers that are there."""


class Replaying(QuickSites):
    """Gives the answers that came before; what nobody answered yet is noted, and the execution given up."""

    def __init__(self, answers: list[list[Message]]) -> None:
        super().__init__()
        self._left = list(answers)
        self.asked: list[list[Message]] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        self.asked.append(asked)
        if not self._left:
            raise MoreAnswersAreNeeded
        for message, answer in zip(asked, self._left.pop(0), strict=True):
            self._count += 1
            message.metadata.__dict__["_message_id"] = str(self._count)
            self._replies[str(self._count)] = Message(answer.content, reply_to=message)
        return [message.metadata.message_id for message in asked]


def executed_to_the_end(job: Job, answer: Any) -> tuple[list[list[Message]], int]:
    """Execute from the start until the run has its result, answering one exchange each time."""
    answers: list[list[Message]] = []
    told: list[list[Any]] = []
    for executions in range(1, 30):
        grid = Replaying(answers)
        try:
            run(grid, job, resumable=False)
        except MoreAnswersAreNeeded:
            shown = [[fingerprint(message) for message in asked] for asked in grid.asked]
            assert shown[: len(told)] == told, "an execution asked something else than the one before it"
            told = shown
            answers.append([answer(message) for message in grid.asked[-1]])
        else:
            return grid.asked, executions
    raise AssertionError("the run does not come to its end")


def fingerprint(message: Message) -> Any:
    """The message without the checkpoint and its proofs, which grow with the log."""
    records: dict[str, Any] = {}
    for name, record in message.content.items():
        if isinstance(record, ArrayRecord):
            records[name] = {key: array.numpy().tobytes() for key, array in record.items()}
        elif name == names.ANCHOR:
            records[name] = {key: record.get(key) for key in (names.MANIFEST_KEY, names.INDEX_KEY)}
        else:
            records[name] = dict(record)
    return message.metadata.message_type, message.metadata.dst_node_id, records


def result_of(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.output / "federation.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("overrides", [PLAIN, NOISED])
def test_executions_from_the_start_come_to_the_model_of_a_single_one(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    once = job_of(tmp_path / "once", *overrides)
    run(QuickSites(), once)
    job = job_of(tmp_path / "again", *overrides)
    _, executions = executed_to_the_end(job, answer_of)
    assert executions > 4
    assert result_of(job)["model_sha256"] == result_of(once)["model_sha256"]
    entries = [list(AnchorFolder.open(each.anchor).log.entries()) for each in (once, job)]  # type: ignore[arg-type]
    assert entries[0] == entries[1], "the log has other entries than that of a single execution"
    audit(tmp_path / "again/log")
    assert not (job.output / "run_state.jsonl").exists()


def test_a_run_that_is_done_can_be_executed_again_and_leaves_the_log_as_it_is(tmp_path: Path) -> None:
    job = job_of(tmp_path, *PLAIN)
    run(QuickSites(), job, resumable=False)
    model, result = (job.output / "model.safetensors").read_bytes(), result_of(job)
    entries = list(AnchorFolder.open(tmp_path / "log").log.entries())
    run(QuickSites(), job, resumable=False)
    assert (job.output / "model.safetensors").read_bytes() == model
    assert result_of(job) == result
    assert list(AnchorFolder.open(tmp_path / "log").log.entries()) == entries


@pytest.mark.slow
def test_with_real_sites_secure_sums_noise_and_proofs_every_execution_does_the_same(tmp_path: Path) -> None:
    job = job_of(tmp_path, "privacy.dp.unit=site", f"paths.witness_dir={tmp_path}/witnesses")
    tables = []
    for number, site in enumerate(SITES):
        tables.append(tmp_path / f"{site}.csv")
        write_training_table(table_of(60, 6, office=site, seed=number), tables[-1])
    identities = make_identities(SITES, job.settings, tmp_path / "keys", federation="test")
    ledgers = ledger_folders(job.settings, SITES, tmp_path / "ledgers")
    keys = [identities.folders[site] for site in SITES]
    job = Job(**{**job.__dict__, "roster": identities.roster})
    app = create_app(tables, keys, ledgers, witness_folders(job))
    contexts = [Context(1, 1, {"partition-id": index}, RecordDict(), {}) for index in range(5)]
    asked, executions = executed_to_the_end(job, lambda one: app(one, contexts[one.metadata.dst_node_id - 1]))
    assert executions == len(asked) + 1
    result = result_of(job)
    assert result["secure_aggregation"]["sums"] == 2
    assert result["abandoned"] == []
    assert result["anchoring"]["published"]
    assert hashlib.sha256((job.output / "model.safetensors").read_bytes()).hexdigest() == result["model_sha256"]
    assert audit(tmp_path / "log").models == len(result["anchoring"]["entries"]) == 4


def test_noise_is_alike_for_the_same_content_alone() -> None:
    source, other = NoiseSource(bytes(32)), NoiseSource(bytes(31) + b"\x01")
    with pytest.raises(ValueError, match="only for a content"):
        source(4)
    drawn = []
    for one, content in ((source, b"a"), (source, b"b"), (other, b"a"), (source, b"a")):
        one.bind(content)
        drawn.append(one(1000) + one(24))
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3
    bits = np.unpackbits(np.frombuffer(bytes(a ^ b for a, b in zip(drawn[0], drawn[1], strict=True)), np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)
    source.bind(b"a")
    assert source(1024) == drawn[0], "how much is drawn at a time changes nothing"
    assert "0000" not in repr(source)


def test_a_run_with_another_secret_has_other_noise(tmp_path: Path) -> None:
    hashes = set()
    for number in (0, 1):
        job = job_of(tmp_path / str(number), *NOISED)
        job = Job(**{**job.__dict__, "secret": bytes([number]) * 32})
        run(QuickSites(), job)
        hashes.add(result_of(job)["model_sha256"])
    assert len(hashes) == 2
