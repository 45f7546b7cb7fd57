"""How many exchanges a round takes, counted while `server.rounds` runs some: with everybody, and with a site missing.

The sites are in this process, so an exchange costs no time; they are asked and answer as they would over a network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from common.errors import RunError
from common.model import ModelCard
from common.settings import Settings
from federation.secagg_reference import _as_server
from federation.secure_bench_scale import limits_of
from federation.secure_bench_site import SyntheticSites, make_sites, site_names
from server.job import Job
from server.rounds import run

_SITES = 5
_ROUNDS = 3


def count_exchanges(settings: Settings) -> dict[str, int]:
    """Exchanges of a round after the one that made the set-up: {"complete": ..., "with_a_gap": ...}."""
    return {
        "complete": exchanges_per_round(settings, missing=0),
        "with_a_gap": exchanges_per_round(settings, missing=1),
    }


def exchanges_per_round(settings: Settings, *, missing: int) -> int:
    """Run some rounds with the check on, so many sites missing in each, and count.

    Raises RunError when rounds differ, so that there is no such number.
    """
    secure = settings.privacy.secure_agg.model_copy(update={"malicious_coordinator": True, "setup_rounds": _ROUNDS + 1})
    privacy = settings.privacy.model_copy(update={"secure_agg": secure})
    federated = settings.federated.model_copy(update={"rounds": _ROUNDS})
    settings = settings.model_copy(update={"privacy": privacy, "federated": federated})
    after: list[int] = []
    with tempfile.TemporaryDirectory(prefix="djms-bench-") as directory, _as_server():
        folder = Path(directory)
        roster = make_sites(_SITES, folder)
        grid = _GridInside(SyntheticSites(str(folder), limits_of(settings), dropouts=missing), _SITES)
        card = ModelCard(labels="none", hidden=settings.training.hidden, synthetic=True)
        output = folder / "run"
        job = Job(
            settings, site_names(_SITES), card, output, roster, on_round=lambda _row: after.append(grid.exchanges)
        )
        run(grid, job)
    counts = {later - earlier for earlier, later in pairwise(after)}
    if len(counts) != 1:
        raise RunError(f"rounds took {sorted(counts)} exchanges", where="benchmark", remedy="report this error")
    return counts.pop()


class _GridInside(Grid):
    """Node i is the site at partition i - 1, and answers when it is asked."""

    def __init__(self, app: SyntheticSites, sites: int) -> None:
        self._app = app
        self._contexts = {
            node: Context(1, node, {"partition-id": node - 1}, RecordDict(), {}) for node in range(1, sites + 1)
        }
        self._replies: dict[str, Message] = {}
        self.exchanges = 0

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.exchanges += 1
        identities = []
        for number, message in enumerate(messages):
            identity = f"{self.exchanges}-{number}"
            message.metadata.__dict__["_message_id"] = identity  # given by the SuperLink otherwise
            self._replies[identity] = self._app(message, self._contexts[message.metadata.dst_node_id])
            identities.append(identity)
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(identity) for identity in list(message_ids) if identity in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def set_run(self, run_id: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError
