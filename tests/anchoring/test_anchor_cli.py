"""`djms anchor` as it is typed: what it says, how it ends, and that a receipt with one wrong byte is no receipt."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anchored_log import manifest_of, signer_of

from anchoring.anchor_folder import AnchorFolder
from anchoring.cosignature import WitnessKey, cosign
from anchoring.errors import AnchoringError
from anchoring.manifest import PrivacyRecord, RoundRecord
from anchoring.signers import Signers
from anchoring.verification import read_policy, read_signers, verify_receipt
from common.errors import DjmsError

ORIGIN = "test.example/commands"
SITES = tuple(f"{number:032x}" for number in range(5))

Djms = Callable[..., Any]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of one's own, and spare the disk: nothing here is about durability."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def log(djms: Djms) -> AnchorFolder:
    """A log in `log` with the models 0 to 3 of a run, the last one released, and something else at 4."""
    assert djms("anchor", "init", "--anchor", "log", "--origin", ORIGIN).code == 0
    return filled(AnchorFolder.open(Path("log")))


def filled(anchor: AnchorFolder) -> AnchorFolder:
    record = RoundRecord(
        number=3, status="finished", cohort=SITES[:3], dropouts=SITES[3:], weight=90.0, metrics={"auc": 0.5}
    )
    privacy = PrivacyRecord(unit="candidate", epsilon=0.51234, delta=1e-6, event={}, ledger_sha256="0" * 64)
    for number in range(3):
        anchor.append([manifest_of(number, model_sha256=model(number)[1]).to_bytes()])
    released = manifest_of(
        3, model_sha256=model(3)[1], released=True, rounds=(record,), privacy=privacy, metrics={"auc": 0.75}
    )
    anchor.append([released.to_bytes(), b'{"type":"test.other/v1"}'])
    return anchor


def model(number: int) -> tuple[Path, str]:
    """A file, and its hash as the log has it."""
    content = f"the model {number}".encode()
    path = Path(f"model-{number}")
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def witnesses(djms: Djms, count: int) -> list[str]:
    """So many witnesses in `w0`, `w1`, …; returns their public keys."""
    made = [
        djms("anchor", "witness", "init", f"w{at}", "--signers", "log/signers.json", "--json") for at in range(count)
    ]
    assert [one.code for one in made] == [0] * count
    return [one.data["key"] for one in made]


def cosigned_by(djms: Djms, *numbers: int, size: int = 5) -> list[str]:
    for at in numbers:
        assert djms("anchor", "witness", "cosign", f"w{at}", "--log", "log").code == 0
    return [f"w{at}/cosigned-{size}.checkpoint" for at in numbers]


@pytest.fixture
def published(djms: Djms, log: AnchorFolder) -> AnchorFolder:
    """The log, cosigned by two of its three witnesses, which is its quorum."""
    djms("anchor", "witness", "trust", *witnesses(djms, 3), "--quorum", "2", "--anchor", "log")
    assert djms("anchor", "witness", "collect", *cosigned_by(djms, 0, 2), "--anchor", "log").code == 0
    return AnchorFolder.open(log.folder)


def require_refused(outcome: Any, code: int, *words: str) -> None:
    """The command failed with this code, said one sentence with these words, and left standard output empty."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.endswith(".\n")
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err, outcome.err
    assert "PRIVATE" not in outcome.err.replace("PRIVATE+KEY+name+id+base64", "")


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# init, rotate, log


def test_init_makes_a_log_and_says_its_public_key_and_where_the_private_one_is(djms: Djms) -> None:
    made = djms("anchor", "init", "--anchor", "log", "--origin", ORIGIN, "--json")
    assert made.code == 0
    signers = AnchorFolder.open(Path("log")).signers
    assert made.data == {
        "origin": ORIGIN,
        "folder": "log",
        "key": signers.keys[0].key.to_text(),
        "signers": "log/signers.json",
    }
    assert stat.S_IMODE(Path("log/keys").stat().st_mode) == 0o700
    text = djms("anchor", "init", "--anchor", "another").out
    assert "A new log: djms-log-" in text
    assert "another/keys" in text
    assert "PRIVATE" not in text + made.out


def test_init_without_a_folder_makes_the_log_of_the_settings(djms: Djms) -> None:
    assert djms("anchor", "init", "--json").data["folder"] == "data/anchoring"
    assert djms("anchor", "log", "--json").data["size"] == 0
    assert djms("anchor", "init", "--paths.anchor_dir", "other", "--json").data["folder"] == "other"


def test_init_refuses_a_folder_with_something_in_it_and_a_name_that_cannot_be(djms: Djms, log: AnchorFolder) -> None:
    before = contents_of(log.folder)
    require_refused(djms("anchor", "init", "--anchor", "log"), 1, "log: there is something in the folder")
    assert contents_of(log.folder) == before
    require_refused(djms("anchor", "init", "--anchor", "new", "--origin", "two words"), 1, "its name")
    assert not Path("new").exists()


def test_commands_on_a_log_that_is_not_there_make_none(djms: Djms) -> None:
    for command in (["log"], ["prove", "0"], ["rotate"], ["audit"]):
        require_refused(
            djms("anchor", *command, "--anchor", "nothing"), 1, "nothing: there is no log", "djms anchor init"
        )
    assert not Path("nothing").exists()


def test_log_lists_the_entries_and_none_is_published_without_witnesses(djms: Djms, log: AnchorFolder) -> None:
    data = djms("anchor", "log", "--anchor", "log", "--json").data
    assert set(data) == {"origin", "size", "root", "published_size", "quorum", "entries"}
    assert (data["origin"], data["size"], data["root"]) == (ORIGIN, 5, log.log.root().hex())
    assert (data["published_size"], data["quorum"]) == (0, None)
    assert [one["index"] for one in data["entries"]] == list(range(5))
    assert [one["what"] for one in data["entries"]] == ["model"] * 3 + ["released model", "test.other/v1"]
    assert [one["published"] for one in data["entries"]] == [False] * 5
    assert data["entries"][3] == {
        "index": 3,
        "type": "djms.round/v1",
        "published": False,
        "what": "released model",
        "run": "run",
        "round": 3,
        "sha256": model(3)[1],
        "epsilon": 0.51234,
    }
    text = djms("anchor", "log", "--anchor", "log").out
    assert "5 entries, no witnesses are named yet." in text
    assert "0.512" in text
    assert model(3)[1][:16] in text


def test_log_says_which_entries_are_published_and_which_are_not(djms: Djms, log: AnchorFolder) -> None:
    djms("anchor", "witness", "trust", *witnesses(djms, 2), "--quorum", "2", "--anchor", "log")
    assert "none published yet: 2 witnesses must cosign" in djms("anchor", "log", "--anchor", "log").out
    djms("anchor", "witness", "collect", *cosigned_by(djms, 0, 1), "--anchor", "log")
    AnchorFolder.open(log.folder).append([b'{"type":"test.other/v1"}'])
    data = djms("anchor", "log", "--anchor", "log", "--json").data
    assert (data["size"], data["published_size"], data["quorum"]) == (6, 5, 2)
    assert [one["published"] for one in data["entries"]] == [True] * 5 + [False]
    assert "6 entries, the first 5 published: cosigned by 2 witnesses" in djms("anchor", "log", "--anchor", "log").out


def test_log_names_the_entry_that_is_no_manifest_though_it_says_so(djms: Djms, log: AnchorFolder) -> None:
    log.append([b'{"type":"djms.round/v1"}'])
    require_refused(djms("anchor", "log", "--anchor", "log"), 2, "entry 5 of the log: it is no manifest")


def test_rotate_says_the_new_key_and_from_where_it_signs(djms: Djms, log: AnchorFolder) -> None:
    old = log.signers.keys[0].key
    data = djms("anchor", "rotate", "--anchor", "log", "--json").data
    signers = AnchorFolder.open(log.folder).signers
    assert data == {"origin": ORIGIN, "key": signers.keys[1].key.to_text(), "keys": 2, "first_size": 5}
    assert data["key"] != old.to_text()
    assert "From 5 entries on, a new key signs" in djms("anchor", "rotate", "--anchor", "log").out
    assert len(list(Path("log/keys").iterdir())) == 1


def test_rotate_without_the_private_key_changes_nothing(djms: Djms, log: AnchorFolder) -> None:
    shutil.rmtree(log.folder / "keys")
    before = contents_of(log.folder)
    require_refused(djms("anchor", "rotate", "--anchor", "log"), 1, "private key of the log is missing")
    assert contents_of(log.folder) == before


# prove and verify


def test_a_receipt_is_proven_by_place_or_model_and_verified_offline(djms: Djms, log: AnchorFolder) -> None:
    by_place = djms("anchor", "prove", "2", "--anchor", "log", "--json")
    assert by_place.data == {
        "index": 2,
        "receipt": "entry-2.tlog-proof",
        "size": 5,
        "cosigned": 0,
        "published": False,
    }
    path, sha256 = model(2)
    by_model = djms("anchor", "prove", "--model", path, "--anchor", "log", "--out", "sub/receipt")
    assert by_model.code == 0
    assert (
        "Receipt of entry 2 under the checkpoint of 5 entries, cosigned by 0; it is not published yet" in by_model.out
    )
    assert Path("sub/receipt").read_bytes() == Path("entry-2.tlog-proof").read_bytes()
    shutil.move("log/signers.json", "signers.json")
    shutil.rmtree("log")
    verified = djms("anchor", "verify", "sub/receipt", "--signers", "signers.json", "--model", path, "--json")
    assert verified.code == 0
    assert set(verified.data) == {
        "valid", "type", "index", "origin", "size", "root", "witnesses_checked", "cosigned", "entry"
    }  # fmt: skip
    assert (verified.data["valid"], verified.data["type"], verified.data["index"]) == (True, "djms.round/v1", 2)
    assert (verified.data["origin"], verified.data["size"]) == (ORIGIN, 5)
    assert (verified.data["witnesses_checked"], verified.data["cosigned"]) == (False, [])
    assert verified.data["entry"] == json.loads(manifest_of(2, model_sha256=sha256).to_bytes())


def test_verify_says_what_was_checked_and_what_was_not(djms: Djms, published: AnchorFolder) -> None:
    djms("anchor", "prove", "3", "--anchor", "log")
    key = published.signers.keys[0].key.to_text()
    text = djms("anchor", "verify", "entry-3.tlog-proof", "--key", key).out
    assert "The receipt is right." in text
    assert f"Entry 3 of 5 in the log {ORIGIN}; witnesses were not checked." in text
    assert "the model that the run released after round 3 of the run run" in text
    assert "3 with a part, 2 without" in text
    assert "ε 0.512 for each person, δ 1e-06" in text
    assert "(this file)" not in text
    path, sha256 = model(3)
    arguments = ("--key", key, "--witnesses", "log/witnesses.json", "--model", path)
    text = djms("anchor", "verify", "entry-3.tlog-proof", *arguments).out
    assert "cosigned by 2 witnesses." in text
    assert f"{sha256} (this file)" in text
    data = djms("anchor", "verify", "entry-3.tlog-proof", *arguments, "--json").data
    assert data["witnesses_checked"] is True
    assert len(data["cosigned"]) == 2
    assert {set(one) == {"witness", "time"} for one in data["cosigned"]} == {True}


def test_verify_knows_entries_that_are_no_models(djms: Djms, log: AnchorFolder) -> None:
    djms("anchor", "prove", "4", "--anchor", "log")
    outcome = djms("anchor", "verify", "entry-4.tlog-proof", "--signers", "log/signers.json")
    assert outcome.code == 0
    assert "an entry of the kind test.other/v1" in outcome.out
    path, _ = model(3)
    refused = djms("anchor", "verify", "entry-4.tlog-proof", "--signers", "log/signers.json", "--model", path)
    require_refused(refused, 2, "model-3: the model file is not the model of entry-4.tlog-proof")


@pytest.mark.parametrize("arguments", [[], ["0", "--model", "model-0"]])
def test_prove_wants_one_entry(djms: Djms, log: AnchorFolder, arguments: list[str]) -> None:
    require_refused(djms("anchor", "prove", *arguments, "--anchor", "log"), 1, "one entry is to be named")


@pytest.mark.parametrize("place", ["5", "99999999999999999999", "-1"])
def test_prove_knows_no_entry_outside_the_log(djms: Djms, log: AnchorFolder, place: str) -> None:
    refused = djms("anchor", "prove", "--anchor", "log", "--", place)
    require_refused(refused, 1, f"the log has 5 entries and none at {place}")
    assert list(Path().glob("*.tlog-proof")) == []


def test_prove_names_the_model_that_is_not_in_the_log_or_not_there(djms: Djms, log: AnchorFolder) -> None:
    Path("stranger").write_bytes(b"another model")
    require_refused(djms("anchor", "prove", "--model", "stranger", "--anchor", "log"), 1, "stranger: no entry")
    require_refused(
        djms("anchor", "prove", "--model", "absent", "--anchor", "log"), 1, "absent: the model file does not"
    )


def test_prove_names_the_newest_entry_of_a_model_that_stands_twice(djms: Djms, log: AnchorFolder) -> None:
    path, sha256 = model(1)
    log.append([manifest_of(1, run="second", model_sha256=sha256).to_bytes()])
    assert djms("anchor", "prove", "--model", path, "--anchor", "log", "--json").data["index"] == 5


def test_every_flipped_byte_of_a_receipt_is_refused(published: AnchorFolder) -> None:
    """Of the whole file: header, entry, index, proof, checkpoint, the log's signature and both cosignatures."""
    signers, policy = published.signers, published.policy
    path = Path("receipt")
    whole = published.receipt(3).to_text().encode()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(AnchoringError) as caught:
            verify_receipt(path, signers, policy)
        assert str(caught.value).startswith("receipt: "), place
    path.write_bytes(whole)
    verify_receipt(path, signers, policy)


def test_a_flipped_byte_in_any_line_of_a_receipt_is_refused_by_the_command(djms: Djms, published: AnchorFolder) -> None:
    assert djms("anchor", "prove", "3", "--anchor", "log", "--out", "receipt").code == 0
    shutil.copy("receipt", "whole")
    arguments = ("--signers", "log/signers.json", "--witnesses", "log/witnesses.json")
    assert djms("anchor", "verify", "receipt", *arguments).code == 0
    whole = Path("receipt").read_bytes()
    at, places = 0, set()
    for line in whole.splitlines(keepends=True):
        places |= {at + len(line) * part // 5 for part in range(5) if line} | {at + len(line) - 1}
        at += len(line)
    assert len(places) >= 60
    for place in sorted(places):
        Path("receipt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        require_refused(djms("anchor", "verify", "receipt", *arguments), 2, "receipt: ")


@pytest.mark.parametrize("content", [b"", b"\n", b"c2sp.org/tlog-proof@v1\n", b"\xff\xfe\x00", b"\x00" * 100, b"{}"])
def test_what_is_no_receipt_is_refused(djms: Djms, log: AnchorFolder, content: bytes) -> None:
    Path("receipt").write_bytes(content)
    require_refused(djms("anchor", "verify", "receipt", "--signers", "log/signers.json"), 2, "receipt: ")


def test_a_receipt_without_its_entry_is_refused(djms: Djms, log: AnchorFolder) -> None:
    lines = log.receipt(0).to_text().split("\n")
    Path("receipt").write_text("\n".join([lines[0], *lines[2:]]), encoding="utf-8")
    require_refused(djms("anchor", "verify", "receipt", "--signers", "log/signers.json"), 2, "it carries no entry")


def test_a_receipt_whose_entry_is_no_manifest_though_it_says_so_is_refused(djms: Djms, log: AnchorFolder) -> None:
    log.append([b'{"type":"djms.round/v1"}'])
    djms("anchor", "prove", "5", "--anchor", "log", "--out", "receipt")
    require_refused(djms("anchor", "verify", "receipt", "--signers", "log/signers.json"), 2, "receipt: ", "no manifest")


def test_another_logs_signers_or_another_key_verify_nothing(djms: Djms, log: AnchorFolder) -> None:
    djms("anchor", "prove", "1", "--anchor", "log", "--out", "receipt")
    for name, origin in (("other", "test.example/other"), ("namesake", ORIGIN)):
        djms("anchor", "init", "--anchor", name, "--origin", origin)
        require_refused(djms("anchor", "verify", "receipt", "--signers", f"{name}/signers.json"), 2, "receipt: ")
    key = AnchorFolder.open(Path("namesake")).signers.keys[0].key.to_text()
    require_refused(djms("anchor", "verify", "receipt", "--key", key), 2, "receipt: ", "none of the keys")


def test_a_receipt_from_before_a_change_of_keys_verifies_after_it(djms: Djms, log: AnchorFolder) -> None:
    djms("anchor", "prove", "1", "--anchor", "log", "--out", "receipt")
    shutil.copy("log/signers.json", "old.json")
    djms("anchor", "rotate", "--anchor", "log")
    log = AnchorFolder.open(Path("log"))
    log.append([b'{"type":"test.other/v1"}'])
    djms("anchor", "prove", "5", "--anchor", "log", "--out", "late")
    for receipt in ("receipt", "late"):
        assert djms("anchor", "verify", receipt, "--signers", "log/signers.json").code == 0
    assert djms("anchor", "verify", "receipt", "--signers", "old.json").code == 0
    require_refused(djms("anchor", "verify", "late", "--signers", "old.json"), 2, "late: ", "present signers")


def test_a_quorum_that_is_not_reached_is_refused_and_the_missing_are_named(djms: Djms, log: AnchorFolder) -> None:
    keys = witnesses(djms, 3)
    djms("anchor", "witness", "trust", *keys, "--quorum", "2", "--anchor", "log")
    proven = djms("anchor", "prove", "1", "--anchor", "log", "--out", "receipt")
    assert "not published yet" in proven.out
    arguments = ("--signers", "log/signers.json", "--witnesses", "log/witnesses.json")
    names = [key.partition("+")[0] for key in keys]
    require_refused(djms("anchor", "verify", "receipt", *arguments), 2, "0 of the 2 witnesses", *names)
    djms("anchor", "witness", "collect", *cosigned_by(djms, 1), "--anchor", "log")
    djms("anchor", "prove", "1", "--anchor", "log", "--out", "receipt")
    require_refused(djms("anchor", "verify", "receipt", *arguments), 2, "1 of the 2 witnesses", names[0], names[2])
    djms("anchor", "witness", "collect", *cosigned_by(djms, 2), "--anchor", "log")
    proven = djms("anchor", "prove", "1", "--anchor", "log", "--out", "receipt", "--json")
    assert (proven.data["cosigned"], proven.data["published"]) == (2, True)
    assert djms("anchor", "verify", "receipt", *arguments).code == 0


def test_another_model_file_is_refused(djms: Djms, log: AnchorFolder) -> None:
    djms("anchor", "prove", "1", "--anchor", "log", "--out", "receipt")
    other, _ = model(2)
    refused = djms("anchor", "verify", "receipt", "--signers", "log/signers.json", "--model", other)
    require_refused(refused, 2, "model-2: the model file is not the model of receipt")
    mine, _ = model(1)
    for content in (b"the model 1\n", b"the model", b""):
        mine.write_bytes(content)
        refused = djms("anchor", "verify", "receipt", "--signers", "log/signers.json", "--model", mine)
        require_refused(refused, 2, "model-1: the model file is not")


def test_what_verify_needs_and_does_not_get_is_bad_input(djms: Djms, log: AnchorFolder) -> None:
    djms("anchor", "prove", "1", "--anchor", "log", "--out", "receipt")
    signers = ("--signers", "log/signers.json")
    key = log.signers.keys[0].key.to_text()
    require_refused(djms("anchor", "verify", "receipt"), 1, "whose signature is to count")
    require_refused(djms("anchor", "verify", "receipt", *signers, "--key", key), 1, "whose signature is to count")
    require_refused(djms("anchor", "verify", "absent", *signers), 1, "absent: the receipt does not exist")
    require_refused(djms("anchor", "verify", ".", *signers), 1, "the receipt does not exist")
    require_refused(djms("anchor", "verify", "receipt", "--signers", "absent"), 1, "absent: the file of the log's")
    require_refused(
        djms("anchor", "verify", "receipt", *signers, "--witnesses", "absent"), 1, "absent: the file of the"
    )
    require_refused(djms("anchor", "verify", "receipt", *signers, "--model", "absent"), 1, "absent: the model file")
    require_refused(djms("anchor", "verify", "receipt", "--key", key[:-1]), 1, "key: ")
    for content in (b"", b"{}", b"\xff", b'{"origin":"x","keys":[]}'):
        Path("damaged").write_bytes(content)
        require_refused(djms("anchor", "verify", "receipt", "--signers", "damaged"), 1, "damaged: ")
        require_refused(djms("anchor", "verify", "receipt", *signers, "--witnesses", "damaged"), 1, "damaged: ")
        with pytest.raises(DjmsError, match="damaged"):
            read_signers(Path("damaged"), None)
        with pytest.raises(DjmsError, match="damaged"):
            read_policy(Path("damaged"))


def test_with_json_a_failure_is_one_object_too(djms: Djms, log: AnchorFolder) -> None:
    Path("receipt").write_bytes(b"no receipt")
    outcome = djms("anchor", "verify", "receipt", "--signers", "log/signers.json", "--json")
    assert outcome.code == 2
    assert outcome.data == {"error": outcome.err.rstrip("\n"), "exit_code": 2}


# witness


def test_a_witness_is_made_on_purpose_and_once(djms: Djms, log: AnchorFolder) -> None:
    made = djms("anchor", "witness", "init", "w", "--signers", "log/signers.json", "--anchor-every-n", "3", "--json")
    assert made.data["origin"] == ORIGIN
    key = WitnessKey.from_text(made.data["key"])
    assert key.name == f"witness-{WitnessKey('witness', key.public_key).key_id.hex()}"
    assert "anchor_every_n: 3" in Path("w/witness.yaml").read_text(encoding="utf-8")
    assert {stat.S_IMODE(path.stat().st_mode) for path in Path("w").iterdir()} == {0o600}
    before = contents_of(Path("w"))
    again = djms("anchor", "witness", "init", "w", "--signers", "log/signers.json")
    require_refused(again, 1, "w: there is a witness in the folder already")
    assert contents_of(Path("w")) == before
    require_refused(djms("anchor", "witness", "init", "v", "--signers", "absent"), 1, "absent: ")
    require_refused(djms("anchor", "witness", "cosign", "v", "--log", "log"), 1, "v/signers.json: the file is missing")
    assert not Path("v").exists()


def test_a_witness_follows_a_log_that_grows(djms: Djms, log: AnchorFolder) -> None:
    witnesses(djms, 1)
    first = djms("anchor", "witness", "cosign", "w0", "--log", "log", "--json")
    assert first.data == {"origin": ORIGIN, "size": 5, "before": 0, "cosigned": "w0/cosigned-5.checkpoint"}
    log.append([b'{"type":"test.other/v1"}'] * 300)
    text = djms("anchor", "witness", "cosign", "w0", "--log", "log", "--out", "out/cosigned").out
    assert "has 305 entries and extends the 5 seen before; cosigned: out/cosigned" in text
    again = djms("anchor", "witness", "cosign", "w0", "--log", "log", "--json")
    assert (again.data["before"], again.data["size"]) == (305, 305)


def test_a_witness_refuses_a_log_that_was_rolled_back_rewritten_or_is_another(djms: Djms, log: AnchorFolder) -> None:
    witnesses(djms, 1)
    shutil.copytree("log", "backup")
    log.append([b'{"type":"test.other/v1"}'])
    cosigned_by(djms, 0, size=6)
    state = contents_of(Path("w0"))
    refused = djms("anchor", "witness", "cosign", "w0", "--log", "backup")
    require_refused(refused, 2, "its tree has 5 leaves and had 6 before")
    for more in (1, 5):
        rewritten = AnchorFolder.open(Path("backup"))
        rewritten.append([b'{"type":"test.rewritten/v1"}'] * more)
        refused = djms("anchor", "witness", "cosign", "w0", "--log", "backup")
        require_refused(refused, 2, "does not continue the one of 6")
    djms("anchor", "init", "--anchor", "other", "--origin", "test.example/other")
    require_refused(djms("anchor", "witness", "cosign", "w0", "--log", "other"), 2, "other/log/checkpoint: ")
    assert contents_of(Path("w0")) == state


def test_a_witness_whose_state_is_lost_or_damaged_signs_nothing(djms: Djms, log: AnchorFolder) -> None:
    witnesses(djms, 2)
    cosigned_by(djms, 0, 1)
    Path("w0/state.json").unlink()
    require_refused(djms("anchor", "witness", "cosign", "w0", "--log", "log"), 1, "w0/state.json: the file is missing")
    state = Path("w1/state.json").read_bytes()
    for damage in (b"", b"{}", state[:-3], state.replace(b'"size": 5', b'"size": "5"'), state.replace(b"5", b"-5")):
        Path("w1/state.json").write_bytes(damage)
        require_refused(djms("anchor", "witness", "cosign", "w1", "--log", "log"), 2, "restore it from a backup")
        assert Path("w1/state.json").read_bytes() == damage


@pytest.mark.parametrize("name", ["signers.json", "witnesses.json", "witness.key", "witness.yaml", "state.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe"])
def test_a_damaged_file_of_a_witness_is_named(djms: Djms, log: AnchorFolder, name: str, damage: bytes) -> None:
    djms("anchor", "witness", "trust", *witnesses(djms, 1), "--quorum", "1", "--anchor", "log")
    djms("anchor", "witness", "init", "w", "--signers", "log/signers.json", "--witnesses", "log/witnesses.json")
    path = Path("w") / name
    path.write_bytes(damage)
    if name == "witness.yaml" and damage == b"{}":  # it says nothing, and the defaults hold
        assert djms("anchor", "witness", "cosign", "w", "--log", "log").code == 0
        return
    outcome = djms("anchor", "witness", "cosign", "w", "--log", "log")
    assert outcome.code in (1, 2)
    require_refused(outcome, outcome.code, f"w/{name}")


def test_a_witness_goes_on_after_a_change_of_keys_when_it_has_the_new_signers(djms: Djms, log: AnchorFolder) -> None:
    witnesses(djms, 1)
    cosigned_by(djms, 0)
    djms("anchor", "rotate", "--anchor", "log")
    AnchorFolder.open(log.folder).append([b'{"type":"test.other/v1"}'])
    before = contents_of(Path("w0"))
    require_refused(djms("anchor", "witness", "cosign", "w0", "--log", "log"), 2, "none of the keys")
    assert contents_of(Path("w0")) == before
    shutil.copy("log/signers.json", "w0/signers.json")
    assert djms("anchor", "witness", "cosign", "w0", "--log", "log", "--json").data["before"] == 5


def test_trust_adds_witnesses_and_never_takes_one_away(djms: Djms, log: AnchorFolder) -> None:
    keys = witnesses(djms, 3)
    first = djms("anchor", "witness", "trust", keys[0], "--quorum", "1", "--anchor", "log", "--json")
    assert first.data == {"quorum": 1, "witnesses": [keys[0]]}
    more = djms("anchor", "witness", "trust", keys[0], *keys[1:], "--quorum", "3", "--anchor", "log")
    assert f"3 of 3 witnesses must cosign a checkpoint of {ORIGIN}." in more.out
    before = Path("log/witnesses.json").read_bytes()
    assert read_policy(Path("log/witnesses.json")).quorum == 3  # type: ignore[union-attr]
    require_refused(djms("anchor", "witness", "trust", keys[0], "--quorum", "4", "--anchor", "log"), 1, "quorum is 4")
    require_refused(djms("anchor", "witness", "trust", keys[0], "--quorum", "0", "--anchor", "log"), 1)
    require_refused(djms("anchor", "witness", "trust", "no key", "--quorum", "1", "--anchor", "log"), 1, "key: ")
    own = log.signers.keys[0].key.to_text()
    require_refused(djms("anchor", "witness", "trust", own, "--quorum", "1", "--anchor", "log"), 1, "key of type 1")
    assert Path("log/witnesses.json").read_bytes() == before


def test_a_witness_that_is_named_anew_keeps_what_it_cosigned(djms: Djms, published: AnchorFolder) -> None:
    assert published.policy is not None
    renamed = [
        WitnessKey(f"office-{at}", key.public_key).to_text() for at, key in enumerate(published.policy.witnesses)
    ]
    assert djms("anchor", "witness", "trust", *renamed, "--quorum", "2", "--anchor", "log").code == 0
    assert djms("anchor", "log", "--anchor", "log", "--json").data["published_size"] == 5


def test_collect_says_whether_the_checkpoint_is_published(djms: Djms, log: AnchorFolder) -> None:
    djms("anchor", "witness", "trust", *witnesses(djms, 3), "--quorum", "2", "--anchor", "log")
    files = cosigned_by(djms, 0, 1, 2)
    one = djms("anchor", "witness", "collect", files[0], "--anchor", "log")
    assert "The checkpoint of 5 entries is cosigned by 1, which is not enough yet to be published." in one.out
    again = djms("anchor", "witness", "collect", files[0], files[0], "--anchor", "log", "--json")
    assert again.data == {"size": 5, "cosigned": 1, "published": False}
    rest = djms("anchor", "witness", "collect", *files[1:], "--anchor", "log")
    assert "is cosigned by 3, which is enough to be published." in rest.out


def test_collect_takes_nothing_where_one_file_is_wrong_and_names_it(djms: Djms, log: AnchorFolder) -> None:
    keys = witnesses(djms, 3)
    djms("anchor", "witness", "trust", *keys[:2], "--quorum", "2", "--anchor", "log")
    good, second, stranger = cosigned_by(djms, 0, 1, 2)
    before = contents_of(log.folder)
    text = Path(second).read_text(encoding="utf-8")
    at = text.rindex(" ") + 30
    djms("anchor", "init", "--anchor", "other", "--origin", "test.example/other")
    other = cosign(AnchorFolder.open(Path("other")).checkpoint(), signer_of("w", "w"), 1)
    for damage in (
        b"",
        b"\xff",
        f"{text[:at]}{'A' if text[at] != 'A' else 'B'}{text[at + 1 :]}".encode(),
        other.encode(),
    ):
        Path("damaged").write_bytes(damage)
        require_refused(djms("anchor", "witness", "collect", good, "damaged", "--anchor", "log"), 2, "damaged: ")
    refused = djms("anchor", "witness", "collect", good, stranger, "--anchor", "log")
    require_refused(refused, 1, f"{stranger}: it has no cosignature of a witness that counts")
    require_refused(djms("anchor", "witness", "collect", good, "absent", "--anchor", "log"), 1, "absent: ")
    assert contents_of(log.folder) == before


def test_a_witness_goes_on_cosigning_while_the_quorum_is_missing_so_that_it_can_come_back(
    djms: Djms, log: AnchorFolder
) -> None:
    keys = witnesses(djms, 2)
    djms("anchor", "witness", "trust", *keys, "--quorum", "2", "--anchor", "log")
    djms("anchor", "witness", "init", "w", "--signers", "log/signers.json", "--witnesses", "log/witnesses.json")
    for more in range(6):
        assert djms("anchor", "witness", "cosign", "w", "--log", "log").code == 0, more
        log.append([b'{"type":"test.other/v1"}'])
    done = djms("anchor", "witness", "collect", *cosigned_by(djms, 0, 1, size=11), "--anchor", "log")
    assert done.code == 0, done.err
    assert djms("anchor", "witness", "cosign", "w", "--log", "log").code == 0


# audit


def test_the_audit_names_what_does_not_fit_and_says_whom_it_believed(djms: Djms) -> None:
    djms("anchor", "init", "--anchor", "log", "--origin", ORIGIN)
    anchor = AnchorFolder.open(Path("log"))
    anchor.append([b'{"type":"test.other/v1"}'] * 3)
    djms("anchor", "prove", "1", "--anchor", "log", "--out", "receipt")
    outcome = djms("anchor", "audit", "--anchor", "log")
    assert outcome.code == 0
    assert f"Everything fits in the log {ORIGIN}." in outcome.out
    assert "3 (3 test.other/v1), every one replayed" in outcome.out
    assert "the signers in the folder itself: bring your own" in outcome.out
    shutil.copy("log/signers.json", "signers.json")
    arguments = ("--signers", "signers.json", "--earlier", "receipt")
    data = djms("anchor", "audit", "--anchor", "log", *arguments, "--json").data
    assert data == {
        "origin": ORIGIN,
        "size": 3,
        "checkpoints": 1,
        "published": 0,
        "runs": 0,
        "models": 0,
        "earlier": 1,
        "entries": {"test.other/v1": 3},
        "own_signers": True,
        "passed": True,
    }
    assert "the signers you brought" in djms("anchor", "audit", "--anchor", "log", *arguments).out
    require_refused(djms("anchor", "audit", "--anchor", "log", "--earlier", "absent"), 1, "absent: ")
    tile = Path("log/log/tile/entries/000.p/3")
    tile.write_bytes(tile.read_bytes().replace(b"other", b"OTHER", 1))
    require_refused(djms("anchor", "audit", "--anchor", "log"), 2, str(tile))
    signers = Signers.of(signer_of(ORIGIN, "somebody else").verifier_key)
    Path("signers.json").write_text(signers.to_json(), encoding="utf-8")
    require_refused(djms("anchor", "audit", "--anchor", "log", "--signers", "signers.json"), 2, "log/log/checkpoint")
