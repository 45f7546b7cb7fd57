"""A store of contents by their hash: nothing comes out of it that was not put in."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchoring.content_store import ContentStore
from anchoring.errors import ContentDamaged

ROOT = Path(__file__).resolve().parents[2]
PUT_UNTIL_KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from anchoring.content_store import ContentStore
replaced = Path.replace
def killed(source, target):
    os.kill(os.getpid(), 9)
Path.replace = killed
ContentStore(Path(sys.argv[2])).put(b"new content")
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about durability: spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def path_of(store: ContentStore, name: str) -> Path:
    return store.folder / name[:2] / name[2:]


@pytest.mark.usefixtures("quick")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_what_is_put_is_got_under_its_sha256(tmp_path: Path, contents: list[bytes]) -> None:
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    store = ContentStore(tmp_path / "store")
    names = [store.put(content) for content in contents]
    assert names == [hashlib.sha256(content).hexdigest() for content in contents]
    assert [ContentStore(tmp_path / "store").get(name) for name in names] == contents
    assert list(store.names()) == sorted(set(names))


def test_a_store_without_contents_is_empty_and_makes_no_folder(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "store")
    assert list(store.names()) == []
    with pytest.raises(ContentDamaged, match="missing"):
        store.get("0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_the_same_content_is_one_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "store")
    name = store.put(b"content")
    assert store.put(b"content") == name
    assert [path for path in store.folder.rglob("*") if path.is_file()] == [path_of(store, name)]
    assert path_of(store, name).stat().st_mode & 0o077 == 0


def test_every_flipped_byte_is_noticed_and_its_file_named(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "store")
    name = store.put(b"some content of a round")
    path = path_of(store, name)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ContentDamaged) as caught:
            store.get(name)
        assert caught.value.where == str(path)
    for cut in (whole[:-1], whole + b"\n", b""):
        path.write_bytes(cut)
        with pytest.raises(ContentDamaged, match="has not the hash"):
            store.get(name)


def test_swapped_and_missing_files_are_noticed_and_named(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "store")
    names = [store.put(b"one"), store.put(b"two")]
    one, two = (path_of(store, name) for name in names)
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    for name, path in zip(names, (one, two), strict=True):
        with pytest.raises(ContentDamaged, match="has not the hash") as caught:
            store.get(name)
        assert caught.value.where == str(path)
    one.unlink()
    with pytest.raises(ContentDamaged, match="missing") as caught:
        store.get(names[0])
    assert caught.value.where == str(one)


def test_an_error_never_shows_the_content(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "store")
    name = store.put(b"the right content")
    path_of(store, name).write_bytes(b"Rossi")
    with pytest.raises(ContentDamaged) as caught:
        store.get(name)
    assert "Rossi" not in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"content?", b"content and more"])
def test_a_damaged_file_is_healed_by_putting_the_content_again(tmp_path: Path, damage: bytes) -> None:
    store = ContentStore(tmp_path / "store")
    name = store.put(b"content")
    path_of(store, name).write_bytes(damage)
    assert store.put(b"content") == name
    assert store.get(name) == b"content"


def test_a_process_killed_while_it_puts_harms_nothing(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "store")
    kept = store.put(b"kept")
    done = subprocess.run([sys.executable, "-c", PUT_UNTIL_KILLED, str(ROOT), str(store.folder)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    name = hashlib.sha256(b"new content").hexdigest()
    assert [path.suffix for path in path_of(store, name).parent.iterdir()] == [".part"]
    assert list(store.names()) == [kept]
    assert store.get(kept) == b"kept"
    with pytest.raises(ContentDamaged, match="missing"):
        store.get(name)
    assert store.put(b"new content") == name
    assert store.get(name) == b"new content"
    assert [path.suffix for path in path_of(store, name).parent.iterdir()] == [""]


def test_files_that_are_none_of_the_stores_are_passed_over(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "store")
    name = store.put(b"content")
    for other in ("README", f"{name[:2]}/short", f"{name[:2]}/.{name[2:]}.part", f"{name[:2]}/{name[2:].upper()}"):
        (store.folder / other).write_bytes(b"")
    (store.folder / "zz").mkdir()
    (store.folder / "zz" / ("0" * 62)).write_bytes(b"")
    assert list(store.names()) == [name]


@pytest.mark.parametrize(
    "name", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", "../" + "0" * 61, "/" + "0" * 63]
)
def test_what_is_no_hash_is_no_way_to_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ContentDamaged, match="hexadecimal"):
        ContentStore(tmp_path / "store").get(name)


def test_a_content_is_on_disk_before_its_name_is_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    store = ContentStore(tmp_path / "store")
    path = path_of(store, store.put(b"content"))
    assert synced[0] == str(path.with_name(f".{path.name}.part"))
    assert set(synced[1:]) == {str(path.parent), str(store.folder), str(tmp_path)}


def test_a_content_that_a_killed_writer_left_is_on_disk_before_its_name_is_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer before was killed after the file got its name and before its folder was synced."""
    store = ContentStore(tmp_path / "store")
    path = path_of(store, hashlib.sha256(b"content").hexdigest())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    store.put(b"content")
    assert str(path.parent) in synced
