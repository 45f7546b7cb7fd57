"""A strategy around another: the shape that every concern of ours takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common.model import ModelCard, Parameters
from privacy.events import PrivacyEvent


@dataclass(frozen=True)
class Release:
    """The model that a run hands out, and its metrics on test people; None where sites keep them to themselves."""

    parameters: Parameters
    card: ModelCard
    metrics: Mapping[str, float] | None


@dataclass(frozen=True)
class Past:
    """What former executions of a run leave to this one: what strategies noted, and what was executed, by rounds.

    `hashes` are the model's after each round, abandoned ones too; `model` gives that of one of the `finished`.
    """

    memory: Mapping[str, Any]
    events: tuple[PrivacyEvent, ...]
    hashes: Mapping[int, str]
    finished: Collection[int]
    model: Callable[[int], ArrayRecord]


class Wrapper(Strategy):
    """A strategy that hands everything on to an inner one."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner

    @property
    def participants(self) -> tuple[str, ...]:
        """Names of the sites whose replies the last aggregation used, in order: hand on; empty where nobody knows."""
        return self.inner.participants if isinstance(self.inner, Wrapper) else ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why sites had no part, or only a part, in what was aggregated last: hand on."""
        return self.inner.left_out if isinstance(self.inner, Wrapper) else ()

    @property
    def protection(self) -> dict[str, Any] | None:
        """How the sites' answers were kept from the coordinator, as it was done: hand on; None where they were not."""
        return self.inner.protection if isinstance(self.inner, Wrapper) else None

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """What was released with noise so far, as it was executed: hand on; empty where nothing was."""
        return self.inner.events if isinstance(self.inner, Wrapper) else ()

    @property
    def anchoring(self) -> dict[str, Any] | None:
        """What of the run stands in the log: hand on; None where it has none."""
        return self.inner.anchoring if isinstance(self.inner, Wrapper) else None

    def memory(self) -> dict[str, Any]:
        """What a later execution must know besides events, one key a concern, as JSON: hand on."""
        return self.inner.memory() if isinstance(self.inner, Wrapper) else {}

    def resume(self, past: Past) -> None:
        """Go on after former executions; called before anything else: hand on."""
        if isinstance(self.inner, Wrapper):
            self.inner.resume(past)

    def interrupted(self, server_round: int, sites: Collection[str]) -> None:
        """These sites may have trained in a round whose coordinator was killed: hand on."""
        if isinstance(self.inner, Wrapper):
            self.inner.interrupted(server_round, sites)

    def release(self, grid: Grid, release: Release) -> None:
        """The run's last model, before it is handed out: hand on."""
        if isinstance(self.inner, Wrapper):
            self.inner.release(grid, release)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Hand on."""
        return self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Hand on."""
        return self.inner.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Hand on."""
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Hand on."""
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Hand on."""
        self.inner.summary()
