"""What the coordinator was asked to run."""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import atomic_path
from common.model import ModelCard
from common.settings import Settings
from privacy.roster import Roster

JOB_FILE = "job.json"
RUNS_VARIABLE = "DJMS_COORDINATOR_RUNS"
"""Environment variable of the coordinator's application: the folder that `Job.write` wrote to."""

RoundCallback = Callable[[dict[str, Any]], None]


def _new_run() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Job:
    """A run: its settings, the sites expected, what the model will be, where results go, and whom to tell of rounds.

    `roster` is the federation's, needed for secure aggregation; `anchor` the folder of the log, needed for anchoring,
    and `anchor_keys` that of its private keys, where they do not lie in it. `bundle_sha256` is the hash of the
    application that sites run, where one was made of it. `run` is the run's name in privacy ledgers, where no other run
    has it. `coordinator` is the coordinator's folder, where there is one. What a run would draw by chance and must draw
    again alike when it is taken up anew comes from `secret`, by `token`.
    """

    settings: Settings
    sites: tuple[str, ...]
    card: ModelCard
    output: Path
    roster: Roster | None = None
    anchor: Path | None = None
    anchor_keys: Path | None = None
    bundle_sha256: str | None = None
    coordinator: Path | None = None
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False, compare=False)
    on_round: RoundCallback = lambda _row: None
    cancelled: threading.Event = field(default_factory=threading.Event, compare=False)
    """Set when nobody waits for the run any more: it then ends at its next look at the sites' replies."""
    run: str = field(default_factory=_new_run)

    def token(self, purpose: str) -> bytes:
        """32 bytes for a purpose: alike in the same run, and unforeseeable without its secret (HMAC-SHA256)."""
        return hmac.digest(self.secret, f"djms {purpose}".encode(), "sha256")

    def write(self, runs: Path) -> Path:
        """Write the job to `runs/<run>/job.json`, for `read`; nothing of it travels to sites but the run's name."""
        path = runs / self.run / JOB_FILE
        content = {
            "settings": self.settings.model_dump(mode="json"),
            "sites": self.sites,
            "card": {"labels": self.card.labels, "synthetic": self.card.synthetic},
            "output": str(self.output.absolute()),
            "roster": None if self.roster is None else self.roster.to_json(),
            "anchor": None if self.anchor is None else str(self.anchor.absolute()),
            "anchor_keys": None if self.anchor_keys is None else str(self.anchor_keys.absolute()),
            "coordinator": None if self.coordinator is None else str(self.coordinator.absolute()),
            "secret": self.secret.hex(),
        }
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, runs: Path, run: str) -> Job:
        """The job of this name that `write` wrote. Raises InputError where there is none."""
        path = runs / run / JOB_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            settings = Settings.model_validate_json(json.dumps(content["settings"]))
            card = content["card"]
            roster = content["roster"]
            return cls(
                settings,
                tuple(content["sites"]),
                ModelCard(labels=card["labels"], hidden=settings.hidden, synthetic=card["synthetic"]),
                Path(content["output"]),
                None if roster is None else Roster.from_json(roster),
                anchor=_path(content["anchor"]),
                anchor_keys=_path(content["anchor_keys"]),
                coordinator=_path(content["coordinator"]),
                secret=bytes.fromhex(content["secret"]),
                run=run,
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the run's description cannot be read ({type(error).__name__})",
                where=path,
                remedy="start the run with `djms server submit`",
            ) from None


def _path(value: object) -> Path | None:
    return Path(str(value)) if value else None
