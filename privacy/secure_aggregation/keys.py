"""Keys of the protocol: agreement, derivation, commitment and sealing, each under a label of its own.

Every derivation is HKDF-SHA256 with the digest of the set-up's members as salt (it covers the terms) and a label
`djms/v1/...` in front of its details, so no value ever serves two ends. X25519 (RFC 7748), HKDF (RFC 5869), AES-256-GCM
(NIST SP 800-38D).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.secure_aggregation.errors import MalformedCiphertext, MalformedMessage

Entropy = Callable[[int], bytes]
"""Gives so many random bytes: the system's generator, except where test vectors are made."""

_NONCE = 12
_TAG = 16

_PRIME = 2**255 - 19
_SMALL_ORDER = {
    0,
    1,
    _PRIME - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
}
"""Coordinates of the points of small order on Curve25519 and its twist (Bernstein 2006): no secret comes of them."""


def join(*parts: bytes | str | int) -> bytes:
    """Parts as one byte string that no other parts give: each behind its length."""
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def private_key(secret: bytes) -> X25519PrivateKey:
    """The X25519 private key of 32 bytes, ready for many agreements."""
    return X25519PrivateKey.from_private_bytes(secret)


def public_key(secret: bytes) -> bytes:
    """The X25519 public key (32 bytes) of a private one (32 bytes)."""
    return private_key(secret).public_key().public_bytes_raw()


def has_small_order(public: bytes) -> bool:
    """Whether nothing can be agreed on with this public key: whoever tried would stop in the middle of a round."""
    return (int.from_bytes(public, "little") % 2**255) % _PRIME in _SMALL_ORDER


def pairwise_mask_key(
    private: X25519PrivateKey, public: bytes, *, context: bytes, slot: int, topic: bytes, pair: tuple[str, str]
) -> bytes:
    """The key of the mask two sites share in one slot; both get the same from their own key and the other's.

    It is bound to the names of the `pair`, in any order. X25519 gives one secret for several spellings of a public key
    (RFC 7748, section 7), so a site could advertise another's key unnoticed; then the masks that a third one shares
    with the two would be equal, with opposite signs, and cancel.
    """
    return _derive(_agree(private, public), context, join("djms/v1/pairwise-mask", slot, topic, *sorted(pair)))


def self_mask_key(seed: bytes, *, context: bytes, slot: int, topic: bytes) -> bytes:
    """The key of a site's own mask in one slot."""
    return _derive(seed, context, join("djms/v1/self-mask", slot, topic))


def commitment(seed: bytes, *, context: bytes, site: str, slot: int) -> bytes:
    """SHA-256 commitment to a self-mask seed; hiding, because the seed is 256 random bits."""
    return hashlib.sha256(join("djms/v1/seed-commitment", context, site, slot, seed)).digest()


def sealed_size(size: int) -> int:
    """How long so many bytes are once they are sealed."""
    return _NONCE + size + _TAG


def seal(
    plain: bytes, private: X25519PrivateKey, public: bytes, *, context: bytes, sender: str, holder: str, nonce: bytes
) -> bytes:
    """Shares for one holder, readable and alterable by nobody else: nonce, ciphertext and tag."""
    key = _derive(_agree(private, public), context, join("djms/v1/sealed-shares", sender, holder))
    return nonce + AESGCM(key).encrypt(nonce, plain, join(context, sender, holder))


def unseal(
    sealed: bytes, private: X25519PrivateKey, public: bytes, *, context: bytes, sender: str, holder: str
) -> bytes:
    """What `seal` sealed. Raises MalformedCiphertext for anything else."""
    key = _derive(_agree(private, public), context, join("djms/v1/sealed-shares", sender, holder))
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], join(context, sender, holder))
    except (InvalidTag, ValueError):
        raise MalformedCiphertext(
            f"the shares that {sender} sealed for {holder} cannot be opened",
            remedy=f"check {sender} and the way its message took; a new set-up makes new shares",
        ) from None


def _agree(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise MalformedMessage(
            "an advertised key is a point of small order, with which no secret can be agreed",
            remedy="leave the site that advertised it out until it is mended",
        ) from None


def _derive(secret: bytes, context: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=context, info=info).derive(secret)
