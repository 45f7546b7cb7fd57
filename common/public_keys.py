"""A site's three public keys, the fingerprints by which people compare keys on the telephone, and what a proof covers.

A signature covers a label of its purpose, a zero byte and the RFC 8785 form of a content. A key has one spelling here:
two texts of one key would hide that it is there already.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import rfc8785
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from common.errors import InputError

JOIN_REQUEST = b"djms/v1/join-request"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class MembershipError(InputError):
    """A request or an edition that cannot be read or believed."""

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str) -> None:
        super().__init__(what, where=where, remedy=remedy)


def checked_name(name: str) -> str:
    """A site's name that may stand in a roster and in a file's name. Raises MembershipError for any other."""
    if not _NAME.fullmatch(name):
        raise MembershipError(
            "a site's name is 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-', a letter or digit first",
            where=repr(name[:64]),
            remedy="choose another, for example CPI_Verona",
        )
    return name


def key_fingerprint(public_key: bytes) -> str:
    """The first 128 bits of SHA-256 over a public key's 32 bytes, in groups of four digits, to be read out."""
    return _grouped(hashlib.sha256(public_key))


def same_fingerprint(given: str, wanted: str) -> bool:
    """Whether somebody typed this fingerprint, with whatever spaces, hyphens and capitals."""
    return re.sub(r"[\s:-]", "", given).lower() == wanted.replace(" ", "")


@dataclass(frozen=True)
class PublicKeys:
    """A site's public keys: identity and witness are 32 bytes of Ed25519, `node` is an ECDSA key in OpenSSH's form."""

    identity: bytes
    node: str
    witness: bytes

    def __post_init__(self) -> None:
        """Refuse what are no three different keys, with MembershipError."""
        _node_key(self.node)
        if len(self.identity) != 32 or len(self.witness) != 32 or self.identity == self.witness:
            raise damaged("identity and witness are not two different keys of 32 bytes", "request")

    def parts(self) -> tuple[str, str, str]:
        """Each key as one text, by which it is known again wherever it turns up."""
        return to_base64(self.identity), self.node, to_base64(self.witness)

    def to_json(self) -> dict[str, str]:
        """The keys as they stand in a file."""
        return {"identity": to_base64(self.identity), "node": self.node, "witness": to_base64(self.witness)}

    @classmethod
    def from_json(cls, content: dict[str, str], where: str = "request") -> PublicKeys:
        """Read what `to_json` wrote. Raises MembershipError."""
        if set(content) != {"identity", "node", "witness"}:
            raise damaged("the keys are not identity, node and witness", where)
        witness = from_base64(content["witness"], 32, "the witness's key", where)
        return cls(from_base64(content["identity"], 32, "the identity", where), content["node"], witness)

    def fingerprint(self, name: str) -> str:
        """What an office reads out on the telephone: it stands for its name and all three keys."""
        return _grouped(hashlib.sha256(labelled(JOIN_REQUEST, {"name": name, **self.to_json()})))


def labelled(label: bytes, content: dict[str, object] | dict[str, str]) -> bytes:
    """What is signed: the label, a zero byte and the content's one form."""
    return label + b"\x00" + rfc8785.dumps(content)  # type: ignore[arg-type] # texts, numbers and None


def ed25519_verifies(key: bytes, signature: str, message: bytes) -> bool:
    """Whether the base64 `signature` over the message is by this key (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(signature, validate=True), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def ecdsa_verifies(key: str, signature: str, message: bytes) -> bool:
    """Whether the base64 `signature` over the message is by this key in OpenSSH's form."""
    try:
        _node_key(key).verify(base64.b64decode(signature, validate=True), message, ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _node_key(text: str) -> EllipticCurvePublicKey:
    """An ECDSA key of P-256 or larger in the one spelling that OpenSSH's form has for it without a comment."""
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or key.key_size < 256 or openssh_text(key) != text:
        raise damaged("the node's key is no ECDSA public key in OpenSSH's form", "request")
    return key


def openssh_text(key: EllipticCurvePublicKey) -> str:
    """A public key in OpenSSH's form, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def to_base64(content: bytes) -> str:
    """Standard base64 with padding, on one line."""
    return base64.b64encode(content).decode()


def from_base64(text: str, length: int, what: str, where: str) -> bytes:
    """The bytes, of which the text must be the one base64. Raises MembershipError."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if len(content) != length or to_base64(content) != text:
        raise damaged(f"{what} is not the base64 of {length} bytes", where)
    return content


def _grouped(digest: hashlib._Hash) -> str:
    text = digest.hexdigest()[:32]
    return " ".join(text[at : at + 4] for at in range(0, 32, 4))


def damaged(what: str, where: str) -> MembershipError:
    """The error for a text that was not sent so."""
    return MembershipError(what, where=where, remedy="have it sent again, and do not edit it")
