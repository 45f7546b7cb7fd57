"""Secure aggregation as a strategy: whatever it wraps gets the sum over sites, never one site's answer.

    SecureAggregation(FixedOrder(FedAvg(...)))

Before a round it makes a set-up where none is there, where the last one is used up, or where a site came that has no
part in it (two exchanges, see `server.secure_set_up`). After a round it has the survivors' list signed (one exchange,
where the coordinator is not trusted to show everybody the same list) and the masks taken off (one exchange). The inner
strategy then aggregates one reply that holds the sites' mean and their number of people, or one reply for each group.

A round in which too few sites take part, or whose masks cannot be taken off, is abandoned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common import messages as names
from common import secure_vector as vector
from privacy.secure_aggregation.coordinator import GroupSum, SecureSum
from privacy.secure_aggregation.errors import CohortTooSmall, ProtocolError
from server.abandoned import RoundAbandoned
from server.exchange import payload_of, payload_question, refusal_kind_of, shortened, sort_replies
from server.secure_set_up import SetUps
from server.wrapper import Past, Wrapper

Ask = Callable[[Grid, Iterable[Message]], list[Message]]
"""Sends messages to sites and returns the replies that came in time."""


_NEED_A_NEW_SET_UP = ("UnknownSetUp", "CohortChanged", "MalformedCiphertext")
"""Refusals of sites that this set-up is of no use to."""


@dataclass
class _Round:
    """One secure sum under way: the grid it runs on, what was asked, and what was sent."""

    where: str
    grid: Grid
    total: SecureSum
    arrays: ArrayRecord
    questions: dict[str, Message]


class SecureAggregation(Wrapper):
    """Gives the inner strategy sums over sites; see the module's docstring.

    Raises RoundAbandoned when a set-up or a sum cannot be finished. With fewer than `least_sums` sums (a trimmed mean
    needs some to trim) the inner strategy is not asked.
    """

    def __init__(
        self,
        inner: Strategy,
        set_ups: SetUps,
        ask: Ask,
        *,
        least_sums: int = 1,
    ) -> None:
        super().__init__(inner)
        self._least_sums = least_sums
        self._set_ups = set_ups
        self._ask = ask
        self._round: _Round | None = None
        self._participants: tuple[str, ...] = ()
        self._sums = 0
        self._left_out: tuple[str, ...] = ()

    @property
    def participants(self) -> tuple[str, ...]:
        """Names of the sites whose vectors are in what was aggregated last, in order."""
        return self._participants

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why sites are not in the last sum or had no part in unmasking it, and in the set-up it was made with."""
        return (*self._set_ups.left_out, *self._left_out)

    @property
    def protection(self) -> dict[str, Any] | None:
        """The last set-up: its cohort, threshold and bounds, and how many sums were made under masks."""
        return self._set_ups.summary(self._sums)

    def memory(self) -> dict[str, Any]:
        """What protected the sums so far."""
        return {**super().memory(), "secure_aggregation": self.protection}

    def resume(self, past: Past) -> None:
        """Count the sums that were made before; what sites have of them is of no use any more."""
        super().resume(past)
        if (before := past.memory.get("secure_aggregation")) is not None:
            self._sums = int(before["sums"])
            self._set_ups.resume(before)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The inner strategy's messages, to the sites of the set-up, in the slot of the round."""
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        return self._configure(server_round, messages, arrays, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same for an evaluation; it takes the first slot that is free."""
        messages = list(self.inner.configure_evaluate(server_round, arrays, config, grid))
        slot = max(server_round, self._round.total.slot if self._round else 0) + 1
        return self._configure(slot, messages, arrays, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Unmask the sum, then hand on."""
        return self.inner.aggregate_train(server_round, self._unmasked(replies))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Unmask the sum, then hand on."""
        return self.inner.aggregate_evaluate(server_round, self._unmasked(replies))

    def _configure(self, slot: int, messages: list[Message], arrays: ArrayRecord, grid: Grid) -> list[Message]:
        self._participants = ()
        nodes = [message.metadata.dst_node_id for message in messages]
        evaluates = any(message.metadata.message_type == vector.EVALUATE for message in messages)
        where = "closing evaluation" if evaluates else f"round {slot}"
        try:
            current = self._set_ups.for_slot(slot, nodes, arrays, lambda asked: self._ask(grid, asked))
        except ProtocolError as error:
            raise RoundAbandoned(error.what, where=where, remedy=error.remedy) from error
        questions: dict[str, Message] = {}
        for message in messages:
            site = current.site_at(message.metadata.dst_node_id)
            if site is None:
                continue
            secure = ConfigRecord({names.SLOT_KEY: slot})
            if (begin := current.begin_for(site)) is not None:
                secure[names.BEGIN_KEY] = begin
            questions[site] = _with_secure(message, secure)
        if not questions:
            raise RoundAbandoned(
                "none of the sites that are there takes part in the set-up", where=where, remedy="wait for more sites"
            )
        asked = next(iter(questions.values()))
        config = cast(ConfigRecord, asked.content[names.CONFIG])
        kind = vector.kind_of(asked.metadata.message_type, config)
        try:
            total = SecureSum(current.set_up, slot, kind, vector.topic_of(arrays, config))
        except ProtocolError as error:
            raise RoundAbandoned(error.what, where=where, remedy=error.remedy) from error
        self._round = _Round(where, grid, total, arrays, questions)
        return list(questions.values())

    def _unmasked(self, replies: Iterable[Message]) -> list[Message]:
        """Replies of sums: the survivors' list, the signatures on it, the unmasking."""
        if self._round is None:
            raise ValueError("replies are aggregated only after a round was configured")
        now = self._round
        reasons = self._collect(now, set(now.questions), list(replies), now.total.add_masked)
        try:
            survivors = now.total.close()
            sites = now.total.survivors.survivors
            if now.total.wants_signatures:
                questions = {site: survivors for site in sites}
                reasons += self._step(now, names.ATTEST, questions, now.total.add_attestation)
            questions = {site: now.total.unmask_request_for(site) for site in sites}
            reasons += self._step(now, names.UNMASK, questions, now.total.add_revealed)
            sums = now.total.result()
            if len(sums) < self._least_sums:
                raise CohortTooSmall(
                    f"{len(sums)} groups kept enough sites and the aggregator needs {self._least_sums}",
                    remedy="make larger groups, or fewer",
                )
        except ProtocolError as error:
            raise RoundAbandoned(
                "; ".join([error.what, *shortened(sorted(reasons))]),
                where=now.where,
                remedy=error.remedy,
                sites=now.total.delivered,
            ) from error
        self._sums += 1
        self._left_out = tuple(sorted(reasons))
        self._participants = tuple(sorted(site for part in sums for site in part.members))
        return [self._as_reply(now, index, part) for index, part in enumerate(sums, start=1)]

    def _step(
        self, now: _Round, message_type: str, questions: dict[str, bytes], take: Callable[[str, bytes], None]
    ) -> list[str]:
        """One exchange of the protocol; returns why some sites are not in it."""
        nodes = {site: message.metadata.dst_node_id for site, message in now.questions.items()}
        asked = [payload_question(message_type, nodes[site], payload) for site, payload in questions.items()]
        return self._collect(now, set(questions), self._ask(now.grid, asked), take)

    def _collect(
        self,
        now: _Round,
        asked: set[str],
        replies: list[Message],
        take: Callable[[str, bytes], None],
    ) -> list[str]:
        """Take the answers in; returns why some of those that were asked are not in it."""
        sites = {message.metadata.dst_node_id: site for site, message in now.questions.items()}
        valid, reasons = sort_replies(replies, sites)
        silent = asked - {sites.get(reply.metadata.src_node_id) for reply in replies}  # Flower answers for lost nodes
        reasons += [f"{site} did not answer" for site in silent]
        for refused in (reply for reply in replies if refusal_kind_of(reply) in _NEED_A_NEW_SET_UP):
            self._set_ups.forgotten_by(refused.metadata.src_node_id)
        for reply in valid:
            site = sites[reply.metadata.src_node_id]
            try:
                take(site, payload_of(reply))
            except ProtocolError as error:
                reasons.append(f"{site} was left out ({type(error).__name__}: {error.what})")
                continue
            self._set_ups.begun_at(site)
        return reasons

    def _as_reply(self, now: _Round, index: int, part: GroupSum) -> Message:
        """The sum as if one site had sent it: the mean of the models, the sums of the metrics."""
        metrics = vector.unflatten_metrics(part.values[vector.SUMS], vector.metrics_template(now.total.kind))
        content = RecordDict({names.METRICS: metrics, names.SITE: ConfigRecord({names.NAME_KEY: f"sum-{index:05}"})})
        if vector.UPDATE in part.values:
            key = vector.weight_key(now.total.kind)
            weight = float(cast(float, metrics[key]))
            if not weight > 0:
                raise RoundAbandoned(
                    f"the sites' sum of '{key}' is {weight:g}, which no honest answers add up to",
                    where=now.where,
                    remedy="find out which site answers wrongly, and take it out of the roster",
                )
            content[names.ARRAYS] = vector.apply_update(now.arrays, part.values[vector.UPDATE] / weight)
        return Message(content, reply_to=now.questions[part.members[0]])


def _with_secure(message: Message, secure: ConfigRecord) -> Message:
    """The message with the protocol's record; Flower's strategies give all messages one and the same content."""
    content = RecordDict({**cast(dict[str, Any], dict(message.content)), names.SECURE: secure})
    metadata = message.metadata
    return Message(content, message_type=metadata.message_type, dst_node_id=metadata.dst_node_id)
