"""A site's keys and what it knows of the others, as they lie in the site's own folder.

    identity.pem     the site's long-term private key, readable by its owner alone
    roster.yaml      who belongs to the federation, signed by its offline key
    federation.pem   that key's public half, which the site got by another way than the roster
    site.yaml        the site's name and the limits under which it takes part

Nothing in this folder is ever sent; what travels is made with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import InputError
from common.secure_vector import bounds
from common.settings import SecureAggregationSettings
from common.settings_rules import SMALLEST_GROUP
from privacy.roster import Identity, Roster
from privacy.secure_aggregation.terms import Limits

IDENTITY_FILE = "identity.pem"
ROSTER_FILE = "roster.yaml"
FEDERATION_FILE = "federation.pem"
SITE_FILE = "site.yaml"
LOGISTIC = "logistic"
_MODEL = rf"^({LOGISTIC}|[1-9][0-9]*(-[1-9][0-9]*)*)$"


class SiteFile(BaseModel):
    """The content of `site.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    minimum_cohort: Annotated[int, Field(ge=SMALLEST_GROUP)] = SMALLEST_GROUP
    malicious_coordinator: bool = True
    colluders: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    dropouts: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    groups: bool = False
    tolerated_colluders: Annotated[int, Field(ge=0)] = 0
    max_people: Annotated[int, Field(ge=1, le=2**24)] = SecureAggregationSettings().max_people
    value_bound: Annotated[float, Field(gt=0)] = SecureAggregationSettings().value_bound
    max_run_epsilon: Annotated[float, Field(gt=0)] | None = None
    models: tuple[Annotated[str, Field(pattern=_MODEL)], ...] | None = None


@dataclass(frozen=True)
class SiteKeys:
    """What a site needs to take part in secure aggregation."""

    identity: Identity
    roster: Roster
    limits: Limits
    file: SiteFile


def model_name(hidden: Iterable[int]) -> str:
    """What `site.yaml` calls a model: `logistic`, or the units of its hidden layers, such as `32-16`."""
    return "-".join(str(units) for units in hidden) or LOGISTIC


def read_site_keys(directory: Path) -> SiteKeys:
    """Read a site's folder; a file that changed is read anew.

    Raises InputError when a file is missing or damaged, when the roster is not signed by the federation's key, or when
    it does not know this site by this identity.
    """
    paths = [directory / name for name in (IDENTITY_FILE, ROSTER_FILE, FEDERATION_FILE, SITE_FILE)]
    for path in paths:
        if not path.is_file():
            raise InputError("the file is missing from the site's folder", where=path, remedy="set the site up anew")
    return _read(str(directory), tuple(path.stat().st_mtime_ns for path in paths))


@lru_cache(maxsize=1024)
def _read(directory: str, _changed: tuple[int, ...]) -> SiteKeys:
    folder = Path(directory)
    site = _site_file(folder / SITE_FILE)
    identity = Identity.from_pem(site.name, (folder / IDENTITY_FILE).read_bytes())
    root = _public_key(folder / FEDERATION_FILE)
    roster = Roster.from_yaml((folder / ROSTER_FILE).read_text(encoding="utf-8"), root)
    if roster.members.get(site.name) != identity.public_key:
        raise InputError(
            f"the roster does not know {site.name} by the identity in {IDENTITY_FILE}",
            where=folder / ROSTER_FILE,
            remedy="get the federation's newest roster",
        )
    limits = Limits(
        minimum_cohort=site.minimum_cohort,
        malicious_coordinator=site.malicious_coordinator,
        colluders=site.colluders,
        dropouts=site.dropouts,
        groups=site.groups,
        tolerated_colluders=site.tolerated_colluders,
        least_bounds=bounds(site.max_people, site.value_bound),
    )
    return SiteKeys(identity, roster, limits, site)


def _site_file(path: Path) -> SiteFile:
    try:
        return SiteFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "its content"
        raise InputError(f"{key}: {first['msg'].lower()}", where=path, remedy="correct that key") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError("this is not YAML", where=path, remedy="write it as key: value lines") from None


def _public_key(path: Path) -> bytes:
    try:
        key = load_pem_public_key(path.read_bytes())
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError("this is not an Ed25519 public key in PEM", where=path, remedy="get the federation's key anew")
    return key.public_bytes_raw()
