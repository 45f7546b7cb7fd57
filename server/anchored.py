"""Anchoring as a strategy: no model is sent to a site that is not in the log, and sites' cosignatures are collected.

    Anchored(DifferentiallyPrivate(SecureAggregation(FixedOrder(FedAvg(...)))))

Before a message with a model leaves, the model is stored and its manifest committed, at the latest with every
`anchoring.anchor_every_n`-th round of messages. Each message carries the log's checkpoint, a proof that it extends the
checkpoint which that site saw last, the manifest with its inclusion proof, and the newest checkpoint that a quorum of
sites cosigned. What a site saw last is asked once a run (one exchange with the sites that were not asked yet) and then
known from its replies. The run's last model is committed before it is handed out, and shown to all sites once more so
that its checkpoint gets their cosignatures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from anchoring.anchor_folder import AnchorFolder
from anchoring.checkpoint import open_checkpoint
from anchoring.errors import AnchoringError
from anchoring.manifest import RoundRecord
from common import messages as names
from common.errors import InputError, RunError
from common.files import atomic_path
from common.model import from_array_record, sha256_of, to_array_record
from server.commitments import Commitments, Committed
from server.exchange import site_of, sort_replies
from server.finished_round import FinishedRound
from server.job import Job
from server.secure_aggregation import Ask
from server.wrapper import Past, Release, Wrapper

RECEIPTS_FOLDER = "receipts"
PSEUDONYMS_FILE = "pseudonyms.json"


def anchored(strategy: Wrapper, job: Job, ask: Ask) -> Wrapper:
    """The strategy, anchored where the settings ask for it.

    Raises InputError when they do and the run has no log, LogMissing and LogCorrupt as `AnchorFolder.open`.
    """
    if not job.settings.anchoring.enabled:
        return strategy
    if job.anchor is None:
        raise InputError(
            "the run has no log to anchor its models in",
            where="anchoring",
            remedy="make one with `djms anchor init`, or say --anchoring.enabled false",
        )
    return Anchored(strategy, AnchorFolder.open(job.anchor, keys=job.anchor_keys), job, ask)


class Anchored(Wrapper):
    """Commits models before they are sent; see the module's docstring. Raises AnchoringError for a damaged log."""

    def __init__(self, inner: Strategy, anchor: AnchorFolder, job: Job, ask: Ask) -> None:
        super().__init__(inner)
        self._anchor = anchor
        self._job = job
        self._ask = ask
        self._commitments = Commitments(anchor, job)
        self._seen: dict[int, int] = {}
        self._others = 0
        self._sent_since = 0
        self._recorded = 0
        self._waiting: dict[int, FinishedRound] = {}
        self._left_out: tuple[str, ...] = ()
        with atomic_path(job.output / PSEUDONYMS_FILE) as path:  # first: a run that dies is to be understood, too
            path.write_text(json.dumps(self._commitments.pseudonyms, indent=2) + "\n", encoding="utf-8")

    def memory(self) -> dict[str, Any]:
        """The rounds that no manifest tells of yet."""
        waiting = {str(number): done.to_json() for number, done in self._waiting.items()}
        return {**super().memory(), "anchoring": {"waiting": waiting}}

    def resume(self, past: Past) -> None:
        """Go on after what the log tells of the run. Raises RunError where that is not what happened."""
        super().resume(past)
        self._commitments.resume()
        for manifest in (one.manifest for one in self._commitments.made):
            if manifest.round and past.hashes.get(manifest.round) != manifest.model_sha256:
                raise RunError(
                    f"the log tells of another model after round {manifest.round} than the run's folder, or the folder "
                    "is older than the log",
                    where=self._job.output,
                    remedy="restore the run's folder as it was last, or start another run",
                )
            self._recorded = manifest.round
        self._sent_since = self._job.settings.anchoring.anchor_every_n  # sites may have had what nobody remembers
        for number, content in past.memory.get("anchoring", {}).get("waiting", {}).items():
            if int(number) > self._recorded and int(number) in past.finished:
                self._waiting[int(number)] = FinishedRound.from_json(content, past.model(int(number)))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why sites had no part, or gave no cosignature."""
        return (*super().left_out, *self._left_out)

    @property
    def anchoring(self) -> dict[str, Any]:
        """The log, the run's entries, and whether the last checkpoint with them is published."""
        made, policy = self._commitments.made, self._anchor.policy
        size = self._anchor.log.size
        return {
            "origin": self._anchor.origin,
            "size": size,
            "root": self._anchor.log.root(size).hex(),
            "entries": [
                {"index": one.index, "round": one.manifest.round, "model_sha256": one.manifest.model_sha256}
                for one in made
            ],
            "witnesses": 0 if policy is None else len(policy.witnesses),
            "quorum": 0 if policy is None else policy.quorum,
            "cosigned": len(self._anchor.cosigned_by(size)),
            "published": policy is not None and self._anchor.is_published(size),
        }

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Commit the model where it is due, hand on, and add the proofs to the messages."""
        self._left_out = ()
        committed = self._committed(arrays, server_round - 1, due=self._is_due())
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        self._sent_since += 1
        return self._presented(messages, committed, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep the cosignatures, hand on, and remember the round for the next manifest."""
        received = list(replies)
        self._keep_cosignatures(received)
        arrays, metrics = self.inner.aggregate_train(server_round, received)
        if arrays is not None:
            self._waiting[server_round] = FinishedRound(arrays, self.participants, metrics)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As for training; the last model is always committed."""
        self._left_out = ()
        committed = self._committed(arrays, server_round, due=True)
        messages = list(self.inner.configure_evaluate(server_round, arrays, config, grid))
        return self._presented(messages, committed, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Keep the cosignatures, and hand on."""
        received = list(replies)
        self._keep_cosignatures(received)
        return self.inner.aggregate_evaluate(server_round, received)

    def release(self, grid: Grid, release: Release) -> None:
        """Commit the run's last model, show it to all sites, and write the receipts."""
        super().release(grid, release)
        last_round = self._job.settings.federated.rounds
        if self._waiting:  # the last round's model was not sent to anybody, and is part of what is released
            self._committed(self._waiting[max(self._waiting)].arrays, last_round, due=True)
        committed = self._commitments.commit(
            release.parameters,
            release.card,
            number=last_round,
            rounds=self._rounds_until(last_round),
            events=self.events,
            released=True,
            metrics=release.metrics,
        )
        arrays = to_array_record(release.parameters)
        for _ in range(2):  # a site that was away for a moment is asked once more
            nodes = [node for node in grid.get_node_ids() if self._seen.get(node, 0) < self._anchor.log.size]
            if nodes and not self._anchor.is_published(self._anchor.log.size):
                asked = [_question(node, RecordDict({names.ARRAYS: arrays})) for node in nodes]
                self._keep_cosignatures(self._ask(grid, self._presented(asked, committed, grid)))
        self._write_receipts()

    def _is_due(self) -> bool:
        """Whether the next messages must carry a manifest: sites use only so many models in a row without one."""
        return self._commitments.last is None or self._sent_since >= self._job.settings.anchoring.anchor_every_n

    def _committed(self, arrays: ArrayRecord, number: int, *, due: bool) -> Committed | None:
        """The manifest of the model that is to be sent; None where it has none and needs none yet."""
        parameters = from_array_record(arrays)
        sha256 = sha256_of(parameters, self._job.card)
        self._drop_unused(sha256)
        last = self._commitments.last
        if last is not None and last.manifest.model_sha256 == sha256:
            self._sent_since = 0
            return last
        if not due:
            return None
        rounds = self._rounds_until(number)
        self._sent_since = 0
        return self._commitments.commit(parameters, self._job.card, number=number, rounds=rounds, events=self.events)

    def _drop_unused(self, sha256: str) -> None:
        """Forget the newest round where another model than its own goes on: it was given up after all."""
        newest = max(self._waiting, default=0)
        if newest and sha256_of(from_array_record(self._waiting[newest].arrays), self._job.card) != sha256:
            del self._waiting[newest]

    def _rounds_until(self, number: int) -> list[RoundRecord]:
        """Records of all rounds since the last manifest; those that gave no model that went on are abandoned."""
        records = []
        for one in range(self._recorded + 1, number + 1):
            done = self._waiting.pop(one, None)
            if done is None:
                records.append(self._commitments.record(one, (), None, None))
            else:
                records.append(self._commitments.record(one, done.participants, done.weight, done.evaluation))
        self._recorded = max(self._recorded, number)
        return records

    def _presented(self, messages: Sequence[Message], committed: Committed | None, grid: Grid) -> list[Message]:
        """The messages with the proofs that their receivers need."""
        self._ask_what_was_seen([message.metadata.dst_node_id for message in messages], grid)
        log, size = self._anchor.log, self._anchor.log.size
        # The log's own signature is enough: cosignatures could fill the note before a site adds its own.
        common: dict[str, Any] = {names.CHECKPOINT_KEY: log.checkpoint.decode()}
        if committed is not None:
            common[names.MANIFEST_KEY] = committed.entry
            common[names.INDEX_KEY] = committed.index
            common[names.INCLUSION_KEY] = b"".join(log.inclusion_proof(committed.index, size))
        if (published := self._anchor.published()) is not None:
            known = open_checkpoint(published, self._anchor.signers).size
            common[names.PUBLISHED_KEY] = published
            common[names.PUBLISHED_CONSISTENCY_KEY] = b"".join(log.consistency_proof(known, size))
        presented = []
        for message in messages:
            # Until its reply says so, nobody knows whether the site saw what is sent now: it is asked again otherwise.
            seen = self._seen.pop(message.metadata.dst_node_id, None)
            if seen is None:
                continue  # it did not say what it saw, so no proof can be made for it this time
            # A site that saw more than there is gets no proof, because there is none: it will say so.
            proof = log.consistency_proof(seen, size) if seen <= size else []
            presented.append(_with_anchor(message, ConfigRecord({**common, names.CONSISTENCY_KEY: b"".join(proof)})))
        return presented

    def _ask_what_was_seen(self, nodes: Iterable[int], grid: Grid) -> None:
        """Ask sites that were not asked yet; what they cosigned before, and nobody kept, is kept now."""
        self._anchor.log.refresh()
        others = self._anchor.log.size - self._commitments.entries
        if others != self._others:  # somebody else wrote, perhaps another run, which the same sites may watch
            self._others = others
            self._seen.clear()
        unknown = [node for node in nodes if node not in self._seen]
        if unknown:
            replies = self._ask(grid, [_question(node, RecordDict()) for node in unknown])
            for reply in replies:
                if not reply.has_error():
                    self._seen[reply.metadata.src_node_id] = (
                        0  # one that refuses to say is sent the model, and says why
                    )
            self._keep([text for reply in replies if (text := self._learn(reply)) is not None])

    def _learn(self, reply: Message) -> str | None:
        """Note what a site saw last; returns its cosigned checkpoint, if there is one."""
        record = None if reply.has_error() else reply.content.get(names.ANCHOR)
        if not isinstance(record, ConfigRecord) or type(size := record.get(names.SIZE_KEY)) is not int:
            return None
        self._seen[reply.metadata.src_node_id] = max(0, size)
        cosigned = record.get(names.COSIGNED_KEY)
        return cosigned if isinstance(cosigned, str) else None

    def _keep_cosignatures(self, replies: Sequence[Message]) -> None:
        """Keep them, also those of sites that had another reason to refuse, and remember who gave none."""
        cosigned = {reply.metadata.src_node_id: self._learn(reply) for reply in replies}
        trouble = self._keep(text for text in cosigned.values() if text is not None)
        reasons = []
        for reply in sort_replies(replies)[0]:
            text = cosigned[reply.metadata.src_node_id]
            if text is None:
                reasons.append(f"{site_of(reply)} gave no cosignature")
            elif text in trouble:
                reasons.append(f"{site_of(reply)} gave no valid cosignature ({trouble[text]})")
        self._left_out = tuple(sorted(reasons))

    def _keep(self, texts: Iterable[str]) -> dict[str, str]:
        """Keep cosignatures by witnesses of the policy; returns what is wrong with the other texts."""
        good, trouble = [], {}
        for text in texts:
            try:
                _, signatures = self._anchor.verified_cosignatures(text)
            except AnchoringError as error:
                trouble[text] = error.what
                continue
            if signatures:
                good.append(text)
            else:
                trouble[text] = "it is by no witness of the policy"
        self._anchor.add_cosignatures(*good)
        return trouble

    def _write_receipts(self) -> None:
        """One file a manifest."""
        folder = self._job.output / RECEIPTS_FOLDER
        for one in self._commitments.made:
            name = "released" if one.manifest.released else f"round-{one.manifest.round:03}"
            with atomic_path(folder / f"{name}.tlog-proof") as path:
                path.write_text(self._anchor.receipt(one.index).to_text(), encoding="utf-8")


def _question(node: int, content: RecordDict) -> Message:
    return Message(content, message_type=names.WITNESS, dst_node_id=node)


def _with_anchor(message: Message, anchor: ConfigRecord) -> Message:
    content = RecordDict({**cast(dict[str, Any], dict(message.content)), names.ANCHOR: anchor})
    metadata = message.metadata
    return Message(content, message_type=metadata.message_type, dst_node_id=metadata.dst_node_id)
