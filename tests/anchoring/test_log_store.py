"""A log on disk: whole appends through kills and power cuts, one writer, nothing read that was altered."""

from __future__ import annotations

import errno
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anchoring.durable_files import LogLocked
from anchoring.errors import (
    AnchoringError,
    CheckpointInvalid,
    LogCorrupt,
    LogForked,
    LogMissing,
    LogRolledBack,
    NotAnchored,
    ProofInvalid,
)
from anchoring.log_store import LogStore
from anchoring.merkle import MerkleTree, leaf_hash, root_of, verify_consistency, verify_inclusion
from anchoring.tiles import changed_tiles, entries_path, parse_path, tile_path
from common.errors import InputError

APPENDER = Path(__file__).with_name("kill_appender.py")
appender = SimpleNamespace(**runpy.run_path(str(APPENDER)))
entry_at, sign, read = appender.entry_at, appender.sign, appender.read


def grown(store: LogStore, count: int) -> range:
    return store.append([entry_at(store.size + at) for at in range(count)], sign)


def made(folder: Path, *batches: int) -> LogStore:
    store = LogStore.create(folder, read, sign)
    for count in batches:
        grown(store, count)
    return store


def require_whole(store: LogStore) -> None:
    store.check()
    assert list(store.entries()) == [entry_at(at) for at in range(store.size)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about durability: spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.usefixtures("quick")
def test_what_was_appended_is_there_after_opening_again(tmp_path: Path) -> None:
    with made(tmp_path / "log") as store:
        assert grown(store, 3) == range(3)
        assert grown(store, 700) == range(3, 703)
        assert store.append([], sign) == range(703, 703)
    store = LogStore.open(tmp_path / "log", read)
    assert store.size == 703
    assert store.checkpoint == sign(703, root_of(leaf_hash(entry_at(at)) for at in range(703)))
    assert store.entry(0) == entry_at(0)
    assert store.entry(702) == entry_at(702)
    assert list(store.entries(250, 520)) == [entry_at(at) for at in range(250, 520)]
    assert list(store.entries(703)) == list(store.entries(5, 5)) == []
    require_whole(store)


@pytest.mark.usefixtures("quick")
def test_proofs_and_roots_of_every_size_are_those_of_the_tree_in_memory(tmp_path: Path) -> None:
    store = made(tmp_path / "log", 1, 254, 1, 44, 300, 100)
    tree = MerkleTree(leaf_hash(entry_at(at)) for at in range(700))
    for size in range(1, 701, 23):
        assert store.root(size) == tree.root(size)
        assert store.inclusion_proof(size // 2, size) == tree.inclusion_proof(size // 2, size)
        assert store.consistency_proof(size) == tree.consistency_proof(size)
        verify_consistency(size, 700, store.root(size), store.root(), store.consistency_proof(size))
    verify_inclusion(9, 700, leaf_hash(store.entry(9)), store.inclusion_proof(9), store.root())


@pytest.mark.usefixtures("quick")
def test_the_folder_holds_the_tiles_of_the_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    store = made(tmp_path / "log", 1, 5, 249, 1, 1, 43, 256, 1)
    wanted = {"checkpoint", ".lock"}
    for tile in changed_tiles(0, store.size):
        wanted.add(tile_path(tile.level, tile.index, tile.width))
        if tile.level == 0:
            wanted.add(entries_path(tile.index, tile.width))
    assert files_of(store.folder) == wanted
    assert {path.stat().st_mode & 0o077 for path in store.folder.rglob("*") if path.is_file()} == {0}


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_opening_never_creates(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(LogMissing) as caught:
            LogStore.open(folder, read)
        assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_not_created_over_anything(tmp_path: Path) -> None:
    made(tmp_path / "log", 2).close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").touch()
    with pytest.raises(InputError, match="not empty"):
        LogStore.create(tmp_path / "other", read, sign)
    assert files_of(tmp_path / "other") == {"letter"}
    with pytest.raises(InputError, match="not empty"):
        LogStore.create(tmp_path / "log", read, sign)
    with pytest.raises(InputError, match="cannot be made"):
        LogStore.create(tmp_path / "log" / "checkpoint" / "log", read, sign)
    assert LogStore.open(tmp_path / "log", read).size == 2


@pytest.mark.usefixtures("quick")
def test_outside_the_log_there_is_nothing(tmp_path: Path) -> None:
    store = made(tmp_path / "log", 10)
    for index in (-1, 10):
        with pytest.raises(NotAnchored):
            store.entry(index)
        with pytest.raises(ProofInvalid):
            store.inclusion_proof(index)
    for start, stop in ((-1, 3), (4, 3), (0, 11)):
        with pytest.raises(NotAnchored):
            store.entries(start, stop)
    with pytest.raises(ProofInvalid):
        store.root(11)
    with pytest.raises(ProofInvalid):
        store.consistency_proof(3, 11)


@pytest.mark.usefixtures("quick")
def test_an_entry_too_long_stops_the_whole_append(tmp_path: Path) -> None:
    store = made(tmp_path / "log", 1)
    before = files_of(store.folder)
    with pytest.raises(InputError, match="entry 1 of 2"):
        store.append([b"short", bytes(65536)], sign)
    assert (store.size, files_of(store.folder)) == (1, before)
    store.append([bytes(65535)], sign)
    assert store.entry(1) == bytes(65535)


@pytest.mark.usefixtures("quick")
def test_two_writers_cannot_append_at_once(tmp_path: Path) -> None:
    first = made(tmp_path / "log", 4)
    second = LogStore.open(first.folder, read)
    with pytest.raises(LogLocked, match="another writer"):
        grown(second, 1)
    grown(first, 300)
    first.close()
    assert second.size == 4
    second.append([entry_at(304)], sign)
    require_whole(second)
    with pytest.raises(LogLocked):
        grown(first, 1)
    second.close()
    first.append([entry_at(305)], sign)
    require_whole(first)


@pytest.mark.usefixtures("quick")
def test_a_signer_that_fails_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    store = made(tmp_path / "log", 3)

    def broken(size: int, root: bytes) -> bytes:
        raise RuntimeError("no key")

    with pytest.raises(RuntimeError, match="no key"):
        store.append([b"lost"] * 600, broken)
    with pytest.raises(CheckpointInvalid):
        store.append([b"lost"], lambda size, root: sign(size + 1, root))
    assert store.size == LogStore.open(store.folder, read).size == 3
    grown(store, 1)
    require_whole(store)
    assert {path for path in files_of(store.folder) if path.startswith("tile/")} == {
        tile_path(0, 0, 4),
        entries_path(0, 4),
    }


def test_a_full_disk_is_an_error_with_a_remedy_and_appending_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path / "log", 3)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AnchoringError, match="No space left"):
            grown(store, 1)
    grown(store, 1)
    require_whole(store)


@pytest.mark.usefixtures("quick")
def test_a_reader_that_a_writer_overtakes_reads_its_own_log(tmp_path: Path) -> None:
    writer = made(tmp_path / "log", 200)
    reader = LogStore.open(writer.folder, read)
    root = reader.root()
    done = threading.Event()

    def append() -> None:
        for _ in range(150):
            grown(writer, 1)
        done.set()

    thread = threading.Thread(target=append)
    thread.start()
    rounds = 0
    while not done.is_set():
        assert reader.entry(150) == entry_at(150)
        assert list(reader.entries(100)) == [entry_at(at) for at in range(100, 200)]
        verify_inclusion(150, 200, leaf_hash(entry_at(150)), reader.inclusion_proof(150), root)
        late = LogStore.open(writer.folder, read)
        assert late.entry(late.size - 1) == entry_at(late.size - 1)
        rounds += 1
    thread.join()
    assert rounds > 3
    reader.refresh()
    assert reader.size == 350
    require_whole(reader)


# What was altered.


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with full and partial tiles on three levels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        store = LogStore.create(tmp_path_factory.mktemp("sound") / "log", read, sign)
        store.append([b"%d" % at for at in range(65_536 + 2 * 256 + 9)], sign)
        store.close()
    return store.folder


def some_files(folder: Path) -> list[str]:
    everything = sorted(files_of(folder) - {".lock"})
    few = [path for path in everything if "/0/" in path or "/entries/" in path]
    return [path for path in everything if path not in few] + few[::97] + [path for path in few if ".p/" in path]


CHANGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped byte": lambda content: flipped(content, len(content) // 2),
    "cut": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "longer": lambda content: content + b"\x00",
    "missing": lambda content: None,
}


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]


@pytest.mark.parametrize("change", CHANGES)
def test_check_names_the_file_that_was_altered(sound: Path, change: str) -> None:
    store = LogStore.open(sound, read)
    names = some_files(sound)
    assert len(names) > 10
    for name in names:
        path = sound / name
        content = path.read_bytes()
        altered = CHANGES[change](content)
        try:
            path.unlink() if altered is None else path.write_bytes(altered)
            with pytest.raises(LogCorrupt) as caught:
                store.check()
            assert caught.value.where == str(path)
        finally:
            path.write_bytes(content)
    store.check()


@pytest.mark.usefixtures("quick")
def test_check_names_every_file_of_a_small_log(tmp_path: Path) -> None:
    store = made(tmp_path / "log", 300, 260)
    dice = random.Random(5)
    for name in sorted(files_of(store.folder) - {".lock"}):
        path = store.folder / name
        content = path.read_bytes()
        for at in dice.sample(range(len(content)), 5):
            path.write_bytes(flipped(content, at))
            with pytest.raises(LogCorrupt) as caught:
                store.check()
            assert caught.value.where == str(path), at
        path.write_bytes(content)
    store.check()


@pytest.mark.parametrize("name", ["checkpoint", tile_path(0, 258, 9), tile_path(1, 1, 2), tile_path(2, 0, 1)])
def test_a_log_whose_right_edge_was_altered_does_not_open(sound: Path, name: str) -> None:
    path = sound / name
    content = path.read_bytes()
    try:
        for altered in (flipped(content, 3), content[:-1], None):
            path.unlink() if altered is None else path.write_bytes(altered)
            with pytest.raises(LogCorrupt) as caught:
                LogStore.open(sound, read)
            assert caught.value.where == str(path)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", [entries_path(3), tile_path(0, 3), tile_path(1, 0)])
def test_nothing_altered_is_read_or_proven(sound: Path, name: str) -> None:
    path = sound / name
    content = path.read_bytes()
    try:
        path.write_bytes(flipped(content, 700))
        store = LogStore.open(sound, read)
        with pytest.raises(LogCorrupt) as caught:
            store.entry(3 * 256 + 7)
        assert caught.value.where == str(path)
        if "entries" not in name:
            with pytest.raises(LogCorrupt):
                store.inclusion_proof(3 * 256 + 7)
    finally:
        path.write_bytes(content)


@pytest.mark.usefixtures("quick")
def test_a_log_put_back_to_an_older_state_is_noticed_and_not_written_over(tmp_path: Path) -> None:
    store = made(tmp_path / "log", 10)
    old = store.checkpoint
    grown(store, 10)
    store.close()
    (store.folder / "checkpoint").write_bytes(old)
    for look in (store.refresh, store.check, lambda: grown(store, 1)):
        with pytest.raises(LogRolledBack):
            look()
    stranger = LogStore.open(store.folder, read)
    with pytest.raises(LogCorrupt, match="missing"):
        grown(stranger, 1)
    assert tile_path(0, 0, 20) in files_of(store.folder)


@pytest.mark.usefixtures("quick")
def test_another_history_in_the_same_folder_is_a_fork(tmp_path: Path) -> None:
    store = made(tmp_path / "log", 10)
    store.close()
    other = LogStore.create(tmp_path / "other", read, sign)
    other.append([b"other"] * 12, sign)
    shutil.rmtree(store.folder)
    shutil.copytree(other.folder, store.folder)
    for look in (store.refresh, store.check, lambda: grown(store, 1)):
        with pytest.raises(LogForked):
            look()


# Power cuts: a disk that keeps nothing it was not asked to keep.


class Cut(BaseException):
    """The power goes."""


class Disk:
    """Knows what of a folder would survive a power cut, and cuts the power before a chosen operation.

    A file's content survives when the file was synced after it was written; a name in a folder survives, with the file
    it then named, when the folder was synced. Names may also survive early: `eager` tells of which folders.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.cut_before: int | None = None
        self.operations = 0
        self.contents: dict[int, bytes] = {}
        self.listings: dict[str, dict[str, int | None]] = {}
        self._files: dict[int, int] = {}
        self._next = 0
        opened, replaced, unlinked = os.open, Path.replace, Path.unlink

        def open_(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            handle = opened(path, flags, *rest, **named)
            if flags & os.O_TRUNC:
                self._next += 1
                self._files[os.fstat(handle).st_ino] = self._next
            return handle

        def replace(source: Path, target: Path) -> Path:
            self._operate()
            return replaced(source, target)

        def unlink(path: Path, missing_ok: bool = False) -> None:
            self._operate()
            unlinked(path, missing_ok=missing_ok)

        patch.setattr(os, "open", open_)
        patch.setattr(os, "fsync", self._sync)
        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "unlink", unlink)

    def _operate(self) -> None:
        self.operations += 1
        if self.operations == self.cut_before:
            raise Cut

    def _sync(self, handle: int) -> None:
        self._operate()
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            self.listings[str(path)] = self._names(path)
        else:
            self.contents[self._files[os.fstat(handle).st_ino]] = path.read_bytes()

    def _names(self, folder: Path) -> dict[str, int | None]:
        return {
            path.name: None if path.is_dir() else self._files.get(path.stat().st_ino, -1) for path in folder.iterdir()
        }

    def survives(self, target: Path, eager: Callable[[Path], bool]) -> None:
        def rebuild(folder: Path, copy: Path) -> None:
            copy.mkdir()
            names = self._names(folder) if eager(folder) else self.listings.get(str(folder), {})
            for name, file in names.items():
                if file is None:
                    rebuild(folder / name, copy / name)
                else:
                    (copy / name).write_bytes(self.contents.get(file, b""))

        rebuild(self.root, target)


def cuts(tmp_path: Path, work: Callable[[Path], None], before: tuple[int, ...] | None) -> Iterator[tuple[Path, bool]]:
    """Do the work with the power cut before each of its operations and once after all; give what may be left."""
    moment = 0
    finished = False
    while not finished:
        moment += 1
        home = tmp_path / f"moment {moment}"
        home.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(home, patch)
            if before is not None:
                made(home / "log", *before).close()
            disk.cut_before = disk.operations + moment
            try:
                work(home / "log")
                finished = True
            except Cut:
                pass
        for kind, eager in enumerate((lambda _: False, lambda _: True, lambda folder: folder.name == "log")):
            left = tmp_path / f"left {moment} {kind}"
            disk.survives(left, eager)
            yield left / "log", finished


@pytest.mark.parametrize(
    ("before", "count"),
    [((), 1), ((5,), 1), ((255,), 1), ((256,), 1), ((250,), 300), ((1, 1, 1), 256)],
)
def test_a_power_cut_at_any_moment_leaves_the_old_log_or_the_new_one(
    tmp_path: Path, before: tuple[int, ...], count: int
) -> None:
    old = sum(before)

    def work(folder: Path) -> None:
        grown(LogStore.open(folder, read), count)

    sizes = set()
    for folder, finished in cuts(tmp_path, work, before):
        store = LogStore.open(folder, read)
        assert store.size == old + count or (store.size == old and not finished)
        sizes.add(store.size)
        require_whole(store)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: None)
            grown(store, 3)
        require_whole(store)
        assert all(tile.stands_in(store.size) for tile in map(parse_path, files_of(folder)) if tile is not None)
        assert not [name for name in files_of(folder) if name.endswith(".part")]
    assert sizes == {old, old + count}


def test_a_power_cut_while_a_log_is_created_leaves_none_or_an_empty_one(tmp_path: Path) -> None:
    found = set()
    for folder, finished in cuts(tmp_path, lambda folder: LogStore.create(folder, read, sign).close(), None):
        try:
            store = LogStore.open(folder, read)
        except LogMissing:
            assert not finished
            store = LogStore.create(folder, read, sign)
            found.add("none")
        else:
            found.add("empty")
        grown(store, 2)
        require_whole(store)
    assert found == {"none", "empty"}


# Real processes, really killed.


def kill_again_and_again(folder: Path, kills: int, seed: int) -> int:
    """Let a process append and kill it, so many times. Returns how many entries are in the log."""
    dice = random.Random(seed)
    made(folder).close()
    sure = 0
    for turn in range(kills):
        command = [sys.executable, "-I", str(APPENDER), str(folder), str(seed * 1000 + turn)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            try:
                process.wait(dice.uniform(0, 0.12))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            said = [first, *process.stdout.read().splitlines(keepends=True)]
        assert process.returncode == -signal.SIGKILL
        sure = max([sure, *(int(line) for line in said if line.endswith("\n"))])
        store = LogStore.open(folder, read)
        assert store.size >= sure
        require_whole(store)
    with store:
        grown(store, 5)
        require_whole(store)
        return store.size


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    assert kill_again_and_again(tmp_path / "log", kills=15, seed=1) > 15


@pytest.mark.rare
@pytest.mark.parametrize("seed", range(2, 14))
def test_many_killed_writers_lose_nothing_that_they_acknowledged(tmp_path: Path, seed: int) -> None:
    assert kill_again_and_again(tmp_path / "log", kills=20, seed=seed) > 20


def test_a_writer_that_was_killed_holds_no_lock(tmp_path: Path) -> None:
    made(tmp_path / "log").close()
    command = [sys.executable, "-I", str(APPENDER), str(tmp_path / "log"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        store = LogStore.open(tmp_path / "log", read)
        with pytest.raises(LogLocked):
            grown(store, 1)
        process.kill()
    grown(store, 1)
    require_whole(store)


def test_a_writer_starts_without_what_it_does_not_need() -> None:
    code = "import sys, anchoring.log_store; print(*sorted(name for name in sys.modules if '.' not in name))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=APPENDER.parents[2]
    )
    assert not {"numpy", "torch", "pandas", "cryptography", "yaml", "pydantic", "flwr"} & set(loaded.stdout.split())
