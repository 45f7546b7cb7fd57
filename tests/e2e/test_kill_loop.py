"""Server and sites killed at random moments: the run finishes, no round counts twice, ledgers and log agree."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from joined_federation import SITES
from live_federation import LiveFederation, live_federation

from client.ledger import PrivacyLedger
from server.anchor_audit import audit

pytestmark = [pytest.mark.rare, pytest.mark.timeout(2400)]

KILLS = 21
ROUNDS = 40
SERVER, SUPERLINK, APPLICATION = "server", "server.superlink", "flwr-serverapp"


def below(process: int) -> list[int]:
    """A process's children, their children and so on."""
    done = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True)
    children: dict[int, list[int]] = {}
    for line in done.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, rest = [], [process]
    while rest:
        more = children.get(rest.pop(), [])
        found += more
        rest += more
    return found


def running(live: LiveFederation, program: str) -> int | None:
    """The process of the server that runs a program, None where there is none now."""
    for process in below(live.processes[SERVER].pid):
        command = Path(f"/proc/{process}/cmdline")
        if command.exists() and program.encode() in command.read_bytes():
            return process
    return None


def kill_something(live: LiveFederation, chance: random.Random) -> str:
    """Kill a site, the SuperLink, the application of the run, or the server; start again what nobody else does."""
    what = chance.choice([*SITES, SERVER, SUPERLINK, SUPERLINK, APPLICATION, APPLICATION])
    if what in SITES:
        live.kill(what)
        time.sleep(chance.uniform(0, 2))
        live.start_site(what)
    elif what == SERVER:
        live.kill(SERVER)
        time.sleep(chance.uniform(0, 2))
        live.start_server()
    elif (process := running(live, what)) is not None:
        os.kill(process, signal.SIGKILL)
    else:
        return ""
    return what


def is_over(live: LiveFederation, run: str) -> bool:
    return (live.output(run) / "federation.json").is_file()


def resume(live: LiveFederation, run: str) -> None:
    """As an operator does who sees that nothing goes on; the server may be on its way back."""
    command = ("server", "submit", "--folder", live.coordinator.folder, "--resume", run)
    limit = time.monotonic() + 180
    while time.monotonic() < limit:
        try:
            live.djms(*command)
            return
        except AssertionError:
            if is_over(live, run):
                return
            time.sleep(2)
    raise AssertionError(f"{run} could not be resumed")


def test_a_run_survives_a_score_of_kills_and_every_account_of_it_agrees(tmp_path: Path, small_federation: Path) -> None:
    chance = random.Random(20261125)
    tables = {name: small_federation / f"{name}.csv" for name in SITES}
    killed: list[str] = []
    with live_federation(tmp_path, tables) as live:
        live.start_server()
        live.start_sites()
        quick = ("--federated.wait-timeout", 120, "--federated.round-timeout", 20, "--federated.max-abandoned", 30)
        run = live.submit("--federated.rounds", ROUNDS, "--privacy.budget.max-epsilon", 3, *quick)
        while len(killed) < KILLS:
            time.sleep(chance.uniform(2, 10))
            assert not is_over(live, run), f"the run was over after {len(killed)} kills"
            if what := kill_something(live, chance):
                killed.append(what)
            if what in (SERVER, APPLICATION):
                resume(live, run)
        last = time.monotonic()
        while not is_over(live, run):
            assert time.monotonic() - last < 1200, f"the run does not end; killed: {killed}"
            time.sleep(5)
            if (live.output(run) / "error.json").is_file():
                resume(live, run)
        result = live.result(run, seconds=1)
        rows = live.rounds(run)
        assert [int(row["round"]) for row in rows] == list(range(1, ROUNDS + 1)), killed
        finished = [row for row in rows if row["status"] == "finished"]
        assert finished
        audit(live.coordinator.folder / "log")
        assert 0 < result["differential_privacy"]["epsilon"] <= 1
        events = json.loads((live.output(run) / "privacy_ledger.json").read_text(encoding="utf-8"))
        for name, site in live.sites.items():
            ledger = PrivacyLedger.open(site.ledger / "ledger.sqlite", create=False)
            numbers = [entry["round"] for entry in ledger.export(run)]
            assert len(numbers) == len(set(numbers)), (name, killed)  # nobody paid twice for a round
            assert 0 < ledger.spent(1e-6).epsilon <= 1, (name, killed)  # nor more in all than the run may cost
            executed = {event["round"] for event in events if (event["site"], event["purpose"]) == (name, "training")}
            assert executed <= set(numbers), (name, killed)  # what the coordinator says was done, the site wrote down
