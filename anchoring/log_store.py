"""A log on disk: a folder in the layout of C2SP tlog-tiles that can be served as it is, and grows by whole appends.

    checkpoint            signed bytes that state size and root; what it does not cover does not exist
    tile/…                hashes and entries, as `anchoring.tiles` lays them out
    .lock                 held by the one process that may append

Rules:

* `append` returns when its entries are durable. Bundles and tiles come first: each is written beside its place, synced
  and renamed, then each folder that got a new name is synced. Only then the checkpoint is signed and takes its place
  in the same way. A killed process or a power cut leaves the old log or the new one.
* What the checkpoint does not cover is left over from such a kill. Nobody reads it; the next writer removes it.
* Full tiles never change. Partial ones go when the next checkpoint is durable: only those of the last one are kept.
* Nothing is read unverified: partial tiles against the checkpoint when the log is opened, other tiles against those,
  entries against their tile. What does not fit is a `LogCorrupt` that names the file.
* Checkpoints are opaque here: `sign` makes one and `read` verifies one. `sign` must keep to itself what it signed, for
  until `append` returns that tree may still be lost. Whoever shows checkpoints takes them from `checkpoint`.

One append to a small log costs three files and three folders to sync. An object is for one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from filelock import FileLock

from anchoring.durable_files import PART, DurableFiles, locked
from anchoring.errors import (
    AnchoringError,
    CheckpointInvalid,
    LogCorrupt,
    LogForked,
    LogMissing,
    LogRolledBack,
    NotAnchored,
    RootMismatch,
)
from anchoring.merkle import EMPTY_ROOT, HASH_SIZE, complete_root, leaf_hashes
from anchoring.tiles import (
    LONGEST_ENTRY,
    WIDTH,
    Tile,
    TileReader,
    decode_entries,
    edge_tiles,
    encode_entries,
    entries_path,
    parse_path,
    tile_path,
    width_in,
)
from common.errors import InputError
from common.files import LOCK

Sign: TypeAlias = Callable[[int, bytes], bytes]
"""Makes the signed checkpoint of a size and a root."""

Read: TypeAlias = Callable[[bytes], tuple[int, bytes]]
"""Verifies a signed checkpoint and gives its size and root; raises an AnchoringError when it is not to be believed."""

CHECKPOINT = "checkpoint"
_TRIES = 8
_RESTORE = "restore the log from a copy that fits its checkpoint, and ask the witnesses which checkpoint they saw last"


class LogStore:
    """A log in a folder. `create` makes one, `open` reads one; the first `append` locks it until `close`."""

    def __init__(self, folder: Path, read: Read) -> None:
        self.folder = folder
        self._read = read
        self._lock: FileLock | None = None
        self._last_bundle: list[bytes] = []
        self._checkpoint, self._tiles = self._loaded()

    @classmethod
    def create(cls, folder: Path, read: Read, sign: Sign) -> LogStore:
        """Make a log with a signed checkpoint of size 0, and open it. Raises InputError unless the folder is empty."""
        files = DurableFiles()
        try:
            files.make(folder)
        except OSError as error:
            raise InputError(
                f"the folder cannot be made: {error.strerror}", where=folder, remedy="name another folder"
            ) from error
        _require_empty(folder)
        lock = locked(folder)
        try:
            _require_empty(folder)  # two may create at once, and the other one was first
            files.write(folder / CHECKPOINT, _signed(0, EMPTY_ROOT, read, sign))
            files.settle()
        finally:
            lock.release()
        return cls.open(folder, read)

    @classmethod
    def open(cls, folder: Path, read: Read) -> LogStore:
        """Open a log and verify its right edge.

        Raises:
            LogMissing: there is none; `open` never creates one.
            LogCorrupt: the checkpoint is not to be believed, or the partial tiles do not lead to its root.
        """
        return cls(folder, read)

    @property
    def size(self) -> int:
        """Number of entries under the checkpoint."""
        return self._tiles.edge.size

    @property
    def checkpoint(self) -> bytes:
        """The signed checkpoint."""
        return self._checkpoint

    def append(self, entries: Sequence[bytes], sign: Sign) -> range:
        """Add entries of up to 65535 bytes, all or none, and return their indices when they are durable.

        After an error the entries may or may not be in the log; `refresh` tells.

        Raises:
            InputError: an entry is too long; nothing was written.
            LogLocked: another writer has the log.
            LogCorrupt, LogRolledBack, LogForked: what is on disk does not fit, see `refresh`.
            CheckpointInvalid: `sign` made a checkpoint that `read` does not read as this size and root.
            AnchoringError: a file could not be written.
        """
        for at, entry in enumerate(entries):
            if len(entry) > LONGEST_ENTRY:
                raise InputError(
                    f"it has {len(entry)} bytes, and an entry at most {LONGEST_ENTRY}",
                    where=f"entry {at} of {len(entries)}",
                    remedy="put a hash of the content into the log instead",
                )
        if not entries:
            return range(self.size, self.size)
        try:
            self._lock_for_writing()
            return self._append([bytes(entry) for entry in entries], sign)
        except OSError as error:
            # What reached the disk is unknown now: without the lock, the next append begins by reading it.
            self.close()
            raise AnchoringError(
                f"the log could not be written: {error.strerror}",
                where=self.folder,
                remedy="make room, then append again",
            ) from error
        except BaseException:
            self.close()
            raise

    def entry(self, index: int) -> bytes:
        """Return an entry. Raises NotAnchored when there is none at the index, LogCorrupt when it does not fit."""
        if not 0 <= index < self.size:
            raise _not_there(index, self.size, self.folder)
        return self._bundle(index // WIDTH)[index % WIDTH]

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Give the entries from `start` to before `stop`, a bundle at a time. Raises as `entry`."""
        stop = self.size if stop is None else stop
        if not 0 <= start <= stop <= self.size:
            raise _not_there(stop if start >= 0 else start, self.size, self.folder)
        last = (stop + WIDTH - 1) // WIDTH
        bundles = ((at * WIDTH, self._bundle(at)) for at in range(start // WIDTH, last if stop > start else 0))
        return (entry for at, bundle in bundles for entry in bundle[max(0, start - at) : stop - at])

    def root(self, size: int | None = None) -> bytes:
        """Root of the first `size` entries. Raises ProofInvalid for more than there are, LogCorrupt as `open`."""
        with self._faults_named():
            return self._tiles.root(self.size if size is None else size)

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """As `MerkleTree.inclusion_proof`. Raises ProofInvalid outside the log, LogCorrupt when a tile does not fit."""
        with self._faults_named():
            return self._tiles.inclusion_proof(index, self.size if size is None else size)

    def consistency_proof(self, first: int, second: int | None = None) -> list[bytes]:
        """As `MerkleTree.consistency_proof`. Raises ProofInvalid outside the log, LogCorrupt as `inclusion_proof`."""
        with self._faults_named():
            return self._tiles.consistency_proof(first, self.size if second is None else second)

    def refresh(self) -> None:
        """Read the checkpoint again, to see what another process appended.

        Raises:
            LogRolledBack: the log is smaller than before.
            LogForked: it does not begin with the entries it had.
            LogMissing, LogCorrupt: as `open`.
        """
        checkpoint, tiles = self._loaded()
        self._require_extended_by(tiles)
        self._checkpoint, self._tiles = checkpoint, tiles

    def check(self) -> None:
        """Replay the log from disk: each entry against its hash, each tile against the one above, all against the root.

        Raises LogCorrupt, naming the first file that does not fit, and as `refresh`.
        """
        fresh = LogStore(self.folder, self._read)
        self._require_extended_by(fresh._tiles)
        with fresh._faults_named():
            for tile in fresh._tiles.full_tiles():
                fresh._tiles.tile(tile.level, tile.index)
        for _ in fresh.entries():
            pass

    def close(self) -> None:
        """Let another writer append. Reading goes on, and so may appending: it locks the log again."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        """Close at the end of a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _append(self, entries: list[bytes], sign: Sign) -> range:
        old = self._tiles.edge
        new, tiles = old.grown(leaf_hashes(entries))
        whole = self._last_bundle + entries
        files = DurableFiles()
        for at in range(0, len(whole), WIDTH):
            bundle = whole[at : at + WIDTH]
            files.write(self.folder / entries_path((old.size + at) // WIDTH, len(bundle)), encode_entries(bundle))
        for tile, content in tiles.items():
            files.write(self.folder / tile_path(tile.level, tile.index, tile.width), content)
        files.settle()
        checkpoint = _signed(new.size, new.root(), self._read, sign)
        files.write(self.folder / CHECKPOINT, checkpoint)
        files.settle()
        self._checkpoint, self._tiles = checkpoint, TileReader(new, self._tile)
        self._last_bundle = whole[len(whole) - new.size % WIDTH :]
        for tile in set(edge_tiles(old.size)) - set(edge_tiles(new.size)):
            for path in self._paths(tile):
                _remove(path)
        return range(old.size, new.size)

    def _lock_for_writing(self) -> None:
        if self._lock is not None:
            return
        self._lock = locked(self.folder)
        try:
            self.refresh()
            # Partial tiles outlive their checkpoint, so one that is gone shows that the checkpoint is an older one.
            # What it does not cover is no leftover then, and must not be removed.
            for path in (path for tile in edge_tiles(self.size) for path in self._paths(tile)):
                if not path.is_file():
                    raise _missing(path)
            self._remove_leftovers()
            self._last_bundle = self._bundle(self.size // WIDTH) if self.size % WIDTH else []
        except BaseException:
            self.close()
            raise

    def _remove_leftovers(self) -> None:
        for folder, _, names in os.walk(self.folder / "tile", topdown=False):
            for path in (Path(folder, name) for name in names):
                tile = parse_path(path.relative_to(self.folder).as_posix())
                if path.name.endswith(PART) or (tile is not None and not tile.stands_in(self.size)):
                    _remove(path)

    def _loaded(self) -> tuple[bytes, TileReader]:
        path = self.folder / CHECKPOINT
        try:
            checkpoint = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if (self.folder / "tile").is_dir():
                raise _missing(path) from error
            raise LogMissing(
                "there is no log in this folder", where=self.folder, remedy="check the path, or create the log first"
            ) from error
        try:
            size, root = self._read(checkpoint)
        except AnchoringError as error:
            raise LogCorrupt(f"it is not to be believed: {error.what}", where=path, remedy=_RESTORE) from error
        try:
            return checkpoint, TileReader.open(size, root, self._tile)
        except RootMismatch as error:
            raise LogCorrupt(error.what, where=self._fault_at_the_edge(size), remedy=_RESTORE) from error

    def _fault_at_the_edge(self, size: int) -> Path:
        """The partial tile that is not made of what is below it, or the checkpoint when they all are."""
        for tile in edge_tiles(size):
            if tile.level:
                children = range(tile.index * WIDTH, tile.index * WIDTH + tile.width)
                below = [complete_root(self._tile(tile.level - 1, index, WIDTH)) for index in children]
            else:
                below = leaf_hashes(self._raw_bundle(tile.index, tile.width))
            if b"".join(below) != self._tile(tile.level, tile.index, tile.width):
                return self.folder / tile_path(tile.level, tile.index, tile.width)
        return self.folder / CHECKPOINT

    def _require_extended_by(self, tiles: TileReader) -> None:
        if tiles.edge.size < self.size:
            raise LogRolledBack(
                f"the log has {tiles.edge.size} entries and had {self.size} before", where=self.folder, remedy=_RESTORE
            )
        if tiles.edge == self._tiles.edge:
            return
        with self._faults_named():
            if tiles.root(self.size) != self._tiles.edge.root():
                raise LogForked(
                    f"the first {self.size} entries are not those of before", where=self.folder, remedy=_RESTORE
                )

    def _tile(self, level: int, index: int, width: int) -> bytes:
        content, found = self._file(lambda wide: tile_path(level, index, wide), width)
        if len(content) != found * HASH_SIZE:
            raise LogCorrupt(
                f"the tile has {len(content)} bytes instead of {found * HASH_SIZE}",
                where=self.folder / tile_path(level, index, found),
                remedy=_RESTORE,
            )
        return content[: width * HASH_SIZE]

    def _bundle(self, index: int) -> list[bytes]:
        width = width_in(self.size, 0, index)
        entries = self._raw_bundle(index, width)
        with self._faults_named():
            hashes = self._tiles.tile(0, index)
        if b"".join(leaf_hashes(entries)) != hashes:
            raise LogCorrupt(
                "an entry is not the one whose hash is in the tile",
                where=self.folder / entries_path(index, width),
                remedy=_RESTORE,
            )
        return entries

    def _raw_bundle(self, index: int, width: int) -> list[bytes]:
        content, found = self._file(lambda wide: entries_path(index, wide), width)
        try:
            return decode_entries(content, found)[:width]
        except LogCorrupt as error:
            raise LogCorrupt(error.what, where=self.folder / entries_path(index, found), remedy=_RESTORE) from error

    def _file(self, path_of: Callable[[int], str], width: int) -> tuple[bytes, int]:
        """Content and width of a file at least so wide: a reader that a writer overtook finds a wider one only."""
        for _ in range(_TRIES):
            for wide in self._widths((self.folder / path_of(width)).parent, width):
                try:
                    return (self.folder / path_of(wide)).read_bytes(), wide
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise LogCorrupt(
                        f"it cannot be read: {error.strerror}", where=self.folder / path_of(wide), remedy=_RESTORE
                    ) from error
        raise _missing(self.folder / path_of(width))

    def _widths(self, folder: Path, width: int) -> Iterator[int]:
        yield width
        if width < WIDTH:
            yield WIDTH
            with suppress(FileNotFoundError):
                found = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
                yield from (wide for wide in found if wide > width)

    def _paths(self, tile: Tile) -> list[Path]:
        """The tile, and at level 0 its entries."""
        paths = [self.folder / tile_path(tile.level, tile.index, tile.width)]
        return paths if tile.level else [*paths, self.folder / entries_path(tile.index, tile.width)]

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except RootMismatch as error:
            raise LogCorrupt(error.what, where=self.folder / (error.where or CHECKPOINT), remedy=_RESTORE) from error


def _require_empty(folder: Path) -> None:
    if {child.name for child in folder.iterdir()} - {LOCK, f".{CHECKPOINT}{PART}"}:
        raise InputError(
            "the folder of a new log is not empty", where=folder, remedy="open that log, or name another folder"
        )


def _signed(size: int, root: bytes, read: Read, sign: Sign) -> bytes:
    checkpoint = sign(size, root)
    if read(checkpoint) != (size, root):
        raise CheckpointInvalid(
            f"the checkpoint just signed does not state size {size} and its root",
            where=CHECKPOINT,
            remedy="sign with the key and the origin that the log is read with",
        )
    return checkpoint


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    with suppress(OSError):  # the folder of a partial tile goes with the last one, and otherwise is not empty
        path.parent.rmdir()


def _missing(path: Path) -> LogCorrupt:
    return LogCorrupt("the file is missing", where=path, remedy=_RESTORE)


def _not_there(index: int, size: int, folder: Path) -> NotAnchored:
    return NotAnchored(f"the log has {size} entries and none at {index}", where=folder, remedy="ask within the log")
