"""A receipt file checked offline, with keys from files: what `djms anchor verify` does, for programs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from anchoring.checkpoint import Checkpoint
from anchoring.cosignature import WitnessPolicy
from anchoring.errors import AnchoringError, NotAnchored, ReceiptInvalid
from anchoring.manifest import ROUND_TYPE, RoundManifest, type_of
from anchoring.note import KeyInvalid, VerifierKey
from anchoring.receipt import Receipt
from anchoring.records import RECORD_TYPE
from anchoring.signers import Signers
from common.errors import InputError

Keys = TypeVar("Keys")


@dataclass(frozen=True)
class Verified:
    """What a receipt proves. `cosigned` are name and time of witnesses; empty where none were asked for."""

    type: str | None
    index: int
    checkpoint: Checkpoint
    entry: bytes
    manifest: RoundManifest | None
    cosigned: tuple[tuple[str, int], ...]
    policy_checked: bool

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "valid": True,
            "type": self.type,
            "index": self.index,
            "origin": self.checkpoint.origin,
            "size": self.checkpoint.size,
            "root": self.checkpoint.root.hex(),
            "witnesses_checked": self.policy_checked,
            "cosigned": [{"witness": name, "time": time} for name, time in self.cosigned],
            "entry": None if self.manifest is None else self.manifest.model_dump(mode="json"),
        }


def verify_receipt(
    path: Path, signers: Signers, policy: WitnessPolicy | None, *, model: Path | None = None
) -> Verified:
    """Check a receipt that carries its entry; with `model`, that this file is the model it states.

    Raises InputError when a file is missing, AnchoringError, a subclass for each kind of fault, for what does not fit.
    """
    text = _bytes(path, "receipt")
    try:
        receipt = Receipt.from_text(text)
        entry = receipt.extra
        if entry is None:
            raise ReceiptInvalid("it carries no entry", remedy="ask whoever keeps the log for one that does")
        if type_of(entry) == RECORD_TYPE:
            raise ReceiptInvalid("it is the receipt of a record", remedy="use `djms anchor records verify`")
        checkpoint = receipt.verify(entry, signers, policy)
        cosigned = () if policy is None else policy.require(receipt.checkpoint_text)
        kind = type_of(entry)
        manifest = RoundManifest.from_bytes(entry) if kind == ROUND_TYPE else None
    except AnchoringError as error:
        error.where = str(path) if error.where is None else f"{path}: {error.where}"
        raise
    if model is not None:
        _require_model(manifest, model, path)
    return Verified(kind, receipt.index, checkpoint, entry, manifest, cosigned, policy is not None)


def read_signers(path: Path | None, key: str | None) -> Signers:
    """The log's signers from a file, or from its one public key. Raises InputError, KeyInvalid among them."""
    if (path is None) == (key is None):
        raise InputError(
            "whose signature is to count must be said",
            where="signers",
            remedy="give --signers FILE, or --key with the log's public key; get them by another way than the receipt",
        )
    if key is not None:
        return Signers.of(VerifierKey.from_text(key))
    return keys_in(_existing(path, "file of the log's signers"), Signers.from_json)


def read_policy(path: Path | None) -> WitnessPolicy | None:
    """The witnesses' policy from a file; None without one. Raises InputError, KeyInvalid among them."""
    return None if path is None else keys_in(_existing(path, "file of the witnesses"), WitnessPolicy.from_json)


def keys_in(path: Path, read: Callable[[str], Keys]) -> Keys:
    """What `read` makes of the text in a file. Raises KeyInvalid, which names the file."""
    try:
        return read(path.read_text(encoding="utf-8"))
    except KeyInvalid as error:
        raise KeyInvalid(error.what, where=str(path), remedy=error.remedy) from None
    except UnicodeDecodeError:
        raise KeyInvalid("it is not UTF-8", where=str(path), remedy="restore it from a copy") from None


def _require_model(manifest: RoundManifest | None, model: Path, receipt: Path) -> None:
    sha256 = hashlib.sha256(_bytes(model, "model file")).hexdigest()
    if manifest is None or manifest.model_sha256 != sha256:
        raise NotAnchored(
            f"the model file is not the model of {receipt}", where=model, remedy="do not use it; fetch the right one"
        )


def _existing(path: Path | None, what: str) -> Path:
    if path is None or not path.is_file():
        raise InputError(f"the {what} does not exist", where=path, remedy="check the path")
    return path


def _bytes(path: Path, what: str) -> bytes:
    return _existing(path, what).read_bytes()
