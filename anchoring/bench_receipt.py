"""What believing a receipt costs, beside one bare check of an Ed25519 signature.

A receipt is read, which takes its text apart, and then verified, which checks the log's signature and follows the
proof. The bare check is `Ed25519PublicKey.verify` on the very signature and text that the receipt carries. Seconds are
processor time, the least of many short turns.
"""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from anchoring.bench_timing import least, on_processor
from anchoring.bench_tree import Sample
from anchoring.checkpoint import Checkpoint, sign_checkpoint
from anchoring.note import Note, Signer, new_private_key
from anchoring.receipt import Receipt
from anchoring.signers import Signers

ORIGIN = "example.org/benchmark"
"""The name of every log that is made to be measured."""

_RECEIPTS, _TURNS = 20, 20


def measure_receipts(size: int, turns: int) -> dict[str, Any]:
    """Microseconds for a receipt of an entry of a log of `size`, with the log's signature alone on its checkpoint."""
    sample = Sample.of(size)
    signer = Signer.from_text(new_private_key(ORIGIN))
    signers = Signers.of(signer.verifier_key)
    text = sign_checkpoint(Checkpoint(ORIGIN, size, sample.tree.root()), signer)
    chosen = zip(sample.places[:_RECEIPTS], sample.proofs, strict=False)
    receipts = [Receipt(place, tuple(proof), text) for place, proof in chosen]
    files = [receipt.to_text().encode() for receipt in receipts]
    note = Note.parse(text)
    body, signature = note.text.encode(), note.signatures[0].content
    key = Ed25519PublicKey.from_public_bytes(signer.public_key)

    def read() -> None:
        for file in files:
            Receipt.from_text(file)

    def verify() -> None:
        for receipt in receipts:
            receipt.verify(sample.entries[receipt.index], signers)

    def check_signatures() -> None:
        for _ in receipts:
            key.verify(signature, body)

    works = map(on_processor, (read, verify, check_signatures))
    reading, verifying, bare = (1e6 * seconds / _RECEIPTS for seconds in least(turns * _TURNS, *works))
    return {
        "receipt_us": round(reading + verifying, 3),
        "receipt_reading_us": round(reading, 3),
        "receipt_verification_us": round(verifying, 3),
        "signature_us": round(bare, 3),
        "beyond_signature_us": round(verifying - bare, 3),
    }
