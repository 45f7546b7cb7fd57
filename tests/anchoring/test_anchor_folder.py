"""A log's folder at its operator: made on purpose, one history through changes of keys and kills, all verified."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from anchored_log import signer_of

from anchoring.anchor_folder import AnchorFolder, witness_name
from anchoring.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from anchoring.cosignature import WitnessKey, WitnessPolicy, cosign
from anchoring.durable_files import LogLocked, locked
from anchoring.errors import (
    AnchoringError,
    CheckpointInvalid,
    LogCorrupt,
    LogMissing,
    LogRolledBack,
    NotAnchored,
    QuorumMissing,
    SignatureInvalid,
    UnknownSigner,
)
from anchoring.merkle import EMPTY_ROOT, verify_inclusion
from anchoring.note import KeyInvalid, Note, Signature, Signer, new_private_key
from anchoring.receipt import Receipt
from anchoring.signers import Signers
from common.errors import DjmsError, InputError

ORIGIN = "test.example/folder"
WITNESSES = tuple(signer_of(f"witness-{number}", f"folder witness {number}") for number in range(4))
KEYS = tuple(WitnessKey.of(witness) for witness in WITNESSES)
POLICY = WitnessPolicy(2, KEYS[:3])
TIME = 1_700_000_000
APPENDER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from anchoring.anchor_folder import AnchorFolder
from anchoring.durable_files import LogLocked
anchor = AnchorFolder.open(Path(sys.argv[2]))
sys.stdin.readline()
for number in range(25):
    while True:
        try:
            (index,) = anchor.append([f"{sys.argv[3]} {number}".encode()])
        except LogLocked:
            continue
        print(index, flush=True)
        break
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little here is about durability: spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made(folder: Path, entries: int = 0) -> AnchorFolder:
    anchor = AnchorFolder.create(folder / "anchor", ORIGIN)
    for number in range(entries):
        anchor.append([entry(number)])
    return anchor


def entry(number: int) -> bytes:
    return f"entry {number}".encode()


def cosigned(text: str, *witnesses: Signer) -> str:
    for witness in witnesses:
        text = cosign(text, witness, TIME)
    return text


def contents_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def require_same_history(anchor: AnchorFolder, entries: int) -> None:
    again = AnchorFolder.open(anchor.folder)
    again.check()
    assert list(again.log.entries()) == [entry(number) for number in range(entries)]


# Making one, and opening it.


def test_a_new_log_is_empty_signed_and_opens_again(tmp_path: Path) -> None:
    anchor = made(tmp_path)
    again = AnchorFolder.open(tmp_path / "anchor")
    assert again.signers == anchor.signers
    assert (again.origin, again.log.size, again.policy) == (ORIGIN, 0, None)
    assert open_checkpoint(again.checkpoint(), again.signers) == Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert again.published() is None
    again.check()


@pytest.mark.parametrize("folder", [".", "nothing", "nothing/below"])
def test_opening_what_is_not_there_creates_nothing_and_is_bad_input(tmp_path: Path, folder: str) -> None:
    with pytest.raises(LogMissing, match="djms anchor init") as caught:
        AnchorFolder.open(tmp_path / folder)
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_not_made_where_something_lies_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    before = contents_of(anchor.folder)
    with pytest.raises(InputError, match="something in the folder"):
        AnchorFolder.create(anchor.folder, ORIGIN)
    assert contents_of(anchor.folder) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").write_text("dear all", encoding="utf-8")
    for folder in (tmp_path / "other", tmp_path / "other" / "letter"):
        with pytest.raises(InputError, match="something in the folder"):
            AnchorFolder.create(folder, ORIGIN)
    assert contents_of(tmp_path / "other") == {"letter": b"dear all"}


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "new\nline", "non\u00a0breaking", "\x00", "\ud800"])
def test_a_name_that_no_key_can_have_makes_nothing(tmp_path: Path, origin: str) -> None:
    with pytest.raises(KeyInvalid):
        AnchorFolder.create(tmp_path / "anchor", origin)
    assert list(tmp_path.iterdir()) == []


def test_keys_are_readable_by_their_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        anchor = made(tmp_path)
        anchor.rotate()
    finally:
        os.umask(before)
    keys = tmp_path / "anchor" / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in keys.iterdir()] == [0o600]


def test_no_private_key_is_in_what_may_be_published(tmp_path: Path) -> None:
    anchor = made(tmp_path, 3)
    (path,) = (anchor.folder / "keys").iterdir()
    secret = path.read_bytes().strip().rpartition(b"+")[2]
    published = {name: text for name, text in contents_of(anchor.folder).items() if not name.startswith("keys/")}
    assert {"signers.json", "log/checkpoint"} <= set(published)
    assert not [name for name, text in published.items() if secret in text or b"PRIVATE" in text]
    assert secret.decode() not in repr(anchor.signer())


def test_the_keys_may_lie_elsewhere_and_without_them_nothing_is_added(tmp_path: Path) -> None:
    anchor = AnchorFolder.create(tmp_path / "anchor", ORIGIN, keys=tmp_path / "secret" / "keys")
    anchor.append([entry(0)])
    assert not (anchor.folder / "keys").exists()
    without = AnchorFolder.open(anchor.folder)
    before = contents_of(anchor.folder)
    for change in (lambda: without.append([entry(1)]), without.rotate, without.signer):
        with pytest.raises(InputError, match="private key of the log is missing"):
            change()
    assert contents_of(anchor.folder) == before
    AnchorFolder.open(anchor.folder, keys=tmp_path / "secret" / "keys").append([entry(1)])
    require_same_history(anchor, 2)


def test_another_key_in_the_keys_place_signs_nothing(tmp_path: Path) -> None:
    anchor = made(tmp_path, 1)
    (path,) = (anchor.folder / "keys").iterdir()
    for text in (new_private_key(ORIGIN), new_private_key("test.example/other")):
        path.write_text(f"{text}\n", encoding="ascii")
        with pytest.raises(InputError):
            anchor.append([entry(1)])
    for damage in (b"", b"PRIVATE+KEY", b"\xff\xfe"):
        path.write_bytes(damage)
        with pytest.raises(InputError) as caught:
            anchor.append([entry(1)])
        assert "PRIVATE+KEY+t" not in str(caught.value)
    require_same_history(anchor, 1)


def test_making_a_log_puts_every_name_of_it_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[Path] = set()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(Path(f"/proc/self/fd/{handle}").readlink()))
    keys = tmp_path / "far" / "keys"
    AnchorFolder.create(tmp_path / "near" / "anchor", ORIGIN, keys=keys)
    for path in (*(tmp_path / "near").rglob("*"), *(tmp_path / "far").rglob("*"), tmp_path / "near", tmp_path / "far"):
        if path.name != ".lock":
            assert path.parent in synced, path


@pytest.mark.parametrize("name", ["signers.json", "witnesses.json"])
def test_a_damaged_list_of_keys_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    anchor = made(tmp_path, 1)
    anchor.set_policy(POLICY)
    path = anchor.folder / name
    whole = path.read_bytes()
    key = whole.index(b"+")
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(key, key + 50)]
    for damage in (b"", b"{}", whole[:-3], b"\xff" + whole, *flipped):
        path.write_bytes(damage)
        with pytest.raises(KeyInvalid) as caught:
            AnchorFolder.open(anchor.folder)
        assert str(path) in str(caught.value)


def test_a_log_without_its_signers_is_damaged_and_not_absent(tmp_path: Path) -> None:
    anchor = made(tmp_path, 1)
    (anchor.folder / "signers.json").unlink()
    with pytest.raises(LogCorrupt) as caught:
        AnchorFolder.open(anchor.folder)
    assert caught.value.where == str(anchor.folder / "signers.json")
    assert "anchor init" not in str(caught.value)


def test_a_log_is_believed_by_the_signers_one_brings_and_not_by_its_own(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    assert AnchorFolder.open(anchor.folder, signers=anchor.signers).log.size == 2
    other = Signers.of(signer_of(ORIGIN, "another operator").verifier_key)
    with pytest.raises(LogCorrupt, match="none of the keys"):
        AnchorFolder.open(anchor.folder, signers=other)


# Changes of keys.


def test_receipts_from_before_and_after_a_change_of_keys_verify_with_the_new_signers(tmp_path: Path) -> None:
    anchor = made(tmp_path, 3)
    old, before = anchor.signers, anchor.receipt(1)
    between = anchor.rotate()
    kept = anchor.receipt(2)
    anchor.append([entry(3)])
    after = anchor.receipt(3)
    last = anchor.rotate()
    assert last == AnchorFolder.open(anchor.folder).signers
    for receipt, number in ((before, 1), (kept, 2), (after, 3)):
        assert receipt.verify(entry(number), last).origin == ORIGIN
    assert before.verify(entry(1), between).size == 3
    with pytest.raises(UnknownSigner):
        after.verify(entry(3), old)


def test_the_retired_keys_checkpoint_of_a_larger_tree_is_refused(tmp_path: Path) -> None:
    anchor = made(tmp_path, 3)
    retired = anchor.signer()
    anchor.rotate()
    anchor.append([entry(3), entry(4)])
    root = anchor.log.root()
    stolen = sign_checkpoint(Checkpoint(ORIGIN, 5, root), retired)
    with pytest.raises(UnknownSigner, match="does not sign for trees of 5 leaves"):
        open_checkpoint(stolen, anchor.signers)
    with pytest.raises(UnknownSigner):
        anchor.add_cosignatures(cosigned(stolen, *WITNESSES))
    with pytest.raises(UnknownSigner):
        Receipt(1, tuple(anchor.log.inclusion_proof(1)), stolen).verify(entry(1), anchor.signers)
    (anchor.folder / "log" / "checkpoint").write_text(stolen, encoding="utf-8")
    with pytest.raises(LogCorrupt, match="does not sign for trees of 5 leaves"):
        AnchorFolder.open(anchor.folder)


def test_after_a_change_the_old_private_key_is_gone_and_the_log_goes_on(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    (first,) = (anchor.folder / "keys").iterdir()
    anchor.rotate()
    (second,) = (anchor.folder / "keys").iterdir()
    assert first != second
    anchor.append([entry(2)])
    for _ in range(3):  # at one size
        anchor.rotate()
    anchor.append([entry(3)])
    assert len(list((anchor.folder / "keys").iterdir())) == 1
    assert len(anchor.signers.keys) == 5
    require_same_history(anchor, 4)


def test_an_empty_log_may_change_its_key(tmp_path: Path) -> None:
    anchor = made(tmp_path)
    anchor.rotate()
    anchor.append([entry(0)])
    require_same_history(anchor, 1)


def killed_while_rotating(anchor: AnchorFolder, step: str, patch: pytest.MonkeyPatch) -> None:
    """Leave the folder as a kill does before this step: the new key's file, the new signers, the old key's end."""

    class Killed(BaseException):
        pass

    replaced, unlinked = Path.replace, Path.unlink

    def replace(source: Path, target: Path) -> Path:
        if (step == "key" and target.suffix == ".key") or (step == "signers" and target.name == "signers.json"):
            raise Killed
        return replaced(source, target)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if step == "forget" and path.suffix == ".key":
            raise Killed
        unlinked(path, missing_ok=missing_ok)

    with patch.context() as inside:
        inside.setattr(Path, "replace", replace)
        inside.setattr(Path, "unlink", unlink)
        with pytest.raises(Killed):
            anchor.rotate()


@pytest.mark.parametrize("step", ["key", "signers", "forget"])
def test_a_kill_while_keys_change_leaves_a_log_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    anchor = made(tmp_path, 2)
    before = anchor.receipt(0)
    killed_while_rotating(anchor, step, monkeypatch)
    again = AnchorFolder.open(anchor.folder)
    assert len(again.signers.keys) == (2 if step == "forget" else 1)
    again.append([entry(2)])
    again.rotate()
    again.append([entry(3)])
    require_same_history(again, 4)
    for receipt, number in ((before, 0), (again.receipt(3), 3)):
        receipt.verify(entry(number), AnchorFolder.open(anchor.folder).signers)


@pytest.mark.parametrize("step", ["key", "signers", "forget"])
def test_a_retired_key_that_a_killed_change_left_is_gone_after_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The new key of a change that never came to be may stay: it signs for nothing."""
    anchor = made(tmp_path, 2)
    killed_while_rotating(anchor, step, monkeypatch)
    signers = AnchorFolder.open(anchor.folder).rotate()
    left = {path.name for path in (anchor.folder / "keys").glob("[!.]*.key")}
    ids = [f"{one.key.key_id.hex()}.key" for one in signers.keys]
    assert left.isdisjoint(ids[:-1])
    assert ids[-1] in left


def test_a_change_of_keys_leaves_other_logs_keys_alone(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    one = AnchorFolder.create(tmp_path / "one", "test.example/one", keys=keys)
    two = AnchorFolder.create(tmp_path / "two", "test.example/two", keys=keys)
    (keys / "notes.txt").write_text("in the safe", encoding="utf-8")
    one.rotate()
    two.append([entry(0)])
    assert {path.suffix for path in keys.iterdir()} == {".key", ".txt"}
    assert len(list(keys.iterdir())) == 3


def test_the_retired_key_signs_nothing_more_though_a_process_still_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that opened the log before the change goes on to append: the log must stay one that opens."""
    for step in ("none", "forget"):
        (tmp_path / step).mkdir()
        anchor = made(tmp_path / step, 2)
        stale = AnchorFolder.open(anchor.folder)
        if step == "forget":
            killed_while_rotating(anchor, step, monkeypatch)
        else:
            anchor.rotate()
        with pytest.raises(DjmsError):
            stale.append([entry(9)])
        require_same_history(anchor, 2)
        AnchorFolder.open(anchor.folder).append([entry(2)])
        require_same_history(anchor, 3)


def test_keys_do_not_change_while_another_process_appends(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    before = contents_of(anchor.folder)
    handle = locked(anchor.folder / "log")
    try:
        with pytest.raises(LogLocked):
            anchor.rotate()
    finally:
        handle.release()
    assert contents_of(anchor.folder) == before
    anchor.rotate()
    anchor.append([entry(2)])
    require_same_history(anchor, 3)


def test_a_key_that_changes_between_choosing_it_and_signing_signs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process changes the key after this one read it and before this one has the lock."""
    anchor = made(tmp_path, 2)
    signer, rotated = anchor.signer, []

    def late() -> Signer:
        found = signer()
        if not rotated:
            rotated.append(AnchorFolder.open(anchor.folder).rotate())
        return found

    monkeypatch.setattr(anchor, "signer", late)
    with pytest.raises(DjmsError):
        anchor.append([entry(9)])
    assert rotated
    require_same_history(anchor, 2)


# Cosignatures.


def test_cosignatures_of_the_policys_witnesses_are_kept_once_a_witness(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    text = anchor.checkpoint()
    anchor.add_cosignatures(cosigned(text, WITNESSES[0]))
    assert anchor.cosigned_by(2) == ("witness-0",)
    assert not anchor.is_published(2)
    assert anchor.published() is None
    anchor.add_cosignatures(cosigned(text, WITNESSES[0]), cosigned(text, WITNESSES[1]), cosigned(text, WITNESSES[1]))
    again = AnchorFolder.open(anchor.folder)
    assert again.cosigned_by(2) == ("witness-0", "witness-1")
    assert again.is_published(2)
    assert again.published() == again.checkpoint(2) == cosigned(text, *WITNESSES[:2])


def test_cosignatures_of_strangers_are_not_kept(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    stranger = signer_of("witness-0", "somebody who takes a witness's name")
    text = anchor.checkpoint()
    anchor.add_cosignatures(cosigned(text, stranger, WITNESSES[3], WITNESSES[0]))
    assert anchor.cosigned_by(2) == ("witness-0",)
    assert Note.parse(anchor.checkpoint()).signatures == Note.parse(cosigned(text, WITNESSES[0])).signatures
    assert anchor.verified_cosignatures(cosigned(text, stranger, WITNESSES[3])) == (2, ())


def test_without_a_policy_no_cosignature_is_kept(tmp_path: Path) -> None:
    anchor = made(tmp_path, 1)
    text = anchor.checkpoint()
    anchor.add_cosignatures(cosigned(text, *WITNESSES))
    assert anchor.checkpoint() == text
    assert anchor.cosigned_by(1) == ()


def altered(text: str, place: int) -> str:
    """With one character of the last cosignature's base64 another one."""
    at = text.rindex(" ") + place
    return f"{text[:at]}{'A' if text[at] != 'A' else 'B'}{text[at + 1 :]}"


def test_altered_cosignatures_are_refused_and_spoil_none_of_the_others(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    text = anchor.checkpoint()
    before = contents_of(anchor.folder)
    for place in range(7, 100, 5):
        with pytest.raises(SignatureInvalid):
            anchor.add_cosignatures(cosigned(text, WITNESSES[1]), altered(cosigned(text, WITNESSES[0]), place))
    assert contents_of(anchor.folder) == before
    late = Signature("witness-0", KEYS[0].key_id, (TIME + 1).to_bytes(8) + bytes(64))
    with pytest.raises(SignatureInvalid):
        anchor.add_cosignatures(Note.parse(text).signed_by(late).to_text())


def test_a_cosignature_for_another_checkpoint_is_not_carried_over(tmp_path: Path) -> None:
    anchor = made(tmp_path, 1)
    anchor.set_policy(POLICY)
    first = cosigned(anchor.checkpoint(), WITNESSES[0])
    anchor.append([entry(1)])
    moved = Note.parse(anchor.checkpoint()).signed_by(Note.parse(first).signatures[-1]).to_text()
    with pytest.raises(SignatureInvalid):
        anchor.add_cosignatures(moved)
    anchor.add_cosignatures(first)
    assert (anchor.cosigned_by(1), anchor.cosigned_by(2)) == (("witness-0",), ())


def test_checkpoints_that_are_not_the_logs_are_refused(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    before = contents_of(anchor.folder)
    other = AnchorFolder.create(tmp_path / "other", "test.example/other")
    namesake = AnchorFolder.create(tmp_path / "namesake", ORIGIN)
    fork = sign_checkpoint(Checkpoint(ORIGIN, 2, bytes(32)), anchor.signer())
    beyond = sign_checkpoint(Checkpoint(ORIGIN, 3, bytes(32)), anchor.signer())
    expected: list[tuple[str, type[AnchoringError]]] = [
        (other.checkpoint(), CheckpointInvalid),
        (namesake.checkpoint(), UnknownSigner),
        (fork, CheckpointInvalid),
        (beyond, CheckpointInvalid),
    ]
    for text, kind in expected:
        with pytest.raises(kind):
            anchor.add_cosignatures(cosigned(anchor.checkpoint(), WITNESSES[0]), cosigned(text, WITNESSES[0]))
    for text in ("", "no note", anchor.checkpoint().replace("\n2\n", "\n1\n")):
        with pytest.raises((CheckpointInvalid, SignatureInvalid)):
            anchor.add_cosignatures(text)
    assert contents_of(anchor.folder) == before


def test_the_published_checkpoint_is_the_newest_with_the_quorum(tmp_path: Path) -> None:
    anchor = made(tmp_path)
    anchor.set_policy(POLICY)
    by = {1: WITNESSES[:2], 2: WITNESSES[:3], 3: WITNESSES[2:3], 4: (), 5: WITNESSES[1:3], 6: WITNESSES[:1]}
    for size, witnesses in by.items():
        anchor.append([entry(size - 1)])
        anchor.add_cosignatures(cosigned(anchor.checkpoint(), *witnesses))
    anchor.append([entry(6)])
    assert [size for size in anchor.sizes() if anchor.is_published(size)] == [1, 2, 5]
    assert anchor.published() == anchor.checkpoint(5)
    assert anchor.published(above=4) == anchor.checkpoint(5)
    assert anchor.published(above=5) is None
    anchor.set_policy(WitnessPolicy(3, KEYS[:3]))
    assert anchor.published() == anchor.checkpoint(2)
    with pytest.raises(QuorumMissing):
        WitnessPolicy(3, KEYS[:3]).require(anchor.checkpoint(5))


def test_without_a_policy_the_present_checkpoint_is_published(tmp_path: Path) -> None:
    anchor = made(tmp_path, 3)
    assert anchor.published() == anchor.checkpoint()
    assert anchor.is_published(3)
    assert not anchor.is_published(2)  # no checkpoint of that size was kept
    with pytest.raises(NotAnchored, match="no checkpoint of 2 entries"):
        anchor.checkpoint(2)


def test_more_witnesses_than_a_note_has_room_for_do_not_break_it(tmp_path: Path) -> None:
    anchor = made(tmp_path, 1)
    many = [signer_of(f"witness-{number}", f"one of many {number}") for number in range(130)]
    anchor.set_policy(WitnessPolicy(99, tuple(WitnessKey.of(witness) for witness in many)))
    text = anchor.checkpoint()
    anchor.add_cosignatures(*(cosigned(text, witness) for witness in many[:70]))
    assert not anchor.is_published(1)
    anchor.add_cosignatures(*(cosigned(text, witness) for witness in many[60:]))
    again = AnchorFolder.open(anchor.folder)
    again.check()
    assert again.cosigned_by(1) == tuple(f"witness-{number}" for number in range(99))
    assert again.is_published(1)
    assert again.receipt(0).verify(entry(0), again.signers, again.policy).size == 1
    anchor.add_cosignatures(cosigned(text, many[5]))
    assert len(anchor.cosigned_by(1)) == 99


def test_cosignatures_that_come_late_go_to_the_checkpoint_they_are_of(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    early = anchor.checkpoint()
    anchor.append([entry(2)])
    with pytest.raises(NotAnchored):
        anchor.checkpoint(2)
    anchor.add_cosignatures(cosigned(early, WITNESSES[0]), cosigned(early, WITNESSES[2]))
    assert anchor.checkpoint(2) == cosigned(early, WITNESSES[0], WITNESSES[2])
    assert anchor.published() == anchor.checkpoint(2)
    assert anchor.sizes() == [2, 3]


def test_cosignatures_survive_a_change_of_keys(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    early = anchor.checkpoint()
    anchor.rotate()
    anchor.append([entry(2)])
    anchor.add_cosignatures(cosigned(early, *WITNESSES[:2]), cosigned(anchor.checkpoint(), *WITNESSES[:2]))
    again = AnchorFolder.open(anchor.folder)
    again.check()
    assert [size for size in again.sizes() if again.is_published(size)] == [2, 3]


@pytest.mark.parametrize("cut", [False, True])
def test_every_flipped_byte_of_a_cosigned_checkpoint_is_noticed_and_its_file_named(tmp_path: Path, cut: bool) -> None:
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:3]))
    anchor.append([entry(2)])
    path = anchor.folder / "cosigned" / "2"
    whole = path.read_bytes()
    again = AnchorFolder.open(anchor.folder)
    for place in range(0, len(whole), 17 if cut else 1):
        flipped = whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        path.write_bytes(whole[:place] if cut else flipped)
        with pytest.raises(AnchoringError) as caught:
            again.check()
        assert str(path) in str(caught.value), (place, str(caught.value))
    path.write_bytes(whole)
    again.check()


@pytest.mark.parametrize("size", ["1", "99"])
def test_a_checkpoint_kept_under_another_size_is_noticed(tmp_path: Path, size: str) -> None:
    anchor = made(tmp_path, 3)
    anchor.set_policy(POLICY)
    anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:3]))
    shutil.copy(anchor.folder / "cosigned" / "3", anchor.folder / "cosigned" / size)
    with pytest.raises(AnchoringError) as caught:
        AnchorFolder.open(anchor.folder).check()
    assert caught.value.where == str(anchor.folder / "cosigned" / size)


def test_a_cosigned_checkpoint_of_a_larger_tree_shows_that_the_log_was_rolled_back(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    backup = shutil.copytree(anchor.folder / "log", tmp_path / "backup")
    anchor.append([entry(2)])
    anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:2]))
    shutil.rmtree(anchor.folder / "log")
    shutil.copytree(backup, anchor.folder / "log")
    again = AnchorFolder.open(anchor.folder)
    for look in (again.check, lambda: again.checkpoint(3)):
        with pytest.raises(LogRolledBack, match="has 2 entries, and had 3") as caught:
            look()
        assert caught.value.where == str(anchor.folder / "cosigned" / "3")


def test_what_another_process_adds_meanwhile_disturbs_nobody(tmp_path: Path) -> None:
    """A run goes on while its operator commits something else, and collects cosignatures for it."""
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:2]))
    running = AnchorFolder.open(anchor.folder)
    anchor.append([entry(2)])
    anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:2]))
    assert running.sizes() == [2]
    assert running.published() == anchor.checkpoint(2)
    assert running.receipt(0).verify(entry(0), running.signers, running.policy).size == 2
    assert running.append([entry(3)]) == range(3, 4)
    assert running.published() == anchor.checkpoint(3)
    AnchorFolder.open(anchor.folder).add_cosignatures(cosigned(running.checkpoint(), *WITNESSES[:2]))
    anchor.check()
    assert anchor.published() == running.checkpoint(4)


def test_a_file_whose_name_is_no_size_is_no_checkpoint(tmp_path: Path) -> None:
    anchor = made(tmp_path, 3)
    anchor.set_policy(POLICY)
    anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:3]))
    for name in ("007", "٣", "²", "+3", "3.txt", "9" * 30, "9" * 200):
        (anchor.folder / "cosigned" / name).write_bytes(b"")
    assert AnchorFolder.open(anchor.folder).sizes() == [3]


def test_the_remains_of_a_killed_write_are_no_checkpoint(tmp_path: Path) -> None:
    anchor = made(tmp_path, 1)
    anchor.set_policy(POLICY)
    anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:2]))
    (anchor.folder / "cosigned" / ".1.part").write_bytes(b"half a")
    again = AnchorFolder.open(anchor.folder)
    again.check()
    assert again.sizes() == [1]
    again.add_cosignatures(cosigned(again.checkpoint(), WITNESSES[2]))
    assert len(again.cosigned_by(1)) == 3


def test_a_witnesss_name_tells_nothing_but_its_key(tmp_path: Path) -> None:
    names = {witness_name(witness.public_key) for witness in WITNESSES}
    assert len(names) == 4
    assert all(name.startswith("witness-") and len(name) == 16 for name in names)


# Receipts.


def test_a_receipt_stands_under_the_newest_published_checkpoint_that_covers_its_entry(tmp_path: Path) -> None:
    anchor = made(tmp_path)
    anchor.set_policy(POLICY)
    for size in range(1, 6):
        anchor.append([entry(size - 1)])
        if size in (2, 4):
            anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:2]))
    for index in range(5):
        receipt = anchor.receipt(index)
        assert receipt.extra == entry(index)
        checkpoint = receipt.verify(entry(index), anchor.signers)
        assert checkpoint.size == (4 if index < 4 else 5)
        verify_inclusion_of(receipt, index, checkpoint)
        if index < 4:
            receipt.verify(entry(index), anchor.signers, anchor.policy)
        else:
            with pytest.raises(QuorumMissing):
                receipt.verify(entry(index), anchor.signers, anchor.policy)
    for index in (-1, 5, 100):
        with pytest.raises(NotAnchored):
            anchor.receipt(index)


def verify_inclusion_of(receipt: Receipt, index: int, checkpoint: Checkpoint) -> None:
    from anchoring.merkle import leaf_hash

    verify_inclusion(index, checkpoint.size, leaf_hash(entry(index)), receipt.proof, checkpoint.root)


# Two at once.


def test_two_processes_that_append_lose_nothing(tmp_path: Path) -> None:
    anchor = made(tmp_path)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(Path(__file__).resolve().parents[2]), str(anchor.folder), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    try:
        outputs = [process.communicate("go\n", timeout=60)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0]
    anchor.log.refresh()
    anchor.check()
    entries = list(anchor.log.entries())
    assert len(entries) == 50
    for name, output in zip(("one", "two"), outputs, strict=True):
        indices = [int(line) for line in output.split()]
        assert [entries[index] for index in indices] == [f"{name} {number}".encode() for number in range(25)]


def test_a_writer_that_finds_the_log_locked_writes_nothing(tmp_path: Path) -> None:
    anchor = made(tmp_path, 1)
    before = contents_of(anchor.folder)
    handle = locked(anchor.folder / "log")
    try:
        with pytest.raises(LogLocked):
            anchor.append([entry(1)])
    finally:
        handle.release()
    assert contents_of(anchor.folder) == before
    assert anchor.append([entry(1)]) == range(1, 2)


def test_a_folder_that_is_open_twice_follows_what_the_other_appended(tmp_path: Path) -> None:
    one = made(tmp_path, 1)
    two = AnchorFolder.open(one.folder)
    for number in range(1, 9):
        assert (one if number % 2 else two).append([entry(number)]) == range(number, number + 1)
    require_same_history(one, 9)


def test_a_damaged_tile_is_named_and_not_the_checkpoint_that_it_does_not_fit(tmp_path: Path) -> None:
    anchor = made(tmp_path)
    anchor.set_policy(POLICY)
    anchor.append([entry(number) for number in range(200)])
    anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:2]))
    anchor.append([entry(number) for number in range(200, 300)])
    path = anchor.folder / "log" / "tile" / "0" / "000"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = AnchorFolder.open(anchor.folder)
    for look in (lambda: again.checkpoint(200), again.published, lambda: again.receipt(5), again.check):
        with pytest.raises(LogCorrupt) as caught:
            look()
        assert caught.value.where == str(path)


def test_cosignatures_of_a_witness_that_no_longer_counts_stay_explained_and_do_not_count(tmp_path: Path) -> None:
    anchor = made(tmp_path, 2)
    anchor.set_policy(POLICY)
    anchor.add_cosignatures(cosigned(anchor.checkpoint(), *WITNESSES[:2]))
    assert anchor.is_published(2)
    anchor.set_policy(WitnessPolicy(2, KEYS[1:4]))
    again = AnchorFolder.open(anchor.folder)
    again.check()
    assert not again.is_published(2)  # one of the two is gone
    again.set_policy(POLICY)
    again.check()
    assert again.is_published(2)
    path = anchor.folder / "cosigned" / "2"
    path.write_text(cosigned(path.read_text(encoding="utf-8"), signer_of("stranger", "stranger")), encoding="utf-8")
    with pytest.raises(CheckpointInvalid, match="none of the log's keys"):
        AnchorFolder.open(anchor.folder).check()
