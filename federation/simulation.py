"""A federation inside one process tree: Flower's simulation runtime on Ray, one virtual node per office."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.bundle import bundle_sha256
from common.errors import DjmsError, RunError
from federation.identities import identities_for
from federation.ledgers import ledger_folders
from federation.witnesses import witness_folders
from server.job import Job

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp


def run_simulation(
    job: Job, tables: dict[str, Path], ledgers: Path | None = None, witnesses: Path | None = None
) -> None:
    """Run `job` with one simulated site per table; results go to `job.output`.

    With differential privacy, the sites' privacy ledgers lie below `ledgers` (`federation.ledgers`), or below
    `paths.ledger_dir`; with anchoring, their witnesses below `witnesses` (`federation.witnesses`), or below
    `paths.witness_dir`.

    Where the settings ask for secure aggregation, every site gets keys of its own, which are gone after the run.
    Flower's and Ray's own messages go to `flower.log` there. Raises what the coordinator raised, or RunError.
    """
    from client.app import create_app as create_client_app
    from server.app import create_app as create_server_app

    job.output.mkdir(parents=True, exist_ok=True)
    if job.settings.anchoring.enabled:
        job = replace(job, bundle_sha256=bundle_sha256())
    with identities_for(job) as (job, folders):
        client_app = create_client_app(
            [tables[site] for site in job.sites],
            folders,
            ledger_folders(job.settings, job.sites, ledgers),
            witness_folders(job, witnesses),
        )
        run_apps(create_server_app(job), client_app, len(job.sites), job.output / "flower.log", job.cancelled)


def run_apps(server_app: ServerApp, client_app: ClientApp, sites: int, log: Path, cancelled: threading.Event) -> None:
    """Run two apps with so many simulated sites; sets `cancelled` in the end, and raises what `run_simulation` does."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # sites do the work: they must not yield to the engine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from flwr.simulation import run_simulation as run_flower

    with _logging_to(log):
        try:
            _start_ray(sites)
            run_flower(
                server_app=server_app,
                client_app=client_app,
                num_supernodes=sites,
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
        except DjmsError:
            raise
        except Exception as error:
            raise RunError(
                f"the simulation ended with {type(error).__name__}", where=log, remedy="see the end of that file"
            ) from error
        finally:
            cancelled.set()  # an interrupt reaches this thread only: the coordinator's must not wait for replies
            if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
                ray.shutdown()  # interrupted, Flower's threads still speak to Ray, and the process ends without it


def _start_ray(sites: int) -> None:
    """Start Ray with no dashboard and no more workers than sites; being asked to end stays in our own hands."""
    import ray

    ours = signal.getsignal(signal.SIGTERM)
    ray.init(
        num_cpus=min(sites, os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        object_store_memory=200 * 1024 * 1024,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)  # Ray has put one in its place that aborts the process


class _logging_to:  # noqa: N801 - reads as a phrase where it is used
    """Send the `flwr` logger to a file, and only there, while the block runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._logger = logging.getLogger("flwr")

    def __enter__(self) -> None:
        self._before = self._logger.handlers[:], self._logger.propagate
        self._file = logging.FileHandler(self._path, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._logger.handlers[:] = [self._file]
        self._logger.propagate = False

    def __exit__(self, *_: object) -> None:
        self._logger.handlers[:], self._logger.propagate = self._before
        self._file.close()
