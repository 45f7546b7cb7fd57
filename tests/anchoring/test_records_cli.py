"""`djms anchor records` as it is typed: what it writes, what it says, how it ends, and what it never shows."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anchoring.anchor_folder import AnchorFolder
from anchoring.cosignature import WitnessKey, WitnessPolicy, cosign
from anchoring.note import Signer, new_private_key
from anchoring.record_release import RecordRelease, is_pending
from anchoring.records import RecordReceipt

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = "example.org/log"
TABLE = 'Codice,Nome e cognome,Note\n11,Nicolò Esposito,"prima, riga"\n22,Zoe Quattrocchi,\n33,Anna Brambilla,x\n'
PERSONAL = ("Nicol", "Esposito", "Zoe", "Quattrocchi", "Brambilla", "Nome e cognome", "prima, riga")


Records = Callable[..., Any]


@pytest.fixture
def records(djms: Callable[..., Any]) -> Records:
    """Call the group in this process: `records("commit", file)`."""
    return lambda *arguments: djms("anchor", "records", *arguments)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of one's own, and spare the disk: nothing here is about durability."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    Path("table.csv").write_text(TABLE, encoding="utf-8")


@pytest.fixture
def log() -> AnchorFolder:
    """A log where the settings look for it."""
    return AnchorFolder.create(Path("data/anchoring"), ORIGIN)


def files() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*")}


def one_folder(parent: str = "data/records") -> Path:
    (folder,) = Path(parent).iterdir()
    return folder


def test_a_table_is_committed_verified_erased_and_listed(log: AnchorFolder, records: Records) -> None:
    made = records("commit", "table.csv")
    assert (made.code, made.err) == (0, "")
    folder = one_folder()
    assert made.out.startswith("Committed: 3 rows, as entry 0 of the log 'example.org/log'. Nothing personal is in the")
    assert f"Receipts: {folder}/receipts; row-000001.tlog-proof is" in made.out
    following = made.out.strip().splitlines()[-1].removeprefix("Next: djms anchor records ").split()
    verified = records(*following)
    assert verified.code == 0
    assert verified.out.startswith("Verified: 3 receipts.")
    assert f"row 2 of 3 in the release {folder.name}" in verified.out
    assert "entry 0 of the log 'example.org/log', in its tree of 1; no witness was asked for" in verified.out
    erased = records("erase", "--release", folder, "--match", "Nome e cognome=Zoe Quattrocchi")
    assert erased.code == 0
    assert erased.out.startswith(f"Erased in {folder}: row 2.\n")
    assert "Out of reach: receipts that were given out, backups, and the table that was committed." in erased.out
    assert records(*following).out.startswith("Verified: 2 receipts.")
    listed = records("list")
    assert listed.out.splitlines()[3].split()[:4] == [folder.name, "3", "2", "1"]
    for outcome in (made, verified, erased, listed):
        assert not [one for one in PERSONAL if one in outcome.out + outcome.err]


def test_programs_are_told_everything_but_what_is_personal(log: AnchorFolder, records: Records) -> None:
    made = records("commit", "table.csv", "--out", "release", "--json")
    entry = RecordRelease.open(Path("release")).entry
    assert made.data == {
        "release": entry.release,
        "folder": "release",
        "receipts": "release/receipts",
        "rows": 3,
        "root": entry.root.hex(),
        "origin": ORIGIN,
        "entry": 0,
    }
    verified = records(
        "verify", "release/receipts/row-000002.tlog-proof", "--signers", log.folder / "signers.json", "--json"
    )
    assert verified.data["receipts"] == [
        {
            "receipt": "release/receipts/row-000002.tlog-proof",
            "release": entry.release,
            "row": 2,
            "rows": 3,
            "origin": ORIGIN,
            "entry": 0,
            "tree_size": 1,
            "cosignatures": 0,
            "witnesses": [],
        }
    ]
    erased = records("erase", "--release", "release", "--row", 3, "--row", 1, "--json")
    assert (erased.data["erased"], erased.data["erased_before"]) == ([1, 3], [])
    again = records("erase", "--release", "release", "--row", 3, "--json")
    assert (again.data["erased"], again.data["erased_before"]) == ([], [1, 3])
    listed = records("list", "--in", ".", "--json").data["releases"]
    assert [(one["folder"], one["rows"], one["held"], one["erased"]) for one in listed] == [("release", 3, 1, 2)]
    for outcome in (made, verified, erased, again):
        assert not [one for one in PERSONAL if one in outcome.out + outcome.err]


def test_a_row_is_shown_only_when_it_is_asked_for(log: AnchorFolder, records: Records) -> None:
    records("commit", "table.csv", "--out", "release")
    call = ("verify", "release/receipts/row-000001.tlog-proof", "--key", log.signers.keys[0].key.to_text())
    assert "Esposito" not in records(*call).out
    assert "    Nome e cognome: Nicolò Esposito\n    Note: prima, riga\n" in records(*call, "--show").out
    assert records(*call, "--show", "--json").data["receipts"][0]["record"] == {
        "Codice": "11",
        "Nome e cognome": "Nicolò Esposito",
        "Note": "prima, riga",
    }


def test_what_a_row_says_commands_no_terminal(log: AnchorFolder, records: Records) -> None:
    Path("table.csv").write_text('a\x1b]0;x\x07,b\n\x1b[2J\x9b31m,"1\r\n2\u202e"\n', encoding="utf-8", newline="")
    assert records("commit", "table.csv", "--out", "release").code == 0
    shown = records("verify", "release/receipts", "--signers", log.folder / "signers.json", "--show").out
    assert not [one for one in shown.replace("\n", "") if not one.isprintable()]
    assert r"\x1b[2J\x9b31m" in shown
    assert r"b: 1\r\n2\u202e" in shown


def test_a_receipt_needs_nothing_but_the_logs_signers(log: AnchorFolder, records: Records, tmp_path: Path) -> None:
    records("commit", "table.csv", "--out", "release")
    home = tmp_path / "owner's home"
    home.mkdir()
    shutil.copy("release/receipts/row-000003.tlog-proof", home / "mine.tlog-proof")
    shutil.copy(log.folder / "signers.json", home)
    shutil.rmtree("release")
    shutil.rmtree("data")
    code = (
        "import os, sys\n"
        "network = ('socket.connect', 'socket.getaddrinfo', 'socket.bind')\n"
        "sys.addaudithook(lambda event, _: os._exit(9) if event in network else None)\n"
        "from common.cli import run\n"
        "from djms import build\n"
        "sys.exit(run(build()))\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "anchor",
        "records",
        "verify",
        "mine.tlog-proof",
        "--signers",
        "signers.json",
    ]
    done = subprocess.run(
        command, cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "row 3 of 3" in done.stdout
    assert {path.name for path in home.iterdir()} == {"mine.tlog-proof", "signers.json"}


def test_the_first_receipt_that_does_not_fit_is_named_with_what_does_not(log: AnchorFolder, records: Records) -> None:
    records("commit", "table.csv", "--out", "release")
    path = Path("release/receipts/row-000002.tlog-proof")
    signers = log.folder / "signers.json"
    content = path.read_bytes()
    other = AnchorFolder.create(Path("other"), "example.org/other")
    for altered, what in (
        (
            content.replace(b"index 0", b"index 1"),
            "record's receipt: it is not proven that its release stands in the log",
        ),
        (content.replace(b"extra ", b"extra A"), "receipt: its extra data is no base64"),
        (
            content.replace(b"\n1\n", b"\n2\n"),
            "signed note: the signature in the name of 'example.org/log' is not by its",
        ),
        (content[:-9], "signed note: it does not end with a blank line and complete signature lines"),
        (b"", "receipt: it does not begin with"),
        (b"\x00" * 3_000_000, "receipt: it is longer than"),
    ):
        path.write_bytes(altered)
        outcome = records("verify", "release/receipts", "--signers", signers)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith(f"{path}: {what}")
        assert not [one for one in PERSONAL if one in outcome.err]
    path.write_bytes(content)
    assert records("verify", "release/receipts", "--signers", signers).code == 0
    stranger = records("verify", path, "--signers", other.folder / "signers.json")
    assert stranger.code == 2
    assert "checkpoint: it is not of the log 'example.org/other' but of another" in stranger.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("release/receipts",), "--signers"),
        (("release/receipts", "--signers", "data/anchoring/signers.json", "--key", "x"), "--signers"),
        (("release/receipts", "--key", "x"), "name+id+base64"),
        (("release/receipts", "--signers", "missing.json"), "missing.json"),
        (("release/receipts", "--signers", "table.csv"), "table.csv"),
        (("release/receipts", "--signers", "data/anchoring/signers.json", "--witnesses", "table.csv"), "table.csv"),
        (("missing.tlog-proof", "--signers", "data/anchoring/signers.json"), "missing.tlog-proof"),
        (("empty", "--signers", "data/anchoring/signers.json"), "empty: there is no receipt in this folder"),
        ((), "receipts"),
    ],
)
def test_what_cannot_be_verified_is_bad_input(
    log: AnchorFolder, records: Records, arguments: tuple[str, ...], said: str
) -> None:
    records("commit", "table.csv", "--out", "release")
    Path("empty").mkdir()
    outcome = records("verify", *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert said.lower() in outcome.err.lower()
    assert outcome.err.count("\n") == 1


def test_witnesses_count_for_receipts_that_were_reissued_after_they_cosigned(
    log: AnchorFolder, records: Records
) -> None:
    witness = Signer.from_text(new_private_key("torino"))
    log.set_policy(WitnessPolicy(1, (WitnessKey.of(witness),)))
    records("commit", "table.csv", "--out", "release")
    call = ("verify", "release/receipts", "--signers", log.folder / "signers.json")
    call = (*call, "--witnesses", log.folder / "witnesses.json")
    before = records(*call)
    assert before.code == 2
    assert "0 of the 1 witnesses" in before.err
    log.log.refresh()
    log.add_cosignatures(cosign(log.checkpoint(), witness, 1_700_000_000))
    assert records("reissue", "--release", "release").out == "Proven anew in release: 3 receipts.\n"
    assert "in its tree of 1; cosigned by 1 witness\n" in records(*call).out
    assert records(*call, "--json").data["receipts"][2]["witnesses"] == [{"name": "torino", "time": 1_700_000_000}]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"", "table.csv: the file has no header"),
        (b"Nome\n", "table.csv: the file has no row below its header"),
        (b"Nome,Nome\nsegreto,x\n", "table.csv, row 1: columns 1 and 2 have the same name"),
        (b"Nome,Codice\nsegreto\n", "table.csv, row 2: it has 1 cells, and the header 2"),
        (b"Nome,Codice\nx,y\nsegreto,1,2\n", "table.csv, row 3: it has 3 cells, and the header 2"),
        (b"Nome\nsegreto\xff\n", "table.csv, line 2: the file is not UTF-8"),
        (None, "table.csv: no such file"),
    ],
)
def test_a_table_that_is_none_writes_nothing_and_is_named_without_its_cells(
    log: AnchorFolder, records: Records, table: bytes | None, said: str
) -> None:
    Path("table.csv").unlink() if table is None else Path("table.csv").write_bytes(table)
    before = files()
    for arguments in (("table.csv",), ("table.csv", "--out", "release")):
        outcome = records("commit", *arguments)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.startswith(said)
        assert "segreto" not in outcome.err
        assert outcome.err.count("\n") == 1
    assert files() == before
    assert AnchorFolder.open(log.folder).log.size == 0


def test_a_log_is_never_made_by_committing_to_it(records: Records) -> None:
    before = files()
    outcome = records("commit", "table.csv")
    assert outcome.code == 1
    assert "data/anchoring: there is no log in this folder; make one with `djms anchor init`" in outcome.err
    assert records("commit", "table.csv", "--anchor", "nowhere").code == 1
    assert files() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("commit",),
        ("commit", "table.csv", "--resume", "release"),
        ("commit", "--resume", "release", "--out", "other"),
        ("commit", "--resume", "nowhere"),
        ("commit", "--resume", "release"),
        ("commit", "table.csv", "--out", "release"),
        ("erase", "--release", "release"),
        ("erase", "--release", "release", "--row", "1", "--match", "Codice=11"),
        ("erase", "--release", "release", "--row", "4"),
        ("erase", "--release", "release", "--row", "0"),
        ("erase", "--release", "release", "--match", "Esposito"),
        ("erase", "--release", "release", "--match", "Codice=11", "--match", "Codice=22"),
        ("erase", "--release", "release", "--match", "Esposito=1"),
        ("erase", "--release", "release", "--match", "Codice=Esposito"),
        ("erase", "--release", "nowhere", "--row", "1"),
        ("erase", "--row", "1"),
        ("reissue", "--release", "nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence_and_changes_nothing(
    log: AnchorFolder, records: Records, arguments: tuple[str, ...]
) -> None:
    records("commit", "table.csv", "--out", "release")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    outcome = records(*arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.count("\n") == 1
    assert "Esposito" not in outcome.err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_commit_that_was_cut_short_is_finished_before_another_is_begun(log: AnchorFolder, records: Records) -> None:
    with (log.folder / "log" / ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert records("commit", "table.csv").code == 2
    folder = one_folder()
    assert is_pending(folder)
    assert records("list").out.splitlines()[3].split()[0] == folder.name
    assert "unfinished" in records("list").out
    again = records("commit", "table.csv")
    assert again.code == 1
    assert f"finish it with `djms anchor records commit --resume {folder}`" in again.err
    for refused in (("erase", "--release", folder, "--row", 1), ("reissue", "--release", folder)):
        assert f"djms anchor records commit --resume {folder}" in records(*refused).err
    assert records("commit", "--resume", folder).code == 0
    assert records("commit", "table.csv").code == 0
    assert AnchorFolder.open(log.folder).log.size == len(list(Path("data/records").iterdir())) == 2


def test_a_commit_that_came_to_nothing_leaves_no_rows_lying_about(log: AnchorFolder, records: Records) -> None:
    killed = Path("data/records") / ("0" * 32)
    killed.mkdir(parents=True)
    (killed / ".lock").touch()
    (killed / ".pending.part").write_text("Nicolò Esp")
    assert records("commit", "table.csv").code == 0
    assert one_folder() != killed


def test_erasing_by_a_cell_says_how_many_rows_could_not_be_compared(log: AnchorFolder, records: Records) -> None:
    records("commit", "table.csv", "--out", "release")
    receipt = Path("release/receipts/row-000001.tlog-proof")
    receipt.replace("given.tlog-proof")
    outcome = records("erase", "--release", "release", "--match", "Codice=22", "--match", "Note=")
    assert outcome.code == 0
    assert "Erased in release: row 2." in outcome.out
    assert "The receipts of 1 row are not in the folder, so these could not be compared." in outcome.out
    assert RecordReceipt.from_text(Path("given.tlog-proof").read_bytes()).verify(log.signers).row == 1


def test_there_may_be_no_releases(records: Records) -> None:
    assert records("list").out == "No releases of records in data/records.\n"
    assert records("list", "--json").data == {"folder": "data/records", "releases": []}
