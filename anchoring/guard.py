"""What a site checks before it uses a model, and what it remembers between two models: pure, values in and values out.

    state, manifest = guard.accept(state, presented, hash_of_model)

What is presented with a model: the log's checkpoint, a consistency proof from the checkpoint that this site saw last,
the manifest of the model with its inclusion proof, and the newest checkpoint that a quorum of witnesses cosigned, with
the proof that the present one extends it. Rules, in the order in which they are checked:

* the log's key signed the checkpoint, and its tree extends the one seen last: otherwise it is rolled back or forked;
* a checkpoint cosigned by the quorum is an earlier state of this very tree, and since then a model was used at most
  `most_unpublished` times: a log that shows different sites different trees gets no quorum for all of them, and is
  found out here within so many rounds. Cosigning goes on meanwhile, or no quorum could ever come back;
* the manifest stands in the tree, and the model that came is the one it names, by the hash of its canonical bytes;
* models only go forward: none that stands before the last one in the log, no older one of a run, and no second one for
  the same round;
* a model without a manifest is used `anchor_every_n - 1` times in a row and no more.

A refusal changes nothing. The state is stored before anything is cosigned. No files, no network, no clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from anchoring.checkpoint import Checkpoint, open_checkpoint
from anchoring.cosignature import WitnessPolicy
from anchoring.errors import (
    CheckpointInvalid,
    LogForked,
    ModelRolledBack,
    NotAnchored,
    ProofInvalid,
    QuorumMissing,
    RootMismatch,
)
from anchoring.manifest import RoundManifest
from anchoring.merkle import verify_consistency
from anchoring.signers import Signers
from anchoring.witness import WitnessState
from common.exact_json import exact_json, exact_object

HashOfModel = Callable[[Mapping[str, Any]], str]
"""SHA-256, in hexadecimal, of the canonical bytes of the model that came, with the card that the manifest states."""

_TELL = "train nothing more for this coordinator, keep what it sent as evidence and tell the other sites"


@dataclass(frozen=True)
class Presented:
    """What comes with a model. `manifest` is None where it is not anchored yet, `published` where nothing is."""

    checkpoint: str
    consistency: tuple[bytes, ...]
    manifest: bytes | None = None
    index: int = 0
    inclusion: tuple[bytes, ...] = ()
    published: str | None = None
    published_consistency: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class GuardState:
    """What a site remembers: the log as it saw it last, the last model of a run, and what is still open.

    `unpublished` has, for each use of a model under a checkpoint that no quorum is known to have, its size;
    `unanchored` is how many models in a row were used without a manifest.
    """

    log: WitnessState = field(default_factory=WitnessState)
    index: int = 0
    run: str = ""
    round: int = 0
    released: bool = False
    manifest_sha256: str = ""
    unanchored: int = 0
    unpublished: tuple[int, ...] = ()

    def to_json(self) -> str:
        """A JSON text, as `from_json` reads it."""
        content = {
            "log": json.loads(self.log.to_json()),
            "index": self.index,
            "run": self.run,
            "round": self.round,
            "released": self.released,
            "manifest_sha256": self.manifest_sha256,
            "unanchored": self.unanchored,
            "unpublished": list(self.unpublished),
        }
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> GuardState:
        """Read what `to_json` wrote.

        Raises CheckpointInvalid for everything else: a damaged state is never taken for one that saw nothing.
        """
        types: dict[str, type] = {"run": str, "released": bool, "manifest_sha256": str}
        types |= dict.fromkeys(("index", "round", "unanchored"), int)
        try:
            content = exact_object(exact_json(text), {"log", "unpublished", *types})
            values = {key: content[key] for key in types}
            sizes = content["unpublished"]
            if not isinstance(sizes, list) or any(type(size) is not int for size in sizes):
                raise ValueError
            if any(type(values[key]) is not kind for key, kind in types.items()):
                raise ValueError
        except ValueError:
            raise CheckpointInvalid(
                "it is not what a witness wrote",
                where="witness state",
                remedy="restore it from a backup; without it, this witness begins anew",
            ) from None
        values["unpublished"] = tuple(sizes)
        return cls(WitnessState.from_json(json.dumps(content["log"])), **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Guard:
    """The log a site watches, whose cosignatures count for it, and what it puts up with.

    Without a policy no quorum is asked for: the site then trusts that the log shows everybody the same tree.
    """

    signers: Signers
    policy: WitnessPolicy | None = None
    anchor_every_n: int = 1
    most_unpublished: int = 3

    def accept(
        self, state: GuardState, presented: Presented, hash_of_model: HashOfModel | None, *, run: str | None = None
    ) -> tuple[GuardState, RoundManifest | None]:
        """The state after what is presented, and the manifest of the model, None where there is none.

        `hash_of_model` is None where no model came. `run` is the run that the model is said to be of, where that is
        known otherwise.

        Raises:
            CheckpointInvalid, SignatureInvalid, UnknownSigner: it is no checkpoint of the log that this site watches.
            LogRolledBack, LogForked: the log does not extend what this site or the quorum saw of it.
            QuorumMissing: too many models were used whose checkpoints found no quorum.
            NotAnchored: the model that came is not proven to be in the log.
            ModelRolledBack: an older model of the run, or a second one for the same round.
            EntryInvalid: what stands in the manifest's place is none.
        """
        checkpoint = open_checkpoint(presented.checkpoint, self.signers)
        state = replace(state, log=state.log.update(checkpoint, presented.consistency))
        state = self._after_published(state, checkpoint, presented, used=hash_of_model is not None)
        if hash_of_model is None:
            return state, None
        if presented.manifest is None:
            return self._without_manifest(state), None
        state.log.require_anchored(presented.manifest, presented.index, presented.inclusion, checkpoint)
        manifest = RoundManifest.from_bytes(presented.manifest)
        if run is not None and manifest.run != run:
            raise NotAnchored("the manifest that came is of another run", where=checkpoint.origin, remedy=_TELL)
        if hash_of_model(manifest.card) != manifest.model_sha256:
            raise NotAnchored("the model that came is not the one in the log", where=checkpoint.origin, remedy=_TELL)
        return _forward(state, manifest, presented.index, checkpoint.origin), manifest

    def _after_published(
        self, state: GuardState, checkpoint: Checkpoint, presented: Presented, *, used: bool
    ) -> GuardState:
        if self.policy is None:
            return state
        known = 0
        if presented.published is not None:
            published = open_checkpoint(presented.published, self.signers)
            _require_extends(checkpoint, published, presented.published_consistency)
            known = published.size if self._is_published(presented.published) else 0
        waiting = [size for size in state.unpublished if size > known]
        if used and checkpoint.size > known:
            waiting.append(checkpoint.size)
        if used and len(waiting) > self.most_unpublished:
            raise QuorumMissing(
                f"this site used {len(waiting) - 1} models whose checkpoints were not cosigned by {self.policy.quorum} "
                "witnesses that it knows, so other sites may be shown another log",
                where=checkpoint.origin,
                remedy="compare the checkpoint and the list of witnesses with other sites before training on",
            )
        return replace(state, unpublished=tuple(sorted(waiting)))

    def _is_published(self, text: str) -> bool:
        """Whether the quorum of this site's own list cosigned it; the coordinator's list may be another one."""
        try:
            if self.policy is not None:
                self.policy.require(text)
        except QuorumMissing:
            return False
        return True

    def _without_manifest(self, state: GuardState) -> GuardState:
        unanchored = state.unanchored + 1
        if unanchored >= self.anchor_every_n:
            raise NotAnchored(
                f"the model that came is not in the log, and this site uses {self.anchor_every_n - 1} such models in a "
                "row",
                where=self.signers.origin,
                remedy="set anchoring.anchor_every_n to what the site allows",
            )
        return replace(state, unanchored=unanchored)


def _require_extends(checkpoint: Checkpoint, published: Checkpoint, proof: Sequence[bytes]) -> None:
    """Check that the present tree extends the published one. Raises LogForked."""
    try:
        if published.size:
            verify_consistency(published.size, checkpoint.size, published.root, checkpoint.root, proof)
    except (ProofInvalid, RootMismatch) as error:
        raise LogForked(
            f"its tree of {checkpoint.size} leaves is not proven to extend the one of {published.size} that the "
            "witnesses cosigned",
            where=checkpoint.origin,
            remedy=_TELL,
        ) from error


def _forward(state: GuardState, manifest: RoundManifest, index: int, origin: str) -> GuardState:
    """The state after the next model, or the same one again. Raises ModelRolledBack."""
    if index == state.index and manifest.sha256 == state.manifest_sha256:
        return replace(state, unanchored=0)
    if index < state.index:
        raise ModelRolledBack(
            f"the model stands at place {index} of the log, and this site has used a later one, at {state.index}",
            where=origin,
            remedy=_TELL,
        )
    if manifest.run == state.run and (manifest.round, manifest.released) <= (state.round, state.released):
        raise ModelRolledBack(
            f"the model is the run's of round {manifest.round}, and this site has used that of round {state.round}",
            where=origin,
            remedy=_TELL,
        )
    return replace(
        state,
        index=index,
        run=manifest.run,
        round=manifest.round,
        released=manifest.released,
        manifest_sha256=manifest.sha256,
        unanchored=0,
    )
