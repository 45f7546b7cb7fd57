"""The aggregation a run uses: Flower's own strategies, wrapped one concern at a time.

    Quorum(FixedOrder(FedAvg(...)))                  in a plain run
    SecureAggregation(FixedOrder(FedAvg(...)))       where sites' answers are summed under masks
    DifferentiallyPrivate(...)                       around either, where the model must not tell of people or sites
    Quorum(BoundNoise(CentralNoise(...)))            in it, where sites are to be hidden without secure aggregation

A wrapper hands everything on to what it wraps, whatever that is, and adds its one duty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Strategy

from common import messages as names
from common.errors import InputError, RunError
from common.settings import Settings
from common.settings_rules import units_to_trim
from privacy.roster import Roster
from server.abandoned import RoundAbandoned
from server.bound_noise import BoundNoise, NoiseSource
from server.central_noise import CentralNoise
from server.differential_privacy import DifferentiallyPrivate, noise_multiplier
from server.exchange import site_of, sort_replies
from server.secure_aggregation import Ask, SecureAggregation
from server.secure_set_up import SetUps, Token, fresh
from server.wrapper import Wrapper


def build_strategy(
    settings: Settings, sites: Collection[str], roster: Roster | None, ask: Ask, run: str, token: Token = fresh
) -> Wrapper:
    """The strategy that `federated.aggregator` names, with the wrappers that the settings ask for.

    `run` is the run's name in privacy ledgers, and `token` gives what is drawn by chance. Raises InputError when secure
    aggregation is asked for and there is no roster to check keys with, and PlanRefused where no noise keeps the privacy
    that is asked for.
    """
    summed = _summed(settings, sites, roster, ask, run, token)
    if not settings.privacy.differential_privacy:
        return summed
    rounds = settings.federated.rounds
    return DifferentiallyPrivate(summed, settings.privacy, run=run, rounds=rounds, sites=len(sites))


def _summed(
    settings: Settings, sites: Collection[str], roster: Roster | None, ask: Ask, run: str, token: Token
) -> Wrapper:
    dp = settings.privacy.dp
    whole_sites = settings.privacy.differential_privacy and dp.unit == "site"
    common: dict[str, Any] = {
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        # The quorum is ours to keep: Flower's own minimum makes it wait without end.
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
        "weighted_by_key": names.WEIGHT_KEY if whole_sites else names.PEOPLE_KEY,
        "arrayrecord_key": names.ARRAYS,
        "configrecord_key": names.CONFIG,
        "train_metrics_aggr_fn": sum_metrics,
        "evaluate_metrics_aggr_fn": sum_metrics,
    }
    inner: Strategy
    if settings.federated.aggregator == "trimmed_mean":
        inner = FedTrimmedAvg(**common, beta=settings.federated.trim)
    elif settings.federated.aggregator == "coordinate_median":
        inner = FedMedian(**common)
    else:
        inner = FedAvg(**common)
    if not settings.privacy.secure_aggregation:
        ordered: Wrapper = FixedOrder(inner)
        if whole_sites:
            noise = noise_multiplier(settings.privacy, settings.federated.rounds)
            source = NoiseSource(token("noise"))
            noised = CentralNoise(ordered, norm=dp.update_norm, noise_multiplier=noise, run=run, random_bytes=source)
            ordered = BoundNoise(noised, source)
        return Quorum(ordered, sites, settings.quorum)
    if roster is None:
        raise InputError(
            "the coordinator has no roster to check the sites' keys with",
            where="secure aggregation",
            remedy="give the run the federation's roster, or switch privacy.secure_agg off",
        )
    least = units_to_trim(settings.federated.trim) if settings.federated.aggregator == "trimmed_mean" else 1
    return SecureAggregation(FixedOrder(inner), SetUps(settings, roster, token), ask, least_sums=least)


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
    """Hands on the replies of sites that took part, and gives the round up when they are too few, saying who and why.

    Raises RoundAbandoned when fewer than `quorum` took part, and RunError when two replies bear one site's name: one
    institution must not count twice.
    """

    def __init__(self, inner: Strategy, sites: Collection[str], quorum: int) -> None:
        super().__init__(inner)
        self.sites = frozenset(sites)
        self.quorum = quorum
        self._participants: tuple[str, ...] = ()
        self._left_out: tuple[str, ...] = ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why sites that answered had no part in what was aggregated last."""
        return self._left_out

    @property
    def participants(self) -> tuple[str, ...]:
        """Names of the sites that replied with a result to what was aggregated last, in order."""
        return self._participants

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check, then hand on."""
        return self.inner.aggregate_train(server_round, self._taking_part(server_round, replies))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Check, then hand on."""
        return self.inner.aggregate_evaluate(server_round, self._taking_part(server_round, replies))

    def _taking_part(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        self._participants = ()
        valid: dict[str, Message] = {}
        results, reasons = sort_replies(replies)
        for reply in results:
            if site_of(reply) in valid:
                raise RunError(
                    f"two nodes call themselves {site_of(reply)}",
                    where=f"round {server_round}",
                    remedy="give every site its own name and its own table",
                )
            valid[site_of(reply)] = reply
        if len(valid) < self.quorum:
            silent = sorted(self.sites - set(valid))
            because = "; ".join([*sorted(reasons), f"without a result: {', '.join(silent)}"])
            raise RoundAbandoned(
                f"only {len(valid)} of {len(self.sites)} sites took part and at least {self.quorum} are needed; "
                f"{because}",
                where=f"round {server_round}",
                remedy="mend or restart those sites and run again",
                sites=len(valid),
            )
        self._participants = tuple(sorted(valid))
        self._left_out = tuple(sorted(reasons))
        return list(valid.values())
