"""What can be wrong with a log, a proof, a checkpoint or a receipt: one class each, for callers to tell them apart.

An error names indices, sizes, files, hashes and names of signers. It never contains an entry.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError, RunError


class AnchoringError(RunError):
    """Anything in a log, proof, checkpoint or receipt that does not fit."""

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str) -> None:
        super().__init__(what, where=where, remedy=remedy)


class ProofInvalid(AnchoringError):
    """A proof that cannot be one: wrong length, index outside the tree, hashes that are no hashes."""


class RootMismatch(AnchoringError):
    """A proof, or tiles, that lead to another root than the expected one. Carries both roots (32 bytes each)."""

    def __init__(
        self, what: str, *, where: str | Path | None = None, remedy: str, calculated: bytes, expected: bytes
    ) -> None:
        self.calculated = calculated
        self.expected = expected
        super().__init__(what, where=where, remedy=remedy)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling with both roots."""
        return (_rebuild_mismatch, (type(self), self.what, self.where, self.remedy, self.calculated, self.expected))


class LogCorrupt(AnchoringError):
    """A log on disk that contradicts itself or its checkpoint; the message names the first file that does not fit."""


class LogMissing(AnchoringError, InputError):
    """There is no log where one was to be opened: creating one is an explicit act."""

    exit_code = InputError.exit_code


class CheckpointInvalid(AnchoringError):
    """A checkpoint whose text is not in the form of C2SP tlog-checkpoint, or not of the expected log."""


class SignatureInvalid(AnchoringError):
    """A signature in the name of a known signer that the signer's key did not make."""


class UnknownSigner(AnchoringError):
    """No signature by a signer that is trusted."""


class ReceiptInvalid(AnchoringError):
    """A receipt that is damaged, or does not prove what it claims."""


class LogForked(AnchoringError):
    """Two checkpoints of one log that no single history explains."""


class LogRolledBack(AnchoringError):
    """A log that shows fewer entries than it showed before."""


class NotAnchored(AnchoringError):
    """Something that was to be in the log and is not."""


class ContentDamaged(AnchoringError):
    """A content that the store has not, or that has not the hash it is stored under."""


class EntryInvalid(AnchoringError):
    """An entry of a log that is none of the kinds DJMS writes, or says what cannot be."""


class ModelRolledBack(AnchoringError):
    """An older model of a run than the one that was used before, or another one for the same round."""


class QuorumMissing(AnchoringError):
    """Fewer witnesses than required have cosigned a checkpoint."""


def _rebuild_mismatch(
    kind: type[RootMismatch], what: str, where: str | None, remedy: str, calculated: bytes, expected: bytes
) -> RootMismatch:
    return kind(what, where=where, remedy=remedy, calculated=calculated, expected=expected)
