"""Flower's own SecAgg+, run in this process: the peer that this project's secure aggregation is measured against.

Nothing of it is rebuilt here. Flower's functions are called as they are, in the order in which its client mod and its
workflow call them, with its default parameters (weight at most 1000, clipping at 8.0, 2^22 levels, modulo 2^32) and
every client a neighbour of every other; only the messages between them are left out, which is in Flower's favour:

| side | stage | Flower's function | what it does |
|---|---|---|---|
| client | setup | `secaggplus_mod._setup` | two P-384 key pairs |
| client | share keys | `secaggplus_mod._share_keys` | shares of the seed and of a key, sealed for each neighbour |
| client | collect vectors | `secaggplus_mod._collect_masked_vectors` | opens shares, quantises, agrees keys, masks |
| client | unmask | `secaggplus_mod._unmask` | gives the shares away |
| server | unmask | `SecAggPlusWorkflow.unmask_stage` | combines shares, removes masks, dequantises |

Adding the masked vectors (in `collect_masked_vectors_stage`) is not counted as unmasking. Times are processor time
of this process, in seconds. Memory is measured in a second pass, because measuring it takes time.
"""

from __future__ import annotations

import logging
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_mod
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

MAX_WEIGHT = 1000.0
CLIPPING = 8.0
LEVELS = 1 << 22
MODULUS = 1 << 32


@dataclass(frozen=True)
class Cost:
    """What one party's work of one round costs.

    `seconds` of processor time; `peak_bytes` of memory beyond what it was given; `sent_bytes` as Flower counts them.
    """

    seconds: float
    peak_bytes: int
    sent_bytes: int


def reference_client(n: int, d: int, threshold: int) -> Cost:
    """The work of one client out of `n`, with a vector of `d` float32, in one round without dropouts."""
    timed = _run_client(n, d, threshold)
    tracemalloc.start()
    try:
        peak = _run_client(n, d, threshold).peak_bytes
    finally:
        tracemalloc.stop()
    return Cost(timed.seconds, peak, timed.sent_bytes)


def reference_server(n: int, d: int, threshold: int, dropouts: int = 1) -> Cost:
    """The server's unmasking when `dropouts` of `n` clients shared their keys but sent no masked vector."""
    timed, _ = _run_server(n, d, threshold, dropouts)
    tracemalloc.start()
    try:
        traced, _ = _run_server(n, d, threshold, dropouts)
    finally:
        tracemalloc.stop()
    return Cost(timed.seconds, traced.peak_bytes, timed.sent_bytes)


def average_error(n: int, d: int, threshold: int, dropouts: int = 1) -> float:
    """The largest difference between the average that the server decodes and the true one of the survivors."""
    _, error = _run_server(n, d, threshold, dropouts)
    return error


@dataclass
class _Meter:
    """Adds up what calls cost; traces memory only while `tracemalloc` is on."""

    seconds: float = 0.0
    peak_bytes: int = 0
    sent_bytes: int = 0

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        started = time.process_time()
        result = function(*arguments)
        self.seconds += time.process_time() - started
        self.peak_bytes = max(self.peak_bytes, tracemalloc.get_traced_memory()[1] - before)
        return result

    @property
    def cost(self) -> Cost:
        return Cost(self.seconds, self.peak_bytes, self.sent_bytes)


@dataclass
class _Client:
    """One client: Flower's state of its mod, its vector, and what its calls cost."""

    number: int
    weight: int
    vector: NDArray[np.float32]
    meter: _Meter = field(default_factory=_Meter)

    def __post_init__(self) -> None:
        self.state = SecAggPlusState()
        self.state.nid = self.number

    def stage(self, function: Callable[..., dict[str, Any]], configs: dict[str, Any], *more: Any) -> dict[str, Any]:
        result = cast(dict[str, Any], self.meter.call(function, self.state, configs, *more))
        self.meter.sent_bytes += _size(result)
        return result

    def masked(self, sealed: dict[int, bytes]) -> list[bytes]:
        configs = {Key.CIPHERTEXT_LIST: list(sealed.values()), Key.SOURCE_LIST: list(sealed)}
        parameters = ndarrays_to_parameters([self.vector])
        result = self.stage(_collect_masked_vectors, configs, self.weight, parameters)
        return cast(list[bytes], result[Key.MASKED_PARAMETERS])


def _size(content: Mapping[str, Any]) -> int:
    """Bytes by Flower's own count, which fails on an empty list."""
    return ConfigRecord({key: value for key, value in content.items() if value != []}).count_bytes()


def _share(clients: list[_Client], threshold: int) -> dict[int, dict[int, bytes]]:
    """The first two stages of all clients; the sealed shares by receiver and sender."""
    settings: dict[str, Any] = {
        Key.SAMPLE_NUMBER: len(clients),
        Key.SHARE_NUMBER: len(clients),
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: CLIPPING,
        Key.TARGET_RANGE: LEVELS,
        Key.MOD_RANGE: MODULUS,
        Key.MAX_WEIGHT: MAX_WEIGHT,
    }
    for client in clients:
        client.stage(_setup, settings)
    keys = {str(client.number): (client.state.pk1, client.state.pk2) for client in clients}
    sealed: dict[int, dict[int, bytes]] = {client.number: {} for client in clients}
    for client in clients:
        result = client.stage(_share_keys, keys)
        for receiver, text in zip(result[Key.DESTINATION_LIST], result[Key.CIPHERTEXT_LIST], strict=True):
            sealed[receiver][client.number] = text
    return sealed


def _clients(n: int, d: int) -> list[_Client]:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(0.0, 0.1, d).astype(np.float32) for _ in range(n))
    return [_Client(i + 1, round(MAX_WEIGHT * (i + 1) / n), vector) for i, vector in enumerate(vectors)]


def _run_client(n: int, d: int, threshold: int) -> Cost:
    clients = _clients(n, d)
    sealed = _share(clients, threshold)
    client = clients[0]
    client.masked(sealed[client.number])
    client.stage(_unmask, _unmask_request({each.number for each in clients}, set()))
    return client.meter.cost


def _run_server(n: int, d: int, threshold: int, dropouts: int) -> tuple[Cost, float]:
    clients = _clients(n, d)
    sealed = _share(clients, threshold)
    survivors = clients[dropouts:]
    total: list[NDArray[Any]] | None = None
    for client in survivors:
        vector = [bytes_to_ndarray(each) for each in client.masked(sealed[client.number])]
        total = vector if total is None else parameters_addition(total, vector)
    meter = _Meter()
    decoded = _server_unmask(clients, survivors, threshold, parameters_mod(total or [], MODULUS), meter)
    weights = [client.weight for client in survivors]
    true = np.average([client.vector for client in survivors], axis=0, weights=weights)
    return meter.cost, float(np.abs(decoded - true).max())


def _server_unmask(
    clients: list[_Client], survivors: list[_Client], threshold: int, total: list[NDArray[Any]], meter: _Meter
) -> NDArray[np.float64]:
    """Flower's last stage over the sum of masked vectors; the meter counts it without the clients' answers."""
    numbers = {client.number for client in clients}
    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([]), 0, {})
    state = WorkflowState(
        sampled_node_ids=set(numbers),
        active_node_ids={client.number for client in survivors},
        num_shares=len(clients),
        threshold=threshold,
        clipping_range=CLIPPING,
        quantization_range=LEVELS,
        mod_range=MODULUS,
        max_weight=MAX_WEIGHT,
        nid_to_neighbours={number: set(numbers) for number in numbers},
        nid_to_publickeys={client.number: [client.state.pk1, client.state.pk2] for client in clients},
        aggregate_ndarrays=total,
        legacy_results=[(cast(Any, None), result)],
    )
    context = LegacyContext(Context(0, 0, {}, RecordDict(), {}), strategy=_NoStrategy())
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    workflow = SecAggPlusWorkflow(1.0, 1.0)
    grid = _GridOfAnswers(survivors, threshold, meter)
    with _as_server():
        complete = meter.call(workflow.unmask_stage, cast(Grid, grid), context, state)
    if not complete:
        raise ValueError("Flower's SecAgg+ gave the round up: too few shares")
    meter.seconds -= grid.seconds
    return cast(NDArray[np.float64], parameters_to_ndarrays(result.parameters)[0])


def _unmask_request(active: set[int], dead: set[int]) -> dict[str, Any]:
    return {Key.ACTIVE_NODE_ID_LIST: sorted(active), Key.DEAD_NODE_ID_LIST: sorted(dead)}


@contextmanager
def _as_server() -> Iterator[None]:
    """Messages are written in the name of the process's task, which only a run sets; Flower's logger is silent."""
    logger = logging.getLogger("flwr")
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    disabled, logger.disabled = logger.disabled, True
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = 1, 1, SUPERLINK_NODE_ID
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
        logger.disabled = disabled


@dataclass
class _GridOfAnswers:
    """Answers the server's last request with what the surviving clients' own last stage says."""

    survivors: list[_Client]
    threshold: int
    meter: _Meter
    seconds: float = 0.0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        started = time.process_time()
        clients = {client.number: client for client in self.survivors}
        answers = []
        for message in messages:
            configs = message.content.config_records[RECORD_KEY_CONFIGS]
            self.meter.sent_bytes += _size(configs)
            result = clients[message.metadata.dst_node_id].stage(_unmask, cast(dict[str, Any], configs))
            answers.append(Message(RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(result, False)}), reply_to=message))
        self.seconds = time.process_time() - started
        return answers


class _NoStrategy(FedAvg):
    """Takes the average as it comes; what a strategy makes of it is no part of unmasking."""

    def aggregate_fit(self, *_: Any) -> tuple[None, dict[str, Any]]:
        return None, {}
