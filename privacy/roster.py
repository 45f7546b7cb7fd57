"""Who is who: sites' long-term identities, and the roster that the federation's offline root signs.

A roster is a YAML text that every site holds and reads with the root's public key, which it got by another way:

    federation: Collocamento mirato
    version: 1
    sites:
    - name: Torino
      identity: <base64 of the 32 bytes of an Ed25519 public key>
    signature: <base64 of the root's Ed25519 signature>

The signature covers b"djms/v1/roster", a zero byte and the RFC 8785 form of everything else, sites in the order of
their names. It is the content that is signed, not the spelling: with other comments or line ends it is the same roster.

Rules: nothing of a text is believed before its signature is verified; one name has one key and one key one name; every
text that is no such roster is a `RosterError`; a private key shows in no repr. Text and bytes in, no paths.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import rfc8785
import yaml
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from common.errors import InputError
from privacy.secure_aggregation.errors import KeyNotSigned

VERSION = 1
LONGEST_TEXT = 4 * 2**20
_LABEL = b"djms/v1/roster"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ASK = "ask the federation for its signed roster and do not edit it"


class RosterError(InputError):
    """A roster or an identity that cannot be believed or read."""

    def __init__(self, what: str, *, where: str | Path | None = "roster", remedy: str = _ASK) -> None:
        super().__init__(what, where=where, remedy=remedy)


class Identity:
    """A long-term Ed25519 key pair: a site's, or the federation's offline root. Its repr shows no secret."""

    __slots__ = ("_key", "name")

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self.name = _checked_name(name)
        self._key = key

    @classmethod
    def generate(cls, name: str) -> Identity:
        """Make a new key pair from the system's randomness."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, name: str, pem: bytes) -> Identity:
        """Read what `to_pem` wrote. Raises RosterError when it is no unencrypted Ed25519 private key."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise RosterError(
                "this is no Ed25519 private key in PEM without a password",
                where="identity",
                remedy="use the key file that was made for this site",
            )
        return cls(name, key)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of the public key."""
        return self._key.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the public key's SHA-256, for people to compare."""
        return hashlib.sha256(self.public_key).hexdigest()[:16]

    def sign(self, message: bytes) -> bytes:
        """Sign (64 bytes). The message begins with a label of its purpose, so that no signature serves another."""
        return self._key.sign(message)

    def seal(self, plain: bytes) -> bytes:
        """Bytes for the owner's own eyes: AES-256-GCM under a key derived from the identity, nonce first."""
        nonce = os.urandom(12)
        return nonce + AESGCM(self._own_key()).encrypt(nonce, plain, None)

    def unseal(self, sealed: bytes) -> bytes:
        """What `seal` sealed. Raises RosterError for anything else."""
        try:
            return AESGCM(self._own_key()).decrypt(sealed[:12], sealed[12:], None)
        except (InvalidTag, ValueError):
            raise RosterError(
                "what this identity kept for itself is damaged, or another identity's",
                where="identity",
                remedy="restart the site",
            ) from None

    def _own_key(self) -> bytes:
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"djms/v1/own-memory").derive(
            self._key.private_bytes_raw()
        )

    def to_pem(self) -> bytes:
        """Return the private key as PKCS #8 in PEM, not encrypted: for a file that only its owner may read."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        """Name and fingerprint of the public key, nothing of the private one."""
        return f"Identity(name={self.name!r}, public_key={self.fingerprint})"


@dataclass(frozen=True)
class Roster:
    """The sites of a federation and their public keys (32 bytes each), sorted by name.

    `from_yaml` is the way to a roster that is to be trusted; making one directly checks its form only.
    """

    federation: str
    members: Mapping[str, bytes]

    def __post_init__(self) -> None:
        """Refuse what no roster can be, with RosterError."""
        if not isinstance(self.federation, str) or not 1 <= len(self.federation) <= 200:
            raise RosterError("the federation's name is no text of 1 to 200 characters")
        if not self.federation.isprintable():
            raise RosterError("the federation's name has characters that cannot be printed")
        if not self.members:
            raise RosterError("it lists no sites")
        for name, key in self.members.items():
            _checked_name(name)
            if not isinstance(key, bytes) or len(key) != 32:
                raise RosterError(f"the identity of '{name}' has not the 32 bytes of an Ed25519 public key")
        if len(set(self.members.values())) < len(self.members):
            raise RosterError("two sites have one identity", remedy="have each site make a key of its own")
        object.__setattr__(self, "members", MappingProxyType(dict(sorted(self.members.items()))))

    @classmethod
    def from_yaml(cls, text: str, root_key: bytes) -> Roster:
        """Read a roster and verify it with the root's public key (32 bytes).

        Raises:
            RosterError: the text is damaged, altered, signed by somebody else, or lists a name or a key twice.
        """
        if len(root_key) != 32:
            raise RosterError(
                "the root's public key has not 32 bytes", remedy="use the root key the federation gave out"
            )
        content = _mapping(_parsed(text), {"federation", "version", "sites", "signature"}, "the roster")
        if type(content["version"]) is not int or content["version"] != VERSION:
            raise RosterError(f"its version is not {VERSION}", remedy="ask the federation for a roster of this version")
        roster = cls(content["federation"], _members(content["sites"]))  # type: ignore[arg-type] # checked in there
        signature = _decoded(content["signature"], 64, "the signature")
        try:
            Ed25519PublicKey.from_public_bytes(root_key).verify(signature, roster._signed_bytes())
        except (InvalidSignature, ValueError):
            raise RosterError(
                "its signature is not the federation's: it was altered, or another root made it"
            ) from None
        return roster

    @classmethod
    def sign(cls, federation: str, members: Mapping[str, bytes], root: Identity) -> str:
        """Return the YAML text of a roster signed by `root`. Raises RosterError when the content cannot be one."""
        roster = cls(federation, members)
        content = roster._content() | {"signature": base64.b64encode(root.sign(roster._signed_bytes())).decode()}
        return yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=200)

    @property
    def digest(self) -> bytes:
        """SHA-256 over what the root signs (32 bytes): the same for every text of the same roster."""
        return hashlib.sha256(self._signed_bytes()).digest()

    def verify(self, name: str, message: bytes, signature: bytes) -> None:
        """Check that the site called `name` signed `message`. Raises KeyNotSigned when it did not or is not listed."""
        key = self.members.get(name)
        if key is None:
            raise KeyNotSigned(
                f"{name[:64]!r} is not a site of the roster of '{self.federation}'",
                remedy="use the same roster at this site and at the coordinator, or leave that site out",
            )
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise KeyNotSigned(
                f"the signature in the name of '{name}' is not by the identity in the roster",
                remedy="check with that site that it uses the key in the roster, and that nobody alters messages",
            ) from None

    def to_json(self) -> str:
        """The content without a signature, for those who verified it already."""
        return rfc8785.dumps(self._content()).decode()  # type: ignore[arg-type] # as below

    @classmethod
    def from_json(cls, text: str) -> Roster:
        """What `to_json` wrote, not verified. Raises RosterError when it is damaged."""
        content = _mapping(_parsed(text), {"federation", "version", "sites"}, "the roster")
        return cls(content["federation"], _members(content["sites"]))  # type: ignore[arg-type] # checked in there

    def __reduce__(self) -> tuple[object, ...]:
        """A read-only mapping does not survive pickling; its content does."""
        return (Roster, (self.federation, dict(self.members)))

    def _content(self) -> dict[str, object]:
        sites = [{"name": name, "identity": base64.b64encode(key).decode()} for name, key in self.members.items()]
        return {"federation": self.federation, "version": VERSION, "sites": sites}

    def _signed_bytes(self) -> bytes:
        return _LABEL + b"\x00" + rfc8785.dumps(self._content())  # type: ignore[arg-type] # texts, a number, a list


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RosterError(
            "a site's name is not 1 to 64 of the characters A-Z, a-z, 0-9, '_', '.' and '-'",
            remedy="rename that site, and quote a name that is a number or a date in YAML",
        )
    return name


def _parsed(text: str) -> object:
    if len(text) > LONGEST_TEXT:
        raise RosterError(f"it is longer than {LONGEST_TEXT} characters")
    try:
        content: object = yaml.safe_load(text)
    # Beside its own errors PyYAML lets through what a malformed date, a giant number or a deep nesting raises.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        raise RosterError("it is not readable as YAML") from None
    return content


def _mapping(content: object, keys: set[str], what: str) -> dict[str, object]:
    if not isinstance(content, dict) or set(content) != keys:
        raise RosterError(f"{what} does not consist of {', '.join(sorted(keys))} and nothing else")
    return content


def _members(sites: object) -> dict[str, bytes]:
    if not isinstance(sites, list):
        raise RosterError("its sites are not a list")
    members: dict[str, bytes] = {}
    for number, site in enumerate(sites, start=1):
        entry = _mapping(site, {"name", "identity"}, f"site {number}")
        name = _checked_name(entry["name"])
        if name in members:
            raise RosterError(f"'{name}' stands in it twice")
        members[name] = _decoded(entry["identity"], 32, f"the identity of '{name}'")
    return members


def _decoded(text: object, length: int, what: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        content = b""
    # Several base64 texts may stand for the same bytes; only the one that was written is taken.
    if len(content) != length or base64.b64encode(content).decode() != text:
        raise RosterError(f"{what} is not the base64 of {length} bytes")
    return content
