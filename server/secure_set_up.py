"""Set-ups of secure aggregation for a run: made when needed, used for many rounds, renewed without stopping the run."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, Message

from common import messages as names
from common import secure_vector as vector
from common.settings import Settings
from privacy.roster import Roster
from privacy.secure_aggregation.coordinator import SetUp
from privacy.secure_aggregation.errors import CohortTooSmall, ProtocolError
from privacy.secure_aggregation.terms import PROTOCOL, SegmentTerms, Terms
from server.exchange import payload_of, payload_question, shortened, site_of, sort_replies

Ask = Callable[[list[Message]], list[Message]]
Token = Callable[[str], bytes]
"""Gives 32 bytes for a purpose: the same again for the same purpose, where a run can be taken up anew."""

_SECOND_CHANCE = 5
"""Sums after which a set-up is renewed for a site that was there and did not get into it."""

_LOG = logging.getLogger("flwr")  # so that it stands where Flower's own messages do


@dataclass
class Current:
    """A set-up in use: which site is at which node, and which sites have not been told yet that it began."""

    set_up: SetUp
    nodes: Mapping[int, str]
    waiting: set[str] = field(default_factory=set)

    def site_at(self, node: int) -> str | None:
        """The name of the site at a node, or None when it is not in the cohort."""
        site = self.nodes.get(node)
        return site if site in self.set_up.cohort else None

    def begin_for(self, site: str) -> bytes | None:
        """The shares meant for this site, until it has taken part once."""
        return self.set_up.begin_for(site) if site in self.waiting else None


def fresh(_purpose: str) -> bytes:
    """A `Token` for runs that nobody takes up anew: other bytes each time."""
    return secrets.token_bytes(32)


class SetUps:
    """The set-ups of one run; `left_out` says why sites are not in the last one.

    What the set-ups call the run comes from `token`. It must be another where sites may have answered a set-up of that
    number already with other keys than those that are asked for now.
    """

    def __init__(self, settings: Settings, roster: Roster, token: Token = fresh) -> None:
        self._settings = settings
        self._roster = roster
        self._run = token("secure aggregation")[:16].hex()
        self._made = 0
        self._tried: frozenset[int] = frozenset()
        self._current: Current | None = None
        self._last: SetUp | None = None
        self._before: Mapping[str, Any] | None = None
        self.left_out: tuple[str, ...] = ()

    def for_slot(self, slot: int, nodes: Collection[int], arrays: ArrayRecord, ask: Ask) -> Current:
        """The set-up for a slot; a new one where the last is used up, or a node came that has not tried to join it.

        Raises ProtocolError when too few sites take part.
        """
        usable = (
            self._current is not None
            and self._current.set_up.terms.first_slot <= slot
            and slot < self._current.set_up.terms.first_slot + self._current.set_up.terms.slots
            and self._current.set_up.terms.shapes == vector.shapes_digest(arrays)
            and set(nodes) <= self._tried
            and not self._somebody_waits(slot, nodes)
        )
        if self._current is None or not usable:
            self._current = None
            self._current = self._make(slot, nodes, arrays, ask)
        return self._current

    def _somebody_waits(self, slot: int, nodes: Collection[int]) -> bool:
        """Whether a site that is there missed the set-up, and enough sums were made to give it another chance."""
        if self._current is None or slot < self._current.set_up.terms.first_slot + _SECOND_CHANCE:
            return False
        return any(self._current.site_at(node) is None for node in nodes)

    def begun_at(self, site: str) -> None:
        """The site has its shares: they need not be sent again."""
        if self._current is not None:
            self._current.waiting.discard(site)

    def forgotten_by(self, node: int) -> None:
        """The site at this node has lost its set-up, as after a restart: the next slot gets a new one."""
        self._tried -= {node}

    def summary(self, sums: int) -> dict[str, Any] | None:
        """What protected `sums` sums: the last set-up's numbers, or None where none was ever in use."""
        if self._last is None and self._before is not None:
            return {**self._before, "sums": sums}
        if self._last is None or not sums:
            return None
        found = self._last.topology.neighbourhood
        random = found.tolerated_colluders is None  # in a complete graph nothing is left to chance
        bounds = {"insecurity": found.log2_insecurity, "failure": found.log2_incorrectness} if random else {}
        return {
            "sums": sums,
            "set_ups": self._made,
            "cohort": list(self._last.cohort),
            "threshold": found.threshold,
            "holders": found.neighbours + 1,
            "malicious_coordinator": self._last.terms.malicious_coordinator,
            "tolerated_colluders": found.tolerated_colluders,
            "groups": self._last.terms.groups,
            # Powers of two; null where the assumed numbers of colluding and vanishing sites cannot do harm at all.
            **{f"log2_{key}": round(value, 1) if math.isfinite(value) else None for key, value in bounds.items()},
        }

    def resume(self, summary: Mapping[str, Any]) -> None:
        """Go on counting after the set-ups of a former execution, whose last `summary` this is."""
        self._before = dict(summary)
        self._made = int(summary["set_ups"])

    def _make(self, slot: int, nodes: Collection[int], arrays: ArrayRecord, ask: Ask) -> Current:
        self._made += 1
        self._tried = frozenset(nodes)
        terms = self._terms(slot, arrays)
        set_up = SetUp(terms, self._roster)
        payload = terms.to_bytes()
        replies = ask([payload_question(names.ADVERTISE, node, payload) for node in sorted(nodes)])
        sites: dict[int, str] = {}
        reasons = []
        valid, refused = sort_replies(replies)
        reasons += refused
        for reply in valid:
            reasons += _taken(set_up.add_advert, reply, site_of(reply), sites)
        _or_because(set_up.close_adverts, reasons)
        questions = [payload_question(names.SHARE, node, set_up.adverts_for(site)) for node, site in sites.items()]
        valid, refused = sort_replies(ask(questions), sites)
        reasons += refused
        for reply in valid:
            reasons += _taken(set_up.add_shares, reply, sites[reply.metadata.src_node_id], {})
        _or_because(set_up.close_shares, reasons)
        self._last = set_up
        self.left_out = tuple(sorted(reasons))
        _LOG.info("secure aggregation, set-up %d: %s", self._made, set_up.topology.neighbourhood)
        return Current(set_up, sites, set(set_up.cohort))

    def _terms(self, slot: int, arrays: ArrayRecord) -> Terms:
        secure = self._settings.privacy.secure_agg
        return Terms(
            protocol=PROTOCOL,
            run=self._run,
            set_up=self._made,
            first_slot=slot,
            slots=secure.setup_rounds,
            threshold=secure.threshold,
            minimum_cohort=self._settings.federated.min_clients,
            malicious_coordinator=secure.malicious_coordinator,
            dropout_recovery=secure.dropout_recovery,
            groups=secure.groups,
            colluders=secure.colluders,
            dropouts=secure.dropouts,
            rounding=secure.rounding,
            layouts=_layouts(arrays, secure.max_people, secure.value_bound),
            shapes=vector.shapes_digest(arrays),
        )


def _layouts(arrays: ArrayRecord, max_people: int, value_bound: float) -> dict[str, tuple[SegmentTerms, ...]]:
    """Parameters' changes, weighed by people, in 32-bit words; sums over people in 64-bit words."""
    bounds = vector.bounds(max_people, value_bound)
    update = SegmentTerms(name=vector.UPDATE, length=vector.size_of(arrays), bound=bounds[vector.UPDATE], bits=32)

    def sums(kind: str) -> SegmentTerms:
        length = int(vector.flatten_metrics(vector.metrics_template(kind)).size)
        return SegmentTerms(name=vector.SUMS, length=length, bound=bounds[vector.SUMS], bits=64)

    return {
        vector.TRAIN: (sums(vector.TRAIN), update),
        vector.TRAIN_PRIVATELY: (sums(vector.TRAIN_PRIVATELY), update),
        vector.TRAIN_SITES_PRIVATELY: (sums(vector.TRAIN_SITES_PRIVATELY), update),
        vector.EVALUATE: (sums(vector.EVALUATE),),
    }


def _taken(take: Callable[[str, bytes], None], reply: Message, site: str, sites: dict[int, str]) -> list[str]:
    """Take a reply in and note its node; or say why it was left out."""
    try:
        take(site, payload_of(reply))
    except ProtocolError as error:
        return [f"{site} was left out ({type(error).__name__}: {error.what})"]
    sites[reply.metadata.src_node_id] = site
    return []


def _or_because(close: Callable[[], None], reasons: list[str]) -> None:
    """Close a step; where that fails, say as well what befell the sites that are missing."""
    try:
        close()
    except CohortTooSmall as error:
        raise CohortTooSmall("; ".join([error.what, *shortened(sorted(reasons))]), remedy=error.remedy) from error
