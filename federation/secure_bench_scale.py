"""One full round of secure aggregation in Flower's simulation, against the number of sites.

Everything is real but the training: Ray, Flower's messages, the set-up's two exchanges, the masked vectors, the signed
list of survivors, the unmasking. One site in twenty drops out after it shared its keys. The result is compared with the
plain mean, bit for bit.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp

from common import messages as names
from common.errors import RunError
from common.settings import Settings
from federation.secure_bench_site import SyntheticSites, make_sites, plain_mean, site_names
from federation.simulation import run_apps
from privacy.roster import Roster
from privacy.secure_aggregation.terms import Limits
from server.exchange import exchange, wait_for_sites
from server.strategies import build_strategy

_DROPPING = 20
_IN_FLIGHT = 16
_POLL_SECONDS = 0.03


def limits_of(settings: Settings) -> Limits:
    """What sites ask for at least: the settings' own terms."""
    secure = settings.privacy.secure_agg
    return Limits(
        minimum_cohort=settings.federated.min_clients,
        malicious_coordinator=secure.malicious_coordinator,
        colluders=secure.colluders,
        dropouts=secure.dropouts,
        groups=secure.groups > 0,
    )


def measure_round(sites: int, length: int, settings: Settings) -> dict[str, Any]:
    """Seconds and bytes of one round with so many sites and vectors of `length` numbers, from Ray's start to its end.

    Raises RunError when the result is not the plain mean of the sites that delivered.
    """
    dropouts = max(1, sites // _DROPPING)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="djms-bench-") as directory:
        folder = Path(directory)
        round_ = _Round(site_names(sites), make_sites(sites, folder), settings, length)
        app = SyntheticSites(str(folder), limits_of(settings), dropouts)
        run_apps(round_.server_app(), app, sites, folder / "flower.log", round_.cancelled)
    seconds = time.perf_counter() - started
    expected = plain_mean(range(dropouts, sites), length)
    if round_.result is None or not np.array_equal(round_.result, expected):
        raise RunError("the sum under masks is not the plain sum", where=f"{sites} sites", remedy="report this error")
    return {"n": sites, "dropouts": dropouts, "parameters": length, "seconds": round(seconds, 2)} | round_.figures


@dataclass
class _Round:
    """The coordinator's side, and what it saw."""

    sites: tuple[str, ...]
    roster: Roster
    settings: Settings
    length: int
    cancelled: threading.Event = field(default_factory=threading.Event)
    asked: Counter[int] = field(default_factory=Counter)
    sent: Counter[int] = field(default_factory=Counter)
    received: Counter[int] = field(default_factory=Counter)
    result: np.ndarray | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def server_app(self) -> ServerApp:
        app = ServerApp()

        @app.main()
        def main(grid: Grid, _context: Context) -> None:
            self._run(grid)

        return app

    def _run(self, grid: Grid) -> None:
        wait = self.settings.federated.wait_timeout
        wait_for_sites(grid, self.sites, at_least=len(self.sites), timeout=wait, cancelled=self.cancelled)
        strategy = build_strategy(self.settings, self.sites, self.roster, self._ask, "bench")
        arrays = ArrayRecord({"model": Array(np.zeros(self.length, np.float32))})
        begun = time.perf_counter()
        messages = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
        ready = time.perf_counter()
        result, _ = strategy.aggregate_train(1, self._ask(grid, messages))
        done = time.perf_counter()
        self.result = None if result is None else result["model"].numpy()
        protection = strategy.protection or {}
        delivered = [node for node, times in self.asked.items() if times == max(self.asked.values())]
        self.figures = {
            "neighbours": protection["holders"] - 1,
            "threshold": protection["threshold"],
            "setup_rounds": self.settings.privacy.secure_agg.setup_rounds,
            "seconds_setup": round(ready - begun, 2),
            "seconds_round": round(done - ready, 2),
            "bytes": round(sum(self.sent[node] for node in delivered) / len(delivered)),
            "bytes_received": round(sum(self.received[node] for node in delivered) / len(delivered)),
        }

    def _ask(self, grid: Grid, messages: Iterable[Message]) -> list[Message]:
        questions = list(messages)
        timeout = self.settings.federated.round_timeout
        for message in questions:
            self.asked[message.metadata.dst_node_id] += 1
            self.received[message.metadata.dst_node_id] += _protocol_bytes(message)
        replies = exchange(
            grid, questions, timeout=timeout, cancelled=self.cancelled, in_flight=_IN_FLIGHT, poll=_POLL_SECONDS
        )
        for reply in replies:
            self.sent[reply.metadata.src_node_id] += 0 if reply.has_error() else _protocol_bytes(reply)
        return replies


def _protocol_bytes(message: Message) -> int:
    """Bytes of the protocol's own messages in it; the model that is handed out is no part of them."""
    if names.SECURE not in message.content:
        return 0
    secure = cast(ConfigRecord, message.content[names.SECURE])
    return sum(len(value) for value in secure.values() if isinstance(value, bytes))
