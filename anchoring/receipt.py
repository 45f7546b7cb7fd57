"""Receipts: that an entry stands in a log, in a file that is verified offline (c2sp.org/tlog-proof).

    c2sp.org/tlog-proof@v1
    extra <base64 of data that nothing vouches for; the line may be missing>
    index 73894
    <base64 of a hash, one line for each of the inclusion proof, from the leaf's sibling upwards>

    <the checkpoint as it was published, with the signatures of log and witnesses>

Whoever has the entry, the log's signers and a policy on witnesses needs nothing else, now or in years. The entry itself
is not in the file: it stays with whom it concerns.

Rules: what is not exactly this form is a `ReceiptInvalid`; signatures are verified before the proof; the extra data is
handed on and not believed. Text and bytes in, no paths.
"""

from __future__ import annotations

from dataclasses import dataclass

from anchoring.checkpoint import Checkpoint, open_checkpoint, parsed_number
from anchoring.cosignature import WitnessPolicy
from anchoring.errors import ReceiptInvalid
from anchoring.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from anchoring.note import LONGEST_NOTE, Note, checked_text, from_base64, to_base64
from anchoring.signers import Signers, is_size

HEADER = "c2sp.org/tlog-proof@v1"
"""The first line."""

LONGEST_RECEIPT = 2 * LONGEST_NOTE
"""Bytes of a receipt in UTF-8; more is refused before it is read."""

LONGEST_PROOF = 63
"""Hashes of a proof in the largest tree that can be written down."""

_ASK = "ask whoever keeps the log for the receipt again, and do not edit it"


@dataclass(frozen=True)
class Receipt:
    """An entry's place in a log, with the proof. Raises ReceiptInvalid for what no receipt can say."""

    index: int
    proof: tuple[bytes, ...]
    checkpoint_text: str
    extra: bytes | None = None

    def __post_init__(self) -> None:
        """Refuse an index, a proof or a checkpoint that no file could carry."""
        if not is_size(self.index):
            raise _invalid("its index is no whole number from 0")
        if len(self.proof) > LONGEST_PROOF or any(len(one) != HASH_SIZE for one in self.proof):
            raise _invalid(f"its proof is longer than {LONGEST_PROOF} hashes, or one of them has not {HASH_SIZE} bytes")

    def to_text(self) -> str:
        """The text of the file, whose name by custom ends in `.tlog-proof`."""
        lines = [HEADER, f"index {self.index}", *(to_base64(one) for one in self.proof), "", self.checkpoint_text]
        if self.extra is not None:
            lines.insert(1, f"extra {to_base64(self.extra)}")
        return "\n".join(lines)

    @classmethod
    def from_text(cls, text: str | bytes) -> Receipt:
        """Read what `to_text` wrote; bytes are taken as UTF-8. This verifies nothing but the form.

        Raises:
            ReceiptInvalid: it is no receipt.
            CheckpointInvalid: what stands in the place of the checkpoint is none.
        """
        head, blank, checkpoint_text = checked_text(text, LONGEST_RECEIPT, "receipt", ReceiptInvalid).partition("\n\n")
        lines = head.split("\n")
        if not blank or lines.pop(0) != HEADER or not lines:
            raise _invalid(f"it does not begin with '{HEADER}', an index and a blank line")
        extra = None
        if lines[0].startswith("extra "):
            extra = from_base64(lines.pop(0).removeprefix("extra "))
            if extra is None or not lines:
                raise _invalid("its extra data is no base64, or is followed by nothing")
        index = parsed_number(lines[0].removeprefix("index "))
        if not lines[0].startswith("index ") or index is None:
            raise _invalid("its index is no number without leading zeros")
        proof = tuple(from_base64(line) or b"" for line in lines[1:])
        Checkpoint.from_body(Note.parse(checkpoint_text).text)
        return cls(index, proof, checkpoint_text, extra)

    def verify(self, entry: bytes, signers: Signers, policy: WitnessPolicy | None = None) -> Checkpoint:
        """Verify that the entry stands at the index in a tree that the log signed, and witnesses if there is a policy.

        Returns the checkpoint, of which everything is now believed but its extension lines.

        Raises:
            CheckpointInvalid, SignatureInvalid, UnknownSigner: as `open_checkpoint`.
            QuorumMissing: fewer witnesses cosigned the checkpoint than the policy asks for.
            ProofInvalid: the proof cannot be one of this index in a tree of this size.
            RootMismatch: the proof leads to another root: it is another entry, or another place.
        """
        note = Note.parse(self.checkpoint_text)
        checkpoint = open_checkpoint(note, signers)
        if policy is not None:
            policy.require(note)
        verify_inclusion(self.index, checkpoint.size, leaf_hash(entry), self.proof, checkpoint.root)
        return checkpoint


def _invalid(what: str) -> ReceiptInvalid:
    return ReceiptInvalid(what, where="receipt", remedy=_ASK)
