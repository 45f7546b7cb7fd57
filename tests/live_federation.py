"""A federation of real processes on loopback, TLS and keys as in an office: `djms server start`, `djms client start`.

Every process is started here by its command line and ended here. Federation, sites and approvals are made through the
same functions as the commands use, which is quicker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from joined_federation import SITES, added, new_site, newest

from client.approvals import Approvals, Bundle
from client.site_folder import SiteFolder
from common.bundle import app_directory
from common.membership import djms_version
from common.processes import free_ports
from server.federation_folder import FederationFolder

ROOT = Path(__file__).parent.parent
START_SECONDS = 120.0


def until(what: str, holds: Callable[[], bool], *, seconds: float) -> None:
    """Wait until it holds; fail saying `what` otherwise."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


class LiveFederation:
    """One server and its sites, as folders and processes."""

    def __init__(
        self,
        folder: Path,
        tables: dict[str, Path],
        *,
        names: Sequence[str] = SITES,
        host: str = "127.0.0.1",
        namespaces: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`namespaces` are network namespaces, by the name of a site or `server`, that processes are started in."""
        self.folder = folder
        self.tables = tables
        self.namespaces = namespaces
        self.port = free_ports(1)[0]
        self.coordinator = FederationFolder.create(
            folder / "coordinator", "Prova", f"{host}:{self.port}", now=datetime.now(UTC)
        )
        from flwr.cli.build import build_fab_from_disk

        root = app_directory()
        assert root is not None
        self.bundle = Bundle.of(build_fab_from_disk(root), djms_version())
        self.sites: dict[str, SiteFolder] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in names:
            self.new_site(name)
        for site in self.sites.values():
            site.join(newest(self.coordinator), self.coordinator.fingerprint)

    def new_site(self, name: str) -> SiteFolder:
        """A site whose keys the coordinator has, and that approved the application."""
        site = new_site(self.folder / "sites" / name, name)
        added(self.coordinator, site)
        Approvals(site.folder).approve(self.bundle)
        self.sites[name] = site
        return site

    def log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log_of(name).read_text(encoding="utf-8")

    def start_server(self) -> None:
        before = self.said("server").count("sites reach the server") if self.log_of("server").exists() else 0
        self._start("server", "server", "start", "--folder", self.coordinator.folder)
        until(
            "the server starts",
            lambda: self.said("server").count("sites reach the server") > before or self._failed("server"),
            seconds=START_SECONDS,
        )

    def start_site(self, name: str, *more: object) -> None:
        self._start(name, "client", "start", "--folder", self.sites[name].folder, "--table", self.tables[name], *more)

    def is_connected(self, name: str) -> bool:
        path = self.sites[name].folder / "node" / "status.json"
        if not path.is_file():
            return False
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["process"] == self.processes[name].pid and bool(content["connected"])

    def start_sites(self, *names: str) -> None:
        for name in names or self.sites:
            self.start_site(name)
        until(
            "all sites connect",
            lambda: all(self.is_connected(name) or self._failed(name) for name in names or self.sites),
            seconds=START_SECONDS,
        )

    def kill(self, name: str) -> None:
        """As a power cut would."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self, name: str) -> int:
        """As the system asks a service to end; its exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(60)

    def ended(self, name: str, *, seconds: float = 60) -> int:
        """The exit code of a process that is to end by itself."""
        return self.processes.pop(name).wait(seconds)

    def djms(self, *arguments: object, code: int = 0) -> dict[str, Any]:
        """A command's answer in JSON."""
        done = subprocess.run(
            [*self._within("server"), *_DJMS, *map(str, arguments), "--json"],
            cwd=self.folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def submit(self, *more: object) -> str:
        """Start a run and return its name."""
        folder = self.coordinator.folder
        rule = ("--labels", "rule", "--synthetic")
        return str(self.djms("server", "submit", "--folder", folder, *rule, *more)["run"])

    def output(self, run: str) -> Path:
        return self.coordinator.folder / "runs" / run

    def result(self, run: str, *, seconds: float) -> dict[str, Any]:
        """What a run left, when it is finished; fails with its error when it failed."""
        output = self.output(run)

        def over() -> bool:
            return (output / "federation.json").is_file() or (output / "error.json").is_file()

        until(f"{run} ends", over, seconds=seconds)
        assert not (output / "error.json").is_file(), (output / "error.json").read_text(encoding="utf-8")
        content: dict[str, Any] = json.loads((output / "federation.json").read_text(encoding="utf-8"))
        return content

    def error(self, run: str, *, seconds: float) -> str:
        """The sentence that a run ended with."""
        path = self.output(run) / "error.json"
        until(f"{run} fails", path.is_file, seconds=seconds)
        return str(json.loads(path.read_text(encoding="utf-8"))["error"])

    def rounds(self, run: str) -> list[dict[str, str]]:
        """The rows of `rounds.csv`, none before the first round."""
        import csv

        path = self.output(run) / "rounds.csv"
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def close(self) -> None:
        for name in list(self.processes):
            process = self.processes[name]
            if process.poll() is None:
                process.terminate()
        for name, process in self.processes.items():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise AssertionError(f"{name} did not end when asked to") from None

    def _within(self, name: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespaces[name]) if name in self.namespaces else ()

    def _failed(self, name: str) -> bool:
        code = self.processes[name].poll()
        assert code is None, f"{name} ended with {code}: {self.said(name)[-2000:]}"
        return False

    def _start(self, name: str, *arguments: object) -> None:
        with self.log_of(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self._within(name), *_DJMS, *map(str, arguments)],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


_DJMS = (sys.executable, "-m", "djms")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}


@contextmanager
def live_federation(folder: Path, tables: dict[str, Path], **more: Any) -> Iterator[LiveFederation]:
    """Make a federation, and end its processes whatever happens."""
    federation = LiveFederation(folder, tables, **more)
    try:
        yield federation
    finally:
        federation.close()
