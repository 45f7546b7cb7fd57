"""Five sites that remember nothing and answer at once: what they answer depends on what they are asked alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from common import messages as names
from common.evaluation_sums import EvaluationSums
from privacy.events import training_event

SITES = ("CPI_A", "CPI_B", "CPI_C", "CPI_D", "CPI_E")
PEOPLE = 40


class QuickSites(Grid):
    """Node i is `SITES[i - 1]`. `watch` sees each message before it is answered; a site in `silent` never answers."""

    def __init__(
        self, watch: Callable[[Message], None] = lambda _message: None, silent: Iterable[tuple[str, int]] = ()
    ) -> None:
        self._watch = watch
        self._silent = set(silent)
        self._replies: dict[str, Message] = {}
        self._count = 0

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *_: Any, **__: Any) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return range(1, len(SITES) + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = str(self._count)
            ids.append(str(self._count))
            self._watch(message)
            if (message.metadata.message_type, message.metadata.dst_node_id) not in self._silent:
                self._replies[str(self._count)] = answer_of(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(one) for one in list(message_ids) if one in self._replies]


def answer_of(message: Message) -> Message:
    """What the site at a node answers."""
    node, kind = message.metadata.dst_node_id, message.metadata.message_type
    site = ConfigRecord({names.NAME_KEY: SITES[node - 1]})
    if kind in (names.IDENTIFY, names.WITNESS):
        return Message(RecordDict({names.SITE: site}), reply_to=message)
    arrays = message.content.array_records[names.ARRAYS]
    config = message.content.config_records[names.CONFIG]
    rng = np.random.default_rng([node, int(config[names.ROUND_KEY])])  # type: ignore[arg-type]
    trained = {
        name: Array(array.numpy() + rng.normal(0, 0.1, array.numpy().shape).astype(np.float32))
        for name, array in arrays.items()
    }
    metrics: dict[str, Any] = {names.PEOPLE_KEY: PEOPLE}
    if names.UPDATE_NORM_KEY in config:
        metrics = {names.WEIGHT_KEY: 1.0}
    elif names.NOISE_KEY in config:
        event = training_event(
            site=SITES[node - 1],
            run=str(config[names.RUN_KEY]),
            round=int(config[names.ROUND_KEY]),  # type: ignore[arg-type]
            noise_multiplier=float(config[names.NOISE_KEY]),  # type: ignore[arg-type]
            sampling_rate=float(config[names.SAMPLING_RATE_KEY]),  # type: ignore[arg-type]
            steps=int(config[names.STEPS_KEY]),  # type: ignore[arg-type]
        )
        site[names.EVENT_KEY] = json.dumps(event.to_json())
    else:
        bias = float(next(iter(arrays.values())).numpy().ravel()[0])
        outcome = np.arange(PEOPLE) % 2
        score = np.clip(0.4 + 0.1 * bias + 0.2 * outcome, 0, 1)
        sums = EvaluationSums.from_scores(outcome, score, np.arange(PEOPLE))
        metrics |= {names.TRAIN_LOSS_KEY: (2.0 + bias) * PEOPLE}
        metrics |= {**sums.to_record(names.VALIDATION), **sums.to_record(names.TEST)}
    content = {names.ARRAYS: ArrayRecord(trained), names.METRICS: MetricRecord(metrics), names.SITE: site}
    return Message(RecordDict(content), reply_to=message)
