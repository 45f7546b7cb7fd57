"""Flower's processes on this machine: started here with their logs, and ended here, whatever happens."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from common.errors import RunError

HOST = "127.0.0.1"
_START_SECONDS = 90.0


class Processes:
    """Processes started here, each with its log; all of them end with the `with` block."""

    def __init__(self, logs: Path, home: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
        """`more` are environment variables of theirs besides Flower's."""
        self._logs = logs
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", **more}
        self._environment.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
        self._environment.setdefault(
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.2"
        )  # Flower's own second is paid a message
        # Flower starts its own helpers by name: they must be found beside this interpreter.
        self._environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

    def __enter__(self) -> Processes:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every process and its children, first asked and then killed."""
        for process in reversed(self._started.values()):
            _signal_group(process, signal.SIGTERM)
        limit = time.monotonic() + 10
        for process in self._started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, limit - time.monotonic()))
            _signal_group(process, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            process.wait()

    def start(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `program` in a process group of its own."""
        path = shutil.which(program, path=self._environment["PATH"])
        if path is None:
            raise RunError(f"the program {program} is not installed", remedy="install DJMS with its requirements")
        with self.log_of(name).open("ab") as log:
            process = subprocess.Popen(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        self._started[name] = process
        return process

    def has_ended(self, name: str) -> bool:
        """Whether a process that was started is no more."""
        return self._started[name].poll() is not None

    def log_of(self, name: str) -> Path:
        """Where a process's output goes."""
        return self._logs / f"{name}.log"

    def check(self, *, but: subprocess.Popen[bytes]) -> None:
        """Raise RunError when a process other than `but` has ended."""
        for name, process in self._started.items():
            if process is not but and process.poll() is not None:
                raise RunError(
                    f"the process of {name} ended with code {process.returncode}",
                    where=self.log_of(name),
                    remedy="see the end of that file",
                )

    def wait_for_port(self, name: str, port: int) -> None:
        """Wait until something listens on a port. Raises RunError when the process ends or takes too long."""
        limit = time.monotonic() + _START_SECONDS
        while time.monotonic() < limit:
            if self._started[name].poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                return
            time.sleep(0.2)
        raise RunError(f"{name} did not start listening", where=self.log_of(name), remedy="see the end of that file")


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    elif process.poll() is None:
        process.terminate()


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; all are held open together, so they differ."""

    def hold() -> Iterator[socket.socket]:
        for _ in range(count):
            held = socket.socket()
            held.bind((HOST, 0))
            yield held

    sockets = list(hold())
    ports = [int(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports
