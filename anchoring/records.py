"""Records with personal data: a log commits to them and holds nothing of them; who keeps a receipt can open one.

    row      the canonical JSON (RFC 8785) of {header: cell}, all texts
    leaf     HMAC-SHA256(nonce, "djms/v1/record" ‖ 0x00 ‖ row), with a nonce of 32 fresh bytes for each row
    release  the tree (RFC 9162) over the leaves of a table's rows, in their order
    entry    {"release": random id, "root": of the release, "rows": how many, "type": "djms.records/v1"}, canonical JSON

The entry is all that the log gets. A record's receipt is a `tlog-proof` of the entry whose extra data holds the rest:

    {"entry": …, "index": 0, "nonce": …, "proof": […], "row": …, "type": "djms.record/v1"}

Bytes stand in it as base64, exactly as they were hashed, so that a verifier needs no JSON of its own making. The format
vouches for no extra data; `RecordReceipt.verify` does, for it recomputes everything up to the signed checkpoint.

What a verified receipt proves: these very bytes were row N of that release when the log had that tree. Not that the row
is true, nor when it was written, nor that its issuer gave nobody else another one.

What erasing rests on: without the nonce, a leaf is a random function's value. Nobody can open it, or test a guess of
the row against it, and that stays so when the row itself is known from elsewhere.

Rules: a nonce is never used twice; what is not exactly this form is a `ReceiptInvalid` or `EntryInvalid`; no error and
no repr shows a cell, a row or a nonce. Bytes and texts in, no files.
"""

from __future__ import annotations

import csv
import hmac
import io
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self
from unicodedata import normalize

import rfc8785

from anchoring.cosignature import WitnessPolicy
from anchoring.errors import EntryInvalid, ProofInvalid, ReceiptInvalid, RootMismatch
from anchoring.merkle import HASH_SIZE, MerkleTree, leaf_hash, verify_inclusion
from anchoring.note import from_base64, to_base64
from anchoring.receipt import Receipt
from anchoring.signers import Signers, is_size
from common.errors import InputError, row_place
from common.exact_json import exact_json, exact_object

RELEASE_TYPE = "djms.records/v1"
"""What the field `type` of a release's entry says."""

RECORD_TYPE = "djms.record/v1"
"""What the field `type` of a receipt's extra data says."""

NONCE_SIZE = 32
"""Bytes of a nonce. Every nonce has as many: HMAC pads keys, so two of different lengths could be one key."""

LONGEST_ROW = 262_144
"""Bytes of a canonical row: a receipt with a longer one might be longer than receipts may be."""

_LABEL = b"djms/v1/record\x00"
_RELEASE_ID = re.compile(r"[0-9a-f]{32}")
_ASK = "ask the record's issuer for the receipt again, and do not edit it"


@dataclass(frozen=True)
class Record:
    """A row in canonical form and its nonce: what opens a leaf. Raises ReceiptInvalid for what no leaf is made of."""

    row: bytes = field(repr=False)
    nonce: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a nonce of another length, and a row too long for a receipt."""
        if len(self.nonce) != NONCE_SIZE or len(self.row) > LONGEST_ROW:
            raise _invalid(f"its nonce has not {NONCE_SIZE} bytes, or its row more than {LONGEST_ROW}")

    @classmethod
    def of(cls, row: bytes) -> Self:
        """A row with a fresh nonce from the system's randomness."""
        return cls(row, os.urandom(NONCE_SIZE))

    def leaf_hash(self) -> bytes:
        """Hash of the record's leaf in the tree of its release (32 bytes)."""
        return leaf_hash(hmac.digest(self.nonce, _LABEL + self.row, "sha256"))

    def cells(self) -> dict[str, str]:
        """The cells by header. Raises ReceiptInvalid when the row is no canonical JSON of texts."""
        with suppress(ValueError):  # no JSON, or texts that no UTF-8 can carry
            content = exact_json(self.row.decode())
            if isinstance(content, dict) and all(isinstance(cell, str) for cell in content.values()):
                cells: dict[str, str] = content
                if canonical_row(cells) == self.row:
                    return cells
        raise _invalid("its row is no object of texts in the canonical form of RFC 8785")


@dataclass(frozen=True)
class ReleaseEntry:
    """A release in the log: a random id (32 hexadecimal digits), how many rows, root. Raises EntryInvalid."""

    release: str
    rows: int
    root: bytes

    def __post_init__(self) -> None:
        """Refuse what is no release."""
        if not (_RELEASE_ID.fullmatch(self.release) and is_size(self.rows) and self.rows):
            raise _no_entry("its id has not 32 hexadecimal digits, or it has no rows")
        if len(self.root) != HASH_SIZE:
            raise _no_entry(f"its root has not {HASH_SIZE} bytes")

    @classmethod
    def of(cls, release: str, tree: MerkleTree) -> Self:
        """The entry of a release with these leaves."""
        return cls(release, len(tree), tree.root())

    @cached_property
    def content(self) -> bytes:
        """The entry's bytes: canonical JSON."""
        return rfc8785.dumps(
            {"release": self.release, "root": self.root.hex(), "rows": self.rows, "type": RELEASE_TYPE}
        )

    @cached_property
    def encoded(self) -> str:
        """The base64 of the entry's bytes."""
        return to_base64(self.content)

    @classmethod
    def from_bytes(cls, entry: bytes) -> Self:
        """Read an entry of a log. Raises EntryInvalid when it is no release in canonical form."""
        try:
            content = exact_object(exact_json(entry.decode()), {"release", "root", "rows", "type"})
            release, root, rows = content["release"], content["root"], content["rows"]
            if not (isinstance(release, str) and isinstance(root, str)) or type(rows) is not int:
                raise ValueError
            read = cls(release, rows, bytes.fromhex(root))
            canonical = read.content
        except ValueError:
            raise _no_entry("it is no release of records") from None
        if canonical != entry:
            raise _no_entry("it is no release of records, or not in the canonical form of RFC 8785")
        return read


@dataclass(frozen=True)
class Proven:
    """What a verified receipt proves. `row` counts from 1; `cosigned` has name and time of each witness that counted.

    `entry` is the release, `place` where it stands in the log, from 0, and `tree_size` how long the log was.
    """

    entry: ReleaseEntry
    row: int
    place: int
    origin: str
    tree_size: int
    cosigned: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RecordReceipt:
    """A record, the way from it to its release's root, and the receipt of the release's entry (its extra data unread).

    `index` counts from 0. Raises ReceiptInvalid for an index that the release has not.
    """

    record: Record
    index: int
    proof: tuple[bytes, ...]
    entry: ReleaseEntry
    anchored: Receipt

    def __post_init__(self) -> None:
        """Refuse an index outside the release, and forget the extra data of the entry's receipt."""
        if not (is_size(self.index) and self.index < self.entry.rows):
            raise _invalid("its index is not within its release")
        if self.anchored.extra is not None:
            object.__setattr__(self, "anchored", replace(self.anchored, extra=None))

    def to_text(self) -> str:
        """The text of the file."""
        header, rest = self.anchored.to_text().split("\n", 1)
        return f"{header}\nextra {to_base64(self._extra())}\n{rest}"

    @classmethod
    def from_text(cls, text: str | bytes) -> Self:
        """Read what `to_text` wrote; bytes are taken as UTF-8. This verifies nothing but the form.

        Raises:
            ReceiptInvalid: it is no record's receipt.
            CheckpointInvalid: what stands in the place of the checkpoint is none.
            EntryInvalid: the entry in it is no release.
        """
        anchored = Receipt.from_text(text)
        if anchored.extra is None:
            raise _invalid("it is an entry's receipt, with no record in it")
        try:
            names = {"entry", "index", "nonce", "proof", "row", "type"}
            content = exact_object(exact_json(anchored.extra.decode()), names)
            index, hashes = content["index"], content["proof"]
            if type(index) is not int or not isinstance(hashes, list):
                raise ValueError
            record = Record(_bytes(content["row"]), _bytes(content["nonce"]))
            proof = tuple(_bytes(one) for one in hashes)
            entry = _bytes(content["entry"])
        except ValueError:
            raise _invalid("its extra data is no record of the form {entry, index, nonce, proof, row, type}") from None
        read = cls(record, index, proof, ReleaseEntry.from_bytes(entry), anchored)
        record.cells()
        if read._extra() != anchored.extra:
            raise _invalid("its extra data is of another type, or not in the canonical form of RFC 8785")
        return read

    def verify(self, signers: Signers, policy: WitnessPolicy | None = None) -> Proven:
        """Verify everything, from the row to the log's signature, and to the witnesses' if there is a policy.

        Raises:
            CheckpointInvalid, SignatureInvalid, UnknownSigner: as `open_checkpoint`.
            QuorumMissing: fewer witnesses cosigned the checkpoint than the policy asks for.
            ReceiptInvalid: the entry is not in the log's tree, or the record not in the release's.
        """
        try:
            checkpoint = self.anchored.verify(self.entry.content, signers)
        except (ProofInvalid, RootMismatch) as error:
            raise _invalid("it is not proven that its release stands in the log at the place it names") from error
        cosigned = policy.require(self.anchored.checkpoint_text) if policy is not None else ()
        self.verify_in_release()
        place, size = self.anchored.index, checkpoint.size
        return Proven(self.entry, self.index + 1, place, checkpoint.origin, size, cosigned)

    def verify_in_release(self) -> None:
        """Verify the record up to the root of its release, and nothing of the log. Raises ReceiptInvalid."""
        try:
            verify_inclusion(self.index, self.entry.rows, self.record.leaf_hash(), self.proof, self.entry.root)
        except (ProofInvalid, RootMismatch) as error:
            raise _invalid("its row, nonce, index and proof do not lead to the root of its release") from error

    def _extra(self) -> bytes:
        content = {
            "entry": self.entry.encoded,
            "index": self.index,
            "nonce": to_base64(self.record.nonce),
            "proof": [to_base64(one) for one in self.proof],
            "row": to_base64(self.record.row),
            "type": RECORD_TYPE,
        }
        return json.dumps(content, separators=(",", ":")).encode()  # canonical too: keys in order, all ASCII


def new_release_id() -> str:
    """A random id for a release: it tells nothing."""
    return os.urandom(16).hex()


def canonical_row(cells: Mapping[str, str]) -> bytes:
    """The bytes of a row that are hashed: RFC 8785 JSON of its cells by header."""
    return rfc8785.dumps(dict(cells))


def canonical_rows(content: bytes, where: Path) -> list[bytes]:
    """The canonical rows of a CSV file: UTF-8, separated by commas, a header with a name of its own for each column.

    Raises InputError for everything else, naming `where` and the row as a spreadsheet counts it, the header being row
    1. It quotes nothing: in a file without a header, the first row is a person's.
    """
    rows = _cells(_text(content, where), where)
    header = _header(rows, where)
    # RFC 8785 for an object of texts: keys in the order of their UTF-16, and the escapes that Python's encoder writes.
    order = sorted(range(len(header)), key=lambda at: header[at].encode("utf-16-be"))
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    lines = []
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(header):
            what = f"it has {len(cells)} cells, and the header {len(header)}" if cells else "it is blank"
            raise _refused(what, where, number, "complete the row, or remove it")
        lines.append(encode({header[at]: cells[at] for at in order}).encode())
        if len(lines[-1]) > LONGEST_ROW:
            raise _refused(f"it has more than {LONGEST_ROW} bytes", where, number, "shorten it")
    return lines


def _header(rows: list[list[str]], where: Path) -> list[str]:
    if not rows or not any(rows[0]):
        raise InputError("the file has no header", where=where, remedy="write the columns' names into its first row")
    header = rows[0]
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        raise _refused("its columns are not separated by commas", where, 1, "save it again as 'CSV UTF-8'")
    names = [normalize("NFC", name) for name in header]  # two spellings of one accent are one name to a reader
    for at, name in enumerate(names):
        if not name.strip():
            raise _refused(f"column {at + 1} has no name", where, 1, "give each column a name")
        if name in names[:at]:
            what = f"columns {names.index(name) + 1} and {at + 1} have the same name"
            raise _refused(what, where, 1, "give each column a name of its own")
    if len(rows) == 1:
        raise InputError("the file has no row below its header", where=where, remedy="commit a table with records")
    return header


def _text(content: bytes, where: Path) -> str:
    try:
        text = content.decode("utf-8-sig")
        wrong = content.find(b"\x00")  # UTF-16 without its mark is valid UTF-8 with every second byte null
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        line = content.count(b"\n", 0, wrong) + 1
        raise InputError("the file is not UTF-8", where=f"{where}, line {line}", remedy="save it again as 'CSV UTF-8'")
    return text


def _cells(text: str, where: Path) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        what = f"its quotation marks do not match, or a cell has more than {csv.field_size_limit()} characters"
        raise _refused(what, where, len(rows) + 1, "close every quoted cell, and shorten what is too long") from None
    return rows


def _bytes(text: object) -> bytes:
    content = from_base64(text) if isinstance(text, str) else None
    if content is None:
        raise ValueError("no base64")
    return content


def _invalid(what: str) -> ReceiptInvalid:
    return ReceiptInvalid(what, where="record's receipt", remedy=_ASK)


def _no_entry(what: str) -> EntryInvalid:
    return EntryInvalid(what, where="entry of a release", remedy=_ASK)


def _refused(what: str, where: Path, row: int, remedy: str) -> InputError:
    return InputError(what, where=row_place(where, row), remedy=remedy)
