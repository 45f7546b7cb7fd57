"""Witnesses of the log in a federation on one machine: one folder per office, kept between runs.

A real office makes its own and gets the log's signers when it joins; here whoever runs the federation does, and lets
all offices count for each other and for the log.
"""

from __future__ import annotations

from pathlib import Path

from anchoring.anchor_folder import AnchorFolder
from anchoring.cosignature import WitnessPolicy
from client.witness_folder import KEY_FILE, WitnessFolder, WitnessLimits
from common.settings import Settings
from server.job import Job


def witness_folders(job: Job, directory: Path | None = None) -> list[Path] | None:
    """The folders of the job's sites, in their order; None where the run is not anchored.

    They lie below `directory`, or below `paths.witness_dir`. A witness that is there goes on with what it saw. Raises
    LogMissing where there is no log, and InputError where a witness watches another one.
    """
    settings, sites = job.settings, job.sites
    if not settings.anchoring.enabled or job.anchor is None:
        return None
    log = AnchorFolder.open(job.anchor)
    root = (settings.paths.witness_dir if directory is None else directory).absolute()
    witnesses = [_made(root / site, log, settings) for site in sites]
    known = () if log.policy is None else log.policy.witnesses
    keys = {key.public_key: key for key in (*known, *(witness.key for witness in witnesses))}
    policy = WitnessPolicy(settings.anchoring.witnesses, tuple(keys.values()))
    if policy != log.policy:
        log.set_policy(policy)
    for witness in witnesses:
        witness.set_policy(policy)
    return [witness.folder for witness in witnesses]


def _made(folder: Path, log: AnchorFolder, settings: Settings) -> WitnessFolder:
    every = settings.anchoring.anchor_every_n
    if not (folder / KEY_FILE).is_file():
        return WitnessFolder.create(folder, log.signers, limits=WitnessLimits(anchor_every_n=every))
    witness = WitnessFolder(folder)
    witness.set_signers(log.signers)
    witness.set_limits(witness.limits.model_copy(update={"anchor_every_n": every}))
    return witness
