"""The nightly backup: whole while its folder is at work, and nothing old comes back by unpacking it."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
from joined_federation import added, new_federation, new_site, newest

from client.ledger_file import LedgerFile, read_entries
from client.site_folder import SiteFolder
from common.cli import run
from common.errors import InputError
from privacy.events import PrivacyEvent
from server.federation_folder import FederationFolder

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/backup.py"
EVENT = PrivacyEvent(
    mechanism="gaussian",
    unit="candidate",
    site="CPI_Verona",
    noise_multiplier=20.0,
    sampling_rate=1.0,
    steps=4,
    neighbouring_relation="add-or-remove-one",
    purpose="training",
    run="2026-01",
    round=1,
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("djms_backup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def back_up(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """Run the backup as cron does; gives the archive."""

    def call(*arguments: object) -> Path:
        capsys.readouterr()
        code = run(script.app, [*(str(argument) for argument in arguments), "--json"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return Path(json.loads(printed.out)["archive"])

    return call


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    federation = new_federation(tmp_path / "coordinator")
    made = new_site(tmp_path / "site", "CPI_Verona")
    added(federation, made)
    made.join(newest(federation), federation.fingerprint)
    (made.folder / "table.csv").write_text("codice,nome\n1,Maria\n", encoding="utf-8")
    (made.folder / "runs").mkdir()
    (made.folder / "runs/secret.bin").write_bytes(b"a run's own memory")
    return made


def names_in(archive: Path) -> set[str]:
    with tarfile.open(archive) as opened:
        return set(opened.getnames())


def unpack(archive: Path, part: str, into: Path) -> None:
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            if member.name.startswith(f"{part}/"):
                member.name = member.name.removeprefix(f"{part}/")
                opened.extract(member, into, filter="data")


def test_a_site_comes_back_without_what_an_old_copy_must_not_replace(
    site: SiteFolder, back_up: Callable[..., Path], tmp_path: Path
) -> None:
    archive = back_up(site.folder, tmp_path / "archives")
    restored = tmp_path / "restored"
    unpack(archive, "restore", restored)
    again = SiteFolder(restored)
    assert again.membership() == site.membership()
    assert again.keys().public == site.keys().public
    for gone in ("ledger/ledger.sqlite", "ledger/ledger.sqlite.head", "witness/state.json", "runs", "table.csv"):
        assert not (restored / gone).exists(), gone
    unpack(archive, "set-aside", restored)
    assert read_entries(restored / "ledger/ledger.sqlite") == ()
    assert (restored / "witness/state.json").read_bytes() == (site.folder / "witness/state.json").read_bytes()


def test_no_persons_record_is_in_a_backup(site: SiteFolder, back_up: Callable[..., Path], tmp_path: Path) -> None:
    with tarfile.open(back_up(site.folder, tmp_path / "archives")) as opened:
        for member in opened.getmembers():
            file = opened.extractfile(member)
            assert file is None or b"Maria" not in file.read()


def test_a_coordinator_comes_back_without_its_root_key_and_its_log_set_aside(
    site: SiteFolder, back_up: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "coordinator"
    names = names_in(archive := back_up(folder, tmp_path / "archives"))
    assert not {Path(name).name for name in names} & {"root.pem", "ca.key"}
    assert not [name for name in names if name.startswith("restore/log/")]
    restored = tmp_path / "restored"
    unpack(archive, "restore", restored)
    unpack(archive, "set-aside", restored)
    assert FederationFolder(restored).newest_text() == FederationFolder(folder).newest_text()
    assert (restored / "log/signers.json").read_bytes() == (folder / "log/signers.json").read_bytes()


def test_every_copy_of_a_ledger_is_whole_while_the_ledger_grows(
    site: SiteFolder, back_up: Callable[..., Path], tmp_path: Path
) -> None:
    ledger = LedgerFile.open(site.ledger / "ledger.sqlite", create=False)
    ended, written = threading.Event(), []

    def write() -> None:
        while not ended.wait(0.002):
            with ledger.locked() as entries:
                event = replace(EVENT, round=len(written) + 1)
                written.append(entries.append("reserved", None, event, datetime.now(UTC)))

    thread = threading.Thread(target=write)
    thread.start()
    counts = []
    try:
        for number in range(10):
            archive = back_up(site.folder, tmp_path / "archives")
            unpack(archive, "set-aside", tmp_path / str(number))
            counts.append(len(read_entries(tmp_path / str(number) / "ledger/ledger.sqlite")))
    finally:
        ended.set()
        thread.join()
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= len(written)
    assert len(set(counts)) > 3  # it did grow meanwhile


def test_any_other_database_is_copied_with_what_is_in_its_write_ahead_log(
    site: SiteFolder, back_up: Callable[..., Path], tmp_path: Path
) -> None:
    connection = sqlite3.connect(tmp_path / "coordinator/history.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE rounds (number INTEGER)")
    connection.execute("INSERT INTO rounds VALUES (7)")
    connection.commit()
    assert (tmp_path / "coordinator/history.db-wal").stat().st_size > 0
    archive = back_up(tmp_path / "coordinator", tmp_path / "archives")
    connection.close()
    assert not [name for name in names_in(archive) if name.endswith(("-wal", "-shm"))]
    unpack(archive, "restore", tmp_path / "restored")
    restored = sqlite3.connect(tmp_path / "restored/history.db")
    assert restored.execute("SELECT number FROM rounds").fetchall() == [(7,)]
    restored.close()


def test_only_the_last_archives_of_this_kind_stay_and_only_their_owner_reads_them(
    site: SiteFolder, back_up: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "archives"
    other = back_up(tmp_path / "coordinator", out)
    made = [back_up(site.folder, out, "--keep", 2) for _ in range(4)]
    assert sorted(out.iterdir()) == sorted([other, *made[-2:]])
    assert stat.S_IMODE(made[-1].stat().st_mode) == 0o600
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


def test_a_backup_that_fails_leaves_no_archive_and_removes_none(
    site: SiteFolder, back_up: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "archives"
    before = [back_up(site.folder, out) for _ in range(2)]
    (site.ledger / "ledger.sqlite").write_bytes(b"no database at all, but long enough to look at " * 100)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(site.folder), str(out), "--keep", "1"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "the database cannot be copied" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(out.iterdir()) == before


def test_what_is_no_folder_of_ours_and_a_place_inside_it_are_refused(
    script: ModuleType, site: SiteFolder, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="neither a site's folder nor a coordinator's"):
        script.kind_of(tmp_path)
    assert run(script.app, [str(site.folder), str(site.folder / "archives")]) == 1
    assert not (site.folder / "archives").exists()
