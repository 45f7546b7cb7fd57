"""How the protocol's messages and states become bytes and come back: MessagePack, strictly checked.

Rules kept here: a message has exactly its fields, of exactly their types; a value has one encoding, so that its hash is
its identity; whatever else arrives is a `MalformedMessage`, never another exception.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Self

import msgpack
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from privacy.secure_aggregation.errors import MalformedMessage

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Bytes32 = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(min_length=64, max_length=64)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]

_BIN_32 = b"\xc6"
_LARGE = 2**16
"""From so many bytes on, MessagePack has one head for them: `_BIN_32` and the length."""


class WireMessage(BaseModel):
    """A frozen value with one encoding as bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """The encoding; `from_bytes` reads it back."""
        content = self.model_dump()
        if not any(isinstance(value, bytes) and len(value) >= _LARGE for value in content.values()):
            encoded: bytes = msgpack.packb(content, use_bin_type=True)
            return encoded
        # The same encoding, without the copies of a vector that MessagePack's own growing buffer makes.
        parts: list[bytes] = [msgpack.Packer().pack_map_header(len(content))]
        for name, value in content.items():
            parts.append(msgpack.packb(name))
            if isinstance(value, bytes) and len(value) >= _LARGE:
                parts += [_BIN_32 + len(value).to_bytes(4, "big"), value]
            else:
                parts.append(msgpack.packb(value, use_bin_type=True))
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Self:
        """Read an encoding. Raises MalformedMessage for anything but what `to_bytes` gives."""
        try:
            content: Any = msgpack.unpackb(encoded, use_list=False, raw=False, strict_map_key=True)
            message = cls.model_validate(content)
        except (ValueError, TypeError, msgpack.UnpackException, ValidationError, RecursionError):
            raise _malformed(cls) from None  # the cause would quote the content
        if message.to_bytes() != encoded:
            raise _malformed(cls)
        return message

    def digest(self) -> bytes:
        """SHA-256 of the encoding."""
        return hashlib.sha256(self.to_bytes()).digest()


def _malformed(kind: type[WireMessage]) -> MalformedMessage:
    return MalformedMessage(
        f"the bytes received are not a message of kind {kind.__name__}",
        remedy="use the same version of DJMS everywhere; if they are the same, somebody altered the message",
    )
