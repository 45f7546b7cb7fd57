"""A grid whose messages are carried as files: durable execution of a run by replay.

    <run>/steps/0003/asked.json              whom the third exchange asked, by which parcels, and who cannot be asked
    <run>/steps/0003/<site>.question         the messages it asked, as they were sent
    <run>/steps/0003/<site>.question.parcel  the same, sealed for the site
    <run>/steps/0003/<site>.answer.parcel    what came back
    <run>/steps/0003/closed.json             the sites that the coordinator goes on without

The run's code is executed from its start each time. An exchange that is recorded is answered from disk, so the code
comes again to where it was; at the first that is not complete its questions are put on disk and `Suspended` ends the
execution. Rules kept here:

* an exchange is complete when every site that was asked has answered, or was closed;
* what was asked once is never asked otherwise: where the code, executed again, asks something else, the run is refused;
* `asked.json` is written last, `closed.json` and an answer whole or not at all: a kill at any instant is repaired by
  giving the command again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_to_proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from anchoring.durable_files import DurableFiles
from common import messages as names
from common.errors import InputError, RunError
from common.exact_json import exact_json
from common.parcel_content import messages_from_bytes, messages_to_bytes

STEPS, ASKED, CLOSED = "steps", "asked.json", "closed.json"
QUESTION, QUESTION_PARCEL, ANSWER_PARCEL = ".question", ".question.parcel", ".answer.parcel"


class Suspended(BaseException):
    """The run's code has come as far as answers are there. No error: nothing between the grid and its user stops it."""


class DoesNotRepeat(RunError):
    """The run's code, executed again, asks something else than is recorded."""


@dataclass(frozen=True)
class Step:
    """One exchange as it is recorded. `asked` has the SHA-256 of each site's parcel, `lost` who could not be asked."""

    folder: Path
    number: int
    message_type: str
    digest: str
    asked: dict[str, str]
    lost: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Step:
        """Read it. Raises InputError for a damaged record."""
        path = folder / ASKED
        try:
            content: Any = exact_json(path.read_text(encoding="utf-8"))
            return cls(folder, int(folder.name), **content)
        except (ValueError, TypeError):
            raise InputError("the record of a step is damaged", where=path, remedy="restore it from a copy") from None

    @property
    def closed(self) -> tuple[str, ...] | None:
        """The sites it was closed without; None while it is open."""
        path = self.folder / CLOSED
        return tuple(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    @property
    def answered(self) -> tuple[str, ...]:
        """The sites that answered."""
        return tuple(site for site in sorted(self.asked) if self.answer_of(site).is_file())

    @property
    def missing(self) -> tuple[str, ...]:
        """The sites that were asked and have not answered."""
        return tuple(site for site in sorted(self.asked) if not self.answer_of(site).is_file())

    @property
    def complete(self) -> bool:
        """Whether the run can go on."""
        return not self.missing or self.closed is not None

    def question_of(self, site: str) -> Path:
        """The site's sealed question."""
        return self.folder / f"{site}{QUESTION_PARCEL}"

    def answer_of(self, site: str) -> Path:
        """The site's sealed answer, where it came."""
        return self.folder / f"{site}{ANSWER_PARCEL}"

    def messages_for(self, site: str) -> list[Message]:
        """What the site was asked."""
        return messages_from_bytes((self.folder / f"{site}{QUESTION}").read_bytes())

    def close(self) -> None:
        """Go on without those that have not answered, for good."""
        _write(self.folder / CLOSED, json.dumps(list(self.missing)).encode())


Seal = Callable[[int, str, Sequence[Message]], tuple[bytes, str]]
"""Step, site, and the messages for it, to a parcel's bytes and their SHA-256."""
Opened = Callable[[Step, str], list[Message]]
"""The messages in a site's answer to a step."""


class FileGrid(Grid):
    """The grid of one execution of a run, over sites in a fixed order: node i is `sites[i - 1]`."""

    def __init__(
        self,
        folder: Path,
        sites: Sequence[str],
        run: Run,
        seal: Seal,
        opened: Opened,
        lost: Callable[[str], str | None],
    ) -> None:
        """`folder` is the run's; `lost` says why a site cannot be asked, or None."""
        self._folder = folder / STEPS
        self._sites = tuple(sites)
        self._run = run
        self._seal, self._opened, self._lost = seal, opened, lost
        self._at = 0
        self._open: dict[str, Message | None] = {}

    def set_run(self, run: Run) -> None:
        """Have another run's name."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run, with the hash of its bundle."""
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        """All members: who is away shows when answers are missing."""
        return range(1, len(self._sites) + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Begin an exchange, or find it recorded. Raises DoesNotRepeat."""
        asked = list(messages)
        if not asked:
            return []
        step = self._recorded(asked) or self._record(asked)
        ids = []
        for site in sorted({self._site(message) for message in asked}):
            mine = [message for message in asked if self._site(message) == site]
            answers = self._answers(step, site, len(mine))
            for place, message in enumerate(mine):
                message.metadata.__dict__["_message_id"] = message_id(step.number, site, place)
                ids.append(message.metadata.message_id)
                self._open[ids[-1]] = None if answers is None else _as_reply(answers[place], message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies. Raises Suspended where the exchange is not complete."""
        wanted = set(message_ids)
        waited_for = [one for one in self._open if one in wanted]  # always in one order, which no set has
        replies = {one: self._open[one] for one in waited_for}
        if None in replies.values():
            raise Suspended
        for one in waited_for:
            del self._open[one]
        return [reply for reply in replies.values() if reply is not None]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a site."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """One exchange; nothing is waited for."""
        return self.pull_messages(self.push_messages(messages))

    def _recorded(self, asked: Sequence[Message]) -> Step | None:
        """The next step on disk, where it is this one; None where there is none."""
        found = steps_of(self._folder)[self._at :]
        kind, digest = asked[0].metadata.message_type, _digest_of(asked)
        # What sites saw of the log may be known meanwhile, as when another run wrote to it: that question is left out.
        while found and kind != found[0].message_type == names.WITNESS:
            found = found[1:]
            self._at += 1
        if not found:
            return None
        if found[0].digest != digest:
            raise DoesNotRepeat(
                f"executed again, the run asks something else than step {found[0].number} did",
                where=self._folder.parent.name,
                remedy="go on with the version of DJMS that opened the run, or open another run",
            )
        self._at += 1
        return found[0]

    def _record(self, asked: Sequence[Message]) -> Step:
        self._at = len(steps_of(self._folder)) + 1
        folder = self._folder / f"{self._at:04}"
        kind = asked[0].metadata.message_type
        files, parcels, lost = DurableFiles(), {}, {}
        for site in sorted({self._site(message) for message in asked}):
            mine = [message for message in asked if self._site(message) == site]
            if (why := self._lost(site)) is not None:
                lost[site] = why
                continue
            for place, message in enumerate(mine):
                message.metadata.__dict__["_message_id"] = message_id(self._at, site, place)
            sealed, parcels[site] = self._seal(self._at, site, mine)
            files.write(folder / f"{site}{QUESTION}", messages_to_bytes(mine))
            files.write(folder / f"{site}{QUESTION_PARCEL}", sealed)
        files.settle()
        record = {"message_type": kind, "digest": _digest_of(asked), "asked": parcels, "lost": lost}
        _write(folder / ASKED, json.dumps(record, indent=2).encode())
        return Step.read(folder)

    def _answers(self, step: Step, site: str, count: int) -> Sequence[Message | Error] | None:
        """The site's messages, or what stands in their place; None while it is waited for."""
        if site in step.lost:
            return [_error(step.lost[site])] * count
        if step.answer_of(site).is_file() and site not in (step.closed or ()):
            return self._opened(step, site)
        return [_error(f"{site} had not answered when the step was closed")] * count if step.complete else None

    def _site(self, message: Message) -> str:
        return self._sites[message.metadata.dst_node_id - 1]


def steps_of(folder: Path) -> list[Step]:
    """The recorded steps, in order."""
    return [Step.read(one.parent) for one in sorted(folder.glob(f"*/{ASKED}"))]


def message_id(step: int, site: str, place: int) -> str:
    """The id of a site's message in a step: the same whenever the run is executed."""
    return f"{step}-{site}-{place}"


def _error(reason: str) -> Error:
    return Error(code=ErrorCode.NODE_UNAVAILABLE, reason=reason)


def _as_reply(answer: Message | Error, question: Message) -> Message:
    """The answer as one to this question, from this node: what the sender wrote of that counts nothing."""
    if isinstance(answer, Error):
        return Message(answer, reply_to=question)
    if answer.has_error():
        return Message(answer.error, reply_to=question)
    return Message(answer.content, reply_to=question)


def _digest_of(messages: Sequence[Message]) -> str:
    """SHA-256 over what is asked of whom, in hexadecimal; without the proofs, which follow the log as it grows."""
    parts = []
    for message in messages:
        content = RecordDict({key: value for key, value in message.content.items() if key != names.ANCHOR})
        body = recorddict_to_proto(content).SerializeToString(deterministic=True)
        metadata = message.metadata
        parts.append((metadata.dst_node_id, metadata.message_type, hashlib.sha256(body).hexdigest()))
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    files = DurableFiles()
    files.write(path, content)
    files.settle()
