"""What a witness (every site) remembers of logs, and what it therefore refuses.

    state = WitnessState()
    state = state.update(open_checkpoint(first, signers), [])           # first use: believed
    state = state.update(open_checkpoint(second, signers), proof)       # must extend the first
    state.require_anchored(entry, index, inclusion_proof, checkpoint)   # the model is in the log that we watch

Rules:

* A log's first checkpoint is believed: there is nothing to compare it with (trust on first use). What a log hid or
  changed before, this witness never learns; a witness that lost its state begins anew, so its state is kept well.
* After that a log only grows: a smaller tree is a roll-back, another root of the same size is a fork, and so is a
  larger tree that is not proven to extend the one seen last.
* A refused checkpoint changes nothing: states are values, and the old one is kept.
* Whoever calls has verified the checkpoint's signature (`open_checkpoint`) and stores the new state before it cosigns.

No files, no network, no clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from anchoring.checkpoint import Checkpoint
from anchoring.errors import CheckpointInvalid, LogForked, LogRolledBack, NotAnchored, ProofInvalid, RootMismatch
from anchoring.merkle import leaf_hash, verify_consistency, verify_inclusion
from anchoring.note import from_base64, to_base64
from common.exact_json import exact_json, exact_object

_TELL = "accept nothing more from this log, keep both checkpoints as evidence and tell the other sites"


@dataclass(frozen=True)
class WitnessState:
    """The last checkpoint seen of each log, sorted by origin. A state without any is a witness that saw nothing yet."""

    seen: tuple[Checkpoint, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a log that stands in it twice, with CheckpointInvalid."""
        by_origin = {last.origin: Checkpoint(last.origin, last.size, last.root) for last in self.seen}
        if len(by_origin) < len(self.seen):
            raise _damaged("a log stands in it twice")
        object.__setattr__(self, "seen", tuple(by_origin[origin] for origin in sorted(by_origin)))

    def last(self, origin: str) -> Checkpoint | None:
        """The last checkpoint seen of this log; None before the first."""
        return next((checkpoint for checkpoint in self.seen if checkpoint.origin == origin), None)

    def update(self, checkpoint: Checkpoint, consistency_proof: Sequence[bytes]) -> WitnessState:
        """The state after a further checkpoint of a log, whose signature the caller verified.

        `consistency_proof` is the one from the size seen last; empty at first use and from an empty tree.

        Raises:
            LogRolledBack: the tree is smaller than the one seen last.
            LogForked: it has the same size and another root, or is not proven to extend the one seen last.
            ProofInvalid: there is a proof where nothing is to be proven.
        """
        last = self.last(checkpoint.origin)
        if last is not None and checkpoint.size < last.size:
            raise LogRolledBack(
                f"its tree has {checkpoint.size} leaves and had {last.size} before",
                where=checkpoint.origin,
                remedy=_TELL,
            )
        if last is None or last.size in (0, checkpoint.size):
            if last is not None and last.size == checkpoint.size and last.root != checkpoint.root:
                raise _forked(last, checkpoint, "it has another root than before")
            if consistency_proof:
                raise ProofInvalid(
                    "a consistency proof of hashes came where nothing is to be proven",
                    where=checkpoint.origin,
                    remedy="ask the log for the proof from the size seen last",
                )
        else:
            try:
                verify_consistency(last.size, checkpoint.size, last.root, checkpoint.root, consistency_proof)
            except (ProofInvalid, RootMismatch) as error:
                raise _forked(last, checkpoint, "it is not proven to extend the one seen before") from error
        others = tuple(other for other in self.seen if other.origin != checkpoint.origin)
        return WitnessState((*others, checkpoint))

    def require_anchored(
        self, entry: bytes, index: int, inclusion_proof: Sequence[bytes], checkpoint: Checkpoint
    ) -> None:
        """Check that an entry stands at an index of the log, in the very tree that this witness saw last.

        Raises:
            NotAnchored: it does not, or the checkpoint is another than the one seen last.
        """
        if self.last(checkpoint.origin) != Checkpoint(checkpoint.origin, checkpoint.size, checkpoint.root):
            raise NotAnchored(
                "the checkpoint is not the one this witness saw last",
                where=checkpoint.origin,
                remedy="give the witness the checkpoint and its consistency proof first",
            )
        require_anchored(entry, index, inclusion_proof, checkpoint)

    def to_json(self) -> str:
        """A JSON text: the size and the base64 of the root, by origin."""
        seen = {last.origin: {"size": last.size, "root": to_base64(last.root)} for last in self.seen}
        return json.dumps(seen, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> WitnessState:
        """Read what `to_json` wrote.

        Raises CheckpointInvalid for everything else: a damaged state is never taken for one that saw nothing.
        """
        try:
            content = exact_json(text)
            if not isinstance(content, dict):
                raise ValueError
            seen = tuple(_checkpoint(origin, value) for origin, value in content.items())
        except ValueError:
            raise _damaged("it is not JSON of sizes and roots by origin and nothing else") from None
        return cls(seen)


def require_anchored(entry: bytes, index: int, inclusion_proof: Sequence[bytes], checkpoint: Checkpoint) -> None:
    """Check that an entry stands at an index of a checkpoint's tree. Raises NotAnchored when that is not proven."""
    try:
        verify_inclusion(index, checkpoint.size, leaf_hash(entry), inclusion_proof, checkpoint.root)
    except (ProofInvalid, RootMismatch) as error:
        raise NotAnchored(
            f"it is not proven that the entry stands at place {index} of the {checkpoint.size} of this tree",
            where=checkpoint.origin,
            remedy="do not use what the entry is about, and ask the log's operator for its receipt",
        ) from error


def _checkpoint(origin: str, content: object) -> Checkpoint:
    value = exact_object(content, {"size", "root"})
    size, root = value["size"], value["root"]
    decoded = from_base64(root) if isinstance(root, str) else None
    if type(size) is not int or decoded is None:
        raise ValueError("a value of another type than expected")
    return Checkpoint(origin, size, decoded)


def _forked(last: Checkpoint, checkpoint: Checkpoint, what: str) -> LogForked:
    return LogForked(
        f"its tree of {checkpoint.size} leaves does not continue the one of {last.size}: {what}",
        where=checkpoint.origin,
        remedy=_TELL,
    )


def _damaged(what: str) -> CheckpointInvalid:
    return CheckpointInvalid(
        what, where="witness state", remedy="restore it from a backup; without it, this witness begins anew"
    )
