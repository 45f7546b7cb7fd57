"""Which keys sign for a log, and for which sizes of its tree: a log outlives its keys.

    {"origin": "example.org/log",
     "keys": [{"key": "example.org/log+<id>+<base64>", "first_size": 0, "last_size": 5000},
              {"key": "example.org/log+<id>+<base64>", "first_size": 5000, "last_size": null}]}

A key's window is measured in tree sizes, both ends included, not in time. The size stands in the signed text and only
grows, so whoever verifies offline, years later and without a clock that can be trusted, decides the same as everybody:
what a retired key signed while it was in office stays valid, and nothing it signs for a larger tree does.

What a window cannot do: a retired key that is stolen can still sign another tree of a size within its window. Against
that helps what a thief has not: the cosignatures of witnesses, or a state of one's own from before.

Rules: one origin; one window a key; every JSON text that is no such set is a `KeyInvalid`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from anchoring.errors import UnknownSigner
from anchoring.note import KeyInvalid, Note, VerifierKey
from common.exact_json import exact_json, exact_object

LARGEST_SIZE = 2**63 - 1
"""Leaves of the largest tree that can be written down; other implementations count in signed 64 bits."""

_WHERE = "signers"


@dataclass(frozen=True)
class LogKey:
    """A key that signs for trees of `first_size` to `last_size` leaves, both included; None is no end."""

    key: VerifierKey
    first_size: int = 0
    last_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse a window that is no window, with KeyInvalid."""
        last = LARGEST_SIZE if self.last_size is None else self.last_size
        if not (is_size(self.first_size) and is_size(last) and self.first_size <= last):
            raise KeyInvalid(
                f"the window of the key of '{self.key.name}' is not from one tree size to the same or a larger one",
                where=_WHERE,
                remedy="write whole numbers of leaves, or null for a window without end",
            )

    def covers(self, size: int) -> bool:
        """Whether the key signs for trees of this size."""
        return self.first_size <= size and (self.last_size is None or size <= self.last_size)


@dataclass(frozen=True)
class Signers:
    """The keys of one log. Raises KeyInvalid when there is none, or one stands in it twice."""

    origin: str
    keys: tuple[LogKey, ...]

    def __post_init__(self) -> None:
        """Refuse what no set of signers can be."""
        if not self.origin or not self.keys:
            raise KeyInvalid("it has no origin or no keys", where=_WHERE, remedy="name the log and at least one key")
        if len({(entry.key.name, entry.key.key_id) for entry in self.keys}) < len(self.keys):
            raise KeyInvalid("a key stands in it twice", where=_WHERE, remedy="give each key one window")

    @classmethod
    def of(cls, key: VerifierKey) -> Signers:
        """The signers of a log that never changed its key; the log's origin is the key's name."""
        return cls(key.name, (LogKey(key),))

    def succeeded_by(self, key: VerifierKey, size: int) -> Signers:
        """The signers after a change of keys at a tree of `size` leaves.

        Windows that are open end at `size` and the new key's begins there: both may sign the tree of the change.
        """
        closed = tuple(
            LogKey(entry.key, entry.first_size, size) if entry.last_size is None else entry for entry in self.keys
        )
        return Signers(self.origin, (*closed, LogKey(key, size)))

    def require(self, note: Note, size: int) -> None:
        """Check that one of the keys signed the note and does so for trees of this size.

        Raises:
            SignatureInvalid: the signature in the name of one of the keys is wrong.
            UnknownSigner: none of the keys signed it, or only such as do not sign for this size.
        """
        signed = note.verified_by(entry.key for entry in self.keys)
        if not signed:
            raise UnknownSigner(
                f"none of the keys of '{self.origin}' signed it",
                where="checkpoint",
                remedy="ask the log's operator for its present signers",
            )
        by = {key for key, _ in signed}
        if not any(entry.covers(size) for entry in self.keys if entry.key in by):
            raise UnknownSigner(
                f"the key of '{self.origin}' that signed it does not sign for trees of {size} leaves",
                where="checkpoint",
                remedy="ask the log's operator for its present signers; if these are they, a retired key is misused",
            )

    def to_json(self) -> str:
        """The JSON text of the module's docstring."""
        keys = [
            {"key": entry.key.to_text(), "first_size": entry.first_size, "last_size": entry.last_size}
            for entry in self.keys
        ]
        return json.dumps({"origin": self.origin, "keys": keys}, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Signers:
        """Read what `to_json` wrote. Raises KeyInvalid for everything else, unknown keys included."""
        try:
            content = exact_object(exact_json(text), {"origin", "keys"})
            entries = content["keys"]
            if not isinstance(content["origin"], str) or not isinstance(entries, list):
                raise ValueError
            keys = tuple(_log_key(entry) for entry in entries)
        except ValueError:
            raise KeyInvalid(
                "it is not JSON of the form {origin, keys: [{key, first_size, last_size}]} and nothing else",
                where=_WHERE,
                remedy="use the file as the log's operator published it",
            ) from None
        return cls(content["origin"], keys)


def is_size(value: object) -> bool:
    """Whether this is a number of leaves: a whole number from 0 to LARGEST_SIZE, and no truth value."""
    return type(value) is int and 0 <= value <= LARGEST_SIZE


def _log_key(content: object) -> LogKey:
    entry = exact_object(content, {"key", "first_size", "last_size"})
    key, first, last = entry["key"], entry["first_size"], entry["last_size"]
    if not isinstance(key, str) or type(first) is not int or not (last is None or type(last) is int):
        raise ValueError("a value of another type than expected")
    return LogKey(VerifierKey.from_text(key), first, last)
