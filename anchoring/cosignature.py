"""Cosignatures: witnesses say that a checkpoint extends every earlier one they saw (c2sp.org/tlog-cosignature, v1).

A log can show each site another tree. It cannot when a quorum of witnesses, who compare each checkpoint with the last
one they saw, has to sign. A witness signs, with Ed25519 and at a time in seconds since 1970,

    cosignature/v1
    time 1679315147
    example.org/log
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

that is, two lines and the checkpoint's whole body. The signature line carries the time as 8 bytes, most significant
first, and the signature's 64 bytes. The key's type byte is 0x04.

Rules: who counts is decided by keys, not names, so a key with two names is one witness; a witness that signed twice
counts once; the time is what the witness says, and nobody else vouches for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from anchoring.checkpoint import Checkpoint
from anchoring.errors import CheckpointInvalid, QuorumMissing
from anchoring.note import MOST_SIGNATURES, KeyInvalid, Message, Note, Signature, Signer, VerifierKey, ed25519_verifies
from common.exact_json import exact_json, exact_object

LATEST_TIME = 2**63 - 1
"""The largest number of seconds that a cosignature may carry."""


@dataclass(frozen=True)
class WitnessKey(VerifierKey):
    """A witness's public key (32 bytes) and name; its text form is that of a verifier key with type byte 0x04."""

    algorithm: ClassVar[int] = 0x04

    def verify(self, text: bytes, content: bytes) -> bool:
        """Whether `content`, a time and a signature, is this witness's cosignature of the checkpoint's body."""
        time = int.from_bytes(content[:8])
        return (
            len(content) == 72
            and time <= LATEST_TIME
            and ed25519_verifies(self.public_key, content[8:], _signed(text, time))
        )

    @classmethod
    def of(cls, signer: Signer) -> WitnessKey:
        """The key that verifies what this signer cosigns."""
        return cls(signer.name, signer.public_key)


def cosign(text: Message, witness: Signer, time: int) -> str:
    """Add the witness's cosignature, at a time in seconds since 1970, to a published checkpoint.

    A witness cosigns only what it verified and what `WitnessState.update` accepted. Its earlier cosignature gives way.

    Raises:
        CheckpointInvalid: the text is no checkpoint, or the time is none that a cosignature can carry.
    """
    note = Note.parse(text)
    Checkpoint.from_body(note.text)
    if type(time) is not int or not 0 <= time <= LATEST_TIME:
        raise CheckpointInvalid(
            "the time of a cosignature is no whole number of seconds since 1970",
            where="cosignature",
            remedy="set the clock of this machine",
        )
    key = WitnessKey.of(witness)
    content = time.to_bytes(8) + witness.sign(_signed(note.text.encode(), time))
    return Note.parse(note.signed_by(Signature(key.name, key.key_id, content)).to_text()).to_text()


def verify_cosignatures(text: Message, witnesses: Iterable[WitnessKey]) -> tuple[tuple[str, int], ...]:
    """Name and time of each of the witnesses that cosigned, in the order of the lines; empty when none did.

    Raises:
        CheckpointInvalid: the text is no checkpoint.
        SignatureInvalid: the cosignature in the name of one of the witnesses is wrong.
    """
    return tuple((key.name, time) for key, time in _cosigned(text, witnesses))


@dataclass(frozen=True)
class WitnessPolicy:
    """How many of which witnesses must have cosigned. Raises KeyInvalid for a quorum that nobody or nothing can reach.

    `quorum` counts keys: two names of one key are one witness.
    """

    quorum: int
    witnesses: tuple[WitnessKey, ...]

    def __post_init__(self) -> None:
        """Refuse a policy that every checkpoint or no checkpoint satisfies."""
        if len({(key.name, key.key_id) for key in self.witnesses}) < len(self.witnesses):
            raise KeyInvalid("a witness stands in it twice", where="witness policy", remedy="list each witness once")
        most = len({key.public_key for key in self.witnesses})
        if type(self.quorum) is not int or not 1 <= self.quorum <= most:
            raise KeyInvalid(
                f"its quorum is {self.quorum}, and it lists {most} different keys",
                where="witness policy",
                remedy="ask for at least one and at most as many witnesses as there are keys",
            )
        if self.quorum >= MOST_SIGNATURES:
            raise KeyInvalid(
                f"its quorum is {self.quorum}, and a note has room for {MOST_SIGNATURES} signatures with the log's own",
                where="witness policy",
                remedy=f"ask for at most {MOST_SIGNATURES - 1}",
            )

    def require(self, text: Message) -> tuple[tuple[str, int], ...]:
        """Name and time of each witness that cosigned, once a key.

        Raises:
            QuorumMissing: too few did; it names those who did not.
            CheckpointInvalid, SignatureInvalid: as `verify_cosignatures`.
        """
        counted: dict[bytes, tuple[str, int]] = {}
        for key, time in _cosigned(text, self.witnesses):
            counted.setdefault(key.public_key, (key.name, time))
        if len(counted) < self.quorum:
            missing = sorted(key.name for key in self.witnesses if key.public_key not in counted)
            raise QuorumMissing(
                f"{len(counted)} of the {self.quorum} witnesses it needs cosigned it; missing: {', '.join(missing)}",
                where="checkpoint",
                remedy="ask the missing witnesses to cosign, and do not rely on it before",
            )
        return tuple(counted.values())

    def to_json(self) -> str:
        """A JSON text of the quorum and the witnesses' keys, as `from_json` reads it."""
        content = {"quorum": self.quorum, "witnesses": [key.to_text() for key in self.witnesses]}
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> WitnessPolicy:
        """Read what `to_json` wrote. Raises KeyInvalid for everything else."""
        try:
            content = exact_object(exact_json(text), {"quorum", "witnesses"})
            quorum, keys = content["quorum"], content["witnesses"]
            if type(quorum) is not int or not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise ValueError
        except ValueError:
            raise KeyInvalid(
                "it is not JSON of the form {quorum, witnesses: [key]} and nothing else",
                where="witness policy",
                remedy="use the file as the federation published it",
            ) from None
        return cls(quorum, tuple(WitnessKey.from_text(key) for key in keys))


def _cosigned(text: Message, witnesses: Iterable[WitnessKey]) -> tuple[tuple[WitnessKey, int], ...]:
    note = Note.parse(text)
    Checkpoint.from_body(note.text)
    return tuple((key, int.from_bytes(line.content[:8])) for key, line in note.verified_by(witnesses))


def _signed(body: bytes, time: int) -> bytes:
    return b"cosignature/v1\ntime %d\n%b" % (time, body)
