"""Runs with real sites under masks, noise and proofs whose coordinator dies in the middle of an exchange."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from quick_sites import SITES, QuickSites
from site_tables import table_of

from anchoring.anchor_folder import AnchorFolder
from client.app import create_app
from client.budget import LEDGER_FILE
from client.ledger import PrivacyLedger, counted_entries
from common import messages as names
from common.model import ModelCard
from common.settings_loading import load_settings
from common.training_table import write_training_table
from federation.identities import make_identities
from federation.ledgers import ledger_folders
from federation.witnesses import witness_folders
from privacy.accounting import spent
from privacy.events import events_from_json
from server.anchor_audit import audit
from server.history import INTERRUPTED
from server.job import Job
from server.rounds import run

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _inside_a_run() -> None:
    """Messages can be made only inside a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


class Killed(BaseException):
    """The coordinator is gone."""


class RealSites(QuickSites):
    """Real ClientApps; the coordinator dies when `dies` says so, before a message is answered."""

    def __init__(self, app: Callable[[Message, Context], Message], dies: Callable[[Message], bool]) -> None:
        super().__init__()
        self._app, self._dies = app, dies
        # The SuperLink's number of a resumed run is another one, so sites have a new memory for it.
        self._contexts = [Context(1, 1, {"partition-id": index}, RecordDict(), {}) for index in range(5)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            if self._dies(message):
                raise Killed
            self._count += 1
            message.metadata.__dict__["_message_id"] = str(self._count)
            self._replies[str(self._count)] = self._app(message, self._contexts[message.metadata.dst_node_id - 1])
            ids.append(str(self._count))
        return ids


class Federation:
    """Five sites with keys, ledgers and witness folders, and a job for them."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        asked = ["training.hidden=[]", "federated.local_epochs=1", "federated.rounds=4", "federated.round_timeout=5"]
        settings = load_settings([*asked, f"paths.witness_dir={folder}/witnesses", *overrides], environment={})
        AnchorFolder.create(folder / "log", "test.example/log")
        tables = []
        for number, site in enumerate(SITES):
            tables.append(folder / f"{site}.csv")
            write_training_table(table_of(60, 6, office=site, seed=number), tables[-1])
        identities = make_identities(SITES, settings, folder / "keys", federation="test")
        self.ledgers = ledger_folders(settings, SITES, folder / "ledgers")
        card = ModelCard("rule", (), synthetic=True)
        job = Job(settings, SITES, card, folder / "run", anchor=folder / "log", roster=identities.roster)
        self.job = replace(job, coordinator=folder / "coordinator")
        keys = [identities.folders[site] for site in SITES]
        self.app = create_app(tables, keys, self.ledgers, witness_folders(self.job))

    def carry_out(self, dies: Callable[[Message], bool] = lambda _message: False) -> None:
        run(RealSites(self.app, dies), self.job)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.job.output / "federation.json").read_text(encoding="utf-8"))
        return found


def at(kind: str, nth: int) -> Callable[[Message], bool]:
    """The n-th message of this kind that leaves: five of them are an exchange."""
    left = nth

    def dies(message: Message) -> bool:
        nonlocal left
        left -= message.metadata.message_type == kind
        return left == 0 and message.metadata.message_type == kind

    return dies


def released(message: Message) -> bool:
    """The released model is shown to its third witness."""
    return (
        message.metadata.message_type == names.WITNESS
        and names.ARRAYS in message.content
        and (message.metadata.dst_node_id == 3)
    )


def test_a_private_run_that_is_killed_in_every_kind_of_exchange_is_finished_and_paid_for(tmp_path: Path) -> None:
    federation = Federation(tmp_path, "privacy.dp.unit=site", "privacy.dp.averaged_rounds=2", "federated.rounds=5")
    # In the set-up; when three sites have trained; when the second round is unmasked; and when all is over.
    for dies in (at(names.SHARE, 2), at("train", 4), at(names.UNMASK, 7), released):
        with pytest.raises(Killed):
            federation.carry_out(dies)
    federation.carry_out()
    result, dp = federation.result(), federation.job.settings.privacy.dp
    rows = [line.split(",")[:2] for line in (tmp_path / "run/rounds.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert rows == [["1", "abandoned"], ["2", "finished"], ["3", "abandoned"], ["4", "finished"], ["5", "finished"]]
    assert (tmp_path / "run/rounds.csv").read_text(encoding="utf-8").count(INTERRUPTED) == 2
    events = events_from_json((tmp_path / "run/privacy_ledger.json").read_text(encoding="utf-8"))
    assert {(event.site, event.round) for event in events} == {
        (site, number) for site in SITES for number in range(1, 6)
    }
    assert len(events) == 25
    assert spent(events, dp.delta).epsilon == result["differential_privacy"]["epsilon"] <= dp.epsilon
    assert result["secure_aggregation"]["sums"] == 3
    assert result["secure_aggregation"]["cohort"] == list(SITES)
    assert result["anchoring"]["published"]
    assert audit(tmp_path / "log").runs == 1
    for site, folder in zip(SITES, federation.ledgers or (), strict=True):
        executed = [
            entry.event for entry in counted_entries(PrivacyLedger.open(folder / LEDGER_FILE, create=False).entries())
        ]
        claimed = {event.round: event for event in events if event.site == site}
        assert {2, 4, 5} <= {event.round for event in executed} <= set(claimed)
        assert all(claimed[event.round].noise_multiplier <= event.noise_multiplier for event in executed)
        assert spent(executed, dp.delta).epsilon <= result["differential_privacy"]["epsilon"]


def test_a_plain_run_that_is_killed_comes_to_the_model_of_one_that_was_not(tmp_path: Path) -> None:
    plain = ("privacy.dp.enabled=false", "federated.rounds=3", "anchoring.anchor_every_n=1")
    hashes = set()
    for name, deaths in (("whole", ()), ("killed", (at("train", 8), at(names.UNMASK, 3), at("evaluate", 2), released))):
        federation = Federation(tmp_path / name, *plain)
        for dies in deaths:
            with pytest.raises(Killed):
                federation.carry_out(dies)
        federation.carry_out()
        assert audit(tmp_path / name / "log").models == 5
        assert federation.result()["anchoring"]["published"]
        assert federation.result()["secure_aggregation"]["sums"] == 4
        hashes.add(federation.result()["model_sha256"])
    assert len(hashes) == 1
