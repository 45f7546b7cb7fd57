"""What a run commits to the log: manifests of its models, one after the other, and the models themselves to the store.

A manifest covers all rounds since the one before it. A round whose model was never used for the next message counts as
abandoned: what is committed is what happened, not what was about to happen.

Committing is idempotent: a manifest that stands in the log already, to the last byte, is found there and not added
again, so a run that is taken up anew from its start leaves the log as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import rfc8785

from anchoring.anchor_folder import AnchorFolder
from anchoring.manifest import ROUND_TYPE, PrivacyRecord, RoundManifest, RoundRecord, pseudonym, type_of
from common.errors import RunError
from common.exact_json import exact_json
from common.model import ModelCard, Parameters, to_bytes
from common.settings import Settings
from privacy.accounting import spent
from privacy.events import PrivacyEvent, events_to_json
from server.job import Job


@dataclass(frozen=True)
class Committed:
    """A manifest in the log: its place, and its bytes."""

    index: int
    manifest: RoundManifest

    @property
    def entry(self) -> bytes:
        """The manifest as it stands in the log."""
        return self.manifest.to_bytes()


class Commitments:
    """The manifests of one run, in the order of the log."""

    def __init__(self, anchor: AnchorFolder, job: Job) -> None:
        self._anchor = anchor
        self._job = job
        self._salt = job.token("pseudonyms")
        self._indices = _entries_of(anchor, job.run)
        self.made: list[Committed] = []

    @property
    def last(self) -> Committed | None:
        """The newest one, None before the first."""
        return self.made[-1] if self.made else None

    @property
    def entries(self) -> int:
        """How many entries of the log are of this run, those that are to be found again among them."""
        return len(self._indices)

    def resume(self) -> None:
        """Go on after the manifests that stand in the log, but for that of a released model: it is made again."""
        found = [Committed(index, RoundManifest.from_bytes(entry)) for entry, index in self._indices.items()]
        self.made = sorted((one for one in found if not one.manifest.released), key=lambda one: one.index)

    @property
    def pseudonyms(self) -> dict[str, str]:
        """Each site's name in this run's manifests."""
        return {site: pseudonym(self._salt, site) for site in sorted(self._job.sites)}

    def record(
        self, number: int, participants: Sequence[str], weight: float | None, metrics: dict[str, float] | None
    ) -> RoundRecord:
        """A finished round; with no participants, an abandoned one."""
        cohort = set(participants)
        return RoundRecord(
            number=number,
            status="finished" if cohort else "abandoned",
            cohort=self._hidden(cohort),
            dropouts=self._hidden(set(self._job.sites) - cohort),
            weight=weight,
            metrics=metrics,
        )

    def commit(
        self,
        parameters: Parameters,
        card: ModelCard,
        *,
        number: int,
        rounds: Sequence[RoundRecord],
        events: Sequence[PrivacyEvent],
        released: bool = False,
        metrics: Mapping[str, float] | None = None,
    ) -> Committed:
        """Store a model, and put its manifest into the log; returns when both are durable."""
        content = to_bytes(parameters, card)
        sha256 = self._anchor.store.put(content)
        manifest = RoundManifest(
            run=self._job.run,
            round=number,
            released=released,
            model_sha256=sha256,
            card=card_of(content),
            settings_sha256=settings_sha256(self._job.settings),
            bundle_sha256=self._job.bundle_sha256,
            quorum=self._job.settings.quorum,
            rounds=tuple(rounds),
            metrics=None if metrics is None else dict(metrics),
            privacy=self._privacy(events),
            previous=None if self.last is None else self.last.manifest.sha256,
        )
        entry = manifest.to_bytes()
        if entry not in self._indices:
            self._require_first(released)
            self._anchor.store.put(entry)
            (self._indices[entry],) = self._anchor.append([entry])
        self.made.append(Committed(self._indices[entry], manifest))
        return self.made[-1]

    def _require_first(self, released: bool) -> None:
        """Raise RunError for a second released model, which can only come of something that changed under the run."""
        if released and any(RoundManifest.from_bytes(entry).released for entry in self._indices):
            raise RunError(
                "the run's released model is in the log already, and this one is another",
                where=self._anchor.folder,
                remedy="resume the run with the version of DJMS that released it",
            )

    def _privacy(self, events: Sequence[PrivacyEvent]) -> PrivacyRecord | None:
        """What the events cost the people of the site that paid most; the ledger is stored under pseudonyms."""
        if not events:
            return None
        delta = self._job.settings.privacy.dp.delta
        prices = spent(events, delta, cross_checked=False).by_site
        dearest = max(sorted(prices), key=prices.__getitem__)
        last = [event for event in events if event.site == dearest][-1]
        hidden = [replace(event, site=pseudonym(self._salt, event.site)) for event in events]
        return PrivacyRecord(
            unit=events[0].unit,
            epsilon=prices[dearest],
            delta=delta,
            event={key: value for key, value in last.to_json().items() if key != "site"},
            ledger_sha256=self._anchor.store.put(events_to_json(hidden).encode()),
        )

    def _hidden(self, sites: set[str]) -> tuple[str, ...]:
        return tuple(sorted(pseudonym(self._salt, site) for site in sites))


def _entries_of(anchor: AnchorFolder, run: str) -> dict[bytes, int]:
    """The run's manifests in the log, and where they stand."""
    named = rfc8785.dumps(run)  # most entries are of other runs, and looked at no further
    found = ((index, entry) for index, entry in enumerate(anchor.log.entries()) if named in entry)
    return {
        entry: index
        for index, entry in found
        if type_of(entry) == ROUND_TYPE and RoundManifest.from_bytes(entry).run == run
    }


def settings_sha256(settings: Settings) -> str:
    """SHA-256, in hexadecimal, of all settings as canonical JSON (RFC 8785)."""
    return hashlib.sha256(rfc8785.dumps(settings.model_dump(mode="json"))).hexdigest()


def card_of(model: bytes) -> dict[str, Any]:
    """The card in the canonical bytes of a model: the metadata of a safetensors file."""
    header: Any = exact_json(model[8 : 8 + int.from_bytes(model[:8], "little")].decode())
    card: Any = exact_json(header["__metadata__"]["djms"])
    return {**card}
