"""The messages of the protocol, in the order they are sent. What a signature covers stands beside what is signed.

Terms            coordinator -> site   what the set-up is about (see `terms`)
Advert           site -> coordinator   the site's public keys and commitments, signed
AdvertList       coordinator -> site   everybody's digest, and the adverts of those it shares masks or shares with
SealedShares     site -> coordinator   its secrets' shares, sealed for each holder
Begin            coordinator -> site   the cohort, and the shares sealed for this site
MaskedVector     site -> coordinator   its vector under masks
Survivors        coordinator -> site   whose vectors arrived and whose did not
Attestation      site -> coordinator   its signature on that very list
UnmaskRequest    coordinator -> site   the list, and the signatures on it
Revealed         site -> coordinator   its shares of survivors' seeds and of dropped sites' keys
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import Field

from privacy.secure_aggregation.keys import join
from privacy.secure_aggregation.wire import Bytes32, Name, Positive, Signature, WireMessage

Names = tuple[Name, ...]

SHARES_PER_SLOT = 64
"""Bytes a holder keeps of one site and slot: 32 of the mask key, then 32 of the self-mask seed."""


class Advert(WireMessage):
    """A site's public side of a set-up: per slot a mask key and a commitment to the self-mask seed."""

    site: Name
    encryption_key: Bytes32
    mask_keys: tuple[Bytes32, ...]
    seed_commitments: tuple[Bytes32, ...]
    signature: Annotated[bytes, Field(max_length=64)]

    def signed_part(self, context: bytes) -> bytes:
        """What the signature covers: all of it, under these terms."""
        return join("djms/v1/advert", context, self.model_copy(update={"signature": b""}).to_bytes())

    def public_keys(self) -> tuple[bytes, ...]:
        """Every key in it."""
        return (self.encryption_key, *self.mask_keys)


class AdvertList(WireMessage):
    """`members` holds every site with the digest of its advert; `adverts` are those this site has to do with."""

    members: dict[Name, Bytes32]
    adverts: tuple[Advert, ...]


def members_digest(context: bytes, members: dict[str, bytes]) -> bytes:
    """The one value all sites of a set-up agree on; the random graph is drawn from it."""
    pairs = [part for name in sorted(members) for part in (name, members[name])]
    return hashlib.sha256(join("djms/v1/members", context, *pairs)).digest()


class SealedShares(WireMessage):
    """One ciphertext for each holder but the sender."""

    sealed: dict[Name, bytes]


class Begin(WireMessage):
    """Who shared, and the ciphertexts meant for the site that gets this."""

    cohort: Names
    sealed: dict[Name, bytes]


class MaskedVector(WireMessage):
    """The words of a vector under masks."""

    slot: Positive
    kind: str
    topic: Bytes32
    words: bytes = Field(repr=False)


class Survivors(WireMessage):
    """Whose vector of this slot arrived, and who of the cohort did not send one."""

    slot: Positive
    survivors: Names
    dropped: Names

    def signed_part(self, context: bytes, members: bytes, cohort: Names) -> bytes:
        """What an attestation covers: this list, in this slot of this set-up with this cohort."""
        return join("djms/v1/survivors", context, members, join(*cohort), self.to_bytes())


class Attestation(WireMessage):
    """A survivor's signature on the list it was shown."""

    slot: Positive
    signature: Signature


class UnmaskRequest(WireMessage):
    """The list again, with the signatures on it of those whose word this site needs."""

    list: Survivors
    signatures: dict[Name, Signature]


class Revealed(WireMessage):
    """Shares (32 bytes) of survivors' self-mask seeds and of dropped sites' mask keys, by their owner."""

    slot: Positive
    seeds: dict[Name, Bytes32] = Field(repr=False)
    keys: dict[Name, Bytes32] = Field(repr=False)
