"""A parcel: one file that a carrier takes from the coordinator to a site, or back: signed by one, sealed for another.

    {"answers":"…","bundle":"…","certificate":"…","djms":"…", …}    the header: one line, RFC 8785
    <base64 of the signature>                                       one line
    <ciphertext>                                                    to the end

The header is for everybody to read: it says which run and step of which federation this is, from whom to whom, and by
which version. The signature covers b"djms/v1/parcel", a zero byte, the header's line and the ciphertext:

    the coordinator   signs with the key of its TLS certificate, which stands in the header and is judged by the
                      federation's CA as on the network: ECDSA with SHA-256
    a site            signs with its identity in the roster: Ed25519

The content is sealed with a key that is made for this parcel and forgotten: ECDH on the receiver's curve, HKDF-SHA256
over both public keys, ChaCha20-Poly1305 with the header as associated data. The receiver's key is

    of a site         its network key, which it proved to have when it joined
    of a coordinator  a key of the run (`reply_key`), made when the run is opened

Rules: nothing is opened before its signature is verified; a header has one spelling; every file that is no such parcel
is refused by a `ParcelRefused` whose class says why.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal

import rfc8785
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.certificates import read_certificate
from common.errors import InputError
from common.exact_json import exact_json
from common.membership import djms_version
from common.messages import PROTOCOL_VERSION
from common.public_keys import ed25519_verifies

COORDINATOR = "coordinator"
CONTRIBUTE: Final = "contribute"
UNMASK: Final = "unmask"
ANSWER: Final = "answer"
"""Kinds: two of questions, named after the command that answers them, and one of answers."""
LONGEST_PARCEL = 512 * 2**20
SUFFIX = ".parcel"

_LONGEST_LINE = 64 * 2**10
_LABEL, _SEALED = b"djms/v1/parcel", b"djms/v1/parcel/seal"
_AGAIN = "have it sent again from where it was made; do not edit it"

Sign = Callable[[bytes], bytes]
"""Signs a message with a private key that stays where it is."""
_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class ParcelRefused(InputError):
    """A parcel that is not taken in; the classes below say why."""


class ParcelDamaged(ParcelRefused):
    """It is no whole parcel, or something of it was altered."""


class ParcelOfOtherVersion(ParcelRefused):
    """Another version of DJMS made it."""


class ParcelOfOtherFederation(ParcelRefused):
    """It belongs to another federation."""


class ParcelOfOtherRun(ParcelRefused):
    """It belongs to a run that is not known here, or is over."""


class ParcelOfOtherStep(ParcelRefused):
    """It belongs to an older or newer step than the present one."""


class ParcelForAnother(ParcelRefused):
    """It is for another receiver."""


class ParcelOfOtherKind(ParcelRefused):
    """Another command takes it."""


class ParcelOfStranger(ParcelRefused):
    """Its sender does not belong to the federation, or not any more."""


class SecondAnswer(ParcelRefused):
    """The same question was answered otherwise before."""


class Header(BaseModel):
    """What everybody can read of a parcel. `step` counts a run's exchanges from 1.

    `answers` is the SHA-256 of the question's file, empty for a question. `certificate` (PEM) and `reply_key` (base64
    of a DER public key) stand in questions only, `once` (the same) is the sender's half of the key agreement.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["djms.parcel/v1"] = "djms.parcel/v1"
    djms: Annotated[str, Field(max_length=64)] = Field(default_factory=lambda: djms_version())
    protocol: Annotated[int, Field(ge=0, lt=2**31)] = PROTOCOL_VERSION
    kind: Literal["contribute", "unmask", "answer"]
    federation: Annotated[str, Field(max_length=64)]
    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    step: Annotated[int, Field(ge=1, lt=2**31)]
    sender: _Name
    receiver: _Name
    bundle: _Hash | Literal[""] = ""
    answers: _Hash | Literal[""] = ""
    certificate: str = ""
    reply_key: str = ""
    once: str = ""

    @property
    def file_name(self) -> str:
        """What the file is called."""
        return f"djms-{self.run}-{self.step:04}-{self.sender}-to-{self.receiver}{SUFFIX}"

    def to_bytes(self) -> bytes:
        """Its one spelling."""
        return rfc8785.dumps(self.model_dump())


@dataclass(frozen=True)
class Parcel:
    """A parcel taken apart. That it could be read says nothing of who made it: call one of the `require` methods."""

    content: bytes
    header: Header
    _line: bytes
    _signature: str
    _ciphertext: bytes

    @classmethod
    def seal(cls, header: Header, plain: bytes, receiver: EllipticCurvePublicKey, sign: Sign) -> Parcel:
        """Make one. `receiver` is the key of the one who may read it."""
        once = generate_private_key(receiver.curve)
        header = header.model_copy(update={"once": key_text(once.public_key())})
        line = header.to_bytes()
        cipher = ChaCha20Poly1305(_agreed(once, receiver, once.public_key(), receiver))
        nonce = os.urandom(12)
        ciphertext = nonce + cipher.encrypt(nonce, plain, line)
        signature = base64.b64encode(sign(_signed(line, ciphertext))).decode()
        return cls(b"\n".join((line, signature.encode(), ciphertext)), header, line, signature, ciphertext)

    @classmethod
    def from_bytes(cls, content: bytes) -> Parcel:
        """Take a file apart. Raises ParcelDamaged, and ParcelOfOtherVersion naming both versions."""
        if len(content) > LONGEST_PARCEL:
            raise ParcelDamaged(f"it is longer than {LONGEST_PARCEL} bytes", where="parcel", remedy=_AGAIN)
        first = content.find(b"\n", 0, _LONGEST_LINE)
        second = content.find(b"\n", first + 1, first + 1 + _LONGEST_LINE)
        if first < 0 or second < 0:
            raise _damaged("it is no parcel of DJMS")
        line, signature, ciphertext = content[:first], content[first + 1 : second], content[second + 1 :]
        header = _header(line)
        try:
            return cls(content, header, line, signature.decode("ascii"), ciphertext)
        except UnicodeDecodeError:
            raise _damaged("its signature cannot be read") from None

    @property
    def sha256(self) -> str:
        """Of the whole file, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def require_coordinator(self, ca: bytes, host: str, now: datetime) -> None:
        """Check that the coordinator signed it: a server of this host by a certificate of this CA (PEM).

        Raises ParcelDamaged, and ParcelOfStranger for a certificate that is not to be believed.
        """
        if self.header.kind == ANSWER or self.header.sender != COORDINATOR:
            raise _damaged("it is not from the coordinator")
        try:
            certificate = x509.load_pem_x509_certificate(self.header.certificate.encode())
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            raise _damaged("the certificate in it cannot be read") from None
        verifier = PolicyBuilder().store(Store([read_certificate(ca, "ca.pem")])).time(now.replace(tzinfo=None))
        try:
            verifier.build_server_verifier(_subject(host)).verify(certificate, [])
        except VerificationError:
            raise ParcelOfStranger(
                f"the certificate in it is none that this federation's CA made for {host}, or it has expired",
                where="parcel",
                remedy="take the federation's newest welcome with `djms client join`; else do not use the parcel",
            ) from None
        if not isinstance(key, EllipticCurvePublicKey):
            raise _damaged("the certificate's key is of another kind")
        try:
            signature = base64.b64decode(self._signature, validate=True)
            key.verify(signature, _signed(self._line, self._ciphertext), ECDSA(SHA256()))
        except (InvalidSignature, ValueError):
            raise _damaged("the coordinator's signature does not fit it: it was altered") from None

    def require_site(self, identity: bytes) -> None:
        """Check that the site with this identity (32 bytes) signed it. Raises ParcelDamaged."""
        if self.header.kind != ANSWER or self.header.receiver != COORDINATOR:
            raise _damaged("it is no answer to the coordinator")
        if not ed25519_verifies(identity, self._signature, _signed(self._line, self._ciphertext)):
            raise _damaged(f"the signature of {self.header.sender} does not fit it: it was altered")

    def open(self, key: EllipticCurvePrivateKey) -> bytes:
        """The content. Raises ParcelDamaged where it is not sealed for this key."""
        once = read_key(self.header.once)
        if once.curve.name != key.curve.name or len(self._ciphertext) < 12:
            raise _damaged("it is sealed for another key")
        cipher = ChaCha20Poly1305(_agreed(key, once, once, key.public_key()))
        try:
            return cipher.decrypt(self._ciphertext[:12], self._ciphertext[12:], self._line)
        except InvalidTag:
            raise ParcelDamaged(
                "it is sealed for another key than the one that is in use here",
                where="parcel",
                remedy="after a change of keys, wait for the run's next step; else have it sent again",
            ) from None


def key_text(key: EllipticCurvePublicKey) -> str:
    """A public key as it stands in a header."""
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def read_key(text: str) -> EllipticCurvePublicKey:
    """What `key_text` wrote. Raises ParcelDamaged."""
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or key_text(key) != text:
        raise _damaged("a key in it is no public key on an elliptic curve")
    return key


def _header(line: bytes) -> Header:
    try:
        content = exact_json(line.decode("ascii"))
        if not isinstance(content, dict) or not str(content.get("format", "")).startswith("djms.parcel/"):
            raise ValueError
    except ValueError:
        raise _damaged("it is no parcel of DJMS") from None
    if content["format"] != "djms.parcel/v1" or content.get("protocol") != PROTOCOL_VERSION:
        theirs = "".join(one for one in str(content.get("djms", "?"))[:64] if one.isprintable())
        raise ParcelOfOtherVersion(
            f"it was made by DJMS {theirs} (protocol {str(content.get('protocol', '?'))[:10]}), and here is DJMS "
            f"{djms_version()} (protocol {PROTOCOL_VERSION})",
            where="parcel",
            remedy="install one version on both sides",
        )
    try:
        header = Header.model_validate(content)
    except ValidationError:
        raise _damaged("its header is not as it must be") from None
    if header.to_bytes() != line:
        raise _damaged("its header is not spelled as DJMS spells it")
    return header


def _agreed(
    private: EllipticCurvePrivateKey,
    public: EllipticCurvePublicKey,
    once: EllipticCurvePublicKey,
    receiver: EllipticCurvePublicKey,
) -> bytes:
    """The key of one parcel (32 bytes): both public keys go into it, as in RFC 9180's DHKEM."""
    info = b"\x00".join((_SEALED, key_text(once).encode(), key_text(receiver).encode()))
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(private.exchange(ECDH(), public))


def _signed(line: bytes, ciphertext: bytes) -> bytes:
    return _LABEL + b"\x00" + line + b"\n" + ciphertext


def _subject(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _damaged(what: str) -> ParcelDamaged:
    return ParcelDamaged(what, where="parcel", remedy=_AGAIN)
