"""What was published outside of the federation, and where: files below `publications/` in the log's folder.

    <size>-evm.json            the transaction that carries the root of the checkpoint of this size
    <size>-evm.pending         the same while it is signed, perhaps sent, and not confirmed (`anchoring.publish_evm`)
    <size>-rfc3161.json        what an authority attested, and the hashes of the next two (`anchoring.timestamps`)
    <size>-rfc3161.tsr         the authority's answer as it came
    <size>-rfc3161.checkpoint  the checkpoint that it is over as it was then: cosignatures may have come since

Hashes and sizes leave the house, nothing else. Rules: what goes out is the newest checkpoint that a quorum of witnesses
cosigned, or the present one where no witnesses are named; a record is written when what it says was verified, and last
of its files; it is read against the log, so one that is of another log or tree is a `PublicationInvalid`; one process
publishes at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar, get_type_hints
from urllib.parse import urlsplit

from anchoring.anchor_folder import AnchorFolder
from anchoring.checkpoint import Checkpoint, open_checkpoint
from anchoring.durable_files import DurableFiles, LogLocked, locked
from anchoring.errors import AnchoringError, QuorumMissing
from common.errors import InputError, RunError
from common.exact_json import exact_json, exact_object

FOLDER = "publications"

Outcome: TypeAlias = Literal["published", "finished", "already"]
"""It went out now; it had gone out before and was only confirmed and recorded now; it was recorded before."""

_RESTORE = "restore it from a copy; it can be removed, and the checkpoint published again"


class PublicationInvalid(AnchoringError):
    """A record of a publication that is damaged, or does not fit the log or what stands where it points."""


class ServiceUnreachable(RunError):
    """A node or an authority that does not answer, or not in time."""


class ServiceRefused(RunError):
    """A node or an authority that answers with a refusal, or with what is no answer."""


@dataclass(frozen=True)
class Record:
    """What every record says: of which log's checkpoint it is. `root` is 64 hexadecimal digits."""

    TYPE: ClassVar[str]
    ENDING: ClassVar[str]

    origin: str
    size: int
    root: str

    def to_json(self) -> dict[str, Any]:
        """The fields, for programs."""
        return {"type": self.TYPE, **asdict(self)}

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return f"{json.dumps(self.to_json(), ensure_ascii=False, indent=2)}\n".encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises ValueError for everything else."""
        kinds = get_type_hints(cls)
        names = [field.name for field in fields(cls)]
        values: dict[str, Any] = exact_object(exact_json(content.decode()), {"type", *names})
        if values.pop("type") != cls.TYPE or any(type(values[name]) is not kinds[name] for name in names):
            raise ValueError("a value of another type than expected")
        record: Self = cls(**values)
        if record.to_bytes() != content:
            raise ValueError("written in another way")
        return record


@dataclass(frozen=True)
class PendingTransaction(Record):
    """A transaction that was signed. `transaction` is its hash, `raw` what is sent, both in hexadecimal with 0x."""

    TYPE: ClassVar[str] = "djms.publication.evm.pending/v1"
    ENDING: ClassVar[str] = "-evm.pending"

    chain_id: int
    sender: str
    nonce: int
    transaction: str
    raw: str


@dataclass(frozen=True)
class Transaction(Record):
    """A transaction in a block. Hashes are in hexadecimal with 0x, `block_time` in seconds since 1970."""

    TYPE: ClassVar[str] = "djms.publication.evm/v1"
    ENDING: ClassVar[str] = "-evm.json"

    chain_id: int
    transaction: str
    sender: str
    block_number: int
    block_hash: str
    block_time: int


@dataclass(frozen=True)
class Timestamp(Record):
    """An authority's answer: at `time` (ISO 8601, UTC) the checkpoint existed. `signer` is the name in its certificate.

    `serial_number` is decimal, `policy` the object identifier of what the authority vouches for.
    """

    TYPE: ClassVar[str] = "djms.publication.rfc3161/v1"
    ENDING: ClassVar[str] = "-rfc3161.json"

    time: str
    signer: str
    serial_number: str
    policy: str
    answer_sha256: str
    checkpoint_sha256: str


AnyRecord = TypeVar("AnyRecord", bound=Record)


class Publications:
    """The records of a log's publications. The folder is made with the first one."""

    def __init__(self, anchor: AnchorFolder) -> None:
        self.anchor = anchor
        self.folder = anchor.folder / FOLDER

    def newest(self) -> tuple[str, Checkpoint]:
        """The checkpoint that is to be published, as a note and read.

        Raises InputError for an empty log, QuorumMissing where too few witnesses cosigned any checkpoint.
        """
        text = self.anchor.published()
        if text is not None:
            return text, open_checkpoint(text, self.anchor.signers)
        if self.anchor.log.size == 0:
            what, remedy = "the log has no entries, so there is nothing to publish", "publish after the first round"
            raise InputError(what, where=self.anchor.folder, remedy=remedy)
        quorum = 0 if self.anchor.policy is None else self.anchor.policy.quorum
        raise QuorumMissing(
            f"no checkpoint of the log is cosigned by the {quorum} witnesses that it needs",
            where=self.anchor.folder,
            remedy="let the witnesses cosign, then publish",
        )

    def sizes(self, kind: type[Record]) -> list[int]:
        """Sizes of the checkpoints of which there is a record of this kind, ascending."""
        name = re.compile(f"([1-9][0-9]{{0,18}}){re.escape(kind.ENDING)}")
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(match[1]) for path in paths if (match := name.fullmatch(path.name)))

    def path(self, size: int, ending: str) -> Path:
        """Where a file of the publication of this size lies."""
        return self.folder / f"{size}{ending}"

    def read(self, kind: type[AnyRecord], size: int) -> AnyRecord:
        """A record that fits the log. Raises PublicationInvalid for any other."""
        path = self.path(size, kind.ENDING)
        try:
            record = kind.from_bytes(self.content(size, kind.ENDING))
        except ValueError:
            raise PublicationInvalid("the record is damaged", where=path, remedy=_RESTORE) from None
        fits = (record.origin, record.size) == (self.anchor.origin, size) and size <= self.anchor.log.size
        if not fits or record.root != self.anchor.log.root(size).hex():
            raise PublicationInvalid(
                "what was published is not the tree that the log had at this size",
                where=path,
                remedy="compare the log with its witnesses: it was changed after it was published, or the record was",
            )
        return record

    def content(self, size: int, ending: str) -> bytes:
        """The bytes of a file. Raises PublicationInvalid when it is missing."""
        path = self.path(size, ending)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise PublicationInvalid("a file of the publication is missing", where=path, remedy=_RESTORE) from None

    def write(self, size: int, contents: Mapping[str, bytes]) -> None:
        """Write files of the publication of this size, by their endings; all are durable at the end."""
        files = DurableFiles()
        for ending, content in contents.items():
            files.write(self.path(size, ending), content)
        files.settle()

    def add(self, record: Record) -> None:
        """Write a record; it is durable at the end."""
        self.write(record.size, {record.ENDING: record.to_bytes()})

    def remove(self, record: Record) -> None:
        """Remove a record."""
        self.path(record.size, record.ENDING).unlink(missing_ok=True)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep every other process from publishing while the block runs. Raises LogLocked."""
        files = DurableFiles()
        files.make(self.folder)
        files.settle()
        try:
            lock = locked(self.folder)
        except LogLocked as error:
            what, remedy = "another process is publishing from this log", "wait until it ends, then run this again"
            raise LogLocked(what, where=self.folder, remedy=remedy) from error
        try:
            yield
        finally:
            lock.release()


def service_name(url: str, key: str) -> str:
    """Scheme, host and port of a service; the rest of an address, where passwords and tokens stand, is told nobody.

    Raises InputError, naming the settings' `key`, for what is no address of a web service.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(
            "this is no address of the form https://host/path", where=f"settings key '{key}'", remedy="correct it"
        )
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")


def one_line(text: str) -> str:
    """What a service said, on one line and not too long."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:200]
