"""Handing a run to the coordinator's server, resuming one that was interrupted, and stopping one.

A run has a folder `runs/<run>` with its description, and everything that comes of it. At the SuperLink a resumed run is
a new one of the same name: what was finished is on the coordinator's disk, and `server.rounds` goes on after it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import InputError, RunError
from common.model import ModelCard
from common.run_terms import RunTerms
from common.settings import Settings
from server.app import ERROR_FILE
from server.control import FINISHED, Control
from server.coordinator import Places
from server.federation_folder import LOG, LOG_KEYS, FederationFolder
from server.job import JOB_FILE, Job
from server.outcome import RESULT_FILE
from server.run_store import RunStore
from server.run_tables import STOPPED


@dataclass(frozen=True)
class Submitted:
    """A run that the server has: its name, its number there, and the hash of the bundle that sites must approve."""

    run: str
    flower_run: int
    bundle_sha256: str
    sites: tuple[str, ...]


def new_job(federation: FederationFolder, settings: Settings, *, labels: str, synthetic: bool) -> Job:
    """The description of a new run over all members of the federation, written to its folder.

    Raises InputError when the settings do not suit so many sites.
    """
    runs = Places(federation.folder).runs
    job = describe(federation, settings, labels=labels, synthetic=synthetic)
    job = replace(job, output=runs / job.run, coordinator=federation.folder)
    job.write(runs)
    return job


def describe(federation: FederationFolder, settings: Settings, *, labels: str, synthetic: bool) -> Job:
    """A new run over all members, with the federation's roster and log where the settings need them; not written yet.

    Raises InputError when the settings do not suit so many sites.
    """
    members = tuple(one.name for one in federation.members())
    settings.require_quorum(len(members))
    return Job(
        settings,
        members,
        ModelCard(labels=labels, hidden=settings.hidden, synthetic=synthetic),
        federation.folder,
        roster=federation.roster() if settings.privacy.secure_aggregation else None,
        anchor=federation.folder / LOG if settings.anchoring.enabled else None,
        anchor_keys=federation.folder / LOG_KEYS if settings.anchoring.enabled else None,
    )


def submit(federation: FederationFolder, control: Control, job: Job, application: Path) -> Submitted:
    """Start a run, or one that was interrupted again, with the application in a folder.

    What is left of the same run at the SuperLink is stopped. Raises RunError while another run is going.
    """
    for other in (one for one in control.runs() if one.status != FINISHED):
        if other.name != job.run:
            raise RunError(
                f"the run {other.name} is still going",
                where="server",
                remedy=f"wait for its end, or stop it with `djms server stop {other.name}`",
            )
        control.stop(other.id)
    (job.output / ERROR_FILE).unlink(missing_ok=True)
    edition = federation.newest_text()
    if edition is None:
        raise InputError("the federation has no sites", where=federation.folder, remedy="add some first")
    from flwr.cli.build import build_fab_from_disk

    bundle = build_fab_from_disk(application)
    sha256 = hashlib.sha256(bundle).hexdigest()
    with RunStore.open(federation.folder) as store:
        store.add_run(replace(job, bundle_sha256=sha256))
        number = control.start(bundle, RunTerms.of(job.run, edition).to_config())
        store.set_flower_run(job.run, number)
    return Submitted(job.run, number, sha256, job.sites)


def job_of(federation: FederationFolder, run: str) -> Job:
    """The description of a run that was submitted before. Raises InputError where there is none, or it has a result."""
    runs = Places(federation.folder).runs
    if not (runs / run / JOB_FILE).is_file():
        raise InputError("there is no run of this name", where=run[:100], remedy="see `djms server status`")
    job = Job.read(runs, run)
    if (job.output / RESULT_FILE).is_file():
        raise InputError("the run is finished", where=run[:100], remedy="start another one")
    return job


def stop_run(federation: FederationFolder, control: Control, run: str) -> None:
    """Stop a run. Raises InputError where it is not going."""
    going = [one for one in control.runs() if one.name == run and one.status != FINISHED]
    if not going:
        raise InputError("no such run is going", where=run[:100], remedy="see `djms server status`")
    for one in going:
        control.stop(one.id)
    with RunStore.open(federation.folder) as store:
        store.set_status(run, STOPPED, "It was stopped by the coordinator's operator.")
