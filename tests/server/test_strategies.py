"""The wrappers hand on everything and add their one duty."""

from __future__ import annotations

import random

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from common import messages as names
from common.errors import RunError
from common.settings import FederatedSettings, PrivacySettings, Settings
from server.abandoned import RoundAbandoned
from server.strategies import FixedOrder, Quorum, build_strategy, sum_metrics
from server.wrapper import Wrapper


@pytest.fixture(autouse=True)
def _inside_a_run() -> None:
    """Messages can be made only inside a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


SITES = ("CPI_A", "CPI_B", "CPI_C", "CPI_D", "CPI_E")


def plain(**federated: object) -> Settings:
    """Settings of a run whose coordinator sees single updates."""
    return Settings(federated=FederatedSettings.model_validate(federated), privacy=PrivacySettings(enabled=False))


def reply_of(site: str, values: object, people: int = 10, refusal: str | None = None) -> Message:
    question = Message(content=RecordDict(), message_type="train", dst_node_id=1)
    record = ConfigRecord({names.NAME_KEY: site})
    if refusal is not None:
        record[names.REFUSAL_KEY] = refusal
        return Message(RecordDict({names.SITE: record}), reply_to=question)
    content = RecordDict(
        {
            names.ARRAYS: ArrayRecord({"w": Array(np.asarray(values, dtype=np.float32))}),
            names.METRICS: MetricRecord({names.PEOPLE_KEY: people, "loss": [1.0 * people, 2.0]}),
            names.SITE: record,
        }
    )
    return Message(content, reply_to=question)


def failure() -> Message:
    question = Message(content=RecordDict(), message_type="train", dst_node_id=1)
    return Message(Error(code=0, reason="lost\nConnectionError: gone"), reply_to=question)


class SumPlusOne(FedAvg):
    """An odd inner strategy: if its oddity comes out, it was really asked."""

    def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
        total = sum(reply.content.array_records[names.ARRAYS]["w"].numpy() for reply in replies) + 1
        return ArrayRecord({"w": Array(np.asarray(total))}), MetricRecord({"round": server_round})


def nobody_asked(_grid: object, _messages: object) -> list[Message]:
    raise AssertionError("a plain strategy asks nobody by itself")


def test_wrappers_delegate_to_whatever_they_wrap() -> None:
    strategy = Quorum(FixedOrder(SumPlusOne()), SITES[:2], 2)
    arrays, metrics = strategy.aggregate_train(3, [reply_of("CPI_A", [1.0]), reply_of("CPI_B", [2.0])])
    assert arrays is not None
    assert metrics is not None
    assert arrays["w"].numpy().tolist() == [4.0]
    assert metrics["round"] == 3


def test_average_is_weighted_by_people_and_metrics_are_summed() -> None:
    strategy = build_strategy(plain(min_clients=2), SITES[:2], None, nobody_asked, "run")
    arrays, metrics = strategy.aggregate_train(1, [reply_of("CPI_A", [0.0], 30), reply_of("CPI_B", [4.0], 10)])
    assert arrays is not None
    assert metrics is not None
    assert arrays["w"].numpy().tolist() == [1.0]
    assert metrics[names.PEOPLE_KEY] == 40
    assert metrics["loss"] == [40.0, 4.0]


def test_order_of_arrival_does_not_change_a_single_bit() -> None:
    rng = np.random.default_rng(3)
    updates = {site: rng.normal(size=257) * 10.0 ** rng.integers(-6, 6, 257) for site in SITES}
    people = {site: int(rng.integers(1, 900)) for site in SITES}
    strategy = build_strategy(plain(min_clients=5), SITES, None, nobody_asked, "run")
    results = set()
    for seed in range(8):
        order = list(SITES)
        random.Random(seed).shuffle(order)
        arrays, _ = strategy.aggregate_train(1, [reply_of(site, updates[site], people[site]) for site in order])
        assert arrays is not None
        results.add(arrays["w"].numpy().tobytes())
    assert len(results) == 1


@pytest.mark.parametrize(
    ("aggregator", "expected"), [("fedavg", 202.0), ("coordinate_median", 3.0), ("trimmed_mean", 3.0)]
)
def test_robust_aggregators_withstand_one_wild_site(aggregator: str, expected: float) -> None:
    settings = plain(min_clients=5, aggregator=aggregator)
    values = dict(zip(SITES, (1.0, 2.0, 3.0, 4.0, 1000.0), strict=True))
    arrays, _ = build_strategy(settings, SITES, None, nobody_asked, "run").aggregate_train(
        1, [reply_of(s, [v]) for s, v in values.items()]
    )
    assert arrays is not None
    assert arrays["w"].numpy().tolist() == [expected]


def test_too_few_sites_are_refused_and_every_missing_one_is_named_with_its_reason() -> None:
    strategy = build_strategy(plain(min_clients=3), SITES[:4], None, nobody_asked, "run")
    replies = [reply_of("CPI_A", [1.0]), reply_of("CPI_B", [], refusal="table: it is empty; fill it."), failure()]
    with pytest.raises(RoundAbandoned) as caught:
        strategy.aggregate_train(2, replies)
    assert caught.value.sites == 1
    sentence = str(caught.value)
    assert "only 1 of 4 sites" in sentence
    assert "CPI_B refused (table: it is empty; fill it)" in sentence
    assert "ConnectionError: gone" in sentence
    assert "CPI_C" in sentence
    assert "CPI_D" in sentence
    assert "round 2" in sentence


def test_a_refusing_site_does_not_stop_a_round_that_has_its_quorum() -> None:
    strategy = build_strategy(plain(min_clients=2), SITES[:3], None, nobody_asked, "run")
    replies = [reply_of("CPI_A", [1.0]), reply_of("CPI_B", [3.0]), reply_of("CPI_C", [], refusal="no.")]
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert arrays["w"].numpy().tolist() == [2.0]


def test_one_institution_under_two_nodes_does_not_count_twice() -> None:
    strategy = build_strategy(plain(min_clients=2), SITES[:2], None, nobody_asked, "run")
    with pytest.raises(RunError, match="two nodes call themselves CPI_A") as caught:
        strategy.aggregate_train(1, [reply_of("CPI_A", [1.0]), reply_of("CPI_A", [1.0])])
    assert not isinstance(caught.value, RoundAbandoned), "a cheating site must not cost only a round"


def test_who_took_part_is_told_through_every_wrapper_and_forgotten_when_a_round_is_abandoned() -> None:
    strategy = Wrapper(Quorum(FixedOrder(SumPlusOne()), SITES, 2))
    assert strategy.participants == ()
    replies = [reply_of("CPI_C", [1.0]), reply_of("CPI_A", [3.0]), reply_of("CPI_B", [], refusal="no."), failure()]
    strategy.aggregate_train(1, replies)
    assert strategy.participants == ("CPI_A", "CPI_C")
    with pytest.raises(RoundAbandoned):
        strategy.aggregate_train(2, replies[1:])
    assert strategy.participants == ()
    assert Wrapper(SumPlusOne()).participants == ()


def test_sums_refuse_lists_of_different_length() -> None:
    records = [RecordDict({names.METRICS: MetricRecord({"h": values})}) for values in ([1.0], [1.0, 2.0])]
    with pytest.raises(ValueError, match="zip"):
        sum_metrics(records, names.PEOPLE_KEY)
