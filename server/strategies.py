"""The aggregation a run uses: Flower's own strategies, wrapped one concern at a time.

    Quorum(FixedOrder(FedAvg(...)))

A wrapper hands everything on to what it wraps, whatever that is, and adds its one duty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Strategy

from common import messages as names
from common.errors import RunError
from common.settings import FederatedSettings
from server.exchange import refusal_of, site_of


def build_strategy(settings: FederatedSettings, sites: Collection[str]) -> Strategy:
    """The strategy that `federated.aggregator` names, with a quorum and a fixed order of sites."""
    common: dict[str, Any] = {
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        # The quorum is ours to keep: Flower's own minimum makes it wait without end.
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
        "weighted_by_key": names.PEOPLE_KEY,
        "arrayrecord_key": names.ARRAYS,
        "configrecord_key": names.CONFIG,
        "train_metrics_aggr_fn": sum_metrics,
        "evaluate_metrics_aggr_fn": sum_metrics,
    }
    inner: Strategy
    if settings.aggregator == "trimmed_mean":
        inner = FedTrimmedAvg(**common, beta=settings.trim)
    elif settings.aggregator == "coordinate_median":
        inner = FedMedian(**common)
    else:
        inner = FedAvg(**common)
    return Quorum(FixedOrder(inner), sites, settings.quorum)


def sum_metrics(contents: list[RecordDict], _weight_key: str) -> MetricRecord:
    """Add up the sites' metrics: every one of them is a sum over people."""
    total: dict[str, Any] = {}
    for content in contents:
        for key, value in content.metric_records[names.METRICS].items():
            if isinstance(value, list):
                before = total.get(key, [0.0] * len(value))
                total[key] = [a + b for a, b in zip(before, value, strict=True)]
            else:
                total[key] = total.get(key, 0) + value
    return MetricRecord(total)


class Wrapper(Strategy):
    """A strategy that hands everything on to an inner one."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner

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


class FixedOrder(Wrapper):
    """Aggregates replies in the order of the sites' names.

    Sums of floating-point numbers depend on their order and replies arrive in any; with this, the same updates give the
    same model, to the last bit.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Sort, then hand on."""
        return self.inner.aggregate_train(server_round, sorted(replies, key=site_of))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Sort, then hand on."""
        return self.inner.aggregate_evaluate(server_round, sorted(replies, key=site_of))


class Quorum(Wrapper):
    """Hands on the replies of sites that took part, and stops the run when they are too few, saying why each is not.

    Raises RunError when fewer than `quorum` took part, or when two replies bear one site's name: one institution
    must not count twice.
    """

    def __init__(self, inner: Strategy, sites: Collection[str], quorum: int) -> None:
        super().__init__(inner)
        self.sites = frozenset(sites)
        self.quorum = quorum

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check, then hand on."""
        return self.inner.aggregate_train(server_round, self._taking_part(server_round, replies))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Check, then hand on."""
        return self.inner.aggregate_evaluate(server_round, self._taking_part(server_round, replies))

    def _taking_part(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        valid: dict[str, Message] = {}
        reasons: list[str] = []
        for reply in replies:
            if reply.has_error():
                reasons.append(f"a site failed ({_first_line(reply.error.reason)})")
            elif (refusal := refusal_of(reply)) is not None:
                reasons.append(f"{site_of(reply)} refused ({refusal.rstrip('.')})")
            elif site_of(reply) in valid:
                raise RunError(
                    f"two nodes call themselves {site_of(reply)}",
                    where=f"round {server_round}",
                    remedy="give every site its own name and its own table",
                )
            else:
                valid[site_of(reply)] = reply
        if len(valid) < self.quorum:
            silent = sorted(self.sites - set(valid))
            because = "; ".join([*sorted(reasons), f"without a result: {', '.join(silent)}"])
            raise RunError(
                f"only {len(valid)} of {len(self.sites)} sites took part and at least {self.quorum} are needed; "
                f"{because}",
                where=f"round {server_round}",
                remedy="mend or restart those sites and run again",
            )
        return list(valid.values())


def _first_line(reason: str | None) -> str:
    return cast(str, reason or "no reason given").strip().splitlines()[-1].strip()
