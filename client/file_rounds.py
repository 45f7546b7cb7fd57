"""Rounds by file from a site's side: a question comes as a parcel, the installed application answers, once.

    exchange/<run>/0003.begun     a private training began: it is not begun a second time
    exchange/<run>/0003.done      what came of it: the answer, and what the site remembers from then on
    exchange/outbox/              answers to carry

Rules kept here:

* a question is answered when the coordinator of this federation signed it for this site, the run's application is
  approved here, and both sides have one version: as over the network, by the same application;
* the answer and what the site remembers of the run are on disk, in one file, before the answer is handed out: the same
  parcel gives the same answer, to the last byte, and is never worked on again;
* a step is not answered once a later one was, nor is a second question of one step;
* a training that was killed stays counted in the privacy ledger. It is not begun anew: the site says that it was
  interrupted, and takes part again in the next round.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import DEFAULT_TTL, ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from anchoring.durable_files import DurableFiles
from client.app import LEDGER_KEY, TABLE_KEY
from client.approvals import require_approved
from client.contexts import Contexts
from client.replies import refusal
from client.secure_aggregation import KEYS_KEY
from client.site_folder import SiteFolder
from client.witness import WITNESS_KEY
from common import messages as names
from common import parcel as parcels
from common.errors import DjmsError, InputError, RunError
from common.parcel import Header, Parcel
from common.parcel_content import packed, unpacked
from common.private_folder import locked_folder
from common.run_terms import RunTerms

EXCHANGE, OUTBOX = "exchange", "outbox"
_BEGUN, _DONE = ".begun", ".done"
_LENGTH = 8

App = Callable[[Message, Context], Message]


class Interrupted(RunError):
    """The site was interrupted while it trained, and does not train for that round again."""


@dataclass(frozen=True)
class Contribution:
    """A site's answer: the file to carry, whether it had been made before, and why the site refused, if it did."""

    run: str
    step: int
    path: Path
    again: bool
    refusals: tuple[str, ...]


class FileSite:
    """The site in a folder, answering parcels with an application."""

    def __init__(self, site: SiteFolder, table: Path, app: Callable[[], App]) -> None:
        """`app` gives the application when it is needed: it takes seconds to import."""
        self._site, self._table, self._app = site, table, app
        self._folder = site.folder / EXCHANGE
        self._contexts = Contexts(site.folder)

    def answer(self, content: bytes, kind: str, out: Path | None = None) -> Contribution:
        """Answer a question of this kind, or give out the answer that was made before.

        Raises ParcelRefused, BundleRefused, VersionRefused and MembershipError, before anything is done, and InputError
        where the site's table or its keys are missing.
        """
        question = self._believed(content, kind)
        header = question.header
        require_approved(self._site.folder, header.bundle)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with locked_folder(self._folder):
            done = self._done(header.run, header.step)
            again = done.is_file()
            if not again:
                self._require_newest(header)
                self._work(question)
            note, answer, state = _read(done)
            if note["question"] != question.sha256:
                raise parcels.SecondAnswer(
                    f"this site answered another question of step {header.step} before",
                    where="parcel",
                    remedy="carry its answer from the outbox; ask the coordinator why there are two questions",
                )
            if self._last_step(header.run) == header.step:  # a kill may have come between the two
                self._contexts.keep(header.run, state)
            path = (self._folder / OUTBOX if out is None else out) / Parcel.from_bytes(answer).header.file_name
            _write(path, answer)
        return Contribution(header.run, header.step, path, again, tuple(note["refusals"]))

    def _believed(self, content: bytes, kind: str) -> Parcel:
        """The parcel, when it is the coordinator's, for this site and of this kind. Raises ParcelRefused."""
        parcel = Parcel.from_bytes(content)
        header, edition = parcel.header, self._site.membership()
        if header.kind == parcels.ANSWER:
            raise parcels.ParcelOfOtherKind(
                f"it is the answer of {header.sender}",
                where="parcel",
                remedy="the coordinator takes it in with `djms exchange collect`",
            )
        if header.federation != edition.fingerprint:
            raise parcels.ParcelOfOtherFederation(
                "it belongs to another federation", where="parcel", remedy="use those of this site's own federation"
            )
        parcel.require_coordinator(edition.ca.encode(), _host(edition.address), datetime.now(UTC))
        if header.receiver != self._site.name:
            raise parcels.ParcelForAnother(
                f"it is for {header.receiver}, and this is {self._site.name}",
                where="parcel",
                remedy="take the parcel that bears this site's name",
            )
        if header.kind != kind:
            raise parcels.ParcelOfOtherKind(
                f"it is answered with `djms exchange {header.kind}`", where="parcel", remedy="give that command"
            )
        return parcel

    def _require_newest(self, header: Header) -> None:
        last = self._last_step(header.run)
        if header.step < last:
            raise parcels.ParcelOfOtherStep(
                f"it is step {header.step} of the run, and this site answered step {last} already",
                where="parcel",
                remedy="take the newest parcel of the run",
            )

    def _work(self, question: Parcel) -> None:
        """Have the application answer, and put on disk what came of it."""
        header = question.header
        if not self._table.is_file():
            raise InputError("the site's training table is not there", where=self._table, remedy="name it with --table")
        head, messages = unpacked(question.open(self._site.keys().node))
        terms = RunTerms.from_config(head)
        terms.require_version()
        self._site.accept(terms.edition)
        context = self._context(header.run, head)
        replies = [self._reply(message, context, header) for message in messages]
        answer = Parcel.seal(
            Header(
                kind=parcels.ANSWER,
                federation=header.federation,
                run=header.run,
                step=header.step,
                sender=self._site.name,
                receiver=parcels.COORDINATOR,
                answers=question.sha256,
            ),
            packed({}, replies),
            parcels.read_key(header.reply_key),
            self._site.keys().identity.sign,
        )
        refused = [reason for reply in replies if (reason := _refusal_in(reply))]
        note = {"question": question.sha256, "refusals": refused, "answer": len(answer.content)}
        _write(self._done(header.run, header.step), _joined(note, answer.content, context.state))

    def _context(self, run: str, config: dict[str, str | int]) -> Context:
        """What the application is given, with what the site remembers of the run after the last step it answered."""
        last = self._last_step(run)
        if last:
            self._contexts.keep(run, _read(self._done(run, last))[2])
        node: dict[str, Any] = {
            TABLE_KEY: str(self._table.absolute()),
            KEYS_KEY: str(self._site.folder),
            LEDGER_KEY: str(self._site.ledger),
            WITNESS_KEY: str(self._site.witness),
        }
        return Context(1, 1, node, self._contexts.state(run), dict(config))

    def _reply(self, message: Message, context: Context, header: Header) -> Message:
        """The application's answer; a private training is begun once."""
        # Days may have passed since it was asked, and Flower lets no answer outlive its question.
        message.metadata.__dict__["_created_at"] = time.time()
        message.metadata.ttl = DEFAULT_TTL
        if _is_paid_for(message):
            begun = self._done(header.run, header.step).with_suffix(_BEGUN)
            if begun.is_file():
                return refusal(message, self._site.name, _interrupted(self._site.name))
            _write(begun, b"")
        reply = self._app()(message, context)
        if reply.has_error():
            raise RunError("the application failed", where=self._site.name, remedy="see what it said above")
        return reply

    def _last_step(self, run: str) -> int:
        """The newest step that was answered; 0 before the first."""
        return max((int(path.stem) for path in (self._folder / run).glob(f"*{_DONE}")), default=0)

    def _done(self, run: str, step: int) -> Path:
        return self._folder / run / f"{step:04}{_DONE}"


def _is_paid_for(message: Message) -> bool:
    config = message.content.config_records.get(names.CONFIG, ConfigRecord())
    return message.metadata.message_type == "train" and names.UNIT_KEY in config


def _interrupted(site: str) -> DjmsError:
    return Interrupted(
        f"{site} was interrupted while it trained, and does not train for this round again",
        where="site",
        remedy="what it may have cost stays counted; go on without it",
    )


def _refusal_in(reply: Message) -> str:
    record = reply.content.config_records.get(names.SITE, ConfigRecord())
    return str(record.get(names.REFUSAL_KEY, ""))


def _host(address: str) -> str:
    host = address.rpartition(":")[0]
    return host[1:-1] if host.startswith("[") else host


def _joined(note: dict[str, Any], answer: bytes, state: RecordDict) -> bytes:
    """One file: the note's length, the note, the answer, the state; SHA-256 of all that first."""
    head = json.dumps(note, ensure_ascii=False).encode()
    body: bytes = len(head).to_bytes(_LENGTH, "big") + head + answer + recorddict_to_proto(state).SerializeToString()
    return hashlib.sha256(body).digest() + body


def _read(path: Path) -> tuple[dict[str, Any], bytes, RecordDict]:
    """What `_joined` joined. Raises InputError for a damaged file."""
    content = path.read_bytes()
    body = content[32:]
    if hashlib.sha256(body).digest() != content[:32]:
        raise InputError("what this site answered is damaged", where=path, remedy="restore it from a copy")
    ends = _LENGTH + int.from_bytes(body[:_LENGTH], "big")
    note = json.loads(body[_LENGTH:ends])
    middle = ends + int(note["answer"])
    return note, body[ends:middle], recorddict_from_proto(RecordDictProto.FromString(body[middle:]))


def _write(path: Path, content: bytes) -> None:
    files = DurableFiles()
    files.write(path, content)
    files.settle()
