"""A federation of separate, authenticated processes: what runs, what is turned away, and what survives being killed."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from joined_federation import SITES, newest, revoked
from joined_federation import new_site as unknown_site
from live_federation import ROOT, LiveFederation, live_federation, until

from client.approvals import Approvals
from client.ledger import PrivacyLedger
from client.node import NodeStatus
from common.messages import PROTOCOL_VERSION
from common.run_terms import RunTerms
from common.settings_loading import load_settings
from server.anchor_audit import audit
from server.control import FINISHED
from server.coordinator import control_of
from server.submission import new_job

pytestmark = pytest.mark.slow

ROUNDS = 14
QUICK = ("--federated.rounds", 3, "--federated.wait-timeout", 60, "--federated.round-timeout", 90)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, small_federation: Path) -> Iterator[LiveFederation]:
    tables = {name: small_federation / f"{name}.csv" for name in SITES}
    with live_federation(tmp_path_factory.mktemp("live"), tables) as live:
        live.start_server()
        live.start_sites()
        yield live


def test_a_secure_private_anchored_run_over_tls_finishes_though_a_site_is_killed_and_comes_back(
    federation: LiveFederation,
) -> None:
    run = federation.submit(*QUICK, "--federated.rounds", ROUNDS)
    until("the first round ends", lambda: len(federation.rounds(run)) >= 1, seconds=180)
    federation.kill("CPI_Verona")

    def is_missed() -> bool:
        shown = federation.djms("server", "status", "--folder", federation.coordinator.folder)
        assert shown["running"]
        assert (shown["run"]["name"], shown["run"]["status"], shown["run"]["rounds"]) == (run, "running", ROUNDS)
        states = {site["name"]: site["connected"] for site in shown["sites"]}
        return not states["CPI_Verona"] and any("CPI_Verona" in sentence for sentence in shown["todo"])

    until("the screen says who is missing", is_missed, seconds=60)
    federation.start_sites("CPI_Verona")
    back = len(federation.rounds(run))
    result = federation.result(run, seconds=240)
    rows = federation.rounds(run)
    assert [row["round"] for row in rows] == [str(number) for number in range(1, ROUNDS + 1)]
    assert "4" in {row["sites"] for row in rows}
    assert "5" in {row["sites"] for row in rows[back + 1 :]}, "the site that came back takes part again"
    assert rows[0]["status"] == "finished"
    assert result["secure_aggregation"]["cohort"]
    assert 0 < result["differential_privacy"]["epsilon"] <= 1
    assert result["anchoring"]["published"]


def test_the_ledgers_and_the_log_agree_on_what_was_done(federation: LiveFederation) -> None:
    run = next(path.name for path in (federation.coordinator.folder / "runs").iterdir())
    audit(federation.coordinator.folder / "log")
    for name, site in federation.sites.items():
        ledger = PrivacyLedger.open(site.ledger / "ledger.sqlite", create=False)
        done = [entry["round"] for entry in ledger.export(run)]
        assert len(done) == len(set(done)), name
        assert set(done) <= set(range(1, ROUNDS + 1))


def test_the_configuration_of_a_run_names_no_path_and_no_setting_of_the_coordinator(federation: LiveFederation) -> None:
    run = control_of(federation.coordinator).runs()[0]
    assert run.bundle_sha256 == federation.bundle.sha256
    edition = newest(federation.coordinator)
    assert set(RunTerms.of(run.name, edition).to_config()) == {"run", "djms", "protocol", "edition"}
    assert str(federation.folder) not in edition


def test_a_site_that_was_never_added_is_turned_away_with_the_reason(federation: LiveFederation) -> None:
    site = unknown_site(federation.folder / "sites" / "CPI_Rovigo", "CPI_Rovigo")
    known = federation.sites["CPI_Verona"].folder
    for name in ("membership.json", "federation.pem", "ca.pem", "roster.yaml", "witness/signers.json"):
        shutil.copy(known / name, site.folder / name)
    shutil.copy(known / "witness" / "state.json", site.folder / "witness" / "state.json")
    Approvals(site.folder).approve(federation.bundle)
    federation.sites["CPI_Rovigo"] = site
    federation.tables["CPI_Rovigo"] = federation.tables["CPI_Verona"]
    federation.start_site("CPI_Rovigo")
    assert federation.ended("CPI_Rovigo") != 0
    del federation.sites["CPI_Rovigo"]
    assert "does not let this site in" in federation.said("CPI_Rovigo")


def test_a_second_process_of_one_site_is_refused(federation: LiveFederation) -> None:
    folder, table = federation.sites["CPI_Verona"].folder, federation.tables["CPI_Verona"]
    again = federation.djms("client", "start", "--folder", folder, "--table", table, code=2)
    assert "running already" in again["error"]


def test_a_bundle_that_sites_did_not_approve_is_refused_and_the_coordinator_reads_why(
    federation: LiveFederation, tmp_path: Path
) -> None:
    altered = copied_application(tmp_path / "app")
    (altered / "common" / "__init__.py").write_text('"""Another one."""\n', encoding="utf-8")
    run = federation.submit(*QUICK, "--federated.max-abandoned", 1, "--app", altered)
    error = federation.error(run, seconds=120)
    assert "is not approved at this site" in error
    assert "CPI_Verona refused" in error
    told = federation.djms("client", "status", "--folder", federation.sites["CPI_Verona"].folder)
    assert told["offered"] is not None
    assert "not approved" in told["last_refusal"]
    shown = federation.djms("client", "approve", "--folder", federation.sites["CPI_Verona"].folder)
    assert shown["sha256"] == federation.bundle.sha256  # what is installed is still what is approved
    until("the run is over", lambda: not is_going(federation), seconds=60)


def test_versions_that_do_not_fit_refuse_each_other_before_the_round_and_name_both(federation: LiveFederation) -> None:
    quick = ["federated.max_abandoned=1", "federated.rounds=1", "federated.wait_timeout=60"]
    settings = load_settings(quick, environment={})
    job = new_job(federation.coordinator, settings, labels="rule", synthetic=True)
    from flwr.cli.build import build_fab_from_disk

    terms = RunTerms(job.run, "9.9.9", PROTOCOL_VERSION + 1, newest(federation.coordinator))
    control_of(federation.coordinator).start(build_fab_from_disk(ROOT), terms.to_config())
    error = federation.error(job.run, seconds=120)
    assert f"DJMS 9.9.9 (protocol {PROTOCOL_VERSION + 1})" in error
    assert f"(protocol {PROTOCOL_VERSION})" in error
    spent = PrivacyLedger.open(federation.sites["CPI_Verona"].ledger / "ledger.sqlite", create=False)
    assert spent.export(job.run) == []
    until("the run is over", lambda: not is_going(federation), seconds=60)


def test_a_revoked_site_is_put_out_within_seconds_and_turned_away_ever_after(federation: LiveFederation) -> None:
    revoked(federation.coordinator, "CPI_Treviso")
    assert federation.ended("CPI_Treviso", seconds=60) != 0
    assert "revoked" in federation.said("CPI_Treviso")
    federation.start_site("CPI_Treviso")
    assert federation.ended("CPI_Treviso") != 0
    for name in set(SITES) - {"CPI_Treviso"}:
        assert federation.is_connected(name), name
    shown = federation.djms("server", "status", "--folder", federation.coordinator.folder)
    assert {site["name"] for site in shown["sites"]} == set(SITES) - {"CPI_Treviso"}


def test_processes_that_are_asked_to_end_end_well(federation: LiveFederation) -> None:
    assert federation.end("CPI_Padova") == 0
    status = NodeStatus.read(federation.sites["CPI_Padova"].folder)
    assert status is not None
    assert not status.connected
    assert datetime.fromisoformat(status.changed) <= datetime.now(UTC)
    assert federation.djms("server", "stop", "--folder", federation.coordinator.folder)["ended"]
    assert federation.ended("server") == 0


def is_going(federation: LiveFederation) -> bool:
    return any(run.status != FINISHED for run in control_of(federation.coordinator).runs())


def copied_application(folder: Path) -> Path:
    """The application's sources, as a coordinator could alter them."""
    rooms = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["fab-include"]
    folder.mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    for pattern in rooms:
        for path in ROOT.glob(pattern):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder
