"""A network that is cut for a minute heals by itself: server and sites in network namespaces, with a link between."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from joined_federation import SITES
from live_federation import live_federation, until

pytestmark = [pytest.mark.rare, pytest.mark.timeout(2400)]

CUT_SECONDS = 75.0
ROUNDS = 30
FAR = "CPI_Vicenza"
NEAR_SPACE, FAR_SPACE = f"djms-near-{os.getpid()}", f"djms-far-{os.getpid()}"
NEAR, AWAY = "10.203.77.1", "10.203.77.2"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def link() -> Iterator[str]:
    """Two namespaces with a link; gives the name of the near end. Nothing of it is seen from outside."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need the program ip, and root")
    if subprocess.run(["ip", "netns", "add", NEAR_SPACE], capture_output=True, timeout=20).returncode != 0:
        pytest.skip("this machine makes no network namespaces")
    try:
        try:
            ip("netns", "add", FAR_SPACE)
            ip("-n", NEAR_SPACE, "link", "add", "near", "type", "veth", "peer", "name", "away", "netns", FAR_SPACE)
            ip("-n", NEAR_SPACE, "addr", "add", f"{NEAR}/24", "dev", "near")
            ip("-n", FAR_SPACE, "addr", "add", f"{AWAY}/24", "dev", "away")
            for space, device in ((NEAR_SPACE, "near"), (FAR_SPACE, "away"), (NEAR_SPACE, "lo"), (FAR_SPACE, "lo")):
                ip("-n", space, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no links between network namespaces ({error.stderr.decode().strip()})")
        yield "near"
    finally:
        for space in (NEAR_SPACE, FAR_SPACE):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, timeout=20)


def test_a_site_whose_line_is_cut_for_over_a_minute_is_back_by_itself_and_takes_part_again(
    link: str, tmp_path: Path, small_federation: Path
) -> None:
    tables = {name: small_federation / f"{name}.csv" for name in SITES}
    spaces = dict.fromkeys((*SITES, "server"), NEAR_SPACE) | {FAR: FAR_SPACE}
    with live_federation(tmp_path, tables, host=NEAR, namespaces=spaces) as live:
        live.start_server()
        live.start_sites()
        quick = ("--federated.rounds", ROUNDS, "--federated.wait-timeout", 60, "--federated.round-timeout", 30)
        run = live.submit(*quick)
        until("the first round ends", lambda: len(live.rounds(run)) >= 1, seconds=240)
        ip("-n", NEAR_SPACE, "link", "set", link, "down")
        cut = time.monotonic()
        before = len(live.rounds(run))
        until("a round goes on without it", lambda: len(live.rounds(run)) >= before + 2, seconds=180)
        time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - cut)))
        ip("-n", NEAR_SPACE, "link", "set", link, "up")
        healed = len(live.rounds(run))
        until("the site is connected again", lambda: live.is_connected(FAR), seconds=60)
        result = live.result(run, seconds=600)
        rows = live.rounds(run)
    assert [row["round"] for row in rows] == [str(number) for number in range(1, ROUNDS + 1)]
    assert [row["status"] for row in rows] == ["finished"] * ROUNDS
    assert "4" in {row["sites"] for row in rows[before : healed + 1]}
    assert "5" in {row["sites"] for row in rows[healed:]}
    assert FAR in result["cohort"]
