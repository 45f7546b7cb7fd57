"""One exchange of messages with sites, and who is there to exchange with.

Flower's own waiting has no end when sites are missing and polls every three seconds; here both have a limit, and the
error names the sites that are missing. Names cost an exchange, so they are asked for only when something is wrong.

A message lives little longer than it is waited for: one that is lost with a site's process yields no error before its
end, which Flower puts at twelve hours.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Protocol, cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from common import messages as names
from common.errors import RunError
from privacy.secure_aggregation.errors import MalformedMessage

POLL_SECONDS = 0.2
_IDENTIFY_SECONDS = 30.0
_LIVES_ON_SECONDS = 330.0
"""How much longer a message lives than anybody waits for its answer: a site's clock may be five minutes fast, and an
answer from beyond its question's end is refused."""
_LONGEST_REASON = 400
_MOST_REASONS = 10


class TooFewSites(RunError):
    """After all waiting there are fewer sites than needed; the sentence names those that are missing."""


class Onlooker(Protocol):
    """Is told whom an exchange waits for."""

    def asked(self, grid: Grid, messages: Sequence[Message], seconds: float) -> None:
        """These messages leave now, and are waited for so long."""

    def answered(self, replies: Sequence[Message]) -> None:
        """These replies came."""

    def over(self) -> None:
        """Nobody is waited for any more."""


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    *,
    timeout: float,
    cancelled: threading.Event,
    in_flight: int | None = None,
    poll: float = POLL_SECONDS,
    onlooker: Onlooker | None = None,
) -> list[Message]:
    """Send messages and return the replies that arrive within `timeout` seconds; RunError once `cancelled` is set.

    At most `in_flight` messages are open at a time: Flower's simulation looks through all open ones for every site.
    """
    if onlooker is None:
        return _exchange(grid, messages, timeout, cancelled, in_flight, poll, lambda _replies: None)
    asked = list(messages)
    onlooker.asked(grid, asked, timeout)
    try:
        return _exchange(grid, asked, timeout, cancelled, in_flight, poll, onlooker.answered)
    finally:
        onlooker.over()


def _exchange(
    grid: Grid,
    messages: Iterable[Message],
    timeout: float,
    cancelled: threading.Event,
    in_flight: int | None,
    poll: float,
    answered: Callable[[Sequence[Message]], None],
) -> list[Message]:
    waiting = iter(messages)
    deadline = time.monotonic() + timeout
    replies: list[Message] = []
    open_ids: set[str] = set()
    while True:
        if due := list(islice(waiting, None if in_flight is None else in_flight - len(open_ids))):
            for message in due:
                _let_lapse(message, deadline - time.monotonic())
            open_ids |= set(grid.push_messages(due))
        if not open_ids:
            break
        arrived = list(grid.pull_messages(open_ids))
        replies += arrived
        if arrived:
            answered(arrived)
        open_ids -= {reply.metadata.reply_to_message_id for reply in arrived}
        if time.monotonic() >= deadline:
            break
        if open_ids:
            _pause(cancelled, poll)
    return replies


def _let_lapse(message: Message, seconds: float) -> None:
    """Let a message live as long as it is waited for from now on, and a little longer."""
    metadata = message.metadata
    age = max(0.0, time.time() - metadata.created_at)
    metadata.ttl = min(metadata.ttl, age + max(0.0, seconds) + _LIVES_ON_SECONDS)


def wait_for_sites(
    grid: Grid,
    expected: Collection[str],
    *,
    at_least: int,
    timeout: float,
    cancelled: threading.Event,
    onlooker: Onlooker | None = None,
) -> list[int]:
    """The nodes of all expected sites, or after `timeout` seconds of those that came, if at least `at_least` did.

    Raises TooFewSites naming the missing sites when fewer came.
    """
    deadline = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < len(expected):
        if time.monotonic() >= deadline:
            break
        _pause(cancelled)
    if len(nodes) < at_least:
        there = identify(grid, nodes, cancelled=cancelled, onlooker=onlooker)
        missing = sorted(set(expected) - there)
        raise TooFewSites(
            f"after {timeout:g} s only {len(nodes)} of {len(expected)} sites are there and at least {at_least} are "
            f"needed; missing: {', '.join(missing)}",
            where="federation",
            remedy="start the missing sites, or wait longer with federated.wait_timeout",
        )
    return nodes


def identify(
    grid: Grid, nodes: Collection[int], *, cancelled: threading.Event, onlooker: Onlooker | None = None
) -> set[str]:
    """The names of the sites at these nodes, as far as they answer."""
    empty = RecordDict({names.CONFIG: ConfigRecord()})
    questions = [Message(content=empty, message_type=names.IDENTIFY, dst_node_id=node) for node in nodes]
    if not questions:
        return set()
    replies = exchange(grid, questions, timeout=_IDENTIFY_SECONDS, cancelled=cancelled, onlooker=onlooker)
    return {site_of(reply) for reply in sort_replies(replies)[0]}


def _pause(cancelled: threading.Event, seconds: float = POLL_SECONDS) -> None:
    if cancelled.wait(seconds):
        raise RunError("the run was interrupted", where="federation", remedy="start it again")


def site_of(reply: Message) -> str:
    """The name of the site that sent a reply."""
    return str(cast(ConfigRecord, reply.content[names.SITE])[names.NAME_KEY])


def named_site_of(reply: Message) -> str | None:
    """The name of the site that sent a reply; None where it is an error or has no name that can be one."""
    return site_of(reply) if not reply.has_error() and _is_named(reply) else None


def refusal_of(reply: Message) -> str | None:
    """Why the site refused, or None."""
    reason = cast(ConfigRecord, reply.content[names.SITE]).get(names.REFUSAL_KEY)
    return None if reason is None else str(reason)


def refusal_kind_of(reply: Message) -> str | None:
    """The name of the error the site refused with, or None."""
    if reply.has_error() or not _is_named(reply):
        return None
    kind = cast(ConfigRecord, reply.content[names.SITE]).get(names.REFUSAL_KIND_KEY)
    return None if kind is None else str(kind)


def sort_replies(
    replies: Iterable[Message], known: Mapping[int, str] = MappingProxyType({})
) -> tuple[list[Message], list[str]]:
    """Replies with a result, and for each other one a clause that says why it has none.

    A site of a node that is `known` bears that name, whatever name its reply has.
    """
    valid: list[Message] = []
    reasons: list[str] = []
    for reply in replies:
        if reply.has_error():
            last = (reply.error.reason or "no reason given").strip().splitlines()[-1].strip()
            reasons.append(f"{known.get(reply.metadata.src_node_id, 'a site')} failed ({printable(last)})")
        elif not _is_named(reply):
            reasons.append("a site answered without a name that can be one")
        elif (refusal := refusal_of(reply)) is not None:
            name = known.get(reply.metadata.src_node_id, site_of(reply))
            reasons.append(f"{name} refused ({printable(refusal).rstrip('.')})")
        else:
            valid.append(reply)
    return valid, reasons


def _is_named(reply: Message) -> bool:
    record = reply.content.get(names.SITE)
    name = record.get(names.NAME_KEY) if isinstance(record, ConfigRecord) else None
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) is not None


def printable(text: str) -> str:
    """What a site wrote, as one line of bounded length without control characters."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= _LONGEST_REASON else clean[:_LONGEST_REASON] + "…"


def shortened(reasons: list[str]) -> list[str]:
    """The first few of many clauses, and how many there are besides."""
    if len(reasons) <= _MOST_REASONS:
        return reasons
    return [*reasons[:_MOST_REASONS], f"and {len(reasons) - _MOST_REASONS} more"]


def payload_question(message_type: str, node: int, payload: bytes) -> Message:
    """One step of secure aggregation for the site at a node."""
    content = RecordDict({names.SECURE: ConfigRecord({names.PAYLOAD_KEY: payload})})
    return Message(content, message_type=message_type, dst_node_id=node)


def payload_of(reply: Message) -> bytes:
    """What a site answered in secure aggregation. Raises MalformedMessage where it answered something else."""
    record = reply.content.get(names.SECURE)
    payload = record.get(names.PAYLOAD_KEY) if isinstance(record, ConfigRecord) else None
    if not isinstance(payload, bytes):
        raise MalformedMessage(
            f"{site_of(reply)} did not answer in secure aggregation", remedy="use the same version of DJMS there"
        )
    return payload
