"""Checkpoints: what a log's tree was at a size, signed by the log (c2sp.org/tlog-checkpoint).

    example.org/log
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — example.org/log <base64 of a key's id and its signature>

The three lines are the log's origin, the number of leaves and the base64 of the root. Further lines before the blank
one are extensions: they are signed and mean nothing here.

Rules: a number has no leading zeros; base64 has one spelling; an empty tree's root is the hash of nothing; a checkpoint
of another log is refused even when a known key signed it. Text and bytes in, no paths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from anchoring.errors import CheckpointInvalid
from anchoring.merkle import EMPTY_ROOT, HASH_SIZE
from anchoring.note import Message, Note, Signer, from_base64, sign_note, to_base64
from anchoring.signers import LARGEST_SIZE, Signers, is_size

_NUMBER = re.compile("0|[1-9][0-9]{0,18}")
_LINE = re.compile(r"[^\x00-\x1f\ud800-\udfff]+")
_ASK = "fetch it again from the log, and do not edit it"


@dataclass(frozen=True)
class Checkpoint:
    """A log's tree: origin, number of leaves, root (32 bytes). Raises CheckpointInvalid for what is no such thing."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no checkpoint can say."""
        if not all(_LINE.fullmatch(line) for line in (self.origin, *self.extensions)):
            raise _invalid("its origin or an extension is empty or has control characters in it")
        if not is_size(self.size):
            raise _invalid(f"its size is no whole number from 0 to {LARGEST_SIZE}")
        if len(self.root) != HASH_SIZE:
            raise _invalid(f"its root has not {HASH_SIZE} bytes")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise _invalid("its tree is empty and its root is not the hash of nothing")

    @property
    def body(self) -> str:
        """The text that is signed."""
        return "\n".join((self.origin, str(self.size), to_base64(self.root), *self.extensions, ""))

    @classmethod
    def from_body(cls, text: str) -> Checkpoint:
        """Read what `body` wrote. Raises CheckpointInvalid for everything else. This verifies no signature."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1]:
            raise _invalid("it has not the lines origin, size and root")
        size = parsed_number(lines[1])
        root = from_base64(lines[2])
        if size is None or root is None:
            raise _invalid("its size is no number without leading zeros, or its root no base64")
        return cls(lines[0], size, root, tuple(lines[3:-1]))


def sign_checkpoint(checkpoint: Checkpoint, *signers: Signer) -> str:
    """Sign a checkpoint: the text that is published. While keys change, the old and the new one sign together."""
    return sign_note(checkpoint.body, *signers)


def open_checkpoint(text: Message, signers: Signers) -> Checkpoint:
    """Read a published checkpoint and verify that the log signed it.

    Raises:
        CheckpointInvalid: it is no checkpoint, or one of another log.
        SignatureInvalid: the signature in the name of one of the log's keys is wrong.
        UnknownSigner: no key of the log signed it that signs for a tree of this size.
    """
    note = Note.parse(text)
    checkpoint = Checkpoint.from_body(note.text)
    if checkpoint.origin != signers.origin:
        raise CheckpointInvalid(
            f"it is not of the log '{signers.origin}' but of another",
            where="checkpoint",
            remedy="use the checkpoint of that log, or the signers of the log it is of",
        )
    signers.require(note, checkpoint.size)
    return checkpoint


def parsed_number(text: str) -> int | None:
    """The number from 0 to LARGEST_SIZE that a decimal without leading zeros says; None for every other text."""
    number = int(text) if _NUMBER.fullmatch(text) else None
    return number if is_size(number) else None


def _invalid(what: str) -> CheckpointInvalid:
    return CheckpointInvalid(what, where="checkpoint", remedy=_ASK)
