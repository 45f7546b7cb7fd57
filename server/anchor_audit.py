"""The audit of a log: everything that can be recomputed is, and the first thing that does not fit is named.

    the log          every entry, tile and root from disk; every kept checkpoint with its signatures
    the manifests    canonical, one after the other in each run, no round left out or told twice, nothing after the
                     released model
    the models       in the store with the hash that is in the log, and with the card that is in the manifest
    the privacy      ε computed anew from the stored events, by the accountant that is installed here; no event of
                     before is left out, and each site of a round has one
    what one kept    receipts and checkpoints of earlier: their trees are the beginning of this one

It needs the folder and no network. Whoever does not trust its keeper brings the log's signers along. It takes the
keeper's word for who the witnesses are, and cannot miss a cosigned checkpoint that was removed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anchoring.anchor_folder import SIGNERS_FILE, WITNESSES_FILE, AnchorFolder
from anchoring.checkpoint import Checkpoint, open_checkpoint
from anchoring.cosignature import WitnessPolicy
from anchoring.errors import AnchoringError, EntryInvalid, LogForked, LogRolledBack
from anchoring.manifest import ROUND_TYPE, PrivacyRecord, RoundManifest, type_of
from anchoring.receipt import HEADER, Receipt
from anchoring.records import RELEASE_TYPE, ReleaseEntry
from anchoring.signers import Signers
from anchoring.verification import keys_in
from common.errors import DjmsError, InputError
from privacy.accounting import spent
from privacy.events import EventRefused, PrivacyEvent, events_from_json
from server.commitments import card_of

_FIXED = ("settings_sha256", "bundle_sha256", "quorum")
_TELL = "do not rely on what this log says from there on, and keep a copy as evidence"
_TOLERANCE = 1e-9


class AuditFailed(AnchoringError):
    """Something that the log says and that is not so."""


@dataclass
class Audited:
    """What was looked through, and found in order."""

    origin: str
    size: int
    checkpoints: int
    published: int
    runs: int = 0
    models: int = 0
    earlier: int = 0
    entries: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Told:
    """What a run has told so far: its last manifest, and the events in its ledger."""

    manifest: RoundManifest
    events: tuple[PrivacyEvent, ...]


def audit(
    folder: Path,
    *,
    signers: Signers | None = None,
    policy: WitnessPolicy | None = None,
    earlier: Sequence[Path] = (),
) -> Audited:
    """Look through all of it; `signers` and `policy` are those that one has of the log by another way.

    Raises AnchoringError, a subclass for each kind of fault, that names the first thing that does not fit.
    """
    anchor = AnchorFolder.open(folder, signers=signers)
    if signers is not None and keys_in(path := folder / SIGNERS_FILE, Signers.from_json) != signers:
        raise AuditFailed("these are not the signers that you brought", where=path, remedy=_TELL)
    if policy is not None and anchor.policy != policy:
        where = folder / WITNESSES_FILE
        raise AuditFailed("these are not the witnesses that you brought", where=where, remedy=_TELL)
    anchor.check()
    sizes = anchor.sizes()
    published = [size for size in sizes if anchor.policy is not None and anchor.is_published(size)]
    found = Audited(anchor.origin, anchor.log.size, len(sizes), len(published))
    last: dict[str, _Told] = {}
    for index, entry in enumerate(anchor.log.entries()):
        kind = type_of(entry)
        if kind is None:
            raise _failed("it is no JSON object that says what it is", index)
        found.entries[kind] += 1
        if kind == RELEASE_TYPE:
            _require_release(entry, index)
        if kind != ROUND_TYPE:
            continue
        manifest = _read(entry, index)
        before = last.get(manifest.run)
        _require_follows(None if before is None else before.manifest, manifest, index)
        _require_model(anchor, manifest, index)
        events = _events(anchor, manifest, () if before is None else before.events, index)
        _require_price(manifest, events, index)
        last[manifest.run] = _Told(manifest, events)
        found.models += 1
    found.runs = len(last)
    for path in earlier:
        _require_extends(anchor, path)
    found.earlier = len(earlier)
    return found


def _require_release(entry: bytes, index: int) -> None:
    try:
        ReleaseEntry.from_bytes(entry)
    except EntryInvalid as error:
        raise _failed(error.what, index) from error


def _read(entry: bytes, index: int) -> RoundManifest:
    try:
        return RoundManifest.from_bytes(entry)
    except EntryInvalid as error:
        raise _failed(error.what, index) from error


def _require_follows(before: RoundManifest | None, manifest: RoundManifest, index: int) -> None:
    """Check that a manifest continues its run."""
    if before is None:
        if manifest.previous is not None or manifest.round != 0:
            raise _failed("it is the first manifest of its run and does not begin one", index)
    elif manifest.previous != before.sha256:
        raise _failed("it does not name the manifest before it in its run", index)
    elif before.released:
        raise _failed("its run had released its model already", index)
    elif manifest.round < before.round or (manifest.round == before.round and not manifest.released):
        raise _failed(f"its run had told of its model after round {before.round} already", index)
    begun = 0 if before is None else before.round
    if [record.number for record in manifest.rounds] != list(range(begun + 1, manifest.round + 1)):
        raise _failed(f"it does not tell of every round from {begun + 1} to {manifest.round}", index)
    if before is not None and any(getattr(manifest, key) != getattr(before, key) for key in _FIXED):
        raise _failed("the run's settings or code changed under it", index)


def _require_model(anchor: AnchorFolder, manifest: RoundManifest, index: int) -> None:
    model = anchor.store.get(manifest.model_sha256)
    anchor.store.get(manifest.sha256)
    try:
        card = card_of(model)
    except (ValueError, KeyError, TypeError):
        raise _failed(f"what is stored as the model {manifest.model_sha256} is none", index) from None
    if card != manifest.card:
        raise _failed("the card of the stored model is another than the manifest's", index)


def _events(
    anchor: AnchorFolder, manifest: RoundManifest, before: Sequence[PrivacyEvent], index: int
) -> tuple[PrivacyEvent, ...]:
    """The events in a manifest's ledger, none without one; those told of before are among them."""
    events: tuple[PrivacyEvent, ...] = ()
    if (claimed := manifest.privacy) is not None:
        ledger = anchor.store.get(claimed.ledger_sha256)
        try:
            events = tuple(events_from_json(ledger.decode()))
        except (EventRefused, UnicodeDecodeError):
            raise _failed("what is stored as its privacy ledger is none", index) from None
        if any(
            (event.run, event.unit) != (manifest.run, claimed.unit) or event.round > manifest.round for event in events
        ):
            raise _failed("its privacy ledger has an event of another run, unit or round", index)
    if Counter(before) - Counter(events):
        raise _failed("privacy events of the manifest before are missing from its ledger", index)
    return events


def _require_price(manifest: RoundManifest, events: Sequence[PrivacyEvent], index: int) -> None:
    """Check that the events cost what the manifest says, and that the model's card, where it has a price, says it."""
    claimed, card = manifest.privacy, manifest.card
    if claimed is None:
        if card.get("epsilon") is not None:
            raise _failed("the model's card speaks of privacy and the manifest of none", index)
        return
    try:
        epsilon = spent(events, claimed.delta, cross_checked=False).epsilon
    except DjmsError as error:
        raise _failed(f"its privacy events have no ε: {error.what}", index) from error
    if not math.isclose(epsilon, claimed.epsilon, rel_tol=_TOLERANCE):
        raise _failed(f"its events cost ε {epsilon:.9g}, and it says {claimed.epsilon:.9g}", index)
    if card.get("epsilon") is not None and not _is_same_price(card, claimed):
        raise _failed("the model's card speaks of another privacy than the manifest", index)
    if all(_without_site(event) != claimed.event for event in events):
        raise _failed("the privacy event in it is none of its ledger's", index)
    told = {(event.site, event.round) for event in events}
    if any((site, record.number) not in told for record in manifest.rounds for site in record.cohort):
        raise _failed("a site of its cohort has no privacy event for the round", index)


def _is_same_price(card: dict[str, Any], claimed: PrivacyRecord) -> bool:
    epsilon = card["epsilon"]
    return (
        isinstance(epsilon, int | float)
        and math.isclose(epsilon, claimed.epsilon, rel_tol=_TOLERANCE)
        and (card.get("delta"), card.get("unit")) == (claimed.delta, claimed.unit)
    )


def _without_site(event: PrivacyEvent) -> dict[str, Any]:
    return {key: value for key, value in event.to_json().items() if key != "site"}


def _require_extends(anchor: AnchorFolder, path: Path) -> None:
    """Check that a receipt or checkpoint that somebody kept is of the beginning of this very log."""
    kept = _kept_checkpoint(path, anchor.signers)
    if kept.size > anchor.log.size:
        raise LogRolledBack(
            f"the checkpoint is of {kept.size} entries, and the log has {anchor.log.size}", where=path, remedy=_TELL
        )
    if anchor.log.root(kept.size) != kept.root:
        raise LogForked(
            f"the first {kept.size} entries of the log are not those of the checkpoint", where=path, remedy=_TELL
        )


def _kept_checkpoint(path: Path, signers: Signers) -> Checkpoint:
    if not path.is_file():
        raise InputError("the receipt or checkpoint does not exist", where=path, remedy="check the path")
    text = path.read_bytes()
    try:
        whole = Receipt.from_text(text).checkpoint_text if text.startswith(HEADER.encode()) else text
        return open_checkpoint(whole, signers)
    except AnchoringError as error:
        error.where = str(path)
        raise


def _failed(what: str, index: int) -> AuditFailed:
    return AuditFailed(what, where=f"entry {index} of the log", remedy=_TELL)
