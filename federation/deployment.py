"""A federation of real processes on loopback: one SuperLink, one SuperNode per office, messages over gRPC.

Plain text on loopback only, and only when the caller says so: it is for trying things out on one machine. Every process
started here is ended here, by its process group, whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import server
from common.errors import InputError, RunError
from server.app import ERROR_FILE
from server.job import Job
from server.rounds import RESULT_FILE, ROUNDS_FILE

_HOST = "127.0.0.1"
_START_SECONDS = 90.0
_FEDERATION = "djms-loopback"


def require_consent(insecure: bool) -> None:
    """Raise InputError unless the caller said that plain text on loopback is meant."""
    if not insecure:
        raise InputError(
            "this engine speaks plain text on loopback, and TLS is not part of this version",
            where="--engine deployment",
            remedy="add --insecure to try it on one machine, with data that may be read there",
        )


def run_deployment(job: Job, tables: dict[str, Path], *, insecure: bool, on_rounds: Callable[[int], None]) -> None:
    """Run `job` on a SuperLink and one SuperNode per table; `on_rounds(n)` is told when n rounds are done.

    Logs of the processes go to `job.output/logs`. Raises InputError without `insecure`, RunError when one ends early
    or the run fails.
    """
    require_consent(insecure)
    app = _app_directory()
    logs = job.output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for stale in (RESULT_FILE, ROUNDS_FILE, ERROR_FILE):
        (job.output / stale).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="djms-flower-") as home, _Processes(logs, Path(home)) as processes:
        runtime, fleet, *own = _free_ports(2 + len(job.sites))
        processes.start(
            "superlink",
            "flower-superlink",
            "--insecure",
            "--disable-runtime-dependency-installation",
            *("--host", _HOST, "--port", str(runtime)),
            *("--fleet-api-address", f"{_HOST}:{fleet}"),
        )
        processes.wait_for_port("superlink", runtime)
        processes.wait_for_port("superlink", fleet)
        for site, port in zip(job.sites, own, strict=True):
            processes.start(
                site,
                "flower-supernode",
                "--insecure",
                *("--superlink", f"{_HOST}:{fleet}"),
                *("--host", _HOST, "--port", str(port)),
                *("--node-config", f"training-table={json.dumps(str(tables[site].absolute()), ensure_ascii=False)}"),
            )
        _write_configuration(Path(home), runtime, job)
        run = processes.start(
            "run", "flwr", "run", str(app), _FEDERATION, "--stream", "--run-config", str(Path(home) / "run.toml")
        )
        _watch(job, processes, run, on_rounds)


def _watch(job: Job, processes: _Processes, run: subprocess.Popen[bytes], on_rounds: Callable[[int], None]) -> None:
    """Wait for the run's result, its error, or a process that ends before its time."""
    rounds = job.output / ROUNDS_FILE
    settings = job.settings.federated
    deadline = time.monotonic() + settings.wait_timeout + (settings.rounds + 1) * settings.round_timeout + 120
    while time.monotonic() < deadline:
        if rounds.is_file():
            on_rounds(max(0, rounds.read_text(encoding="utf-8").count("\n") - 1))
        if (error := job.output / ERROR_FILE).is_file() and (text := error.read_text(encoding="utf-8")).strip():
            raise _as_said(json.loads(text)["error"])
        if (job.output / RESULT_FILE).is_file():
            return
        processes.check(but=run)
        if run.poll() not in (None, 0):
            raise RunError("the run could not be started", where=processes.log_of("run"), remedy="see that file's end")
        time.sleep(0.3)
    raise RunError("the run did not end in time", where=job.output, remedy="see the logs there")


def _as_said(sentence: str) -> RunError:
    what, _, remedy = sentence.rstrip(".").rpartition("; ")
    return RunError(what, remedy=remedy)


class _Processes:
    """Processes started by this run, each with its log; all of them end with the `with` block."""

    def __init__(self, logs: Path, home: Path) -> None:
        self._logs = logs
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"}
        # Flower starts its own helpers by name: they must be found beside this interpreter.
        self._environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
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
        with self.log_of(name).open("wb") as log:
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
            with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
                return
            time.sleep(0.2)
        raise RunError(f"{name} did not start listening", where=self.log_of(name), remedy="see the end of that file")


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    elif process.poll() is None:
        process.terminate()


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; all are held open together, so they differ."""

    def hold() -> Iterator[socket.socket]:
        for _ in range(count):
            held = socket.socket()
            held.bind((_HOST, 0))
            yield held

    sockets = list(hold())
    ports = [int(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports


def _write_configuration(home: Path, port: int, job: Job) -> None:
    connection = f'[superlink.{_FEDERATION}]\naddress = "{_HOST}:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(connection, encoding="utf-8")
    run = "".join(f"{key} = {json.dumps(value)}\n" for key, value in job.to_run_config().items())
    (home / "run.toml").write_text(run, encoding="utf-8")


def _app_directory() -> Path:
    """The project's root, which holds the Flower app's description."""
    root = Path(str(server.__file__)).parent.parent
    if not (root / "pyproject.toml").is_file():
        raise InputError(
            "this engine submits the application from its source folder, and DJMS is installed without it",
            where="--engine deployment",
            remedy="clone the repository and install it with `pip install -e .`",
        )
    return root
