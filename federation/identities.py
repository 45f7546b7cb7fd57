"""Keys of a federation on one machine: a roster and one folder per site, made for one run and gone with it.

A real federation makes them apart: each site its own identity, the federation's offline key the roster.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.keys import FEDERATION_FILE, IDENTITY_FILE, ROSTER_FILE, SITE_FILE
from common.settings import Settings
from privacy.roster import Identity, Roster
from server.job import Job


@dataclass(frozen=True)
class Identities:
    """Each site's folder, and the roster as the coordinator has it."""

    folders: dict[str, Path]
    roster: Roster


@contextmanager
def identities_for(job: Job) -> Iterator[tuple[Job, list[Path] | None]]:
    """The job with a roster, and the sites' folders in their order; None where the run has no secure aggregation."""
    if not job.settings.privacy.secure_aggregation:
        yield job, None
        return
    with tempfile.TemporaryDirectory(prefix="djms-keys-") as directory:
        made = make_identities(job.sites, job.settings, Path(directory), federation="djms-on-one-machine")
        yield replace(job, roster=made.roster), [made.folders[site] for site in job.sites]


def make_identities(sites: Iterable[str], settings: Settings, directory: Path, *, federation: str) -> Identities:
    """Write every site's folder below `directory`, readable by its owner alone; limits are those of the settings."""
    names = sorted(sites)
    root = Identity.generate("federation")
    identities = [Identity.generate(name) for name in names]
    text = Roster.sign(federation, {identity.name: identity.public_key for identity in identities}, root)
    public = Ed25519PublicKey.from_public_bytes(root.public_key)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secure = settings.privacy.secure_agg
    folders: dict[str, Path] = {}
    for identity in identities:
        folder = directory / identity.name
        folder.mkdir(parents=True, mode=0o700)
        private = folder / IDENTITY_FILE
        private.touch(mode=0o600)
        private.write_bytes(identity.to_pem())
        (folder / ROSTER_FILE).write_text(text, encoding="utf-8")
        (folder / FEDERATION_FILE).write_bytes(pem)
        limits = {
            "name": identity.name,
            "minimum_cohort": settings.federated.min_clients,
            "malicious_coordinator": secure.malicious_coordinator,
            "colluders": secure.colluders,
            "dropouts": secure.dropouts,
            "groups": secure.groups > 0,
            "max_people": secure.max_people,
            "value_bound": secure.value_bound,
        }
        (folder / SITE_FILE).write_text(yaml.safe_dump(limits, sort_keys=False), encoding="utf-8")
        folders[identity.name] = folder
    return Identities(folders, Roster.from_yaml(text, root.public_key))
