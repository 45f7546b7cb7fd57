"""One exchange: how long its messages live, and what an onlooker is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from quick_sites import QuickSites

from common import messages as names
from common.errors import RunError
from server.exchange import exchange


@pytest.fixture(autouse=True)
def _inside_a_run() -> None:
    """Messages can be made only inside a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


def questions(nodes: Sequence[int], **more: float) -> list[Message]:
    content = RecordDict({names.CONFIG: ConfigRecord()})
    return [Message(content, message_type=names.IDENTIFY, dst_node_id=node, **more) for node in nodes]


def test_a_message_lives_a_little_longer_than_it_is_waited_for() -> None:
    """Flower's own is twelve hours: so long would a message that was lost with a site's process be open."""
    asked = questions([1, 2])
    exchange(QuickSites(), asked, timeout=100.0, cancelled=threading.Event())
    for message in asked:
        ends_in = message.metadata.created_at + message.metadata.ttl - time.time()
        assert 400 < ends_in <= 431


def test_a_message_that_is_to_live_less_does() -> None:
    asked = questions([1], ttl=5.0)
    exchange(QuickSites(), asked, timeout=100.0, cancelled=threading.Event())
    assert asked[0].metadata.ttl == 5.0


class Noting:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def asked(self, grid: Grid, messages: Sequence[Message], seconds: float) -> None:
        self.told.append(("asked", [message.metadata.dst_node_id for message in messages], seconds))

    def answered(self, replies: Sequence[Message]) -> None:
        self.told.append(("answered", sorted(reply.metadata.src_node_id for reply in replies)))

    def over(self) -> None:
        self.told.append("over")


def test_an_onlooker_is_told_who_is_asked_who_answered_and_when_it_is_over() -> None:
    noting = Noting()
    grid = QuickSites(silent=[(names.IDENTIFY, 3)])
    exchange(grid, questions([1, 2, 3]), timeout=0.5, cancelled=threading.Event(), onlooker=noting)
    assert noting.told == [("asked", [1, 2, 3], 0.5), ("answered", [1, 2]), "over"]


def test_an_onlooker_is_told_of_the_end_of_an_exchange_that_was_interrupted() -> None:
    noting, cancelled = Noting(), threading.Event()
    cancelled.set()
    with pytest.raises(RunError, match="the run was interrupted"):
        exchange(
            QuickSites(silent=[(names.IDENTIFY, 1)]), questions([1]), timeout=9.0, cancelled=cancelled, onlooker=noting
        )
    assert noting.told[-1] == "over"
