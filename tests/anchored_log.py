"""A log in memory with its coordinator's key and witnesses, for tests to be honest or to cheat with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anchoring.checkpoint import Checkpoint, sign_checkpoint
from anchoring.cosignature import WitnessKey, WitnessPolicy, cosign
from anchoring.guard import Guard, Presented
from anchoring.manifest import RoundManifest
from anchoring.merkle import MerkleTree, leaf_hash
from anchoring.note import Signer
from anchoring.signers import Signers

ORIGIN = "test.example/log"


def signer_of(name: str, seed: str) -> Signer:
    """A test key that its seed determines: public knowledge."""
    secret = hashlib.sha256(b"djms TEST key, not a secret: " + seed.encode()).digest()
    return Signer.from_private_key(name, Ed25519PrivateKey.from_private_bytes(secret))


LOG_SIGNER = signer_of(ORIGIN, "log")
WITNESSES = tuple(signer_of(f"witness-{number}", f"witness {number}") for number in range(5))
POLICY = WitnessPolicy(3, tuple(WitnessKey.of(witness) for witness in WITNESSES))
GUARD = Guard(Signers.of(LOG_SIGNER.verifier_key), POLICY)


def model_hash(number: int) -> str:
    """The hash of the model of this number."""
    return hashlib.sha256(f"model {number}".encode()).hexdigest()


def manifest_of(number: int, *, run: str = "run", model: int | None = None, **changes: Any) -> RoundManifest:
    """A manifest of the run's model after a round."""
    content: dict[str, Any] = {
        "run": run,
        "round": number,
        "released": False,
        "model_sha256": model_hash(number if model is None else model),
        "card": {"kind": "test"},
        "settings_sha256": "0" * 64,
        "bundle_sha256": None,
        "quorum": 3,
        "rounds": (),
        "metrics": None,
        "privacy": None,
        "previous": None,
    }
    return RoundManifest(**(content | changes))


class LogInMemory:
    """Entries, their tree, and the checkpoints of it."""

    def __init__(self, *entries: bytes) -> None:
        self.entries: list[bytes] = []
        self.tree = MerkleTree()
        self.append(*entries)

    def append(self, *entries: bytes) -> None:
        """Add entries."""
        self.entries += entries
        self.tree.extend(leaf_hash(entry) for entry in entries)

    def checkpoint(self, size: int | None = None, signer: Signer = LOG_SIGNER) -> str:
        """A signed checkpoint of the first `size` entries."""
        size = len(self.tree) if size is None else size
        return sign_checkpoint(Checkpoint(ORIGIN, size, self.tree.root(size)), signer)

    def cosigned(self, size: int | None = None, by: tuple[Signer, ...] = WITNESSES[:3]) -> str:
        """The same with cosignatures."""
        text = self.checkpoint(size)
        for number, witness in enumerate(by):
            text = cosign(text, witness, 1_700_000_000 + number)
        return text

    def presented(
        self, index: int | None, seen: int, *, published: int | None = None, size: int | None = None
    ) -> Presented:
        """What an honest coordinator sends: the entry at `index` as manifest, to a site that saw `seen` entries."""
        size = len(self.tree) if size is None else size
        return Presented(
            checkpoint=self.checkpoint(size),
            consistency=tuple(self.tree.consistency_proof(seen, size)) if seen <= size else (),
            manifest=None if index is None else self.entries[index],
            index=0 if index is None else index,
            inclusion=() if index is None else tuple(self.tree.inclusion_proof(index, size)),
            published=None if published is None else self.cosigned(published),
            published_consistency=() if published is None else tuple(self.tree.consistency_proof(published, size)),
        )


def hashing(number: int) -> Any:
    """What the guard is given to hash the model of this number that came."""

    def hash_of_model(_card: Mapping[str, Any]) -> str:
        return model_hash(number)

    return hash_of_model
