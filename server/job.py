"""What the coordinator was asked to run."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import Context

from common.errors import InputError
from common.model import ModelCard
from common.settings import Settings
from privacy.roster import Roster

RoundCallback = Callable[[dict[str, Any]], None]


def _new_run() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Job:
    """A run: its settings, the sites expected, what the model will be, where results go, and whom to tell of rounds.

    `roster` is the federation's, needed for secure aggregation; `anchor` the folder of the log, needed for anchoring,
    and `anchor_keys` that of its private keys, where they do not lie in it. `bundle_sha256` is the hash of the
    application that sites run, where one was made of it. `run` is the run's name in privacy ledgers, where no other run
    has it.
    """

    settings: Settings
    sites: tuple[str, ...]
    card: ModelCard
    output: Path
    roster: Roster | None = None
    anchor: Path | None = None
    anchor_keys: Path | None = None
    bundle_sha256: str | None = None
    on_round: RoundCallback = lambda _row: None
    cancelled: threading.Event = field(default_factory=threading.Event, compare=False)
    """Set when nobody waits for the run any more: it then ends at its next look at the sites' replies."""
    run: str = field(default_factory=_new_run)

    def to_run_config(self) -> dict[str, str]:
        """As a Flower run configuration, one JSON text a key; `from_context` reads it back."""
        card = {"labels": self.card.labels, "synthetic": self.card.synthetic}
        return {
            "settings": self.settings.model_dump_json(),
            "sites": json.dumps(self.sites),
            "card": json.dumps(card),
            "output": str(self.output.absolute()),
            "run": self.run,
            "roster": "" if self.roster is None else self.roster.to_json(),
            "anchor": "" if self.anchor is None else str(self.anchor.absolute()),
            "anchor-keys": "" if self.anchor_keys is None else str(self.anchor_keys.absolute()),
        }

    @classmethod
    def from_context(cls, context: Context) -> Job:
        """From a run's configuration. Raises InputError when it was not made by `to_run_config`."""
        config = context.run_config
        try:
            settings = Settings.model_validate_json(str(config["settings"]))
            sites = tuple(str(site) for site in json.loads(str(config["sites"])))
            card = json.loads(str(config["card"]))
            return cls(
                settings,
                sites,
                ModelCard(labels=card["labels"], hidden=settings.hidden, synthetic=card["synthetic"]),
                Path(str(config["output"])),
                Roster.from_json(str(config["roster"])) if config["roster"] else None,
                anchor=_path(config["anchor"]),
                anchor_keys=_path(config["anchor-keys"]),
                run=str(config["run"]),
            )
        except (KeyError, ValueError) as error:
            raise InputError(
                f"the run's configuration is not a federation's ({type(error).__name__})",
                where="run configuration",
                remedy="start the run with `djms federate --engine deployment`",
            ) from None


def _path(value: object) -> Path | None:
    return Path(str(value)) if value else None
