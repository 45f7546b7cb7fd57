"""A site's folder as a witness of the log: which log it watches, its key, and what it saw last.

    signers.json      who signs for the log; the site got it when it joined
    witnesses.json    whose cosignatures count for this site; without it, no quorum is asked for
    witness.yaml      what the site puts up with: anchor_every_n, most_unpublished
    witness.key       the private key it cosigns with, readable by the site alone
    state.json        the last checkpoint and model it accepted
    last.checkpoint   that checkpoint with its cosignature, for a coordinator that lost it

A site that asks to join has a key before it knows the log: `prepare` makes it, and `create(..., prepared=True)` the
rest.

Rules: `create` makes a witness and nothing else does, so a lost state is noticed; the new state is durable before a
cosignature is handed out; two processes do not use one folder at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anchoring.anchor_folder import SIGNERS_FILE, WITNESSES_FILE, witness_name
from anchoring.cosignature import WitnessKey, WitnessPolicy, cosign
from anchoring.durable_files import DurableFiles, locked
from anchoring.errors import CheckpointInvalid
from anchoring.guard import Guard, GuardState, HashOfModel, Presented
from anchoring.manifest import RoundManifest
from anchoring.note import Signer, private_key_text
from anchoring.signers import Signers
from anchoring.verification import keys_in
from common.errors import InputError

KEY_FILE = "witness.key"
STATE_FILE = "state.json"
LIMITS_FILE = "witness.yaml"
LAST_FILE = "last.checkpoint"


class WitnessLimits(BaseModel):
    """The content of `witness.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor_every_n: Annotated[int, Field(ge=1)] = 1
    most_unpublished: Annotated[int, Field(ge=1)] = 3


class WitnessFolder:
    """A witness whose folder is there."""

    def __init__(self, folder: Path) -> None:
        """Open it. Raises InputError when a file is missing or damaged."""
        for name in (SIGNERS_FILE, KEY_FILE, STATE_FILE):
            if not (folder / name).is_file():
                raise InputError(
                    "the file is missing from the witness's folder",
                    where=folder / name,
                    remedy="restore it from a backup, or make a new witness with `djms anchor witness init`",
                )
        self.folder = folder
        self._signer = keys_in(folder / KEY_FILE, lambda text: Signer.from_text(text.strip()))

    @classmethod
    def prepare(cls, folder: Path) -> Signer:
        """Make the key of a witness to be, and return it. Raises InputError when there is one already."""
        if (folder / KEY_FILE).exists() or (folder / STATE_FILE).exists():
            raise _there_already(folder)
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        text = _new_key()
        files = DurableFiles()
        files.write(folder / KEY_FILE, f"{text}\n".encode("ascii"))
        files.settle()
        return Signer.from_text(text)

    @classmethod
    def create(
        cls,
        folder: Path,
        signers: Signers,
        policy: WitnessPolicy | None = None,
        limits: WitnessLimits | None = None,
        *,
        prepared: bool = False,
    ) -> WitnessFolder:
        """Make a witness of the log with these signers, with nothing seen yet; its key is new, or the prepared one.

        Raises InputError when there is a witness already, and where a prepared key is missing.
        """
        if (folder / KEY_FILE).exists() != prepared or (folder / STATE_FILE).exists():
            if prepared and not (folder / KEY_FILE).exists():
                raise InputError(
                    "the witness's key is missing", where=folder / KEY_FILE, remedy="restore it, or make new keys"
                )
            raise _there_already(folder)
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        limits = WitnessLimits() if limits is None else limits
        files = DurableFiles()
        files.write(folder / SIGNERS_FILE, signers.to_json().encode())
        files.write(folder / LIMITS_FILE, yaml.safe_dump(limits.model_dump(), sort_keys=False).encode())
        if policy is not None:
            files.write(folder / WITNESSES_FILE, policy.to_json().encode())
        files.write(folder / STATE_FILE, GuardState().to_json().encode())
        if not prepared:
            files.write(folder / KEY_FILE, f"{_new_key()}\n".encode("ascii"))
        files.settle()
        return cls(folder)

    @property
    def key(self) -> WitnessKey:
        """The public key that verifies this witness's cosignatures."""
        return WitnessKey.of(self._signer)

    @property
    def signers(self) -> Signers:
        """Who signs for the log it watches."""
        return keys_in(self.folder / SIGNERS_FILE, Signers.from_json)

    def require_successor(self, signers: Signers) -> None:
        """Check that these are the log's signers after a change of keys, or the same.

        Raises InputError when it is another log, or a known key is missing.
        """
        known = self.signers
        missing = {entry.key for entry in known.keys} - {entry.key for entry in signers.keys}
        if signers.origin != known.origin or missing:
            raise InputError(
                f"this witness watches the log '{known.origin}', and these are not its signers after a change of keys",
                where=self.folder / SIGNERS_FILE,
                remedy="find out why the log is another one; a new witness begins with `djms anchor witness init`",
            )

    def set_signers(self, signers: Signers) -> None:
        """Follow a change of the log's keys. Raises InputError, as `require_successor`."""
        self.require_successor(signers)
        if signers != self.signers:
            self._write(SIGNERS_FILE, signers.to_json())

    def set_policy(self, policy: WitnessPolicy) -> None:
        """Write whose cosignatures count for this site from now on."""
        self._write(WITNESSES_FILE, policy.to_json())

    def set_limits(self, limits: WitnessLimits) -> None:
        """Write what this site puts up with from now on."""
        self._write(LIMITS_FILE, yaml.safe_dump(limits.model_dump(), sort_keys=False))

    @property
    def limits(self) -> WitnessLimits:
        """What this site puts up with."""
        return _limits(self.folder / LIMITS_FILE)

    def size(self) -> int:
        """Entries of the log's last checkpoint that this witness accepted, 0 before the first."""
        last = self._state().log.last(self.signers.origin)
        return 0 if last is None else last.size

    def accept(
        self, presented: Presented, hash_of_model: HashOfModel | None, *, run: str | None = None
    ) -> tuple[str, RoundManifest | None]:
        """Check what is presented, remember it and cosign the checkpoint.

        Returns the checkpoint with the cosignature, and the manifest of the model. Raises as `Guard.accept`, and
        LogLocked while another process uses the folder.
        """
        with self._locked():
            state, manifest = self._guard().accept(self._state(), presented, hash_of_model, run=run)
            cosigned = cosign(presented.checkpoint, self._signer, int(time.time()))
            self._write(STATE_FILE, state.to_json())
            self._write(LAST_FILE, cosigned)
        return cosigned, manifest

    def last_cosigned(self) -> str | None:
        """The checkpoint that this witness cosigned last, as it did; None before the first."""
        path = self.folder / LAST_FILE
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def _guard(self) -> Guard:
        path = self.folder / WITNESSES_FILE
        policy = keys_in(path, WitnessPolicy.from_json) if path.is_file() else None
        return Guard(self.signers, policy, self.limits.anchor_every_n, self.limits.most_unpublished)

    def _state(self) -> GuardState:
        path = self.folder / STATE_FILE
        try:
            return GuardState.from_json(path.read_text(encoding="utf-8"))
        except CheckpointInvalid as error:
            raise CheckpointInvalid(error.what, where=path, remedy=error.remedy) from None
        except UnicodeDecodeError:
            raise CheckpointInvalid("it is not UTF-8", where=path, remedy="restore it from a backup") from None

    def _write(self, name: str, content: str) -> None:
        files = DurableFiles()
        files.write(self.folder / name, content.encode())
        files.settle()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = locked(self.folder)
        try:
            yield
        finally:
            lock.release()


def _new_key() -> str:
    key = Ed25519PrivateKey.generate()
    return private_key_text(witness_name(key.public_key().public_bytes_raw()), key)


def _there_already(folder: Path) -> InputError:
    return InputError("there is a witness in the folder already", where=folder, remedy="use it, or name another folder")


def _limits(path: Path) -> WitnessLimits:
    if not path.is_file():
        return WitnessLimits()
    try:
        return WitnessLimits.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError):
        raise InputError(
            "it does not say anchor_every_n and most_unpublished, whole numbers from 1",
            where=path,
            remedy="write these two keys and no others",
        ) from None
