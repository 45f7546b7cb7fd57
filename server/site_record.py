"""What the coordinator keeps of one site: its public keys, those it had before, and whether it belongs. Never deleted.

{"name": "CPI_Verona", "status": "member", "keys": {...}, "witness": true, "since": "2026-01-31",
 "former": [{"keys": {...}, "until": "2026-01-31", "why": "replaced"}]}
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from anchoring.anchor_folder import witness_name
from anchoring.cosignature import WitnessKey
from common.errors import InputError
from common.public_keys import MembershipError, PublicKeys

Status = Literal["member", "revoked"]
Why = Literal["replaced", "revoked"]


class _FormerForm(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keys: dict[str, str]
    until: str
    why: Why


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    status: Status
    keys: dict[str, str]
    witness: bool
    since: str
    former: list[_FormerForm]


@dataclass(frozen=True)
class Former:
    """Keys that are out of use for good, until which day they were in it, and why no longer."""

    keys: PublicKeys
    until: str
    why: Why


@dataclass(frozen=True)
class SiteRecord:
    """One site. `since` is the day its present keys were added; a revoked site has them among the former ones too."""

    name: str
    status: Status
    keys: PublicKeys
    witness: bool
    since: str
    former: tuple[Former, ...] = ()

    @property
    def fingerprint(self) -> str:
        """That of its present request."""
        return self.keys.fingerprint(self.name)

    @property
    def witness_key(self) -> WitnessKey:
        """The key that verifies its cosignatures; its name tells nobody which office it is."""
        return WitnessKey(witness_name(self.keys.witness), self.keys.witness)

    def all_keys(self) -> set[str]:
        """Every key it has or had, each as one text."""
        return {part for keys in (self.keys, *(one.keys for one in self.former)) for part in keys.parts()}

    def is_retired(self, keys: PublicKeys) -> bool:
        """Whether one of these keys is out of use for good."""
        return any(set(keys.parts()) & set(one.keys.parts()) for one in self.former)

    def replaced_by(self, keys: PublicKeys, witness: bool, day: str) -> SiteRecord:
        """The same site with other keys; the present ones are out of use."""
        former = self.former
        if self.status == "member":
            former = (*former, Former(self.keys, day, "replaced"))
        return SiteRecord(self.name, "member", keys, witness, day, former)

    def revoked(self, day: str) -> SiteRecord:
        """The same site, no longer a member; its keys are out of use."""
        return replace(self, status="revoked", former=(*self.former, Former(self.keys, day, "revoked")))

    def to_json(self) -> str:
        """The JSON text of the module's docstring."""
        form = _Form(
            name=self.name,
            status=self.status,
            keys=self.keys.to_json(),
            witness=self.witness,
            since=self.since,
            former=[_FormerForm(keys=one.keys.to_json(), until=one.until, why=one.why) for one in self.former],
        )
        return form.model_dump_json(indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> SiteRecord:
        """Read a site's file. Raises InputError when it is not what was written."""
        try:
            form = _Form.model_validate_json(path.read_bytes())
            keys = PublicKeys.from_json(form.keys)
            former = tuple(Former(PublicKeys.from_json(one.keys), one.until, one.why) for one in form.former)
            fits = path.name == f"{form.name}.json"
        except (ValidationError, MembershipError):
            fits = False
        if not fits:
            raise InputError("this is no file of a site", where=path, remedy="restore it from a copy")
        return cls(form.name, form.status, keys, form.witness, form.since, former)
