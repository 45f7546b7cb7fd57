"""What appending to a log on disk costs, beside a loop that asks of the same disk what durability needs, and no more.

The loop writes as many files of the same lengths, each beside its place, syncs and renames it, and syncs their folders:
no tree, no signature, nothing read. What it reaches says how fast the disk is, and the ratio what the log adds to it.

| figure | what is in it |
|---|---|
| one at a time | entries of 1000 bytes, each signed and durable before the next, by one writer that keeps the lock |
| reopened | the same through `AnchorFolder`, which before each takes the lock and verifies what is on disk |
| batch | all entries in one append to a new log |
| proof | an inclusion proof from the log of that batch, whose tiles were verified and are kept in memory |

Every turn has a log of its own. It holds an entry before the clock starts: until there are 256 of them an append writes
three files in three folders, and the present bundle of entries anew. Seconds are the clock's; those of proofs are
processor time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from anchoring.anchor_folder import AnchorFolder
from anchoring.bench_receipt import ORIGIN
from anchoring.bench_timing import clock_seconds, in_new_folder, least, on_processor
from anchoring.bench_tree import spread
from anchoring.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from anchoring.log_store import LogStore, Sign
from anchoring.merkle import HASH_SIZE, leaf_hash, verify_inclusion
from anchoring.note import Signer, new_private_key
from anchoring.signers import Signers

APPENDS = 50
"""Appends of one entry in a turn: few enough for the log to stay within one bundle."""

ENTRY_SIZE = 1_000
"""Bytes of an entry, about as many as a round's manifest has."""

_CHECKPOINT_SIZE = 180

Files: TypeAlias = list[tuple[Path, bytes]]
"""Paths, and what is written there."""


def measure_appends(folder: Path, turns: int) -> dict[str, Any]:
    """Entries per second, one at a time, and how often per second as many bare files are written."""
    works = (append_singly, append_reopened, write_singly)
    ours, reopened, bare = least(turns, *(in_new_folder(folder, work) for work in works))
    return {
        "appends_per_second": round(APPENDS / ours, 1),
        "appends_reopened_per_second": round(APPENDS / reopened, 1),
        "appends_bare_per_second": round(APPENDS / bare, 1),
        "append_ratio": round(ours / bare, 4),
    }


def measure_batches(folder: Path, size: int, turns: int) -> dict[str, Any]:
    """Entries per second of an append of `size` to a new log, and of bare files like its; a proof from that log."""
    with TemporaryDirectory(dir=folder, prefix="djms-bench-") as made:
        store, sign = _new_log(Path(made) / "log")
        with store:
            store.append(_entries(size), sign)
        files = files_of(store)
        proof = _seconds_of_a_proof(store, turns)
    works = (partial(append_batch, size), partial(write_batch, files))
    ours, bare = least(turns, *(in_new_folder(folder, work) for work in works))
    return {
        "batch_entries_per_second": round(size / ours, 1),
        "batch_bare_entries_per_second": round(size / bare, 1),
        "batch_ratio": round(ours / bare, 4),
        "batch_files": len(files),
        "log_inclusion_us": round(1e6 * proof, 3),
    }


def append_singly(folder: Path) -> float:
    """Seconds of `APPENDS` appends to a log of which this writer keeps the lock."""
    first, *others = _entries(1 + APPENDS)
    store, sign = _new_log(folder / "log")
    with store:
        store.append([first], sign)
        return clock_seconds(lambda: [store.append([entry], sign) for entry in others])


def append_reopened(folder: Path) -> float:
    """Seconds of `APPENDS` appends to a log that is locked and verified before each."""
    first, *others = _entries(1 + APPENDS)
    log = AnchorFolder.create(folder / "log", ORIGIN)
    log.append([first])
    return clock_seconds(lambda: [log.append([entry]) for entry in others])


def write_singly(folder: Path) -> float:
    """Seconds of writing what `append_singly` writes, and nothing else."""
    folders = [folder / name for name in ("entries", "tile", "checkpoint")]
    for made in folders:
        made.mkdir()
    writes: list[Files] = []
    for size in range(2, 2 + APPENDS):
        lengths = (size * (2 + ENTRY_SIZE), size * HASH_SIZE, _CHECKPOINT_SIZE)
        writes.append([(made / str(size), bytes(length)) for made, length in zip(folders, lengths, strict=True)])

    def write() -> None:
        for files in writes:
            write_bare(files, folders)

    return clock_seconds(write)


def append_batch(size: int, folder: Path) -> float:
    """Seconds of one append of `size` entries."""
    entries = _entries(size)
    store, sign = _new_log(folder / "log")
    with store:
        return clock_seconds(lambda: store.append(entries, sign))


def files_of(store: LogStore) -> Files:
    """The files of a log, their paths below its folder."""
    paths = [path for path in store.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return [(path.relative_to(store.folder), path.read_bytes()) for path in paths]


def write_batch(files: Files, folder: Path) -> float:
    """Seconds of writing files, whose paths are below `folder`, and nothing else."""
    for path, _ in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    return clock_seconds(lambda: write_bare([(folder / path, content) for path, content in files], folders))


def write_bare(files: Files, folders: Iterable[Path]) -> None:
    """Write files with all that durability needs: each is synced and renamed into place, then every folder synced."""
    for path, content in files:
        part = path.with_name(f".{path.name}")
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    for folder in folders:
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _seconds_of_a_proof(store: LogStore, turns: int) -> float:
    places, entries, root = spread(store.size), list(store.entries()), store.root()
    for place in places:
        verify_inclusion(place, store.size, leaf_hash(entries[place]), store.inclusion_proof(place), root)
    (seconds,) = least(turns, on_processor(lambda: [store.inclusion_proof(place) for place in places]))
    return seconds / len(places)


def _new_log(folder: Path) -> tuple[LogStore, Sign]:
    signer = Signer.from_text(new_private_key(ORIGIN))
    signers = Signers.of(signer.verifier_key)

    def sign(size: int, root: bytes) -> bytes:
        return sign_checkpoint(Checkpoint(ORIGIN, size, root), signer).encode()

    def read(text: bytes) -> tuple[int, bytes]:
        checkpoint = open_checkpoint(text, signers)
        return checkpoint.size, checkpoint.root

    return LogStore.create(folder, read, sign), sign


def _entries(count: int) -> list[bytes]:
    return [number.to_bytes(ENTRY_SIZE) for number in range(count)]
