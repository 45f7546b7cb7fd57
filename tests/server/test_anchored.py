"""Anchored rounds with real sites in this process, an honest coordinator, and coordinators that cheat."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.task_identity import TaskIdentity
from site_tables import table_of

from anchoring.anchor_folder import AnchorFolder
from anchoring.cosignature import WitnessPolicy
from anchoring.errors import LogMissing
from client.app import create_app
from client.witness_folder import STATE_FILE, WitnessFolder
from common import messages as names
from common.errors import InputError
from common.model import MatchingModel, ModelCard, from_array_record, parameters_of, sha256_of, to_array_record
from common.settings_loading import load_settings
from common.training_table import write_training_table
from federation.witnesses import witness_folders
from server.abandoned import RoundAbandoned
from server.anchored import Anchored, anchored
from server.closing import config_of
from server.exchange import refusal_kind_of, refusal_of
from server.job import Job
from server.strategies import FixedOrder, Quorum, build_strategy
from server.wrapper import Release, Wrapper

OFFICES = ("CPI_Padova", "CPI_Treviso", "CPI_Venezia", "CPI_Verona", "CPI_Vicenza")
Meddle = Callable[[Message], Message]


@pytest.fixture(autouse=True)
def _in_a_task() -> None:
    """Messages are made in one of Flower's processes."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


class Federation:
    """A coordinator's log, five real sites that watch it, and what the coordinator does to its messages."""

    def __init__(self, folder: Path, *more: str) -> None:
        asked = ["privacy.enabled=false", "training.hidden=[]", "federated.local_epochs=1", *more]
        self.settings = load_settings([*asked, f"paths.witness_dir={folder}/witnesses"], environment={})
        self.folder = folder
        tables = []
        for number, office in enumerate(OFFICES):
            tables.append(folder / f"{office}.csv")
            write_training_table(table_of(60, 6, office=office, seed=number), tables[-1])
        AnchorFolder.create(folder / "log", "test.example/log")
        self.job = Job(
            self.settings, OFFICES, ModelCard("rule", (), synthetic=True), folder / "run", anchor=folder / "log"
        )
        self.witnesses = witness_folders(self.job)
        assert self.witnesses is not None
        self.app = create_app(tables, None, None, self.witnesses)
        self.contexts = [Context(1, 1, {"partition-id": index}, RecordDict(), {}) for index in range(5)]
        self.lost: set[int] = set()
        self.meddle: Meddle = lambda message: message
        self.asked: list[str] = []

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2, 3, 4, 5]

    def ask(self, _grid: object, messages: Iterable[Message]) -> list[Message]:
        replies = []
        self.asked.append("exchange")
        for message in messages:
            node = message.metadata.dst_node_id
            if node not in self.lost:
                replies.append(self.app(self.meddle(message), self.contexts[node - 1]))
        return replies

    @property
    def grid(self) -> Grid:
        return self  # type: ignore[return-value]

    def strategy(self) -> Wrapper:
        inner = build_strategy(self.settings, OFFICES, None, self.ask, self.job.run)
        return anchored(inner, self.job, self.ask)

    def messages(self, strategy: Strategy, number: int, arrays: ArrayRecord) -> list[Message]:
        sampled = strategy.configure_train(number, arrays, config_of(self.job), self.grid)
        messages = sorted(sampled, key=lambda message: message.metadata.dst_node_id)
        for message in messages:
            message.content[names.CONFIG][names.ROUND_KEY] = number  # type: ignore[index]
        return messages

    def round(self, strategy: Strategy, number: int, arrays: ArrayRecord, lost: tuple[int, ...] = ()) -> ArrayRecord:
        messages = self.messages(strategy, number, arrays)
        self.lost = set(lost)
        replies = self.ask(None, messages)
        self.lost = set()
        found, _ = strategy.aggregate_train(number, replies)
        assert found is not None
        return to_array_record(from_array_record(found))

    def states(self) -> list[str]:
        return [(folder / STATE_FILE).read_text(encoding="utf-8") for folder in self.witnesses or ()]


def start() -> ArrayRecord:
    return to_array_record(parameters_of(MatchingModel((), seed=1)))


def log_of(federation: Federation) -> AnchorFolder:
    return AnchorFolder.open(federation.folder / "log")


def manifests(federation: Federation) -> list[dict[str, Any]]:
    import json

    return [json.loads(entry) for entry in log_of(federation).log.entries()]


def test_every_model_is_in_the_log_before_a_site_gets_it_and_every_checkpoint_is_published(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy, arrays = federation.strategy(), start()
    for number in (1, 2, 3):
        sent = sha256_of(from_array_record(arrays), federation.job.card)
        messages = federation.messages(strategy, number, arrays)
        assert manifests(federation)[-1]["model_sha256"] == sent  # before anything was asked of a site with it
        found, _ = strategy.aggregate_train(number, federation.ask(None, messages))
        arrays = to_array_record(from_array_record(found))  # type: ignore[arg-type]
        log = log_of(federation)
        assert log.is_published(number)
        assert len(log.cosigned_by(number)) == 5
    assert [one["round"] for one in manifests(federation)] == [0, 1, 2]
    assert [record["status"] for one in manifests(federation) for record in one["rounds"]] == ["finished"] * 2


def test_anchoring_costs_one_exchange_a_run_and_none_a_round(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy, arrays = federation.strategy(), start()
    costs = []
    for number in (1, 2, 3):
        federation.asked.clear()
        arrays = federation.round(strategy, number, arrays)
        costs.append(len(federation.asked))
    assert costs == [2, 1, 1]


def test_a_manifest_names_sites_by_pseudonyms_that_the_coordinator_alone_resolves(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    arrays = federation.round(strategy, 1, start(), lost=(2,))
    federation.round(strategy, 2, arrays)
    (record,) = manifests(federation)[1]["rounds"]
    names_of = strategy._commitments.pseudonyms  # type: ignore[attr-defined]
    assert sorted(record["cohort"]) == sorted(names_of[office] for office in OFFICES if office != OFFICES[1])
    assert record["dropouts"] == [names_of[OFFICES[1]]]
    whole = b"".join(path.read_bytes() for path in (tmp_path / "log").rglob("*") if path.is_file())
    assert not [office for office in OFFICES if office.encode() in whole]


def test_an_abandoned_round_stands_in_the_next_manifest_and_its_model_does_not(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    arrays = federation.round(strategy, 1, start())
    with pytest.raises(RoundAbandoned):
        federation.round(strategy, 2, arrays, lost=(1, 2, 3))
    arrays = federation.round(strategy, 3, arrays)
    federation.round(strategy, 4, arrays)
    last = manifests(federation)[-1]
    assert [(record["number"], record["status"]) for record in last["rounds"]] == [(2, "abandoned"), (3, "finished")]
    assert last["rounds"][0]["cohort"] == []


def test_a_model_that_was_given_up_after_it_was_aggregated_is_not_committed(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    arrays = federation.round(strategy, 1, start())
    given_up = federation.round(strategy, 2, arrays)
    federation.round(strategy, 3, arrays)  # the run went on with the model of round 1
    federation.round(strategy, 4, federation.round(strategy, 3, arrays))
    hashes = [one["model_sha256"] for one in manifests(federation)]
    assert sha256_of(from_array_record(given_up), federation.job.card) not in hashes
    assert [record["status"] for record in manifests(federation)[-1]["rounds"]] == ["abandoned", "finished"]


def test_with_every_second_round_anchored_sites_use_one_model_between(tmp_path: Path) -> None:
    federation = Federation(tmp_path, "anchoring.anchor_every_n=2")
    strategy, arrays = federation.strategy(), start()
    for number in range(1, 6):
        arrays = federation.round(strategy, number, arrays)
    assert [one["round"] for one in manifests(federation)] == [0, 2, 4]
    assert [record["number"] for one in manifests(federation) for record in one["rounds"]] == [1, 2, 3, 4]


def test_a_site_that_allows_fewer_models_without_proof_than_the_coordinator_sends_refuses(tmp_path: Path) -> None:
    federation = Federation(tmp_path, "anchoring.anchor_every_n=2")
    for folder in federation.witnesses or ():
        (folder / "witness.yaml").write_text("anchor_every_n: 1\nmost_unpublished: 3\n", encoding="utf-8")
    strategy = federation.strategy()
    arrays = federation.round(strategy, 1, start())
    with pytest.raises(RoundAbandoned, match="not in the log"):
        federation.round(strategy, 2, arrays)


def test_the_released_model_is_published_though_a_site_was_away(tmp_path: Path) -> None:
    federation = Federation(tmp_path, "federated.rounds=1")
    strategy = federation.strategy()
    arrays = federation.round(strategy, 1, start())
    federation.lost = {4}
    strategy.release(federation.grid, Release(from_array_record(arrays), federation.job.card, {"roc_auc": 0.7}))
    anchoring = strategy.anchoring
    assert anchoring is not None
    assert anchoring["published"]
    assert anchoring["cosigned"] == 4
    assert [one["released"] for one in manifests(federation)] == [False, False, True]
    assert manifests(federation)[-1]["metrics"] == {"roc_auc": 0.7}
    receipts = sorted(path.name for path in (tmp_path / "run/receipts").iterdir())
    assert receipts == ["released.tlog-proof", "round-000.tlog-proof", "round-001.tlog-proof"]


def test_without_its_quorum_a_release_says_that_it_is_not_published(tmp_path: Path) -> None:
    federation = Federation(tmp_path, "federated.rounds=1")
    strategy = federation.strategy()
    arrays = federation.round(strategy, 1, start())
    federation.lost = {1, 2, 3}
    strategy.release(federation.grid, Release(from_array_record(arrays), federation.job.card, None))
    assert strategy.anchoring is not None
    assert not strategy.anchoring["published"]


def test_a_wrapper_never_looks_inside_what_it_wraps(tmp_path: Path) -> None:
    """An odd inner strategy that adds one: what is committed and sent on is what it gave."""

    class PlusOne(Wrapper):
        def aggregate_train(
            self, server_round: int, replies: Iterable[Message]
        ) -> tuple[ArrayRecord | None, MetricRecord | None]:
            arrays, metrics = self.inner.aggregate_train(server_round, replies)
            assert arrays is not None
            odd = {name: values + np.float32(1) for name, values in from_array_record(arrays).items()}
            return to_array_record(odd), metrics

    federation = Federation(tmp_path)
    inner = build_strategy(federation.settings, OFFICES, None, federation.ask, federation.job.run)
    plain = federation.round(Anchored(inner, log_of(federation), federation.job, federation.ask), 1, start())
    shutil.rmtree(tmp_path / "log")
    shutil.rmtree(tmp_path / "witnesses")
    again = Federation(tmp_path)
    strategy = Anchored(PlusOne(inner), log_of(again), again.job, again.ask)
    odd = again.round(strategy, 1, start())
    again.round(strategy, 2, odd)
    assert manifests(again)[-1]["model_sha256"] == sha256_of(from_array_record(odd), again.job.card)
    for name, values in from_array_record(odd).items():
        np.testing.assert_array_equal(values, from_array_record(plain)[name] + np.float32(1))


def test_a_run_that_asks_for_anchoring_and_has_no_log_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    inner = Quorum(FixedOrder(Wrapper(None)), OFFICES, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="djms anchor init"):
        anchored(inner, replace(federation.job, anchor=None), federation.ask)
    with pytest.raises(LogMissing):
        anchored(inner, replace(federation.job, anchor=tmp_path / "nothing"), federation.ask)
    assert not (tmp_path / "nothing").exists()


def test_a_false_cosignature_does_not_count_and_its_site_is_named(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    messages = federation.messages(strategy, 1, start())
    replies = federation.ask(None, messages)
    record = replies[0].content.config_records[names.ANCHOR]
    text = str(record[names.COSIGNED_KEY])
    last = text.rstrip("\n").rindex(" ") + 20
    record[names.COSIGNED_KEY] = f"{text[:last]}{'A' if text[last] != 'A' else 'B'}{text[last + 1 :]}"
    strategy.aggregate_train(1, replies)
    assert len(log_of(federation).cosigned_by(1)) == 4
    assert any("CPI_Padova gave no valid cosignature" in reason for reason in strategy.left_out)
    assert not any("CPI_Verona" in reason for reason in strategy.left_out)


def test_cosignatures_of_sites_that_refuse_for_another_reason_are_kept(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    messages = federation.messages(strategy, 1, start())
    for message in messages:
        message.content.config_records[names.CONFIG][names.VERSION_KEY] = (
            0  # what a coordinator of another version says
        )
    replies = federation.ask(None, messages)
    assert [refusal_kind_of(reply) for reply in replies] == ["InputError"] * 5
    with pytest.raises(RoundAbandoned):
        strategy.aggregate_train(1, replies)
    assert log_of(federation).is_published(1)


def test_runs_that_die_before_they_keep_cosignatures_do_not_stop_the_sites_for_good(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    for number in range(6):  # more than a site puts up with, if nobody ever learnt of its cosignatures
        arrays = to_array_record(parameters_of(MatchingModel((), seed=10 + number)))
        job = replace(federation.job, run=f"run-{number}")
        inner = build_strategy(federation.settings, OFFICES, None, federation.ask, job.run)
        messages = federation.messages(anchored(inner, job, federation.ask), 1, arrays)
        replies = federation.ask(None, messages)
        assert [refusal_kind_of(reply) for reply in replies] == [None] * 5
        # The coordinator is killed here: nobody aggregates, nothing is kept.
    assert log_of(federation).is_published(5)
    assert not log_of(federation).is_published(6)


def test_a_site_whose_reply_was_lost_takes_part_in_the_next_round(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    messages = federation.messages(strategy, 1, start())
    replies = federation.ask(None, messages)[1:]  # the first site did its work, and its reply came too late
    found, _ = strategy.aggregate_train(1, replies)
    messages = federation.messages(strategy, 2, to_array_record(from_array_record(found)))  # type: ignore[arg-type]
    assert [refusal_kind_of(reply) for reply in federation.ask(None, messages)] == [None] * 5


def test_a_site_that_does_not_say_what_it_saw_is_sent_nothing_and_another_time_again(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    federation.lost = {1}
    messages = federation.messages(strategy, 1, start())
    assert [message.metadata.dst_node_id for message in messages] == [2, 3, 4, 5]
    found, _ = strategy.aggregate_train(1, federation.ask(None, messages))
    federation.lost = set()
    messages = federation.messages(strategy, 2, to_array_record(from_array_record(found)))  # type: ignore[arg-type]
    assert [refusal_kind_of(reply) for reply in federation.ask(None, messages)] == [None] * 5


def test_two_runs_that_take_turns_in_one_log_do_not_look_like_a_fork(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    jobs = [replace(federation.job, run=run, output=tmp_path / run) for run in ("run-a", "run-b")]
    strategies = [
        anchored(build_strategy(federation.settings, OFFICES, None, federation.ask, job.run), job, federation.ask)
        for job in jobs
    ]
    arrays = [to_array_record(parameters_of(MatchingModel((), seed=seed))) for seed in (5, 6)]
    for number in (1, 2, 3):
        for which, strategy in enumerate(strategies):
            arrays[which] = federation.round(strategy, number, arrays[which])
    assert [one["run"] for one in manifests(federation)] == ["run-a", "run-b"] * 3


def test_who_is_who_in_the_manifests_is_known_before_the_first_and_a_loss_that_is_none_is_left_out(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    assert (tmp_path / "run" / "pseudonyms.json").is_file()
    messages = federation.messages(strategy, 1, start())
    replies = federation.ask(None, messages)
    replies[0].content.metric_records[names.METRICS][names.TRAIN_LOSS_KEY] = float("nan")
    found, _ = strategy.aggregate_train(1, replies)
    federation.messages(strategy, 2, to_array_record(from_array_record(found)))  # type: ignore[arg-type]
    (record,) = manifests(federation)[-1]["rounds"]
    assert "train_loss" not in record["metrics"]
    assert record["metrics"]["roc_auc"] > 0


def test_sites_that_found_no_quorum_find_one_again(tmp_path: Path) -> None:
    """Three rounds with two sites each time that cosign: later the others come back, and everybody trains again."""
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    arrays = start()
    for number in range(1, 6):
        messages = federation.messages(strategy, number, arrays)
        federation.ask(None, messages[:2])  # nobody learns of their cosignatures
        arrays = to_array_record(
            {name: values + np.float32(number) for name, values in from_array_record(arrays).items()}
        )
        strategy._seen.clear()  # type: ignore[attr-defined]
    federation.lost = set()
    kinds = []
    for number in range(6, 9):
        replies = federation.ask(None, federation.messages(strategy, number, arrays))
        strategy._keep_cosignatures(replies)  # type: ignore[attr-defined]
        kinds.append([refusal_kind_of(reply) for reply in replies])
    assert kinds[0] != [None] * 5
    assert kinds[-1] == [None] * 5


# Coordinators that cheat. Each gets as far as a message to the sites, and every site refuses with the error's name.


def everybody_refuses(federation: Federation, messages: list[Message], kind: str) -> None:
    before = federation.states()
    replies = federation.ask(None, messages)
    assert [refusal_kind_of(reply) for reply in replies] == [kind] * 5, [refusal_of(reply) for reply in replies]
    assert all(names.ARRAYS not in reply.content for reply in replies)
    assert federation.states() == before


def two_rounds(federation: Federation) -> tuple[Wrapper, ArrayRecord]:
    strategy = federation.strategy()
    arrays = federation.round(strategy, 1, start())
    return strategy, federation.round(strategy, 2, arrays)


def test_another_model_than_the_committed_one_is_refused_by_every_site(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy, arrays = two_rounds(federation)
    messages = federation.messages(strategy, 3, arrays)
    for message in messages:
        parameters = from_array_record(message.content.array_records[names.ARRAYS])
        next(iter(parameters.values())).ravel()[0] += np.float32(1e-6)
        message.content[names.ARRAYS] = to_array_record(parameters)
    everybody_refuses(federation, messages, "NotAnchored")


def test_a_log_rolled_back_with_the_coordinators_own_backup_is_refused_by_every_site(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    arrays = federation.round(strategy, 1, start())
    shutil.copytree(tmp_path / "log", tmp_path / "backup")
    arrays = federation.round(strategy, 2, arrays)
    shutil.rmtree(tmp_path / "log")
    shutil.copytree(tmp_path / "backup", tmp_path / "log")
    again = federation.strategy()
    again._commitments.made = strategy._commitments.made[:1]  # type: ignore[attr-defined]
    everybody_refuses(federation, federation.messages(again, 2, start()), "LogRolledBack")


@pytest.mark.parametrize("more", [0, 1, 5])
def test_a_log_rewritten_with_the_coordinators_own_key_is_refused_by_every_site(tmp_path: Path, more: int) -> None:
    federation = Federation(tmp_path)
    two_rounds(federation)
    keys = tmp_path / "log" / "keys"
    signers = (tmp_path / "log" / "signers.json").read_text(encoding="utf-8")
    policy = log_of(federation).policy
    shutil.copytree(keys, tmp_path / "keys")
    shutil.rmtree(tmp_path / "log")
    forged = AnchorFolder.create(tmp_path / "log", "test.example/log")
    (tmp_path / "log" / "signers.json").write_text(signers, encoding="utf-8")
    shutil.rmtree(keys)
    shutil.copytree(tmp_path / "keys", keys)
    (tmp_path / "log" / "log" / "checkpoint").write_bytes(_resigned(tmp_path / "log"))
    forged = AnchorFolder.open(tmp_path / "log")
    forged.set_policy(policy)  # type: ignore[arg-type]
    forged.append([b'{"type":"other"}'] * (1 + more))
    other = parameters_of(MatchingModel((), seed=9))
    strategy = federation.strategy()
    messages = federation.messages(strategy, 1, to_array_record(other))
    everybody_refuses(federation, messages, "LogForked")


def test_a_model_without_proofs_is_refused_by_every_site(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy, arrays = two_rounds(federation)
    messages = federation.messages(strategy, 3, arrays)
    for message in messages:
        del message.content[names.ANCHOR]
    everybody_refuses(federation, messages, "NotAnchored")


def test_the_model_of_an_earlier_round_is_refused_by_every_site(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    first = start()
    arrays = federation.round(strategy, 1, first)
    federation.round(strategy, 2, arrays)
    made = strategy._commitments.made  # type: ignore[attr-defined]
    messages = strategy._presented(  # type: ignore[attr-defined]
        [_with_arrays(message, first) for message in federation.messages(strategy, 3, arrays)], made[0], federation.grid
    )
    everybody_refuses(federation, messages, "ModelRolledBack")


def test_a_record_that_cannot_be_read_is_refused_by_every_site(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy, arrays = two_rounds(federation)
    for key in (names.CHECKPOINT_KEY, names.CONSISTENCY_KEY, names.INDEX_KEY, names.INCLUSION_KEY):
        messages = federation.messages(strategy, 3, arrays)
        for message in messages:
            message.content.config_records[names.ANCHOR][key] = 1.5
        everybody_refuses(federation, messages, "InputError")


def test_two_groups_of_sites_that_are_shown_two_logs_cannot_both_go_on(tmp_path: Path) -> None:
    """The coordinator keeps two logs with one key, and shows three sites one and two sites the other."""
    federation = Federation(tmp_path)
    AnchorFolder.create(tmp_path / "second", "test.example/log")
    shutil.rmtree(tmp_path / "second")
    shutil.copytree(tmp_path / "log", tmp_path / "second")
    other = replace(federation.job, anchor=tmp_path / "second", run="second-run")
    inner = build_strategy(federation.settings, OFFICES, None, federation.ask, "second-run")
    first, second = federation.strategy(), anchored(inner, other, federation.ask)
    arrays, elsewhere = start(), to_array_record(parameters_of(MatchingModel((), seed=2)))
    refused: list[str | None] = []
    for number in range(1, 7):
        shown = [m for m in federation.messages(first, number, arrays) if m.metadata.dst_node_id <= 3]
        also = [m for m in federation.messages(second, number, elsewhere) if m.metadata.dst_node_id > 3]
        found, _ = first.aggregate_train(number, federation.ask(None, shown))
        arrays = to_array_record(from_array_record(found))  # type: ignore[arg-type]
        replies = federation.ask(None, also)
        refused = [refusal_kind_of(reply) for reply in replies]
        with pytest.raises(RoundAbandoned):
            second.aggregate_train(number, replies)
        elsewhere = to_array_record(
            {name: values + np.float32(number) for name, values in from_array_record(elsewhere).items()}
        )
        if refused == ["QuorumMissing"] * 2:
            break
    assert refused == ["QuorumMissing"] * 2
    assert number <= 4  # the three rounds that a site puts up with, and the one it does not


def test_a_site_that_is_no_witness_takes_no_part_in_an_anchored_run(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    federation.app = create_app([tmp_path / f"{office}.csv" for office in OFFICES])
    replies = federation.ask(None, federation.messages(strategy, 1, start()))
    assert [refusal_kind_of(reply) for reply in replies] == ["InputError"] * 5
    assert all("no witness" in str(refusal_of(reply)) for reply in replies)


def test_a_witness_whose_state_is_lost_takes_no_part(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    strategy = federation.strategy()
    arrays = federation.round(strategy, 1, start())
    ((federation.witnesses or [])[0] / STATE_FILE).unlink()
    messages = federation.messages(strategy, 2, arrays)
    replies = federation.ask(None, messages)
    assert [refusal_kind_of(reply) for reply in replies] == ["InputError", None, None, None, None]


def test_witnesses_of_another_log_are_not_turned_to_a_new_one(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    AnchorFolder.create(tmp_path / "other", "other.example/log")
    with pytest.raises(InputError, match="watches the log 'test"):
        witness_folders(replace(federation.job, anchor=tmp_path / "other"))
    before = WitnessFolder((federation.witnesses or [])[0]).signers
    assert before.origin == "test.example/log"


def test_the_policy_of_the_log_is_that_of_its_witnesses(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    keys = [WitnessFolder(folder).key for folder in federation.witnesses or ()]
    assert log_of(federation).policy == WitnessPolicy(3, tuple(keys))


def _with_arrays(message: Message, arrays: ArrayRecord) -> Message:
    content = RecordDict({**dict(message.content), names.ARRAYS: arrays})  # type: ignore[arg-type]
    del content[names.ANCHOR]
    metadata = message.metadata
    return Message(content, message_type=metadata.message_type, dst_node_id=metadata.dst_node_id)


def _resigned(folder: Path) -> bytes:
    """The checkpoint of the empty tree, signed with the key that the folder has."""
    from anchoring.checkpoint import Checkpoint, sign_checkpoint
    from anchoring.merkle import EMPTY_ROOT
    from anchoring.note import Signer

    (path,) = (folder / "keys").glob("*.key")
    signer = Signer.from_text(path.read_text(encoding="ascii").strip())
    return sign_checkpoint(Checkpoint("test.example/log", 0, EMPTY_ROOT), signer).encode()
