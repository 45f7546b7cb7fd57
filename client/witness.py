"""The site's side of anchoring on Flower: a mod around training and evaluation, and the answer to one query.

Before anything is done with a model that came, `client.witness_folder` checks that it is the one in the log; the reply
carries the cosigned checkpoint. A site that is a witness uses no model without these proofs, and one that is none takes
no part in an anchored run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from anchoring.errors import EntryInvalid, NotAnchored, QuorumMissing
from anchoring.guard import HashOfModel, Presented
from anchoring.merkle import HASH_SIZE
from client.replies import answered, refusal
from client.witness_folder import WitnessFolder
from common import messages as names
from common.errors import InputError

WITNESS_KEY = "witness"
"""In a node's configuration: the site's folder as a witness."""

Value = TypeVar("Value", int, bytes, str)


class WitnessSite:
    """What a ClientApp needs to be a witness: `mod` around its handlers, and `register` for the query."""

    def __init__(self, folder_of: Callable[[Context], Path | None], name_of: Callable[[Context], str]) -> None:
        self._folder_of = folder_of
        self._name_of = name_of

    def register(self, app: ClientApp) -> None:
        """Answer the query."""
        app.query(names.WITNESS.partition(".")[2])(self._answer)

    def mod(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Check what came, let the app answer, and add the cosignature to its answer."""

        def checked() -> Message:
            folder = self._folder_of(context)
            if folder is None and names.ANCHOR not in message.content:
                return call_next(message, context)
            if folder is not None and names.ANCHOR not in message.content:
                raise NotAnchored(
                    "the coordinator sends a model without proof that it is in the log, and this site uses none",
                    where="site",
                    remedy="switch anchoring on",
                )
            cosigned.append(_accepted(folder, message))
            return call_next(message, context)

        cosigned: list[ConfigRecord] = []
        try:
            reply = answered(message, self._name_of(context), checked, but=(QuorumMissing,))
        except QuorumMissing as missing:
            reply = refusal(message, self._name_of(context), missing)
            # The model is not used; the tree is in order, and without cosignatures no quorum would ever come back.
            cosigned.append(_accepted(self._folder_of(context), message, model=False))
        if cosigned and not reply.has_error():
            reply.content[names.ANCHOR] = cosigned[0]
        return reply

    def _answer(self, message: Message, context: Context) -> Message:
        def reply() -> Message:
            folder = self._folder_of(context)
            if names.ANCHOR in message.content:
                answer = _accepted(folder, message)
            else:
                witness = _opened(folder)
                answer = ConfigRecord({names.SIZE_KEY: witness.size()})
                if (last := witness.last_cosigned()) is not None:
                    answer[names.COSIGNED_KEY] = last
            site = ConfigRecord({names.NAME_KEY: self._name_of(context)})
            return Message(RecordDict({names.SITE: site, names.ANCHOR: answer}), reply_to=message)

        return answered(message, self._name_of(context), reply)


def _accepted(folder: Path | None, message: Message, *, model: bool = True) -> ConfigRecord:
    """Verify what came with a message, with `model` the model too, and cosign.

    Raises what `Guard.accept` does, and InputError for no witness.
    """
    witness = _opened(folder)
    presented = _presented(message.content.config_records[names.ANCHOR])
    arrays = message.content.array_records.get(names.ARRAYS) if model else None
    config = message.content.config_records.get(names.CONFIG, ConfigRecord())
    run = config.get(names.RUN_KEY)
    hash_of_model = None if arrays is None else _hashing(arrays)
    cosigned, _ = witness.accept(presented, hash_of_model, run=None if run is None else str(run))
    return ConfigRecord({names.SIZE_KEY: witness.size(), names.COSIGNED_KEY: cosigned})


def _opened(folder: Path | None) -> WitnessFolder:
    if folder is None:
        raise InputError(
            "the coordinator runs with anchoring, and this site is no witness of its log",
            where="site",
            remedy=f"make it one with `djms anchor witness init`, and name the folder as '{WITNESS_KEY}' in the node's "
            "configuration",
        )
    return WitnessFolder(folder)


def _presented(record: ConfigRecord) -> Presented:
    """What came with a model. Raises InputError where it cannot be read."""
    manifest = _value(record, names.MANIFEST_KEY, bytes) if names.MANIFEST_KEY in record else None
    published = _value(record, names.PUBLISHED_KEY, str) if names.PUBLISHED_KEY in record else None
    return Presented(
        checkpoint=_value(record, names.CHECKPOINT_KEY, str),
        consistency=_hashes(_value(record, names.CONSISTENCY_KEY, bytes)),
        manifest=manifest,
        index=0 if manifest is None else _value(record, names.INDEX_KEY, int),
        inclusion=() if manifest is None else _hashes(_value(record, names.INCLUSION_KEY, bytes)),
        published=published,
        published_consistency=()
        if published is None
        else _hashes(_value(record, names.PUBLISHED_CONSISTENCY_KEY, bytes)),
    )


def _hashes(proof: bytes) -> tuple[bytes, ...]:
    return tuple(proof[at : at + HASH_SIZE] for at in range(0, len(proof), HASH_SIZE))


def _value(record: ConfigRecord, key: str, kind: type[Value]) -> Value:
    value = record.get(key)
    if type(value) is not kind:
        raise InputError(
            f"the coordinator's proofs cannot be read: '{key}' is missing or of another kind",
            where="site",
            remedy="install the same version of DJMS on both",
        )
    return value


def _hashing(arrays: ArrayRecord) -> HashOfModel:
    def hash_of_model(card: Mapping[str, Any]) -> str:
        from common.model import ModelCard, from_array_record, sha256_of  # PyTorch: only messages with a model need it

        try:
            known = ModelCard(**{**card, "hidden": tuple(card["hidden"])})
        except (KeyError, TypeError):
            raise EntryInvalid(
                "the manifest's card of the model is none of this version",
                where="site",
                remedy="install the same version of DJMS on both",
            ) from None
        return sha256_of(from_array_record(arrays), known)

    return hash_of_model
