"""The site's side of secure aggregation on Flower: a mod around training and evaluation, and answers to four queries.

The protocol is `privacy.secure_aggregation.site`; here its messages are taken out of Flower's and put into them. The
session lives in `context.state`. A site that has keys sends nothing unmasked: a message that asks for it is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from client.keys import SiteKeys, read_site_keys
from client.replies import answered
from common import messages as names
from common import secure_vector as vector
from common.errors import InputError, RunError
from privacy.distributed_noise import NoiseShare
from privacy.secure_aggregation.errors import MalformedMessage, PastRound, UnknownSetUp
from privacy.secure_aggregation.site import SiteSession
from privacy.secure_aggregation.terms import Terms

KEYS_KEY = "site-keys"
_STATE = "secure-aggregation"
_SESSION = "session"
_NOISE_KEYS = (names.NOISE_KEY, names.UPDATE_NORM_KEY, names.SITE_WEIGHT_KEY)
Value = TypeVar("Value", int, bytes)

KeysOf = Callable[[Context], SiteKeys | None]


def keys_from_node_config(context: Context) -> SiteKeys | None:
    """The keys in the folder that the node's configuration names, or None where it names none."""
    folder = context.node_config.get(KEYS_KEY)
    return None if folder is None else read_site_keys(Path(str(folder)))


class SecureSite:
    """What a ClientApp needs to take part: `mod` around its handlers, and `register` for the protocol's own queries."""

    def __init__(self, keys_of: KeysOf, name_of: Callable[[Context], str]) -> None:
        self._keys_of = keys_of
        self._name_of = name_of

    def register(self, app: ClientApp) -> None:
        """Answer the protocol's queries."""
        for message_type, step in (
            (names.ADVERTISE, self._advertise),
            (names.SHARE, self._share),
            (names.ATTEST, self._attest),
            (names.UNMASK, self._unmask),
        ):
            app.query(message_type.partition(".")[2])(self._answer(step))

    def mod(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Let the app answer, and send its answer under masks."""

        def masked() -> Message:
            keys = self._keys_of(context)
            asked = names.SECURE in message.content
            if keys is None and not asked:
                return call_next(message, context)
            if keys is None:
                raise _no_keys()
            if not asked:
                raise InputError(
                    "the coordinator asks for an answer without secure aggregation, and this site gives none",
                    where="site",
                    remedy="switch privacy.secure_agg on",
                )
            return self._masked(message, context, keys, call_next)

        return answered(message, self._name_of(context), masked)

    def _masked(self, message: Message, context: Context, keys: SiteKeys, call_next: ClientAppCallable) -> Message:
        slot, begin = _asked(message)
        session = _session(context, keys)
        if begin is not None:
            session.begin(begin)
        kind = _kind_of(message, slot)
        session.require_open(slot)
        arrays = message.content.array_records[names.ARRAYS]
        topic = vector.topic_of(arrays, cast(ConfigRecord, message.content[names.CONFIG]))
        share = _noise_share(session, kind, message) if kind == vector.TRAIN_SITES_PRIVATELY else None
        if share is not None:  # in place of anything the coordinator may have written there
            message.content[names.SECURE] = ConfigRecord(
                {names.STEPS_TO_UNIT_KEY: share.steps, names.SHARES_KEY: share.shares}
            )
        reply = call_next(message, context)
        if reply.has_error() or _is_refusal(reply):
            return reply
        _require_own_table(reply, keys)
        metrics = reply.content.metric_records[names.METRICS]
        values: dict[str, np.ndarray] = {vector.SUMS: vector.flatten_metrics(metrics)}
        weights: dict[str, float] = {}
        if kind != vector.EVALUATE:
            answered_arrays = reply.content.array_records[names.ARRAYS]
            values[vector.UPDATE] = (
                vector.update_of(answered_arrays, arrays) if share is None else vector.flatten(answered_arrays)
            )
            weights[vector.UPDATE] = float(cast(float, metrics[vector.weight_key(kind)]))
        rng = _rounding_generator(message, slot, keys.identity.name)
        try:
            payload = session.mask(slot, kind, topic, vector.shapes_digest(arrays), values, weights=weights, rng=rng)
        finally:
            _remember(context, session, keys)
        content = RecordDict({names.SITE: reply.content[names.SITE]})
        content[names.SECURE] = ConfigRecord({names.PAYLOAD_KEY: payload})
        return Message(content, reply_to=message)

    def _answer(
        self, step: Callable[[bytes, Context, SiteKeys], tuple[SiteSession, bytes]]
    ) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            def reply() -> Message:
                keys = self._keys_of(context)
                if keys is None:
                    raise _no_keys()
                session, answer = step(_value(message, names.PAYLOAD_KEY, bytes), context, keys)
                _remember(context, session, keys)
                record = ConfigRecord({names.NAME_KEY: keys.identity.name})
                content = RecordDict({names.SITE: record, names.SECURE: ConfigRecord({names.PAYLOAD_KEY: answer})})
                return Message(content, reply_to=message)

            return answered(message, self._name_of(context), reply)

        return handle

    def _advertise(self, payload: bytes, context: Context, keys: SiteKeys) -> tuple[SiteSession, bytes]:
        last = 0
        if _STATE in context.state:
            previous = _session(context, keys)
            previous.require_part()
            last = previous.last_slot
        return SiteSession.advertise(keys.identity, Terms.from_bytes(payload), keys.limits, last_slot=last)

    def _share(self, payload: bytes, context: Context, keys: SiteKeys) -> tuple[SiteSession, bytes]:
        session = _session(context, keys)
        return session, session.share(payload, keys.roster)

    def _attest(self, payload: bytes, context: Context, keys: SiteKeys) -> tuple[SiteSession, bytes]:
        session = _session(context, keys)
        return session, session.attest(payload, keys.identity)

    def _unmask(self, payload: bytes, context: Context, keys: SiteKeys) -> tuple[SiteSession, bytes]:
        session = _session(context, keys)
        return session, session.unmask(payload, keys.roster)


def _kind_of(message: Message, slot: int) -> str:
    """Whether it is training or evaluation. A round is trained in its own slot, so that it is never trained twice."""
    config = cast(ConfigRecord, message.content[names.CONFIG])
    kind = vector.kind_of(message.metadata.message_type, config)
    if kind != vector.EVALUATE and int(cast(int, config[names.ROUND_KEY])) != slot:
        raise PastRound(
            f"round {config[names.ROUND_KEY]} is to be trained in slot {slot}", remedy="number slots as rounds"
        )
    return kind


def _noise_share(session: SiteSession, kind: str, message: Message) -> NoiseShare:
    """The site's share of the noise, by the set-up it agreed to: the coordinator only says how much there is to be."""
    config = cast(ConfigRecord, message.content[names.CONFIG])
    figures = {key: float(cast(float, config[key])) for key in _NOISE_KEYS}
    if not all(0.0 < figure < math.inf for figure in figures.values()) or not _is_power_of_two(
        figures[names.SITE_WEIGHT_KEY]
    ):
        raise MalformedMessage("the coordinator asks for noise that cannot be", remedy="use the same version of DJMS")
    return session.noise_share(
        kind,
        vector.UPDATE,
        noise_multiplier=figures[names.NOISE_KEY],
        norm=figures[names.UPDATE_NORM_KEY],
        weight=figures[names.SITE_WEIGHT_KEY],
    )


def _is_power_of_two(number: float) -> bool:
    return math.frexp(number)[0] == 0.5


def _rounding_generator(message: Message, slot: int, site: str) -> np.random.Generator:
    """Chance for stochastic rounding, from the run's seed like all of training: what it decides is under the masks."""
    seed = int(cast(int, cast(ConfigRecord, message.content[names.CONFIG]).get(names.SEED_KEY, 0)))
    return np.random.default_rng([seed, slot, int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "big")])


def _require_own_table(reply: Message, keys: SiteKeys) -> None:
    name = cast(ConfigRecord, reply.content[names.SITE])[names.NAME_KEY]
    if name != keys.identity.name:
        raise InputError(
            f"the table is that of {name} and the keys are those of {keys.identity.name}",
            where="site",
            remedy="give the site its own table",
        )


def _asked(message: Message) -> tuple[int, bytes | None]:
    """The slot, and the begin of the set-up where it is told."""
    slot = _value(message, names.SLOT_KEY, int)
    record = message.content[names.SECURE]
    begins = isinstance(record, ConfigRecord) and names.BEGIN_KEY in record
    return slot, _value(message, names.BEGIN_KEY, bytes) if begins else None


def _value(message: Message, key: str, kind: type[Value]) -> Value:
    """A value of the protocol's record. Raises MalformedMessage where it is missing or of another type."""
    record = message.content.get(names.SECURE)
    value = record.get(key) if isinstance(record, ConfigRecord) else None
    if type(value) is not kind:
        raise MalformedMessage(
            f"the coordinator's message has no '{key}' as secure aggregation needs it",
            remedy="use the same version of DJMS everywhere",
        )
    return value


def _is_refusal(reply: Message) -> bool:
    """Whether the app sends nothing but its reason for not answering."""
    site = reply.content.get(names.SITE)
    return set(reply.content) == {names.SITE} and isinstance(site, ConfigRecord) and names.REFUSAL_KEY in site


def _session(context: Context, keys: SiteKeys) -> SiteSession:
    if _STATE not in context.state:
        raise UnknownSetUp("this site has no set-up in this run", where="site", remedy="make a new set-up")
    sealed = cast(bytes, cast(ConfigRecord, context.state[_STATE])[_SESSION])
    return SiteSession.from_bytes(keys.identity.unseal(sealed))


def _remember(context: Context, session: SiteSession, keys: SiteKeys) -> None:
    """Flower shows and keeps the context; what is in it can be read with the site's own key only."""
    context.state[_STATE] = ConfigRecord({_SESSION: keys.identity.seal(session.to_bytes())})


def _no_keys() -> RunError:
    return RunError(
        "the coordinator asks for secure aggregation and this site has no keys",
        where="site",
        remedy=f"set the site up, and name its folder as '{KEYS_KEY}' in the node's configuration",
    )
