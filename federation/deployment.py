"""A federation of real processes on loopback: one SuperLink, one SuperNode per office, messages over gRPC.

Plain text on loopback only, and only when the caller says so: it is for trying things out on one machine. Every process
started here is ended here, by its process group, whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from client.app import LEDGER_KEY, TABLE_KEY
from client.secure_aggregation import KEYS_KEY
from client.witness import WITNESS_KEY
from common.bundle import app_directory
from common.errors import InputError, RunError
from common.processes import HOST, Processes, free_ports
from federation.identities import identities_for
from federation.ledgers import ledger_folders
from federation.witnesses import witness_folders
from server.app import ERROR_FILE
from server.job import RUNS_VARIABLE, Job
from server.outcome import RESULT_FILE, ROUNDS_FILE

_FEDERATION = "djms-loopback"
_GRACE_SECONDS = 10.0


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

    With differential privacy, the sites' privacy ledgers lie below `paths.ledger_dir` (`federation.ledgers`); with
    anchoring, their witnesses below `paths.witness_dir` (`federation.witnesses`).
    Logs of the processes go to `job.output/logs`. Raises InputError without `insecure`, RunError when one ends early
    or the run fails.
    """
    require_consent(insecure)
    with Loopback(job, tables) as federation:
        for site in job.sites:
            federation.start_site(site)
        federation.submit()
        federation.watch(on_rounds)


class Loopback:
    """A SuperLink on loopback, its SuperNodes, and one run."""

    def __init__(self, job: Job, tables: dict[str, Path]) -> None:
        self._app = _app_directory()
        self._job = job
        self._tables = tables
        self._ledgers = dict(zip(job.sites, ledger_folders(job.settings, job.sites) or (), strict=False))
        self._witnesses = dict(zip(job.sites, witness_folders(job) or (), strict=False))
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Loopback:
        """Start the SuperLink."""
        logs = self._job.output / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for stale in (RESULT_FILE, ROUNDS_FILE, ERROR_FILE):
            (self._job.output / stale).unlink(missing_ok=True)
        with contextlib.ExitStack() as resources:
            self._home = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="djms-flower-")))
            self._job, folders = resources.enter_context(identities_for(self._job))
            self._keys = dict(zip(self._job.sites, folders, strict=True)) if folders is not None else {}
            runs = self._home / "runs"
            self._job.write(runs)
            self._processes = resources.enter_context(Processes(logs, self._home, {RUNS_VARIABLE: str(runs)}))
            self._runtime, self._fleet = free_ports(2)
            self._processes.start(
                "superlink",
                "flower-superlink",
                "--insecure",
                "--disable-runtime-dependency-installation",
                *("--host", HOST, "--port", str(self._runtime)),
                *("--fleet-api-address", f"{HOST}:{self._fleet}"),
            )
            self._processes.wait_for_port("superlink", self._runtime)
            self._processes.wait_for_port("superlink", self._fleet)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End every process."""
        self._resources.close()

    def start_site(self, site: str) -> None:
        """Start a site's SuperNode."""
        self._processes.start(
            site,
            "flower-supernode",
            "--insecure",
            *("--superlink", f"{HOST}:{self._fleet}"),
            *("--host", HOST, "--port", str(free_ports(1)[0])),
            *("--node-config", self._node_config(site)),
        )

    def _node_config(self, site: str) -> str:
        """What a site knows by itself: where its table, its keys, its privacy ledger and its witness lie."""
        places = {
            TABLE_KEY: self._tables[site],
            KEYS_KEY: self._keys.get(site),
            LEDGER_KEY: self._ledgers.get(site),
            WITNESS_KEY: self._witnesses.get(site),
        }
        known = {key: path for key, path in places.items() if path is not None}
        return " ".join(f"{key}={json.dumps(str(path.absolute()), ensure_ascii=False)}" for key, path in known.items())

    def submit(self) -> None:
        """Hand the run to the SuperLink."""
        _write_configuration(self._home, self._runtime, self._job)
        run = ("run", str(self._app), _FEDERATION, "--stream", "--run-config", str(self._home / "run.toml"))
        self._run = self._processes.start("run", "flwr", *run)

    def watch(self, on_rounds: Callable[[int], None]) -> None:
        """Wait for the run's end; raises RunError when it fails, or when a process ends before its time."""
        _watch(self._job, self._processes, self._run, on_rounds)


def _watch(job: Job, processes: Processes, run: subprocess.Popen[bytes], on_rounds: Callable[[int], None]) -> None:
    """Wait for the run's result, its error, or a process that ends before its time."""
    rounds = job.output / ROUNDS_FILE
    settings = job.settings.federated
    exchanges = 5 * (settings.rounds + 2)  # a secure sum with its set-up each; the closing one may be tried again
    deadline = time.monotonic() + exchanges * (settings.wait_timeout + settings.round_timeout) + 120
    ended: float | None = None
    while time.monotonic() < deadline:
        if rounds.is_file():
            on_rounds(max(0, rounds.read_text(encoding="utf-8").count("\n") - 1))
        if (error := job.output / ERROR_FILE).is_file() and (text := error.read_text(encoding="utf-8")).strip():
            raise _as_said(json.loads(text)["error"])
        if (job.output / RESULT_FILE).is_file():
            return
        processes.check(but=run)
        if run.poll() is not None:  # its stream ends with the run, and a result lies there before that
            ended = time.monotonic() if ended is None else ended
            if run.returncode != 0 or time.monotonic() - ended > _GRACE_SECONDS:
                raise RunError("the run ended without a result", where=processes.log_of("run"), remedy="see its end")
        time.sleep(0.3)
    raise RunError("the run did not end in time", where=job.output, remedy="see the logs there")


def _as_said(sentence: str) -> RunError:
    what, _, remedy = sentence.rstrip(".").rpartition("; ")
    return RunError(what, remedy=remedy)


def _write_configuration(home: Path, port: int, job: Job) -> None:
    connection = f'[superlink.{_FEDERATION}]\naddress = "{HOST}:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(connection, encoding="utf-8")
    (home / "run.toml").write_text(f"run = {json.dumps(job.run)}\n", encoding="utf-8")


def _app_directory() -> Path:
    root = app_directory()
    if root is None:
        raise InputError(
            "this engine submits the application from its source folder, and DJMS is installed without it",
            where="--engine deployment",
            remedy="clone the repository and install it with `pip install -e .`",
        )
    return root
