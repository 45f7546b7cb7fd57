"""What a round commits: one entry of the log, canonical JSON (RFC 8785), readable by anybody with any JSON library.

A manifest speaks of one global model and of all rounds since the manifest before it: who had a part, who had none, how
much they weigh together, what it cost in privacy. Sites stand in it under pseudonyms that hold for one run:
HMAC-SHA256(salt of the run, "djms/v1/site-pseudonym" ‖ 0x00 ‖ name), its first 16 bytes. The salt never enters the log.

Rules: bytes that are not the canonical form of what they say are an `EntryInvalid`; rounds stand in order; nothing in
a manifest is about a person.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Any, ClassVar, Literal, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anchoring.errors import EntryInvalid
from common.exact_json import exact_json

ROUND_TYPE = "djms.round/v1"
"""What the field `type` of a manifest says."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pseudonym = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RoundRecord(_Part):
    """One round: its sites, the sum of their weights (people, or 1 each), and what the replies say of the model sent.

    A site stands in it once, and a round is finished when somebody had a part in it. `weight` is null where no reply
    was added up, `metrics` where sites keep evaluations to themselves.
    """

    number: Annotated[int, Field(ge=1)]
    status: Literal["finished", "abandoned"]
    cohort: tuple[Pseudonym, ...]
    dropouts: tuple[Pseudonym, ...]
    weight: Annotated[float, Field(ge=0)] | None
    metrics: dict[str, float] | None

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        sites = (*self.cohort, *self.dropouts)
        if len(set(sites)) < len(sites) or (self.status == "finished") != bool(self.cohort):
            raise ValueError("a site stands in it twice, or nobody finished it")
        return self


class PrivacyRecord(_Part):
    """What people have paid so far: ε at δ of one `unit`, the event of a round, and the hash of all events in full."""

    unit: Literal["candidate", "site"]
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    event: dict[str, Any]
    ledger_sha256: Sha256


class RoundManifest(_Part):
    """One global model and how it came about. `round` 0 is the model that a run begins with.

    `card` is the model's card as it stands in the canonical file, so that whoever has the parameters can compute
    `model_sha256`. `released` marks the model that a run hands out in the end, and `metrics` are its metrics on test
    people, null where sites keep them to themselves. `bundle_sha256` is the hash of the
    application that sites ran, null where no bundle was made. `previous` is the SHA-256 of the run's manifest before.
    """

    kind: ClassVar[str] = ROUND_TYPE

    type: Literal["djms.round/v1"] = "djms.round/v1"
    run: Text
    round: Annotated[int, Field(ge=0)]
    released: bool
    model_sha256: Sha256
    card: dict[str, Any]
    settings_sha256: Sha256
    bundle_sha256: Sha256 | None
    quorum: Annotated[int, Field(ge=1)]
    rounds: tuple[RoundRecord, ...]
    metrics: dict[str, float] | None
    privacy: PrivacyRecord | None
    previous: Sha256 | None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        numbers = [record.number for record in self.rounds]
        if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > self.round):
            raise ValueError("its rounds are not in order, or go beyond its own")
        return self

    def to_bytes(self) -> bytes:
        """The entry: canonical JSON."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        """The manifest's hash, in hexadecimal: its name in the content store, and in the next one's `previous`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, entry: bytes) -> RoundManifest:
        """Read an entry. Raises EntryInvalid when it is no round's manifest in canonical form."""
        try:
            text = entry.decode()
            exact_json(text)
            manifest = cls.model_validate_json(text)
            canonical = manifest.to_bytes()
        except (ValidationError, ValueError, rfc8785.CanonicalizationError):
            raise _invalid("it is no manifest of a round") from None
        if canonical != entry:
            raise _invalid("it is not in the canonical form of RFC 8785")
        return manifest


def pseudonym(salt: bytes, name: str) -> str:
    """A site's name in the manifests of the run with this salt (32 fresh bytes): 32 hexadecimal digits."""
    return hmac.new(salt, b"djms/v1/site-pseudonym\x00" + name.encode(), hashlib.sha256).hexdigest()[:32]


def type_of(entry: bytes) -> str | None:
    """What an entry says it is; None where it is no JSON object with a type."""
    try:
        content = exact_json(entry.decode())
    except ValueError:
        return None
    kind = content.get("type") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


def _invalid(what: str) -> EntryInvalid:
    return EntryInvalid(
        what, where="entry of the log", remedy="do not rely on it, and ask the log's operator what it is"
    )
