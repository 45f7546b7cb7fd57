"""A coordinator that is killed at any step on files, and started again, ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from joined_federation import steps_of
from quick_sites import SITES, QuickSites

import server.run_state
from anchoring.anchor_folder import AnchorFolder
from common.errors import InputError, RunError
from common.model import ModelCard, read_model
from common.settings_loading import load_settings
from privacy.accounting import spent
from privacy.events import events_from_json
from server.anchor_audit import audit
from server.differential_privacy import INTERRUPTED_TRAINING
from server.history import INTERRUPTED
from server.job import Job
from server.rounds import run
from server.run_state import STATE_FILE

CARD = ModelCard("rule", (), synthetic=True)
QUICK = ("training.hidden=[]", "federated.round_timeout=0.5", "federated.wait_timeout=0.5", "federated.rounds=3")
PLAIN = ("privacy.enabled=false", "anchoring.anchor_every_n=2")
PRIVATE = ("privacy.secure_agg.enabled=false", "privacy.dp.averaged_rounds=2")


@pytest.fixture(autouse=True)
def _inside_a_run() -> None:
    """Messages can be made only inside a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


def job_of(folder: Path, *overrides: str, name: str = "the-run", anchored: bool = True) -> Job:
    settings = load_settings([*QUICK, f"anchoring.enabled={str(anchored).lower()}", *overrides], environment={})
    if anchored and not (folder / "log").is_dir():
        AnchorFolder.create(folder / "log", "test.example/log")
    anchor = folder / "log" if anchored else None
    return Job(settings, SITES, CARD, folder / "run", anchor=anchor, run=name, secret=bytes(32))


def carry_out(job: Job) -> None:
    """As far as the coordinator comes."""
    run(QuickSites(), job)


def rows_of(job: Job) -> pd.DataFrame:
    return pd.read_csv(job.output / "rounds.csv", keep_default_na=False)


def result_of(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.output / "federation.json").read_text(encoding="utf-8"))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def model_hash(job: Job) -> str:
    return hashlib.sha256((job.output / "model.safetensors").read_bytes()).hexdigest()


def require_whole(job: Job) -> None:
    """Every round once, the log clean, each finished round's model on disk, and the result the model's."""
    rows = rows_of(job)
    assert rows["round"].tolist() == list(range(1, job.settings.federated.rounds + 1))
    for _, row in rows[rows["status"] == "finished"].iterrows():
        model = (job.output / f"models/round-{row['round']:03}.safetensors").read_bytes()
        assert hashlib.sha256(model).hexdigest() == row["model_sha256"]
    assert result_of(job)["model_sha256"] == model_hash(job)
    assert result_of(job)["abandoned"] == rows.loc[rows["status"] != "finished", "round"].tolist()
    if job.anchor is not None:
        audit(job.anchor)
        entries = [json.loads(entry) for entry in AnchorFolder.open(job.anchor).log.entries()]
        assert [one["released"] for one in entries] == [False] * (len(entries) - 1) + [True]
        assert entries[-1]["model_sha256"] == model_hash(job)
        told = [(record["number"], record["status"]) for one in entries for record in one["rounds"]]
        assert told == list(zip(rows["round"], rows["status"], strict=True))
    before = contents(job.output)
    carry_out(job)
    assert contents(job.output) == before, "a finished run was run again"


def kill_and_resume(folder: Path, overrides: tuple[str, ...], every: int) -> tuple[Job, list[Job]]:
    """An undisturbed run, and runs killed at every so many-th step on files and then resumed to the end."""
    whole = job_of(folder / "whole", *overrides)
    steps = steps_of(lambda: carry_out(whole))
    assert steps > 60
    killed = []
    for step in range(1 + len(overrides) % every, steps + 1, every):
        job = job_of(folder / f"killed-{step}", *overrides)
        assert steps_of(lambda: carry_out(job), kill_at=step) == 0  # noqa: B023
        carry_out(job)
        require_whole(job)
        killed.append(job)
    require_whole(whole)
    return whole, killed


def plain_runs_are_alike(folder: Path, every: int) -> None:
    whole, killed = kill_and_resume(folder, PLAIN, every)
    for job in killed:
        assert model_hash(job) == model_hash(whole)
        columns = [column for column in rows_of(whole) if column != "seconds"]
        assert rows_of(job)[columns].equals(rows_of(whole)[columns])
        assert result_of(job)["test_metrics"] == result_of(whole)["test_metrics"]


def private_runs_are_paid_for(folder: Path, every: int) -> None:
    _, killed = kill_and_resume(folder, PRIVATE, every)
    interrupted = 0
    for job in killed:
        events = events_from_json((job.output / "privacy_ledger.json").read_text(encoding="utf-8"))
        found, dp = result_of(job)["differential_privacy"], job.settings.privacy.dp
        assert spent(events, dp.delta).epsilon == found["epsilon"] <= dp.epsilon
        assert len({(event.site, event.round) for event in events}) == len(events)
        rows = rows_of(job)
        for number, status, reason in zip(rows["round"], rows["status"], rows["reason"], strict=True):
            mine = [event for event in events if event.round == number]
            assert {event.site for event in mine} == set(SITES)
            purpose = "training" if status == "finished" else INTERRUPTED_TRAINING
            assert {event.purpose for event in mine} == {purpose}
            assert reason == (INTERRUPTED if status == "abandoned" else reason)
        interrupted += "abandoned" in set(rows["status"])
    assert 0 < interrupted < len(killed)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_very_same_model(tmp_path: Path) -> None:
    plain_runs_are_alike(tmp_path, every=9)


@pytest.mark.slow
def test_a_killed_private_run_counts_what_may_have_been_spent(tmp_path: Path) -> None:
    private_runs_are_paid_for(tmp_path, every=9)


@pytest.mark.rare
def test_a_run_killed_at_every_third_step_goes_on_to_the_very_same_model(tmp_path: Path) -> None:
    plain_runs_are_alike(tmp_path, every=3)


@pytest.mark.rare
def test_a_private_run_killed_at_every_third_step_counts_what_may_have_been_spent(tmp_path: Path) -> None:
    private_runs_are_paid_for(tmp_path, every=3)


class Killed(BaseException):
    """The coordinator is gone."""


class KilledAt(QuickSites):
    """The coordinator dies when it asks for the n-th time to train."""

    def __init__(self, nth: int) -> None:
        super().__init__(self._die)
        self._left = nth * len(SITES)

    def _die(self, message: Message) -> None:
        if message.metadata.message_type == "train":
            self._left -= 1
            if not self._left:
                raise Killed


def test_a_private_run_killed_in_each_of_its_rounds_has_no_model_and_says_so(tmp_path: Path) -> None:
    job = job_of(tmp_path, *PRIVATE, anchored=False)
    for _ in range(3):
        with pytest.raises(Killed):
            run(KilledAt(1), job)
    with pytest.raises(RunError, match="no round was finished"):
        carry_out(job)
    assert rows_of(job)["reason"].tolist() == [INTERRUPTED] * 3
    assert not (job.output / "model.safetensors").exists()


def test_interruptions_do_not_count_as_abandoned_rounds_in_a_row(tmp_path: Path) -> None:
    job = job_of(tmp_path, *PRIVATE, "federated.max_abandoned=2", "federated.rounds=5", anchored=False)
    for _ in range(3):
        with pytest.raises(Killed):
            run(KilledAt(1), job)
    run(QuickSites(silent=[]), job)
    assert rows_of(job)["status"].tolist() == ["abandoned"] * 3 + ["finished"] * 2


def test_a_state_of_another_run_other_settings_or_another_application_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, *PLAIN)
    with pytest.raises(Killed):
        run(KilledAt(2), job)
    before = contents(job.output)
    with pytest.raises(InputError, match="another run lies in this folder"):
        carry_out(replace(job, run="another"))
    with pytest.raises(InputError, match="other settings"):
        carry_out(job_of(tmp_path, *PLAIN, "seed=7"))
    with pytest.raises(InputError, match="another application"):
        carry_out(replace(job, bundle_sha256="0" * 64))
    assert contents(job.output) == before
    carry_out(job)
    require_whole(job)


@pytest.mark.parametrize("damage", ["flipped", "gone", "older"])
def test_a_model_that_is_not_the_one_of_its_round_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    job = job_of(tmp_path, *PLAIN)
    with pytest.raises(Killed):
        run(KilledAt(3), job)
    path = job.output / "models/round-002.safetensors"
    if damage == "flipped":
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes((job.output / "models/round-001.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"round-002\.safetensors"):
        carry_out(job)


def test_a_folder_that_is_older_than_the_log_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, *PLAIN, "anchoring.anchor_every_n=1")
    with pytest.raises(Killed):
        run(KilledAt(2), job)
    older = (job.output / STATE_FILE).read_bytes()
    with pytest.raises(Killed):
        run(KilledAt(2), job)
    (job.output / STATE_FILE).write_bytes(older)
    with pytest.raises(RunError, match="older than the log"):
        carry_out(job)


def test_a_line_that_was_cut_off_counts_as_never_written_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, *PLAIN)
    with pytest.raises(Killed):
        run(KilledAt(3), job)
    path = job.output / STATE_FILE
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"ended"', b'"ebded"', 1))
    with pytest.raises(InputError, match="state is damaged"):
        carry_out(job)
    path.write_bytes(whole[: whole.rindex(b'{"begun"') + 5])
    carry_out(job)
    require_whole(job)


def test_two_processes_cannot_carry_out_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.run_state, "LONGEST_GOODBYE", 0.3)
    job = job_of(tmp_path, *PLAIN)

    def try_again(message: Message) -> None:
        if message.metadata.message_type == "train":
            with pytest.raises(RunError, match="another process carries out this run"):
                carry_out(job)

    run(QuickSites(try_again), job)
    require_whole(job)


def test_a_run_in_which_a_site_added_too_little_noise_is_never_resumed(tmp_path: Path) -> None:
    job = job_of(tmp_path, *PRIVATE, anchored=False)

    def cheat(message: Message) -> None:
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 2:
            config = cast(ConfigRecord, message.content["config"])  # one and the same for all sites
            halved = ConfigRecord({**config, "noise-multiplier": cast(float, config["noise-multiplier"]) / 2})
            message.content = RecordDict({**cast(dict[str, Any], dict(message.content)), "config": halved})

    with pytest.raises(RunError, match="CPI_B added less noise than was asked for"):
        run(QuickSites(cheat), job)
    with pytest.raises(RunError, match="CPI_B added less noise than was asked for"):
        carry_out(job)
    assert not (job.output / "federation.json").exists()


def test_the_model_after_each_round_is_on_disk_and_readable(tmp_path: Path) -> None:
    job = job_of(tmp_path, *PLAIN, anchored=False)
    carry_out(job)
    names = sorted(path.name for path in (job.output / "models").iterdir())
    assert names == ["round-001.safetensors", "round-002.safetensors", "round-003.safetensors"]
    assert [read_model(job.output / "models" / name)[1] for name in names] == [CARD] * 3
    assert (job.output / "models" / names[-1]).read_bytes() == (job.output / "model.safetensors").read_bytes()
