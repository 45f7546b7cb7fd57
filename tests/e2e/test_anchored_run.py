"""A private, secure, anchored run end to end: its receipts alone prove it, and whatever is altered is found."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from go_verifier import built_verifier, needs_go

from anchoring.anchor_folder import AnchorFolder
from anchoring.cosignature import WitnessKey
from anchoring.receipt import Receipt
from client.witness_folder import WitnessFolder

Djms = Callable[..., Outcome]
OFFICES = ("CPI_Padova", "CPI_Treviso", "CPI_Venezia", "CPI_Verona", "CPI_Vicenza")
ROUNDS = 10


def federate(djms: Djms, data: Path, folder: Path, name: str, *flags: Any) -> Outcome:
    places = [("--ledger_dir", "ledgers"), ("--anchor_dir", "log"), ("--witness_dir", "witnesses")]
    where = [part for flag, place in places for part in (flag, folder / place)]
    return djms("federate", "--data", data, "--out", folder / name, *where, *flags, "--json")


@pytest.fixture(scope="module")
def anchored_run(small_federation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log and one finished run of ten rounds: secure aggregation, ε = 1, anchoring."""
    folder = tmp_path_factory.mktemp("anchored")
    command = Path(sys.executable).with_name("djms")
    subprocess.run([command, "anchor", "init", "--anchor", folder / "log", "--origin", "test.example/log"], check=True)
    places = ["--ledger_dir", folder / "ledgers", "--anchor_dir", folder / "log", "--witness_dir", folder / "witnesses"]
    done = subprocess.run(
        [command, "federate", "--data", small_federation, "--out", folder / "run", *places, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_ten_rounds_verify_from_the_receipts_alone(djms: Djms, anchored_run: Path, tmp_path: Path) -> None:
    """What an auditor has years later: the receipts, the log's public key, the witnesses' keys. No log, no store."""
    shutil.copytree(anchored_run / "run" / "receipts", tmp_path / "receipts")
    for name in ("signers.json", "witnesses.json"):
        shutil.copy(anchored_run / "log" / name, tmp_path / name)
    known = ("--signers", tmp_path / "signers.json", "--witnesses", tmp_path / "witnesses.json", "--json")
    receipts = sorted((tmp_path / "receipts").iterdir())
    expected = [f"round-{number:03}.tlog-proof" for number in range(ROUNDS + 1)]
    assert [path.name for path in receipts] == ["released.tlog-proof", *expected]
    manifests = []
    for path in receipts[1:]:
        done = djms("anchor", "verify", path, *known)
        assert done.code == 0, done.err
        assert len(done.data["cosigned"]) == len(OFFICES)
        manifests.append(done.data["entry"])
    assert [manifest["round"] for manifest in manifests] == list(range(ROUNDS + 1))
    spent = [manifest["privacy"]["epsilon"] for manifest in manifests[1:]]
    assert spent == sorted(spent)
    assert 0.99 < spent[-1] <= 1.0
    for before, after in pairwise(manifests):
        assert after["previous"] == hashlib.sha256(_canonical(before)).hexdigest()
        (record,) = after["rounds"]
        assert (record["status"], len(record["cohort"]), record["dropouts"]) == ("finished", 5, [])
    released = djms("anchor", "verify", receipts[0], *known, "--model", anchored_run / "run" / "model.safetensors")
    assert released.code == 0, released.err
    model = anchored_run / "run" / "model.safetensors"
    assert released.data["entry"]["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert released.data["entry"]["card"]["epsilon"] == pytest.approx(spent[-1], rel=1e-9)


@needs_go
@pytest.mark.slow
def test_gos_own_packages_verify_the_log_its_cosignatures_and_every_receipt(anchored_run: Path, tmp_path: Path) -> None:
    log = AnchorFolder.open(anchored_run / "log")
    assert log.policy is not None
    arguments = ["-log", anchored_run / "log" / "log", "-key", log.signers.keys[0].key.to_text()]
    for path in sorted((anchored_run / "run" / "receipts").iterdir()):
        entry = tmp_path / f"{path.stem}.entry"
        entry.write_bytes(Receipt.from_text(path.read_bytes()).extra or b"")
        arguments += ["-receipt", path, "-entry", entry]
    shutil.copytree(anchored_run / "log" / "log", tmp_path / "log")
    (tmp_path / "log" / "checkpoint").write_text(log.checkpoint(), encoding="utf-8")  # the cosigned one
    arguments[1] = tmp_path / "log"
    witnesses = [part for key in log.policy.witnesses for part in ("-witness", key.to_text())]
    go = built_verifier(tmp_path / "go")
    command = [go, "verify", *arguments, "-quorum", log.policy.quorum, *witnesses]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    stranger = ["-witness", WitnessKey("nobody", bytes(32)).to_text()]
    command = [go, "verify", *arguments, "-quorum", 1, *stranger]
    refused = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1


@pytest.mark.slow
def test_the_summary_the_log_and_every_offices_witness_say_the_same(anchored_run: Path) -> None:
    summary = json.loads((anchored_run / "run" / "summary.json").read_text(encoding="utf-8"))
    log = AnchorFolder.open(anchored_run / "log")
    assert summary["protections"] == dict.fromkeys(("differential_privacy", "secure_aggregation", "anchoring"), True)
    said = summary["anchoring"]
    assert (said["size"], said["root"]) == (log.log.size, log.log.root().hex())
    assert (said["cosigned"], said["published"], said["quorum"]) == (5, True, 3)
    for office in OFFICES:
        assert WitnessFolder(anchored_run / "witnesses" / office).size() == log.log.size


@pytest.mark.slow
def test_the_audit_recomputes_everything_and_finds_an_altered_model(
    djms: Djms, anchored_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(anchored_run / "log", tmp_path / "log")
    kept = anchored_run / "run" / "receipts" / "round-003.tlog-proof"
    signers = ("--signers", anchored_run / "log" / "signers.json")
    fine = djms("anchor", "audit", "--anchor", tmp_path / "log", *signers, "--earlier", kept, "--json")
    assert fine.code == 0, fine.err
    assert fine.data["models"] == ROUNDS + 2
    model = hashlib.sha256((anchored_run / "run" / "model.safetensors").read_bytes()).hexdigest()
    stored = tmp_path / "log" / "store" / model[:2] / model[2:]
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    found = djms("anchor", "audit", "--anchor", tmp_path / "log", *signers)
    assert found.code == 2
    assert str(stored) in found.err


@pytest.mark.slow
def test_nothing_that_is_published_names_an_office_or_a_person(anchored_run: Path) -> None:
    public = [path for path in (anchored_run / "log").rglob("*") if path.is_file() and path.parent.name != "keys"]
    public += list((anchored_run / "run" / "receipts").iterdir())
    assert len(public) > 30
    for path in public:
        content = path.read_bytes()
        assert not [office for office in OFFICES if office.encode() in content], path
        assert b"C0000" not in content, path


@pytest.mark.slow
def test_a_second_run_goes_on_in_the_same_log_and_its_witnesses_refuse_a_log_that_was_restored_from_before_it(
    djms: Djms, small_federation: Path, anchored_run: Path, tmp_path: Path
) -> None:
    for name in ("log", "witnesses", "ledgers"):
        shutil.copytree(anchored_run / name, tmp_path / name)
    plain = ("--privacy.enabled", "false", "--federated.local_epochs", "1", "--federated.rounds", "1")
    second = federate(djms, small_federation, tmp_path, "second", *plain)
    assert second.code == 0, second.err
    assert second.data["anchoring"]["size"] == ROUNDS + 2 + 3
    assert second.data["anchoring"]["published"]
    shutil.rmtree(tmp_path / "log")
    shutil.copytree(anchored_run / "log", tmp_path / "log")
    refused = federate(djms, small_federation, tmp_path, "third", *plain)
    assert refused.code == 2
    assert f"its tree has {ROUNDS + 3} leaves and had {ROUNDS + 5} before" in refused.err
    assert not (tmp_path / "third" / "model.safetensors").exists()


def _canonical(manifest: dict[str, Any]) -> bytes:
    import rfc8785

    return rfc8785.dumps(manifest)
