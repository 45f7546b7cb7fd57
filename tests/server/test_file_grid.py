"""A run whose exchanges are recorded on disk ends as one that was executed in one go, killed or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from joined_federation import steps_of as killed_at
from quick_sites import SITES, QuickSites, answer_of

from anchoring.anchor_folder import AnchorFolder
from common import messages as names
from common.model import ModelCard
from common.parcel_content import messages_from_bytes, messages_to_bytes
from common.settings_loading import load_settings
from server.anchor_audit import audit
from server.exchange import exchange, sort_replies
from server.file_grid import STEPS, DoesNotRepeat, FileGrid, Step, Suspended, steps_of
from server.job import Job
from server.rounds import run

CARD = ModelCard("rule", (), synthetic=True)
QUICK = ("training.hidden=[]", "federated.rounds=2", "privacy.enabled=false")


@pytest.fixture(autouse=True)
def _inside_a_run() -> None:
    """Messages can be made only inside a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


def grid_of(folder: Path, lost: Callable[[str], str | None] = lambda _site: None) -> FileGrid:
    """A grid whose parcels are the bare messages."""

    def seal(_step: int, _site: str, messages: Iterable[Message]) -> tuple[bytes, str]:
        content = messages_to_bytes(messages)
        return content, hashlib.sha256(content).hexdigest()

    def opened(step: Step, site: str) -> list[Message]:
        return messages_from_bytes(step.answer_of(site).read_bytes())

    return FileGrid(folder, SITES, Run.create_empty(1), seal, opened, lost)


def answer(step: Step, but: Iterable[str] = ()) -> None:
    for site in set(step.missing) - set(but):
        replies = [answer_of(message) for message in step.messages_for(site)]
        step.answer_of(site).write_bytes(messages_to_bytes(replies))


def job_of(folder: Path, *more: str) -> Job:
    if not (folder / "log").is_dir():
        AnchorFolder.create(folder / "log", "test.example/log")
    settings = load_settings([*QUICK, *more], environment={})
    return Job(settings, SITES, CARD, folder / "out", anchor=folder / "log", run="run", secret=bytes(32))


def executed(job: Job, folder: Path) -> bool:
    """Whether an execution came to the end."""
    try:
        run(grid_of(folder), job, resumable=False)
    except Suspended:
        return False
    return True


def result_of(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.output / "federation.json").read_text(encoding="utf-8"))
    return found


def question(node: int, kind: str = names.IDENTIFY, text: str = "") -> Message:
    return Message(RecordDict({names.CONFIG: ConfigRecord({"text": text})}), dst_node_id=node, message_type=kind)


def asked(grid: FileGrid, *messages: Message) -> list[Message]:
    import threading

    return exchange(grid, messages, timeout=600, cancelled=threading.Event())


def test_a_run_by_file_gives_the_model_and_the_log_of_a_run_in_one_go(tmp_path: Path) -> None:
    once = job_of(tmp_path / "once")
    run(QuickSites(), once)
    job = job_of(tmp_path / "file")
    executions = 1
    while not executed(job, tmp_path):
        answer(steps_of(tmp_path / STEPS)[-1])
        executions += 1
    assert executions == len(steps_of(tmp_path / STEPS)) + 1 > 4
    assert result_of(job)["model_sha256"] == result_of(once)["model_sha256"]
    assert result_of(job)["test_metrics"] == result_of(once)["test_metrics"]
    assert list(AnchorFolder.open(tmp_path / "file/log").log.entries()) == list(
        AnchorFolder.open(tmp_path / "once/log").log.entries()
    )


@pytest.mark.slow
def test_executions_killed_at_any_step_on_files_lose_nothing_and_ask_nothing_twice(tmp_path: Path) -> None:
    once = job_of(tmp_path / "once")
    run(QuickSites(), once)
    job = job_of(tmp_path / "file")
    done, kills = False, 0
    while not done:
        for at in range(1 + kills % 5, 60, 5):
            kills += killed_at(lambda: executed(job, tmp_path), kill_at=at) == 0
        before = {path: path.read_bytes() for path in tmp_path.glob(f"{STEPS}/*/asked.json")}
        done = executed(job, tmp_path)
        assert all(path.read_bytes() == content for path, content in before.items())
        if not done:
            answer(steps_of(tmp_path / STEPS)[-1])
    assert kills > 20
    assert result_of(job)["model_sha256"] == result_of(once)["model_sha256"]
    audit(tmp_path / "file/log")


def test_a_site_that_is_missing_is_waited_for_until_the_step_is_closed(tmp_path: Path) -> None:
    messages = [question(1), question(2)]
    with pytest.raises(Suspended):
        asked(grid_of(tmp_path), *messages)
    (step,) = steps_of(tmp_path / STEPS)
    answer(step, but=[SITES[1]])
    with pytest.raises(Suspended):
        asked(grid_of(tmp_path), *messages)
    step.close()
    valid, reasons = sort_replies(asked(grid_of(tmp_path), *messages))
    assert [reply.metadata.src_node_id for reply in valid] == [1]
    assert reasons == [f"a site failed ({SITES[1]} had not answered when the step was closed)"]
    answer(step)  # what comes afterwards counts nothing
    assert len(sort_replies(asked(grid_of(tmp_path), *messages))[0]) == 1


def test_a_site_that_left_the_federation_is_not_asked(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, lambda site: "it left" if site == SITES[0] else None)
    with pytest.raises(Suspended):
        asked(grid, question(1), question(2))
    (step,) = steps_of(tmp_path / STEPS)
    assert step.missing == (SITES[1],)
    answer(step)
    replies = asked(grid_of(tmp_path), question(1), question(2))
    assert [reply.has_error() for reply in replies] == [True, False]


def test_a_run_that_asks_something_else_when_it_is_executed_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Suspended):
        asked(grid_of(tmp_path), question(1, text="a"))
    for other in (question(1, text="b"), question(2, text="a"), question(1, "query.share", "a")):
        with pytest.raises(DoesNotRepeat):
            asked(grid_of(tmp_path), other)


def test_a_question_about_the_log_that_needs_no_answer_any_more_is_left_out(tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    with pytest.raises(Suspended):
        asked(grid, question(1, names.WITNESS))
    answer(steps_of(tmp_path / STEPS)[-1])
    grid = grid_of(tmp_path)
    asked(grid, question(1, names.WITNESS))
    with pytest.raises(Suspended):
        asked(grid, question(1))
    answer(steps_of(tmp_path / STEPS)[-1])
    assert len(asked(grid_of(tmp_path), question(1))) == 1


def test_a_reply_counts_for_the_site_that_was_asked_whatever_it_says_of_itself(tmp_path: Path) -> None:
    with pytest.raises(Suspended):
        asked(grid_of(tmp_path), question(1))
    (step,) = steps_of(tmp_path / STEPS)
    forged = Message(step.messages_for(SITES[0])[0].content, dst_node_id=77, message_type="query.other")
    step.answer_of(SITES[0]).write_bytes(messages_to_bytes([forged]))
    (reply,) = asked(grid_of(tmp_path), question(1))
    assert (reply.metadata.src_node_id, reply.metadata.message_type) == (1, names.IDENTIFY)
