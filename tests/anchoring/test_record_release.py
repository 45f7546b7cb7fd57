"""A release's folder: what is in it, what erasing leaves, and what a kill or a power cut at any moment does to it."""

from __future__ import annotations

import base64
import fcntl
import os
import random
import signal
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anchoring import receipt_files, record_release
from anchoring.anchor_folder import AnchorFolder
from anchoring.cosignature import WitnessKey, WitnessPolicy, cosign
from anchoring.durable_files import LogLocked
from anchoring.errors import AnchoringError, ContentDamaged, LogRolledBack, NotAnchored, QuorumMissing, ReceiptInvalid
from anchoring.note import Signer, from_base64, new_private_key
from anchoring.record_release import RecordRelease, clear_beginnings, commit, erase, is_pending, reissue, resume
from anchoring.records import Record, RecordReceipt, canonical_row, new_release_id
from common.errors import InputError

ORIGIN = "example.org/log"
NAMES = ["Nicolò Esposito", "Zoe Quattrocchi", "Anna Brambilla", "Nicolò Zampieri", "Ugo Tognazzi"]


def rows_of(count: int = 5) -> list[bytes]:
    return [
        canonical_row(
            {"Codice interno": code(at), "Nome e cognome": NAMES[at % 5], "Diagnosi": f"numero {at:05} del registro"}
        )
        for at in range(count)
    ]


def code(at: int) -> str:
    return f"codice-{at:05}-interno"


@pytest.fixture
def log(tmp_path: Path) -> AnchorFolder:
    anchor = AnchorFolder.create(tmp_path / "log", ORIGIN)
    anchor.append([b"something else"])
    return anchor


@pytest.fixture
def folder(tmp_path: Path, log: AnchorFolder) -> Path:
    """The folder of a finished release."""
    return commit(rows_of(), tmp_path / "release", log).folder


def entries(log: AnchorFolder) -> list[int]:
    """Places of all entries of releases."""
    log.log.refresh()
    return [at for at, entry in enumerate(log.log.entries()) if b"djms.records/v1" in entry]


def require_whole(folder: Path, log: AnchorFolder, rows: list[bytes]) -> None:
    """The release of these rows is finished and stands once in the log, and every receipt verifies by itself."""
    release = RecordRelease.open(folder)
    assert entries(log) == [release.place]
    assert files_of(folder) == {".lock", "leaves", "release.json"} | {
        f"receipts/row-{row:06}.tlog-proof" for row in range(1, len(rows) + 1) if row not in release.erased
    }
    for row in release.held():
        read = RecordReceipt.from_text(release.receipt_path(row).read_bytes())
        proven = read.verify(log.signers)
        assert (proven.row, proven.entry, proven.place) == (row, release.entry, release.place)
        assert read.record.row == rows[row - 1]
        assert read.record.leaf_hash() == (folder / "leaves").read_bytes()[32 * row - 32 : 32 * row]


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_commit_writes_one_receipt_for_each_row_and_one_entry(
    tmp_path: Path, log: AnchorFolder, folder: Path
) -> None:
    require_whole(folder, log, rows_of())
    assert log.log.size == 2
    release = RecordRelease.open(folder)
    assert release == RecordRelease(folder, release.entry, ORIGIN, 1)
    assert release.held() == [1, 2, 3, 4, 5]
    assert [release.receipt(row).record.row for row in release.held()] == rows_of()


def test_only_the_owner_can_read_what_is_written(tmp_path: Path, log: AnchorFolder) -> None:
    before = os.umask(0)
    try:
        commit(rows_of(), tmp_path / "a" / "b" / "release", log)
        (tmp_path / "wide").mkdir()
        commit(rows_of(), tmp_path / "wide", log)
    finally:
        os.umask(before)
    for folder in (tmp_path / "a" / "b" / "release", tmp_path / "wide"):
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*")) if path.is_dir()}
        assert modes == {0o700}
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {0o600}


def contents(folder: Path) -> Iterator[bytes]:
    """The bytes of every file, and of all base64 in it, and of all base64 in that."""
    for path in folder.rglob("*"):
        if path.is_file():
            waiting = [path.read_bytes()]
            while waiting:
                content = waiting.pop()
                yield content
                words = content.replace(b'"', b" ").replace(b",", b" ").replace(b":", b" ").split()
                waiting += [found for word in words if len(word) > 7 and (found := from_base64(word.decode("latin1")))]


def spellings(content: bytes) -> list[bytes]:
    """What these bytes are, in the midst of others, as they are, in hexadecimal and in base64."""
    shifted = [
        base64.b64encode(bytes(shift) + content)[-(-8 * shift // 6) : 8 * (shift + len(content)) // 6]
        for shift in range(3)
    ]
    return [content, content.hex().encode(), *shifted]


def test_nothing_personal_is_in_the_log_and_no_name_tells_anything(
    tmp_path: Path, log: AnchorFolder, folder: Path
) -> None:
    needles = [cell.encode() for row in rows_of() for part in Record.of(row).cells().items() for cell in part]
    everything = b"\x00".join(contents(log.folder))
    assert not [needle for needle in needles for way in spellings(needle) if way in everything]
    receipts = b"\x00".join(contents(folder))
    assert all(way in receipts for needle in needles for way in spellings(needle)[:1])
    assert not any(needle.decode() in name for needle in needles for name in files_of(tmp_path))


def test_what_is_left_after_erasing_opens_no_leaf_of_it(log: AnchorFolder, folder: Path) -> None:
    release = RecordRelease.open(folder)
    secrets = {row: release.receipt(row).record for row in release.held()}
    hidden = secrets[3].leaf_hash()
    everything = b"\x00".join(contents(folder))
    assert secrets[3].nonce in everything  # so that what is looked for below would be found
    assert secrets[3].row in everything
    erased = erase(folder, [3])
    assert erased == RecordRelease.open(folder)
    assert erased.erased == {3}
    everything = b"\x00".join(contents(folder)) + b"\x00".join(contents(log.folder))
    for part in (secrets[3].nonce, secrets[3].row, code(2).encode(), b"numero 00002 del", NAMES[2].encode()):
        assert not [way for way in spellings(part) if way in everything]
    assert secrets[4].nonce in everything
    assert hidden in everything
    # Who knows the row, and everything that is left, still has no way to tell whether it was this one.
    known = [everything[at : at + 32] for at in range(len(everything) - 31)]
    assert hidden not in {Record(secrets[3].row, nonce).leaf_hash() for nonce in known}
    require_whole(folder, log, rows_of())


def test_other_receipts_stay_valid_and_are_issued_again_after_erasing(log: AnchorFolder, folder: Path) -> None:
    before = {row: RecordRelease.open(folder).receipt(row) for row in range(1, 6)}
    erase(folder, [1, 4])
    for row in (2, 3, 5):
        before[row].verify(log.signers)
    log.append([b"later"] * 300)
    assert reissue(folder, log) == 3
    release = RecordRelease.open(folder)
    assert release.held() == [2, 3, 5]
    for row in release.held():
        assert release.receipt(row).verify(log.signers).tree_size == 302
        assert release.receipt(row).record == before[row].record
    require_whole(folder, log, rows_of())


def test_erasing_is_done_once_and_remembered(log: AnchorFolder, folder: Path) -> None:
    assert erase(folder, [2, 2]).erased == {2}
    assert erase(folder, [2]).erased == {2}
    assert erase(folder, [5, 2]).erased == {2, 5}
    assert erase(folder, range(1, 6)).held() == []
    assert reissue(folder, log) == 0
    require_whole(folder, log, rows_of())
    for row in (0, 6, -1, 10**9):
        with pytest.raises(InputError, match="the rows 1 to 5"):
            erase(folder, [row])


def test_rows_are_found_by_their_cells(folder: Path) -> None:
    release = RecordRelease.open(folder)
    assert release.matching({"Codice interno": code(1)}) == [2]
    assert release.matching({"Nome e cognome": "Nicolo\u0300 Esposito"}) == [1]  # the same letters, composed otherwise
    assert release.matching({"Nome e cognome": NAMES[0], "Codice interno": code(0)}) == [1]
    assert release.matching({"Nome e cognome": NAMES[0], "Codice interno": code(1)}) == []
    with pytest.raises(InputError, match="no column of the name") as caught:
        release.matching({"Nome e cognome": NAMES[0], "Segreto": "x"})
    assert "Segreto" not in str(caught.value)
    assert NAMES[0] not in str(caught.value)
    with pytest.raises(InputError, match="no record matches") as caught:
        erase(folder, matching={"Nome e cognome": "Nessuno"})
    assert "Nessuno" not in str(caught.value)
    assert erase(folder, matching={"Nome e cognome": NAMES[3]}).erased == {4}
    with pytest.raises(InputError, match="no record matches"):
        erase(folder, matching={"Nome e cognome": NAMES[3]})


@pytest.mark.parametrize("change", [lambda content: b"", lambda content: content[:-1], lambda content: b"\xff"])
def test_no_row_is_passed_over_because_its_receipt_is_damaged(
    folder: Path, log: AnchorFolder, change: Callable[[bytes], bytes]
) -> None:
    path = RecordRelease.open(folder).receipt_path(4)
    path.write_bytes(change(path.read_bytes()))
    for work in (lambda: erase(folder, matching={"Nome e cognome": NAMES[0]}), lambda: reissue(folder, log)):
        with pytest.raises(ReceiptInvalid) as caught:
            work()
        assert caught.value.where == str(path)
    assert RecordRelease.open(folder).held() == [1, 2, 3, 4, 5]
    assert erase(folder, [4]).erased == {4}
    assert erase(folder, matching={"Nome e cognome": NAMES[0]}).erased == {1, 4}


def test_a_receipt_under_another_rows_name_is_noticed(folder: Path) -> None:
    release = RecordRelease.open(folder)
    release.receipt_path(2).replace(release.receipt_path(3))
    with pytest.raises(ReceiptInvalid, match="another record"):
        erase(folder, matching={"Nome e cognome": NAMES[0]})


@pytest.mark.parametrize("name", ["copy.csv", "receipts/row-000002 (copy).tlog-proof", "receipts/row-2.tlog-proof"])
def test_nothing_is_called_erased_beside_files_that_may_be_copies(folder: Path, name: str) -> None:
    (folder / name).write_text("Anna Brambilla")
    with pytest.raises(InputError, match="may be copies") as caught:
        erase(folder, [3])
    assert "copy" not in str(caught.value)
    assert RecordRelease.open(folder).erased == frozenset()
    (folder / name).unlink()
    assert erase(folder, [3]).erased == {3}


def test_a_record_that_is_not_the_one_committed_is_not_proven_anew(folder: Path, log: AnchorFolder) -> None:
    release = RecordRelease.open(folder)
    receipt = release.receipt(2)
    forged = replace(receipt, record=Record(canonical_row({"Nome e cognome": "Altri"}), receipt.record.nonce))
    release.receipt_path(2).write_text(forged.to_text())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    log.append([b"later"])
    with pytest.raises(ReceiptInvalid, match="root of its release"):
        reissue(folder, log)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_receipt_that_was_moved_away_can_be_noted_as_erased(folder: Path, log: AnchorFolder, tmp_path: Path) -> None:
    release = RecordRelease.open(folder)
    release.receipt_path(2).replace(tmp_path / "given to its person")
    assert release.held() == [1, 3, 4, 5]
    assert release.matching({"Codice interno": code(1)}) == []
    assert reissue(folder, log) == 4
    assert erase(folder, [2]).erased == {2}
    RecordReceipt.from_text((tmp_path / "given to its person").read_bytes()).verify(log.signers)


def test_reissued_receipts_carry_the_cosignatures_that_came_later(folder: Path, log: AnchorFolder) -> None:
    witness = Signer.from_text(new_private_key("torino"))
    log.set_policy(WitnessPolicy(1, (WitnessKey.of(witness),)))
    assert log.policy is not None
    receipt = RecordRelease.open(folder).receipt(1)
    with pytest.raises(QuorumMissing):
        receipt.verify(log.signers, log.policy)
    log.add_cosignatures(cosign(log.checkpoint(), witness, 1_700_000_000))
    log.append([b"later, and not published"])
    reissue(folder, log)
    proven = RecordRelease.open(folder).receipt(1).verify(log.signers, log.policy)
    assert (proven.tree_size, proven.cosigned) == (2, (("torino", 1_700_000_000),))


def test_leaves_that_are_not_the_releases_are_noticed(folder: Path, log: AnchorFolder) -> None:
    path = folder / "leaves"
    content = path.read_bytes()
    for altered in (content[:-1], content + bytes(32), bytes([content[0] ^ 1]) + content[1:], b"", None):
        path.unlink() if altered is None else path.write_bytes(altered)
        with pytest.raises(ContentDamaged) as caught:
            reissue(folder, log)
        assert caught.value.where == str(path)
        path.write_bytes(content)
    assert reissue(folder, log) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "{}",
        lambda text: text.replace('"place": 1', '"place": -1'),
        lambda text: text.replace('"place": 1', '"place": true'),
        lambda text: text.replace('"erased": []', '"erased": [6]'),
        lambda text: text.replace('"erased": []', '"erased": [0]'),
        lambda text: text.replace('"erased": []', '"erased": {}'),
        lambda text: text.replace('"entry": "', '"entry": "A'),
        lambda text: text.replace('"origin": "example.org/log"', '"origin": null'),
    ],
)
def test_a_damaged_release_is_named(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "release.json"
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(ContentDamaged) as caught:
        RecordRelease.open(folder)
    assert caught.value.where == str(path)


def test_a_release_is_not_written_over_anything(tmp_path: Path, folder: Path, log: AnchorFolder) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").write_text("dear")
    with pytest.raises(InputError, match="already"):
        commit(rows_of(), folder, log)
    with pytest.raises(InputError, match="not empty"):
        commit(rows_of(), tmp_path / "other", log)
    assert files_of(tmp_path / "other") == {"letter"}
    for stranger in (tmp_path / "other", tmp_path / "none"):
        for work in (lambda at: erase(at, [1]), lambda at: reissue(at, log), RecordRelease.open):
            with pytest.raises(InputError, match="no release"):
                work(stranger)
        with pytest.raises(InputError, match="no unfinished commit"):
            resume(stranger, log)
    assert files_of(tmp_path / "other") == {"letter"}
    assert not (tmp_path / "none").exists()
    require_whole(folder, log, rows_of())


def test_without_the_logs_key_nothing_is_written(tmp_path: Path, log: AnchorFolder) -> None:
    keyless = AnchorFolder.open(log.folder, keys=tmp_path / "nowhere")
    with pytest.raises(InputError, match="private key"):
        commit(rows_of(), tmp_path / "release", keyless)
    assert not (tmp_path / "release").exists()


def test_one_process_at_a_time_works_on_a_release(folder: Path, log: AnchorFolder) -> None:
    with (folder / ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for work in (lambda: erase(folder, [1]), lambda: reissue(folder, log)):
            with pytest.raises(LogLocked, match="another process works on this release"):
                work()
    assert erase(folder, [1]).erased == {1}


def test_a_log_that_another_appends_to_leaves_the_commit_to_be_finished(tmp_path: Path, log: AnchorFolder) -> None:
    with (log.folder / "log" / ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LogLocked, match="appending"):
            commit(rows_of(), tmp_path / "release", log)
    assert is_pending(tmp_path / "release")
    for work in (lambda at: erase(at, [1]), lambda at: reissue(at, log), RecordRelease.open):
        with pytest.raises(InputError, match=r"not finished.*commit --resume"):
            work(tmp_path / "release")
    with pytest.raises(InputError, match="other rows"):
        commit(rows_of(4), tmp_path / "release", log)
    commit(rows_of(), tmp_path / "release", log)
    require_whole(tmp_path / "release", log, rows_of())


def pending(tmp_path: Path, log: AnchorFolder) -> Path:
    """A release whose commit ended after its entry was appended, and before anything else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_release, "write_all", lambda *_: os.close(-1))
        with pytest.raises(AnchoringError, match="a file could not be read or written"):
            commit(rows_of(), tmp_path / "release", log)
    assert is_pending(tmp_path / "release")
    assert entries(log) == [1]
    return tmp_path / "release"


def test_a_commit_is_finished_with_the_log_it_was_begun_with(tmp_path: Path, log: AnchorFolder) -> None:
    folder = pending(tmp_path, log)
    stranger = AnchorFolder.create(tmp_path / "another", "example.org/another")
    with pytest.raises(InputError, match="this is another"):
        resume(folder, stranger)
    emptied = AnchorFolder.create(tmp_path / "rolled back", ORIGIN)
    with pytest.raises(LogRolledBack):
        resume(folder, emptied)
    assert (stranger.log.size, emptied.log.size) == (0, 0)
    log.append([b"later"] * 300)
    assert resume(folder, AnchorFolder.open(log.folder)).place == 1
    require_whole(folder, log, rows_of())
    with pytest.raises(InputError, match="no unfinished commit"):
        resume(folder, log)


@pytest.mark.parametrize("at", range(0, 1000, 83))
def test_a_damaged_pending_file_is_not_finished(tmp_path: Path, log: AnchorFolder, at: int) -> None:
    folder = pending(tmp_path, log)
    content = bytearray((folder / "pending").read_bytes())
    content[at] ^= 2
    (folder / "pending").write_bytes(content)
    with pytest.raises((AnchoringError, InputError)):
        resume(folder, log)
    assert is_pending(folder)
    assert not (folder / "receipts").exists()
    content[at] ^= 2
    (folder / "pending").write_bytes(content)
    resume(folder, log)
    require_whole(folder, log, rows_of())


def test_a_release_is_proven_anew_by_its_own_log_only(tmp_path: Path, folder: Path, log: AnchorFolder) -> None:
    stranger = AnchorFolder.create(tmp_path / "another", "example.org/another")
    impostor = AnchorFolder.create(tmp_path / "impostor", ORIGIN)
    impostor.append([b"one", b"two"])
    for wrong in (stranger, impostor):
        with pytest.raises(NotAnchored):
            reissue(folder, wrong)
    require_whole(folder, log, rows_of())


def test_beginnings_that_came_to_nothing_are_cleared_and_nothing_else(tmp_path: Path, log: AnchorFolder) -> None:
    root = tmp_path / "records"
    finished = commit(rows_of(), root / new_release_id(), log).folder
    for name, files in {
        new_release_id(): [".lock", ".pending.part"],
        new_release_id(): [],
        "other folder": [".lock"],
        new_release_id(): ["pending"],
        new_release_id(): ["letter"],
    }.items():
        (root / name).mkdir()
        for file in files:
            (root / name / file).write_text("Anna Brambilla")
    busy = root / new_release_id()
    busy.mkdir()
    with (busy / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clear_beginnings(root)
    left = sorted(tuple(sorted(files_of(path))) for path in root.iterdir() if path not in (finished, busy))
    assert left == [(".lock",), ("letter",), ("pending",)]
    assert busy.is_dir()
    require_whole(finished, log, rows_of())
    clear_beginnings(tmp_path / "nowhere")


# Kills: a real process, killed with SIGKILL.

ROWS = 200


def in_child(work: Callable[[], object]) -> int:
    """Do the work in another process; returns its id at once."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(3)


def was_killed(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


CALLS = ((os, "open"), (os, "write"), (os, "fsync"), (os, "mkdir"), (os, "replace"), (os, "unlink"), (os, "rmdir"))


def killed_before(moment: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed before one of its calls of the system; False when it made fewer."""
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counting

    def dying() -> None:
        for module, name in CALLS:
            setattr(module, name, counted(getattr(module, name)))
        work()

    return was_killed(in_child(dying))


def take_up(folder: Path, log: AnchorFolder, rows: list[bytes]) -> str:
    """Do what an operator does after a kill, and say what was found."""
    log = AnchorFolder.open(log.folder)
    if is_pending(folder):
        found = f"pending, {len(entries(log))} in the log" + (", receipts" if (folder / "receipts").is_dir() else "")
        resume(folder, log)
        return found
    if (folder / "release.json").is_file():
        return "finished"
    assert entries(log) == []
    assert not folder.exists() or files_of(folder) <= {".lock", ".pending.part"}
    commit(rows, folder, log)
    return "nothing"


def test_a_commit_killed_before_any_call_of_the_system_is_finished_and_never_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a kill loses nothing that was written
    found, moment, killed = [], 0, True
    while killed:
        moment += 1
        log = AnchorFolder.create(tmp_path / f"log {moment}", ORIGIN)
        folder = tmp_path / f"release {moment}"
        killed = killed_before(moment, lambda folder=folder, log=log: commit(rows_of(2), folder, log))
        found.append(take_up(folder, log, rows_of(2)))
        require_whole(folder, log, rows_of(2))
    assert moment > 40
    assert set(found) == {
        "nothing",
        "pending, 0 in the log",
        "pending, 1 in the log",
        "pending, 1 in the log, receipts",
        "finished",
    }
    assert found == sorted(found, key=list(dict.fromkeys(found)).index)  # it only ever went forward


def test_an_erasure_killed_before_any_call_of_the_system_is_done_or_not_and_never_half(
    tmp_path: Path, log: AnchorFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    found, moment, killed = set(), 0, True
    while killed:
        moment += 1
        folder = commit(rows_of(), tmp_path / f"release {moment}", log).folder
        killed = killed_before(moment, lambda folder=folder: erase(folder, [2, 4]))
        erased = RecordRelease.open(folder).erased
        found.add((len(erased), len(RecordRelease.open(folder).held())))
        reissue(folder, log)  # whoever works next on the folder
        release = RecordRelease.open(folder)
        assert (release.erased, release.held()) in (({2, 4}, [1, 3, 5]), (set(), [1, 2, 3, 4, 5]))
        assert release.erased == erased
        for row in release.held():
            release.receipt(row).verify(log.signers)
    assert found == {(0, 5), (2, 5), (2, 4), (2, 3)}


def test_reissuing_killed_before_any_call_of_the_system_leaves_no_second_copy_of_a_row(
    tmp_path: Path, log: AnchorFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    sizes, moment, killed = set(), 0, True
    while killed:
        moment += 1
        folder = commit(rows_of(3), tmp_path / f"release {moment}", log).folder
        size = log.log.size
        log.append([b"later"])
        killed = killed_before(moment, lambda folder=folder: reissue(folder, log))
        release = RecordRelease.open(folder)
        proven = [release.receipt(row).verify(log.signers) for row in release.held()]
        assert [one.row for one in proven] == [1, 2, 3]
        sizes.add(tuple(one.tree_size - size for one in proven))
        secret = release.receipt(2).record.nonce
        erase(folder, [2])
        assert secret not in b"\x00".join(contents(folder))
        assert files_of(folder) == {".lock", "leaves", "release.json"} | {
            f"receipts/row-00000{row}.tlog-proof" for row in (1, 3)
        }
    assert sizes == {(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)}


def kill_again_and_again(tmp_path: Path, kills: int, seed: int) -> set[str]:
    """Kill commits at random instants, take each up again, and return what was found."""
    dice, found, rows = random.Random(seed), set(), rows_of(ROWS)
    start = time.monotonic()
    log = AnchorFolder.create(tmp_path / "whole log", ORIGIN)
    assert not was_killed(in_child(lambda: commit(rows, tmp_path / "whole", log)))
    duration = time.monotonic() - start
    done = turn = 0
    while done < kills:
        turn += 1
        log = AnchorFolder.create(tmp_path / f"log {turn}", ORIGIN)
        folder = tmp_path / f"release {turn}"
        child = in_child(lambda folder=folder, log=log: commit(rows, folder, log))
        time.sleep(dice.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        if was_killed(child):
            done += 1
        else:
            duration *= 0.9  # it was faster than the one that was timed
        found.add(take_up(folder, log, rows))
        require_whole(folder, log, rows)
    return found


def test_commits_killed_at_random_instants_are_finished_and_never_doubled(tmp_path: Path) -> None:
    assert any(found.startswith("pending") for found in kill_again_and_again(tmp_path, kills=30, seed=1))


@pytest.mark.rare
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_commits_killed_at_random_instants_are_finished_and_never_doubled(tmp_path: Path, seed: int) -> None:
    assert any(found.startswith("pending") for found in kill_again_and_again(tmp_path, kills=20, seed=seed))


# Power cuts: a disk that keeps nothing it was not asked to keep.


class Cut(BaseException):
    """The power goes."""


class Disk:
    """Knows what below `root` would survive a power cut, and cuts the power before a chosen operation.

    A file's content survives when it was synced; a name survives, with what it then named, when its folder was synced.
    Names may also survive, and go, before that: eager copies have all as it was last, and in others only what was
    removed is gone.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, *, syncfs: bool) -> None:
        self.root = root
        self.cut_before = 0
        self.operations = 0
        self.left: list[Path] = []
        self._contents: dict[int, bytes] = {}
        self._listings: dict[int, dict[str, int]] = {}
        self._numbers: dict[int, int] = {}  # an inode's number may be given again, these are not
        opened, made = os.open, os.mkdir

        def open_(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
            handle = opened(path, flags, *rest, **named)
            if new:
                self._numbers[os.fstat(handle).st_ino] = len(self._contents)
                self._contents[len(self._contents)] = b""
            return handle

        def mkdir(path: Any, *rest: Any, **named: Any) -> None:
            self._operate()
            made(path, *rest, **named)
            self._numbers[Path(path).stat().st_ino] = -1 - len(self._listings)
            self._listings[-1 - len(self._listings)] = {}

        patch.setattr(os, "open", open_)
        patch.setattr(os, "mkdir", mkdir)
        patch.setattr(os, "fsync", lambda handle: self._sync(Path(f"/proc/self/fd/{handle}").readlink()))
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(Path, name, self._operation(getattr(Path, name)))
        patch.setattr(receipt_files, "_syncfs", lambda: self._sync_all if syncfs else None)

    def copies(self) -> list[Path]:
        """What may be left if the power goes now."""
        left = []
        for kind in ("eager", "lazy", "gone"):
            left.append(self.root.with_name(f"{self.root.name} {kind}"))
            left[-1].mkdir()
            self._rebuild(left[-1], self._names(self.root), self._names_left(kind))
        return left

    def _operation(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def operating(*arguments: Any, **named: Any) -> Any:
            self._operate()
            return call(*arguments, **named)

        return operating

    def _operate(self) -> None:
        self.operations += 1
        if self.operations == self.cut_before:
            self.left = self.copies()
            raise Cut

    def _sync(self, path: Path) -> None:
        self._operate()
        self._keep(path)

    def _sync_all(self, handle: int) -> int:
        self._operate()
        for path in (self.root, *self.root.rglob("*")):
            self._keep(path)
        return 0

    def _keep(self, path: Path) -> None:
        if path == self.root:
            return
        if path.is_dir():
            self._listings[self._number(path)] = self._names(path)
        else:
            self._contents[self._number(path)] = path.read_bytes()

    def _number(self, path: Path) -> int:
        return self._numbers[path.stat().st_ino]

    def _names(self, folder: Path) -> dict[str, int]:
        return {path.name: self._number(path) for path in folder.iterdir()}

    def _names_left(self, kind: str) -> dict[int, dict[str, int]]:
        """The names in each folder after the cut."""
        last = {self._number(path): self._names(path) for path in self.root.rglob("*") if path.is_dir()}
        if kind == "eager":
            return self._listings | last
        if kind == "lazy":
            return self._listings
        return {
            number: {name: one for name, one in names.items() if name in last.get(number, {})}
            for number, names in self._listings.items()
        }

    def _rebuild(self, copy: Path, names: dict[str, int], listings: dict[int, dict[str, int]]) -> None:
        for name, number in names.items():
            if number < 0:
                (copy / name).mkdir()
                self._rebuild(copy / name, listings[number], listings)
            else:
                (copy / name).write_bytes(self._contents[number])


def cuts(tmp_path: Path, work: Callable[[Path, AnchorFolder], object], *, syncfs: bool) -> Iterator[tuple[Path, bool]]:
    """Do the work with the power cut before each of its operations and once after all; give what may be left."""
    moment, finished = 0, False
    while not finished:
        moment += 1
        home = tmp_path / f"moment {moment}"
        home.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(home, patch, syncfs=syncfs)
            log = AnchorFolder.create(home / "log", ORIGIN)
            started = disk.operations
            try:
                disk.cut_before = started + moment
                work(home, log)
                finished = True
                disk.cut_before = 0
                disk.left = disk.copies()
            except Cut:
                pass
        for left in disk.left:
            yield left, finished


@pytest.mark.parametrize("syncfs", [True, False])
def test_a_commit_survives_a_power_cut_at_any_moment(tmp_path: Path, syncfs: bool) -> None:
    found = []
    for home, finished in cuts(tmp_path, lambda at, log: commit(rows_of(2), at / "release", log), syncfs=syncfs):
        log = AnchorFolder.open(home / "log")
        found.append(take_up(home / "release", log, rows_of(2)))
        assert found[-1] == "finished" or not finished
        require_whole(home / "release", log, rows_of(2))
    assert len(found) > 60
    assert set(found) == {
        "nothing",
        "pending, 0 in the log",
        "pending, 1 in the log",
        "pending, 1 in the log, receipts",
        "finished",
    }


def test_a_receipt_is_the_old_or_the_new_one_after_a_power_cut_and_the_new_one_once_reissuing_is_done(
    tmp_path: Path,
) -> None:
    def work(home: Path, log: AnchorFolder) -> None:
        commit(rows_of(3), home / "release", log)
        log.append([b"later"])
        reissue(home / "release", log)

    seen = set()
    for home, finished in cuts(tmp_path, work, syncfs=True):
        folder = home / "release"
        if (folder / "release.json").is_file() and not is_pending(folder):
            release = RecordRelease.open(folder)
            log = AnchorFolder.open(home / "log")
            sizes = {release.receipt(row).verify(log.signers).tree_size for row in (1, 2, 3)}
            assert sizes == {2} or not finished
            seen.add(tuple(sorted(sizes)))
    assert seen == {(1,), (1, 2), (2,)}


def test_what_was_erased_stays_so_through_a_power_cut(tmp_path: Path) -> None:
    nonces: list[bytes] = []

    def work(home: Path, log: AnchorFolder) -> None:
        release = commit(rows_of(3), home / "release", log)
        nonces.append(release.receipt(2).record.nonce)
        log.append([b"later"])
        reissue(home / "release", log)
        erase(home / "release", [2])

    def opened(folder: Path) -> bool:
        everything = b"\x00".join(contents(folder))
        return any(nonce in everything for nonce in nonces)

    seen = set()
    for home, finished in cuts(tmp_path, work, syncfs=False):
        folder = home / "release"
        assert not (finished and opened(folder))
        if (folder / "release.json").is_file() and not is_pending(folder):
            release = RecordRelease.open(folder)
            seen.add((len(release.erased), len(release.held())))
            if 2 in release.held():
                nonces.append(release.receipt(2).record.nonce)
                assert opened(folder)
            assert erase(folder, [2]).held() == [1, 3]
            assert not opened(folder)
            assert reissue(folder, AnchorFolder.open(home / "log")) == 2
    assert seen == {(0, 3), (1, 3), (1, 2)}
