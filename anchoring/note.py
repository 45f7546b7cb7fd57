"""Signed notes (c2sp.org/signed-note): a text, a blank line, and for each signature a line with the signer's name and
the base64 of a key's id and of the signature's bytes.

A key has a name and an id of four bytes: the beginning of SHA-256 over the name, a newline, the byte of the key's type
and the public key. Both together say which key signed; the id is short, so it finds a key and proves nothing.

Rules, as the note package of Go's module database keeps them: signatures of unknown keys are ignored; a known key's
first signature is verified, and a wrong one spoils the note; of several by one key the first counts. Stricter than Go
in one thing: base64 in another spelling than the one an encoder writes is refused, in every line. Text and bytes in.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import ClassVar, Self, TypeAlias, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from anchoring.errors import AnchoringError, CheckpointInvalid, SignatureInvalid, UnknownSigner
from common.errors import InputError

LONGEST_NOTE = 1_000_000
"""Bytes of a note in UTF-8; more is refused before it is read."""

MOST_SIGNATURES = 100
"""Signature lines of a note; Go's note package has the same limit."""

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\ud800-\udfff]")
_PRIVATE = "PRIVATE+KEY+"
_WHERE = "signed note"
_ASK = "fetch it again from where it was published, and do not edit it"


class KeyInvalid(InputError):
    """A key, or a set of keys, that cannot be read or cannot be meant."""

    def __init__(self, what: str, *, where: str = "key", remedy: str = "use the key as its owner published it") -> None:
        super().__init__(what, where=where, remedy=remedy)


@dataclass(frozen=True)
class Signature:
    """One signature line: who signed, and the signature's bytes without the key's id, not verified."""

    name: str
    key_id: bytes
    content: bytes

    def to_line(self) -> str:
        """The line, closed by a newline."""
        return f"— {self.name} {to_base64(self.key_id + self.content)}\n"


@dataclass(frozen=True)
class VerifierKey:
    """A public Ed25519 key (32 bytes) that signs notes under a name. Raises KeyInvalid for what is no such key."""

    name: str
    public_key: bytes

    algorithm: ClassVar[int] = 0x01
    """The type byte of the key's id and text; another kind of signature has another one."""

    def __post_init__(self) -> None:
        """Refuse a name that no signature line can carry, and bytes that are no public key."""
        if not _is_name(self.name) or _NOT_IN_A_NAME.search(self.name):
            raise KeyInvalid("its name is empty, or has a space, a '+' or a control character in it")
        if len(self.public_key) != 32:
            raise KeyInvalid("it has not the 32 bytes of an Ed25519 public key")

    @cached_property
    def key_id(self) -> bytes:
        """Four bytes that find the key, with its name, among a note's signatures."""
        named = self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public_key
        return hashlib.sha256(named).digest()[:4]

    def verify(self, text: bytes, content: bytes) -> bool:
        """Whether `content`, the bytes of a signature line without the id, is this key's signature over the text."""
        return ed25519_verifies(self.public_key, content, text)

    def to_text(self) -> str:
        """`name+id+base64`, the form in which owners publish their keys."""
        return f"{self.name}+{self.key_id.hex()}+{to_base64(bytes([self.algorithm]) + self.public_key)}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what `to_text` wrote. Raises KeyInvalid for everything else, a key of another type included."""
        name, _, rest = text.partition("+")
        content = from_base64(rest.partition("+")[2])
        if not content:
            raise KeyInvalid("it is not of the form name+id+base64")
        if content[0] != cls.algorithm:
            raise KeyInvalid(f"it is a key of type {content[0]}, where one of type {cls.algorithm} is needed")
        key = cls(name, content[1:])
        if key.to_text() != text:
            raise KeyInvalid("its id does not fit its name and its bytes: it was altered, or copied incompletely")
        return key


@dataclass(frozen=True)
class Signer:
    """A key pair that signs under a name; `sign` turns bytes into an Ed25519 signature. Its repr shows no secret.

    A key serves one purpose: one that signs a log's checkpoints signs nothing else.
    """

    name: str
    public_key: bytes
    sign: Callable[[bytes], bytes] = field(repr=False, compare=False)

    @classmethod
    def from_private_key(cls, name: str, key: Ed25519PrivateKey) -> Self:
        """Sign with this key under this name."""
        return cls(name, key.public_key().public_bytes_raw(), key.sign)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a private key as `new_private_key` writes it. Raises KeyInvalid, which never quotes the text."""
        name, _, rest = text.removeprefix(_PRIVATE).partition("+")
        key_id, _, encoded = rest.partition("+")
        content = from_base64(encoded) or b""
        if not text.startswith(_PRIVATE) or len(content) != 33 or content[0] != VerifierKey.algorithm:
            raise KeyInvalid("it is no private key of the form PRIVATE+KEY+name+id+base64", where="private key")
        signer = cls.from_private_key(name, Ed25519PrivateKey.from_private_bytes(content[1:]))
        if signer.verifier_key.key_id.hex() != key_id:
            raise KeyInvalid("its id does not fit its name and its bytes", where="private key")
        return signer

    @property
    def verifier_key(self) -> VerifierKey:
        """The key that verifies what this one signs."""
        return VerifierKey(self.name, self.public_key)


def new_private_key(name: str) -> str:
    """A new key from the system's randomness, in the text form of Go's note package.

    Whoever reads the text can sign: it belongs into a file that only its owner may read.
    """
    return private_key_text(name, Ed25519PrivateKey.generate())


def private_key_text(name: str, key: Ed25519PrivateKey) -> str:
    """This key under this name, in the same form."""
    verifier = Signer.from_private_key(name, key).verifier_key
    encoded = to_base64(bytes([verifier.algorithm]) + key.private_bytes_raw())
    return f"{_PRIVATE}{name}+{verifier.key_id.hex()}+{encoded}"


Key = TypeVar("Key", bound=VerifierKey)


@dataclass(frozen=True)
class Note:
    """A note taken apart. That it could be read says nothing of who signed it."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, message: Message) -> Note:
        """Take a note apart; one that was taken apart already is returned as it is.

        Raises:
            CheckpointInvalid: it is no signed note: not UTF-8, a control character, no signature, a damaged line.
        """
        if isinstance(message, Note):
            return message
        whole = checked_text(message, LONGEST_NOTE, _WHERE, CheckpointInvalid)
        text, blank, lines = whole.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            raise _malformed("it does not end with a blank line and complete signature lines")
        signatures = tuple(_signature(line) for line in lines[:-1].split("\n"))
        if len(signatures) > MOST_SIGNATURES:
            raise _malformed(f"it has more than {MOST_SIGNATURES} signatures")
        return cls(text + "\n", signatures)

    def to_text(self) -> str:
        """The note as it is published."""
        return f"{self.text}\n{''.join(signature.to_line() for signature in self.signatures)}"

    def signed_by(self, signature: Signature) -> Note:
        """The same note with one more signature; an earlier one by the same key gives way."""
        others = (one for one in self.signatures if (one.name, one.key_id) != (signature.name, signature.key_id))
        return Note(self.text, (*others, signature))

    def verified_by(self, keys: Iterable[Key]) -> tuple[tuple[Key, Signature], ...]:
        """The given keys that signed, each once, in the order of the note's lines.

        Raises:
            SignatureInvalid: the signature in the name of one of the keys is not its signature over this text.
            KeyInvalid: two of the keys have the same name and id.
        """
        known: dict[tuple[str, bytes], Key] = {}
        for key in keys:
            if known.setdefault((key.name, key.key_id), key) != key:
                raise KeyInvalid(f"two keys have the name and id of '{key.name}'")
        verified = []
        for signature in self.signatures:
            signed = known.pop((signature.name, signature.key_id), None)
            if signed is None:
                continue
            if not signed.verify(self.text.encode(), signature.content):
                what = f"the signature in the name of '{signed.name}' is not by its key, or the text was altered"
                raise SignatureInvalid(what, where=_WHERE, remedy=_ASK)
            verified.append((signed, signature))
        return tuple(verified)


Message: TypeAlias = str | bytes | Note
"""A note as it is published, as it was read from a file, or taken apart already."""


def open_note(message: Message, keys: Iterable[VerifierKey]) -> Note:
    """Take a note apart and verify it. At least one of the keys must have signed it.

    Raises:
        CheckpointInvalid: it is no signed note.
        SignatureInvalid: the signature in the name of one of the keys is wrong.
        UnknownSigner: none of the keys signed it.
    """
    note = Note.parse(message)
    if not note.verified_by(keys):
        raise UnknownSigner("none of the known keys signed it", where=_WHERE, remedy="ask for the signer's present key")
    return note


def sign_note(text: str, *signers: Signer) -> str:
    """Sign a text, which ends in a newline, with each signer. Raises CheckpointInvalid when no note can carry it."""
    if not checked_text(text, LONGEST_NOTE, _WHERE, CheckpointInvalid).endswith("\n"):
        raise _malformed("its text does not end in a newline")
    note = Note(text, ())
    for signer in signers:
        key = signer.verifier_key
        note = note.signed_by(Signature(key.name, key.key_id, signer.sign(text.encode())))
    return Note.parse(note.to_text()).to_text()


def ed25519_verifies(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature over the message verifies with the public key (32 bytes)."""
    try:
        _loaded(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=1024)
def _loaded(public_key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_key)


def to_base64(content: bytes) -> str:
    """Standard base64 with padding, on one line."""
    return binascii.b2a_base64(content, newline=False).decode()


def from_base64(text: str) -> bytes | None:
    """The bytes of which `text` is the base64 that `to_base64` writes; None for every other text."""
    try:
        content = binascii.a2b_base64(text)
    except ValueError:
        return None
    # Several texts may stand for the same bytes; only the one that an encoder writes is taken.
    return content if to_base64(content) == text else None


def checked_text(message: str | bytes, longest: int, where: str, error: type[AnchoringError]) -> str:
    """A published text as one: UTF-8, of at most `longest` bytes, and newline its only control character."""
    if len(message) <= longest:
        try:
            text = message.decode() if isinstance(message, bytes) else message
            short = len(text.encode()) <= longest
        except UnicodeError:
            raise error("it is not UTF-8", where=where, remedy=_ASK) from None
        if short and not _CONTROL.search(text):
            return text
    raise error(f"it is longer than {longest} bytes or has control characters in it", where=where, remedy=_ASK)


def _malformed(what: str) -> CheckpointInvalid:
    return CheckpointInvalid(what, where=_WHERE, remedy=_ASK)


def _is_name(name: str) -> bool:
    # Splitting happens at every Unicode space, so a name with one in it does not survive.
    return "+" not in name and name.split() == [name]


def _signature(line: str) -> Signature:
    mark, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    content = from_base64(encoded)
    if mark != "—" or not _is_name(name) or content is None or len(content) < 5:
        raise _malformed("one of its signature lines is damaged")
    return Signature(name, content[:4], content[4:])
