"""What a run's database shows while it goes on, and a run whose database is away."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity
from postgresql_server import binaries, postgresql
from quick_sites import SITES, QuickSites

import server.run_mirror
from common.errors import RunError
from common.model import ModelCard
from common.settings_loading import load_settings
from server.history import COLUMNS
from server.job import Job
from server.rounds import run
from server.run_store import DATABASE_FILE, URL_FILE, RunStore, Waiting

QUICK = ("training.hidden=[]", "federated.round_timeout=1.5", "federated.wait_timeout=0.5", "anchoring.enabled=false")


@pytest.fixture(autouse=True)
def _inside_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages can be made only inside a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    monkeypatch.setattr(server.run_mirror, "RETRY_SECONDS", 0.0)


def job_of(folder: Path, *overrides: str) -> Job:
    settings = load_settings([*QUICK, "privacy.enabled=false", "federated.rounds=2", *overrides], environment={})
    card = ModelCard("rule", (), synthetic=True)
    return Job(settings, SITES, card, folder / "run", coordinator=folder / "coordinator", run="the-run")


def rounds_file(job: Job) -> pd.DataFrame:
    return pd.read_csv(job.output / "rounds.csv")


def require_complete(job: Job) -> None:
    """The database has every row of `rounds.csv`, and nothing is waited for."""
    with RunStore.open(job.coordinator) as store:  # type: ignore[arg-type]
        rows = store.rounds(job.run)
        found = pd.DataFrame([{key: row[key] for key in COLUMNS} for row in rows], columns=list(COLUMNS))
        found["reason"] = found["reason"].replace("", None)
        expected = rounds_file(job).astype(object)
        pd.testing.assert_frame_equal(
            found.astype(object).where(found.notna(), None), expected.where(expected.notna(), None)
        )
        assert all(row["started"] <= row["ended"] for row in rows)
        assert store.waiting(job.run) is None


class Named(QuickSites):
    """The SuperLink knows the names of the first two sites; nodes 3 and 5 are slow."""

    def __init__(self, job: Job) -> None:
        super().__init__(silent=[("train", 3), ("train", 5)])
        self._job = job
        self.seen: list[Waiting] = []
        self.polls = 0

    def get_nodes(self) -> Any:
        return [NodeInfo(node_id=node, name=SITES[node - 1] if node < 3 else "") for node in range(1, 6)]

    def pull_messages(self, message_ids: Any) -> Any:
        self.polls += 1
        found = super().pull_messages(message_ids)
        with RunStore.open(self._job.coordinator) as store:  # type: ignore[arg-type]
            if (waiting := store.waiting(self._job.run)) is not None:
                self.seen.append(waiting)
        return found


def test_the_database_says_whom_the_run_waits_for_and_until_when(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    grid = Named(job)
    run(grid, job)
    first, later = grid.seen[0], grid.seen[1]
    assert (first.round, first.step) == (1, "train")
    assert first.asked == ("CPI_A", "CPI_B", "node 3", "node 4", "node 5")
    assert first.answered == ()
    assert later.asked == ("CPI_A", "CPI_B", "CPI_D", "node 3", "node 5")  # one has said its name
    assert later.answered == ("CPI_A", "CPI_B", "CPI_D")
    assert later.missing == ("node 3", "node 5")
    assert first.until == later.until
    assert {(one.round, one.step) for one in grid.seen} == {(1, "train"), (2, "train"), (None, "evaluate")}
    require_complete(job)


def test_it_is_written_when_something_changed_and_not_at_every_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path)
    grid = Named(job)
    written: list[Waiting | None] = []
    plain = RunStore.set_waiting
    monkeypatch.setattr(
        RunStore, "set_waiting", lambda store, name, one: (written.append(one), plain(store, name, one))
    )
    run(grid, job)
    assert grid.polls > 12
    assert len([one for one in written if one is not None]) == 6  # asked and answered, in three exchanges


def test_a_finished_run_has_its_outcome_its_model_and_its_price(tmp_path: Path) -> None:
    private = ("privacy.enabled=true", "privacy.secure_agg.enabled=false")
    job = job_of(tmp_path, *private)
    run(QuickSites(), job)
    require_complete(job)
    with RunStore.open(tmp_path / "coordinator") as store:
        (found,) = store.runs()
    assert (found.status, found.outcome) == ("finished", "2 of 2 rounds were finished.")
    assert found.model_sha256 is not None
    assert found.epsilon is not None
    assert 0 < found.epsilon <= job.settings.privacy.dp.epsilon


def test_a_run_that_failed_says_why_and_one_that_was_stopped_says_so(tmp_path: Path) -> None:
    job = job_of(tmp_path, "federated.max_abandoned=1")
    with pytest.raises(RunError):
        run(QuickSites(silent=[("train", node) for node in (1, 2, 3)]), job)
    with RunStore.open(tmp_path / "coordinator") as store:
        (found,) = store.runs()
        assert found.status == "failed"
        assert str(found.outcome).startswith("round 1: a round was abandoned because only 2 of 5 sites took part")
        require_complete(job)

        def stop(_message: Message) -> None:
            job.cancelled.set()

        with pytest.raises(RunError):
            run(QuickSites(stop, silent=[("train", 1)]), job)
        assert [one.status for one in store.runs()] == ["stopped"]


def test_an_execution_that_is_ended_from_outside_or_is_one_of_many_says_nothing(tmp_path: Path) -> None:
    job = job_of(tmp_path)

    def end(_message: Message) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        run(QuickSites(end), job, resumable=False)
    assert not (tmp_path / "coordinator").exists()
    with pytest.raises(SystemExit):
        run(QuickSites(end), job)
    with RunStore.open(tmp_path / "coordinator") as store:
        assert [(one.status, one.outcome) for one in store.runs()] == [("running", None)]


def test_a_database_that_is_no_database_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = job_of(tmp_path)
    (tmp_path / "coordinator").mkdir()
    (tmp_path / "coordinator" / DATABASE_FILE).write_bytes(b"no tables" * 100)
    with caplog.at_level(logging.WARNING, logger="flwr"):
        run(QuickSites(), job)
    assert len(rounds_file(job)) == 2
    assert (job.output / "federation.json").is_file()
    assert "The run goes on without it." in caplog.text


def test_rows_that_were_missed_while_the_database_was_down_are_written_when_it_is_back(tmp_path: Path) -> None:
    found = binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    job = job_of(tmp_path, "federated.rounds=4")
    (tmp_path / "coordinator").mkdir()
    with postgresql(found) as database:
        (tmp_path / "coordinator" / URL_FILE).touch(mode=0o600)
        (tmp_path / "coordinator" / URL_FILE).write_text(f"url: {database.url}\n", encoding="utf-8")
        asked = 0

        def meddle(message: Message) -> None:
            nonlocal asked
            asked += message.metadata.message_type == "train"
            if asked == len(SITES) + 1:
                database.stop()
            elif asked == 3 * len(SITES) + 1:
                database.start()
                asked += 1

        run(QuickSites(meddle), job)
        require_complete(job)
        assert rounds_file(job)["round"].tolist() == [1, 2, 3, 4]
