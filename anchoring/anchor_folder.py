"""A log's folder at its operator: the log, who signs it, what witnesses cosigned, and what its entries speak of.

    signers.json       who signs for the log, and for which sizes of its tree
    witnesses.json     whose cosignatures count, and how many are needed; absent until witnesses are named
    former-witnesses.json   the same of those that counted once and no longer do, so that old ones stay explained
    log/               checkpoint and tiles
    cosigned/<size>    the checkpoint of that size with all cosignatures that came
    store/             models and manifests by their hash
    keys/<id>.key      private keys, readable by the operator alone; may lie elsewhere

All but the keys may be published as it is. Rules: `create` makes a log and nothing else does; the last key of
signers.json signs; a checkpoint counts as published when the policy's quorum cosigned it; cosignatures are verified
before they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from anchoring.checkpoint import Checkpoint, open_checkpoint, parsed_number, sign_checkpoint
from anchoring.content_store import ContentStore
from anchoring.cosignature import WitnessKey, WitnessPolicy
from anchoring.durable_files import DurableFiles, locked
from anchoring.errors import (
    AnchoringError,
    CheckpointInvalid,
    LogCorrupt,
    LogMissing,
    LogRolledBack,
    NotAnchored,
    QuorumMissing,
)
from anchoring.log_store import CHECKPOINT, LogStore
from anchoring.note import MOST_SIGNATURES, Message, Note, Signature, Signer, new_private_key
from anchoring.receipt import Receipt
from anchoring.signers import Signers
from anchoring.verification import keys_in
from common.errors import InputError

SIGNERS_FILE = "signers.json"
WITNESSES_FILE = "witnesses.json"
FORMER_FILE = "former-witnesses.json"
KEY_FOLDER = "keys"
_LOG, _STORE, _COSIGNED = "log", "store", "cosigned"


class AnchorFolder:
    """An open log with what belongs to it. An object is for one thread."""

    def __init__(self, folder: Path, signers: Signers, keys: Path) -> None:
        self.folder = folder
        self.signers = signers
        self.store = ContentStore(folder / _STORE)
        self.policy = _policy(folder / WITNESSES_FILE)
        self._former = _policy(folder / FORMER_FILE)
        self._keys = keys
        self.log = LogStore.open(folder / _LOG, self._read)

    @classmethod
    def create(cls, folder: Path, origin: str, *, keys: Path | None = None) -> AnchorFolder:
        """Make a log named `origin` with a new key, and open it.

        Raises InputError when something lies in the folder already, KeyInvalid for a name that no key can have.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                "there is something in the folder already", where=folder, remedy="open that log, or name a new folder"
            )
        keys = folder / KEY_FOLDER if keys is None else keys
        text = new_private_key(origin)
        signers = Signers.of(Signer.from_text(text).verifier_key)
        files = DurableFiles()
        _write_key(files, keys, text)
        files.settle()
        signer = Signer.from_text(text)

        def sign(size: int, root: bytes) -> bytes:
            return sign_checkpoint(Checkpoint(origin, size, root), signer).encode()

        LogStore.create(folder / _LOG, lambda text: _opened(text, signers), sign)
        files.write(folder / SIGNERS_FILE, signers.to_json().encode())  # last: without it there is no log yet
        files.settle()
        return cls.open(folder, keys=keys)

    @classmethod
    def open(cls, folder: Path, *, keys: Path | None = None, signers: Signers | None = None) -> AnchorFolder:
        """Open a log that is there; it is believed by its own signers.json, or by the `signers` that one has of it.

        Raises LogMissing when there is none, KeyInvalid and LogCorrupt for what is damaged.
        """
        path = folder / SIGNERS_FILE
        if not path.is_file() and (folder / _LOG / CHECKPOINT).is_file():
            raise LogCorrupt(
                "the file is missing",
                where=path,
                remedy="restore it from a copy; what is left of a log that was never finished may be removed",
            )
        if not path.is_file():
            raise LogMissing("there is no log in this folder", where=folder, remedy="make one with `djms anchor init`")
        known = keys_in(path, Signers.from_json) if signers is None else signers
        return cls(folder, known, folder / KEY_FOLDER if keys is None else keys)

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.signers.origin

    def append(self, entries: Sequence[bytes]) -> range:
        """Add entries, all or none; returns their indices when they are durable.

        Raises as `LogStore.append` and `signer`.
        """
        self.signer()  # where there is none, nothing is written
        with self.log:  # under the lock it is asked for again: another process may have changed it meanwhile
            return self.log.append(entries, lambda size, root: self._signed(size, root, self.signer()))

    def signer(self) -> Signer:
        """The key pair that signs now. Raises InputError when it is not there, or is no longer the one that signs."""
        if keys_in(self.folder / SIGNERS_FILE, Signers.from_json) != self.signers:
            raise InputError(
                "the log's keys are not those that it was opened with",
                where=self.folder / SIGNERS_FILE,
                remedy="open the log again; somebody changed its key meanwhile",
            )
        key = self.signers.keys[-1].key
        path = self._keys / f"{key.key_id.hex()}.key"
        if not path.is_file():
            raise InputError(
                "the private key of the log is missing, so nothing can be added to it",
                where=path,
                remedy="run this where the key is, or name its folder",
            )
        signer = keys_in(path, lambda text: Signer.from_text(text.strip()))
        if signer.verifier_key != key:
            raise InputError("this is not the key that signs for the log", where=path, remedy="restore the right one")
        return signer

    def rotate(self) -> Signers:
        """Let a new key sign from the present size on, and forget the old private key. Old receipts stay valid.

        Raises as `signer`, and LogLocked while another process appends.
        """
        lock = locked(self.folder / _LOG)
        try:
            self.log.refresh()
            self.signer()
            text = new_private_key(self.origin)
            files = DurableFiles()
            _write_key(files, self._keys, text)
            files.settle()
            signers = self.signers.succeeded_by(Signer.from_text(text).verifier_key, self.log.size)
            files.write(self.folder / SIGNERS_FILE, signers.to_json().encode())
            files.settle()
            self.signers = signers
            for retired in signers.keys[:-1]:  # the last one, and any that a kill at this point left
                (self._keys / f"{retired.key.key_id.hex()}.key").unlink(missing_ok=True)
        finally:
            lock.release()
        return self.signers

    def set_policy(self, policy: WitnessPolicy) -> None:
        """Write whose cosignatures count from now on; who counted before is kept, so that old ones stay explained."""
        known = (*self._former_witnesses(), *(self.policy.witnesses if self.policy is not None else ()))
        gone = tuple(key for key in known if key not in policy.witnesses)
        files = DurableFiles()
        if gone:
            self._former = WitnessPolicy(1, gone)
            files.write(self.folder / FORMER_FILE, self._former.to_json().encode())
            files.settle()
        files.write(self.folder / WITNESSES_FILE, policy.to_json().encode())
        files.settle()
        self.policy = policy

    def checkpoint(self, size: int | None = None) -> str:
        """The checkpoint of the present tree, or a cosigned one of an earlier size; with its cosignatures.

        Raises NotAnchored when no checkpoint of that size was kept, LogRolledBack when one of a larger tree was.
        """
        size = self.log.size if size is None else size
        path = self.folder / _COSIGNED / str(size)
        with suppress(FileNotFoundError):
            text = path.read_bytes()
            with _named(path):
                checkpoint = open_checkpoint(text, self.signers)
            if checkpoint.size == size > self.log.size:
                raise LogRolledBack(
                    f"the log has {self.log.size} entries, and had {size} when this was signed",
                    where=path,
                    remedy="restore the log from a copy that has them, and keep this as evidence",
                )
            if checkpoint.size != size or checkpoint.root != self.log.root(size):
                raise CheckpointInvalid(
                    "it is not of the tree that the log had at this size", where=path, remedy="restore it from a copy"
                )
            return text.decode()
        if size != self.log.size:
            raise NotAnchored(
                f"no checkpoint of {size} entries was kept", where=self.folder, remedy="ask for the present one"
            )
        return self.log.checkpoint.decode()

    def verified_cosignatures(self, text: Message) -> tuple[int, tuple[Signature, ...]]:
        """Size of a checkpoint of ours, and the cosignatures on it by witnesses of the policy.

        Raises CheckpointInvalid, SignatureInvalid and UnknownSigner for a checkpoint that is not ours, or a wrong one.
        """
        note = Note.parse(text)
        checkpoint = open_checkpoint(note, self.signers)
        if checkpoint.size > self.log.size or self.log.root(checkpoint.size) != checkpoint.root:
            raise CheckpointInvalid(
                "it is not the checkpoint that the log had at this size",
                where="checkpoint",
                remedy="keep it as evidence",
            )
        witnesses = self.policy.witnesses if self.policy is not None else ()
        return checkpoint.size, tuple(signature for _, signature in note.verified_by(witnesses))

    def add_cosignatures(self, *texts: Message) -> None:
        """Keep the cosignatures on checkpoints of ours, as many as a note can carry. Raises as the method above."""
        verified = [(text, *self.verified_cosignatures(text)) for text in texts]
        files = DurableFiles()
        for size in {size for _, size, _ in verified}:
            of_size = [(text, signatures) for text, found, signatures in verified if found == size]
            kept = self._uncosigned(of_size[0][0], size)
            for signature in (signature for _, signatures in of_size for signature in signatures):
                if len(kept.signatures) < MOST_SIGNATURES:
                    kept = kept.signed_by(signature)
            files.write(self.folder / _COSIGNED / str(size), kept.to_text().encode())
        files.settle()

    def cosigned_by(self, size: int) -> tuple[str, ...]:
        """Names of the witnesses of the policy that cosigned the checkpoint of this size."""
        with suppress(NotAnchored):
            note = Note.parse(self.checkpoint(size))
            return tuple(key.name for key, _ in note.verified_by(self.policy.witnesses if self.policy else ()))
        return ()

    def is_published(self, size: int) -> bool:
        """Whether the policy's quorum cosigned the checkpoint of this size; without a policy every one is."""
        try:
            text = self.checkpoint(size)
            if self.policy is not None:
                self.policy.require(text)
        except (NotAnchored, QuorumMissing):
            return False
        return True

    def published(self, *, above: int = 0) -> str | None:
        """The newest published checkpoint of more than `above` entries, None where there is none."""
        sizes = self.sizes()
        return next(
            (self.checkpoint(size) for size in reversed(sizes) if size > above and self.is_published(size)), None
        )

    def sizes(self) -> list[int]:
        """Sizes of which a checkpoint was kept, ascending; the present one is the last.

        What another process has added since is left out until the log is read again.
        """
        size = self.log.size
        return sorted({*(one for one in self._cosigned_sizes() if one <= size), size})

    def receipt(self, index: int) -> Receipt:
        """The receipt of an entry, the entry itself in it, under the newest published checkpoint that covers it.

        Where none is published yet, the present checkpoint stands in it. Raises NotAnchored outside the log.
        """
        entry = self.log.entry(index)
        text = self.published(above=index) or self.checkpoint()
        size = open_checkpoint(text, self.signers).size
        return Receipt(index, tuple(self.log.inclusion_proof(index, size)), text, entry)

    def check(self) -> None:
        """Replay the whole log, and hold every checkpoint that was kept, and its cosignatures, against it.

        Raises LogCorrupt, LogRolledBack, CheckpointInvalid, SignatureInvalid and UnknownSigner, naming the first file
        that does not fit.
        """
        kept = list(self._cosigned_sizes())  # before the log is read, which may grow meanwhile
        self.log.refresh()
        self.log.check()
        for size in sorted({*kept, self.log.size}):
            with _named(self.folder / _COSIGNED / str(size)):
                note = Note.parse(self.checkpoint(size))
                own = note.verified_by(entry.key for entry in self.signers.keys)
                former = note.verified_by(self._former_witnesses())
                if len(own) + len(former) + len(self.verified_cosignatures(note)[1]) < len(note.signatures):
                    raise CheckpointInvalid(
                        "one of its signatures is by none of the log's keys and named witnesses",
                        where="checkpoint",
                        remedy="restore it, or the list of witnesses, from a copy",
                    )

    def _former_witnesses(self) -> tuple[WitnessKey, ...]:
        present = self.policy.witnesses if self.policy is not None else ()
        former = self._former.witnesses if self._former is not None else ()
        return tuple(key for key in former if key not in present)

    def _uncosigned(self, text: Message, size: int) -> Note:
        """The checkpoint as it was kept so far, or with the log's own signatures alone."""
        with suppress(NotAnchored):
            return Note.parse(self.checkpoint(size))
        note = Note.parse(text)
        own = note.verified_by(entry.key for entry in self.signers.keys)
        return Note(note.text, tuple(signature for _, signature in own))

    def _cosigned_sizes(self) -> Iterator[int]:
        folder = self.folder / _COSIGNED
        if folder.is_dir():
            yield from (size for path in folder.iterdir() if (size := parsed_number(path.name)) is not None)

    def _signed(self, size: int, root: bytes, signer: Signer) -> bytes:
        return sign_checkpoint(Checkpoint(self.origin, size, root), signer).encode()

    def _read(self, text: bytes) -> tuple[int, bytes]:
        return _opened(text, self.signers)


def witness_name(public_key: bytes) -> str:
    """The name under which a witness signs: it tells nobody which office it is who does not know its key."""
    return f"witness-{WitnessKey('witness', public_key).key_id.hex()}"


def _opened(text: bytes, signers: Signers) -> tuple[int, bytes]:
    checkpoint = open_checkpoint(text, signers)
    return checkpoint.size, checkpoint.root


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let what is wrong in a file name it."""
    try:
        yield
    except AnchoringError as error:
        error.where = str(path)
        raise


def _policy(path: Path) -> WitnessPolicy | None:
    return keys_in(path, WitnessPolicy.from_json) if path.is_file() else None


def _write_key(files: DurableFiles, folder: Path, text: str) -> None:
    """Write a private key under its id; DurableFiles makes files that only their owner may read."""
    if not folder.is_dir():
        files.make(folder)
        folder.chmod(0o700)
    key = Signer.from_text(text).verifier_key
    files.write(folder / f"{key.key_id.hex()}.key", f"{text}\n".encode("ascii"))
