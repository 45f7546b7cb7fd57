"""The audit of a log: everything that can be recomputed is, and the first thing that does not fit is named.

    the log          every entry, tile and root from disk; every kept checkpoint with its signatures
    the manifests    canonical, one after the other in each run, no round left out, nothing after the released model
    the models       in the store with the hash that is in the log, and with the card that is in the manifest
    the privacy      ε computed anew from the stored events, by the accountant that is installed here
    what one kept    receipts and checkpoints of earlier: their trees are the beginning of this one

It needs the folder and no network. Whoever does not trust its keeper brings the log's signers along.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anchoring.anchor_folder import AnchorFolder
from anchoring.checkpoint import Checkpoint, open_checkpoint
from anchoring.errors import AnchoringError, EntryInvalid, LogForked, LogRolledBack
from anchoring.manifest import ROUND_TYPE, RoundManifest, type_of
from anchoring.receipt import HEADER, Receipt
from anchoring.signers import Signers
from privacy.accounting import epsilon_rdp
from privacy.events import PrivacyEvent, events_from_json
from server.commitments import card_of

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


def audit(folder: Path, *, signers: Signers | None = None, earlier: Sequence[Path] = ()) -> Audited:
    """Look through all of it.

    Raises AnchoringError, a subclass for each kind of fault, that names the first thing that does not fit.
    """
    anchor = AnchorFolder.open(folder, signers=signers)
    anchor.check()
    sizes = anchor.sizes()
    published = [size for size in sizes if anchor.policy is not None and anchor.is_published(size)]
    found = Audited(anchor.origin, anchor.log.size, len(sizes), len(published))
    last: dict[str, RoundManifest] = {}
    for index, entry in enumerate(anchor.log.entries()):
        kind = type_of(entry)
        if kind is None:
            raise _failed("it is no JSON object that says what it is", index)
        found.entries[kind] += 1
        if kind != ROUND_TYPE:
            continue
        manifest = _read(entry, index)
        _require_follows(last.get(manifest.run), manifest, index)
        _require_model(anchor, manifest, index)
        _require_price(anchor, manifest, index)
        last[manifest.run] = manifest
        found.models += 1
    found.runs = len(last)
    for path in earlier:
        _require_extends(anchor, path)
    found.earlier = len(earlier)
    return found


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
    begun = 0 if before is None else before.round
    if [record.number for record in manifest.rounds] != list(range(begun + 1, manifest.round + 1)):
        raise _failed(f"it does not tell of every round from {begun + 1} to {manifest.round}", index)
    if before is not None and manifest.settings_sha256 != before.settings_sha256:
        raise _failed("the run's settings changed under it", index)


def _require_model(anchor: AnchorFolder, manifest: RoundManifest, index: int) -> None:
    model = anchor.store.get(manifest.model_sha256)
    anchor.store.get(manifest.sha256)
    try:
        card = card_of(model)
    except (ValueError, KeyError, TypeError):
        raise _failed(f"what is stored as the model {manifest.model_sha256} is none", index) from None
    if card != manifest.card:
        raise _failed("the card of the stored model is another than the manifest's", index)


def _require_price(anchor: AnchorFolder, manifest: RoundManifest, index: int) -> None:
    """Check that the stored events cost what the manifest says, and the model's card, where it has one, the same."""
    claimed = manifest.privacy
    if claimed is None:
        if manifest.card.get("epsilon") is not None:
            raise _failed("the model's card speaks of privacy and the manifest of none", index)
        return
    ledger = anchor.store.get(claimed.ledger_sha256)
    by_site: defaultdict[str, list[PrivacyEvent]] = defaultdict(list)
    for event in events_from_json(ledger.decode()):
        if (event.run, event.unit) != (manifest.run, claimed.unit) or event.round > manifest.round:
            raise _failed("its privacy ledger has an event of another run, unit or round", index)
        by_site[event.site].append(event)
    epsilon = max(epsilon_rdp(paid, claimed.delta) for paid in by_site.values())
    stated = [claimed.epsilon, *([manifest.card["epsilon"]] if manifest.card.get("epsilon") is not None else [])]
    if any(not math.isclose(epsilon, one, rel_tol=_TOLERANCE) for one in stated):
        raise _failed(f"its events cost ε {epsilon:.9g}, and it says {stated[0]:.9g}", index)
    if {site for record in manifest.rounds for site in record.cohort} - by_site.keys():
        raise _failed("a site of its cohort has no privacy event", index)


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
    text = path.read_text(encoding="utf-8")
    try:
        return open_checkpoint(Receipt.from_text(text).checkpoint_text if text.startswith(HEADER) else text, signers)
    except AnchoringError as error:
        raise type(error)(error.what, where=path, remedy=error.remedy) from error


def _failed(what: str, index: int) -> AuditFailed:
    return AuditFailed(what, where=f"entry {index} of the log", remedy=_TELL)
