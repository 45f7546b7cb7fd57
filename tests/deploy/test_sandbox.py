"""The units' commands as they run there: under the system calls that the unit allows, and ended with SIGTERM."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import Outcome
from joined_federation import added, new_site, newest

from common.health import NotServing, check
from server.federation_folder import FederationFolder

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = Path("/usr/bin/python3")  # libseccomp's module is Debian's, not a wheel's
# Everything is refused but what is named, as systemd does it; then memory both writable and executable (PR_SET_MDWE).
SANDBOX = """
import ctypes, os, seccomp, sys
filter = seccomp.SyscallFilter(seccomp.ERRNO(1))
for name in sys.argv[1].split(","):
    if seccomp.resolve_syscall(seccomp.Arch(), name) != -1:
        filter.add_rule(seccomp.ALLOW, name)
filter.load()
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:
    sys.exit("no PR_SET_MDWE")
os.execv(sys.argv[2], sys.argv[2:])
"""


def sandbox_works() -> bool:
    if not SYSTEM_PYTHON.exists() or shutil.which("systemd-analyze") is None:
        return False
    probe = [str(SYSTEM_PYTHON), "-c", SANDBOX, ",".join(sorted(calls_of({"@system-service"}))), "/bin/true"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def calls_of(names: set[str]) -> set[str]:
    """System calls by name; a set's (`@network-io`) are those that this systemd puts in it."""
    found = {name for name in names if not name.startswith("@")}
    for group in names - found:
        listed = subprocess.run(
            ["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
        )
        lines = [line.strip() for line in listed.stdout.splitlines()[1:]]
        found |= calls_of({line for line in lines if line and not line.startswith("#")})
    return found


def allowed(unit: str) -> set[str]:
    """What the unit's SystemCallFilter lines leave."""
    calls: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.+)$", unit, re.M):
        names = calls_of(set(line.removeprefix("~").split()))
        calls = calls - names if line.startswith("~") else calls | names
    return calls | calls_of({"@default"})


@contextmanager
def started(name: str, change: Callable[[str], str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The unit's command in its sandbox, with this test's folders and ports."""
    unit = (ROOT / f"deploy/systemd/djms-{name}.service").read_text(encoding="utf-8")
    assert "MemoryDenyWriteExecute=yes" in unit
    line = re.search(r"^ExecStart=(.+)$", unit, re.M)
    assert line is not None
    command = shlex.split(change(line[1]).replace("/opt/djms/.venv", sys.prefix))
    sandbox = [str(SYSTEM_PYTHON), "-c", SANDBOX, ",".join(sorted(allowed(unit)))]
    with log.open("wb") as output:
        process = subprocess.Popen([*sandbox, *command], stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def wait_until_well(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    limit = time.monotonic() + 120
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit, log.read_text()
        try:
            return check(address, timeout=2)
        except NotServing:
            time.sleep(0.5)


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


@pytest.mark.slow
def test_server_and_site_work_within_their_units_and_end_in_good_order(
    djms: Callable[..., Outcome], tmp_path: Path
) -> None:
    if not sandbox_works():
        pytest.skip("systemd-analyze, Debian's python3-seccomp or a kernel with PR_SET_MDWE is missing")
    port, server_health, site_health = free_ports(3)
    federation = FederationFolder.create(tmp_path / "coordinator", "Prova", f"localhost:{port}", now=datetime.now(UTC))
    site = new_site(tmp_path / "site", "CPI_Verona")
    added(federation, site)
    site.join(newest(federation), federation.fingerprint)
    (site.folder / "table.csv").write_text("read when a run comes\n", encoding="utf-8")
    approved = djms("client", "approve", "--folder", site.folder, "--yes")
    assert approved.code == 0, approved.err

    def change(line: str) -> str:
        line = line.replace("/var/lib/djms", str(tmp_path))
        return line.replace("127.0.0.1:9098", f"127.0.0.1:{server_health}").replace("9099", str(site_health))

    logs = {name: tmp_path / f"{name}.log" for name in ("coordinator", "site")}
    with (
        started("coordinator", change, logs["coordinator"]) as server,
        started("site", change, logs["site"]) as client,  # before the server is there, as after a power cut
    ):
        wait_until_well(server, f"127.0.0.1:{server_health}", logs["coordinator"])
        wait_until_well(client, f"127.0.0.1:{site_health}", logs["site"])  # it says so once it is connected
        for process in (client, server):
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, [log.read_text() for log in logs.values()]
