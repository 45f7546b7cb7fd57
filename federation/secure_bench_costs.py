"""What secure aggregation costs a site and the coordinator at n = 5, beside Flower's SecAgg+ in the same process.

Both do the same work on vectors of the same length, in turns, and the medians are compared: whatever else the machine
does meets both. Seconds are this process's processor time; everything runs in one thread.

| figure | what is in it |
|---|---|
| site, round | its state read and written at each step; masking, to the message's bytes; signing the list; unmasking |
| site, set-up | keys and advert; checking the others', sharing; opening shares; its state read and written |
| site, question | the hash of the model it got and the difference that training made: done around the protocol |
| coordinator | one site dropped out: from the survivors' shares, already read, to the decoded sum |
| peak memory | `tracemalloc`'s peak over the whole masking step, beyond what was there before it |
| bytes | all a site sends in a round, and its part of what it sent in the set-up |

A set-up serves `slots` rounds; every round measured here is the first of its own, when the state is largest.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from numpy.typing import NDArray

from common import secure_vector as vector
from common.errors import RunError
from federation.secagg_reference import Cost, reference_client, reference_server
from federation.secure_bench_site import site_names
from privacy.roster import Identity, Roster
from privacy.secure_aggregation.coordinator import SecureSum, SetUp
from privacy.secure_aggregation.site import SiteSession
from privacy.secure_aggregation.terms import Limits, SegmentTerms, Terms

SITES = 5
THRESHOLD = 3
_TOPIC = bytes(32)
_SHAPES = "one array"
_PEOPLE = 1000.0
_VALUE_BOUND = 8.0


@dataclass(frozen=True)
class Costs:
    """Medians over the turns taken."""

    client_seconds: float
    setup_seconds: float
    question_seconds: float
    server_seconds: float
    peak_bytes: int
    round_bytes: int
    setup_bytes: int
    reference_client: Cost
    reference_server: Cost


def measure_costs(length: int, slots: int, repeats: int) -> Costs:
    """Take turns `repeats` times, after one turn each that does not count.

    Raises RunError when a sum is not the plain sum to the encoding's rounding error.
    """
    turns: list[tuple[_Turn, Cost, Cost]] = []
    for _ in range(repeats + 1):
        turn = _Turn(length, slots)
        turn.run()
        turns.append(
            (turn, reference_client(SITES, length, THRESHOLD), reference_server(SITES, length, THRESHOLD, dropouts=1))
        )
    ours = [turn for turn, _, _ in turns[1:]]
    return Costs(
        client_seconds=_median(turn.client_seconds for turn in ours),
        setup_seconds=_median(turn.setup_seconds for turn in ours),
        question_seconds=_median(_question_seconds(length) for _ in ours),
        server_seconds=_median(turn.server_seconds for turn in ours),
        peak_bytes=peak_bytes(length, slots),
        round_bytes=ours[0].round_bytes,
        setup_bytes=ours[0].setup_bytes,
        reference_client=_median_cost([cost for _, cost, _ in turns[1:]]),
        reference_server=_median_cost([cost for _, _, cost in turns[1:]]),
    )


def _question_seconds(length: int) -> float:
    """What surrounds the protocol's own steps at a site."""
    incoming = ArrayRecord({"model": Array(np.zeros(length, np.float32))})
    trained = ArrayRecord({"model": Array(np.ones(length, np.float32))})
    started = time.process_time()
    vector.topic_of(incoming, ConfigRecord())
    vector.update_of(trained, incoming)
    return time.process_time() - started


def peak_bytes(length: int, slots: int) -> int:
    """The most memory that masking takes at a site, beyond its values and its stored state."""
    turn = _Turn(length, slots)
    turn.set_up()
    site = turn.sites[1]
    values = turn.values_of(site)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        site.step(partial(turn.masked, values=values))
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@dataclass
class _Site:
    """A site: between two steps it is nothing but the bytes of its state."""

    number: int
    identity: Identity
    state: bytes = b""
    setup_seconds: float = 0.0
    seconds: float = 0.0
    setup_bytes: int = 0
    sent_bytes: int = 0

    def step(self, work: Callable[[SiteSession], bytes | None]) -> bytes:
        """One step of a round."""
        started = time.process_time()
        answer = self._with_state(work)
        self.seconds += time.process_time() - started
        self.sent_bytes += len(answer)
        return answer

    def setup_step(self, work: Callable[[SiteSession], bytes | None]) -> bytes:
        """One step of the set-up."""
        started = time.process_time()
        answer = self._with_state(work)
        self.setup_seconds += time.process_time() - started
        self.setup_bytes += len(answer)
        return answer

    def advertise(self, terms: Terms) -> bytes:
        """The set-up's first step, before which there is no state."""
        started = time.process_time()
        session, advert = SiteSession.advertise(self.identity, Terms.from_bytes(terms.to_bytes()), Limits())
        self.state = session.to_bytes()
        self.setup_seconds += time.process_time() - started
        self.setup_bytes += len(advert)
        return advert

    def _with_state(self, work: Callable[[SiteSession], bytes | None]) -> bytes:
        session = SiteSession.from_bytes(self.state)
        answer = work(session) or b""
        self.state = session.to_bytes()
        return answer


@dataclass
class _Turn:
    """One set-up and one round of it, in which the first site drops out after it shared its keys."""

    length: int
    slots: int
    sites: list[_Site] = field(default_factory=list)
    server_seconds: float = 0.0

    def __post_init__(self) -> None:
        identities = [Identity.generate(name) for name in site_names(SITES)]
        self.sites = [_Site(number, identity) for number, identity in enumerate(identities)]
        self.roster = Roster("benchmark", {identity.name: identity.public_key for identity in identities})
        self.terms = _terms(self.length, self.slots)
        self.coordinator = SetUp(self.terms, self.roster)

    @property
    def client_seconds(self) -> float:
        return statistics.median(site.seconds for site in self.sites[1:])

    @property
    def setup_seconds(self) -> float:
        return statistics.median(site.setup_seconds for site in self.sites[1:])

    @property
    def round_bytes(self) -> int:
        return max(site.sent_bytes for site in self.sites)

    @property
    def setup_bytes(self) -> int:
        return max(site.setup_bytes for site in self.sites)

    def run(self) -> None:
        """Raises RunError for a wrong sum."""
        self.set_up()
        survivors = self.sites[1:]
        total = SecureSum(self.coordinator, 1, vector.TRAIN, _TOPIC)
        values = {site.identity.name: self.values_of(site) for site in survivors}
        for site in survivors:
            own = values[site.identity.name]
            total.add_masked(site.identity.name, site.step(partial(self.masked, values=own)))
        listed = total.close()
        for site in survivors:
            signed = site.step(partial(SiteSession.attest, encoded=listed, identity=site.identity))
            total.add_attestation(site.identity.name, signed)
        for site in survivors:
            request = total.unmask_request_for(site.identity.name)
            shares = site.step(partial(SiteSession.unmask, encoded=request, roster=self.roster))
            total.add_revealed(site.identity.name, shares)
        started = time.process_time()
        (result,) = total.result()
        self.server_seconds = time.process_time() - started
        self._check(result.values, list(values.values()))

    def set_up(self) -> None:
        """Everybody's keys and shares."""
        for site in self.sites:
            self.coordinator.add_advert(site.identity.name, site.advertise(self.terms))
        self.coordinator.close_adverts()
        for site in self.sites:
            adverts = self.coordinator.adverts_for(site.identity.name)
            sealed = site.setup_step(partial(SiteSession.share, encoded=adverts, roster=self.roster))
            self.coordinator.add_shares(site.identity.name, sealed)
        self.coordinator.close_shares()
        for site in self.sites:
            begin = self.coordinator.begin_for(site.identity.name)
            site.setup_step(partial(SiteSession.begin, encoded=begin))

    def values_of(self, site: _Site) -> dict[str, NDArray[Any]]:
        """What the site has to sum: an update like the reference's, and metrics."""
        rng = np.random.default_rng(site.number)
        return {
            vector.UPDATE: rng.normal(0.0, 0.1, self.length).astype(np.float32),
            vector.SUMS: rng.integers(0, 1000, _sums_length()).astype(np.float64),
        }

    def masked(self, session: SiteSession, values: dict[str, NDArray[Any]]) -> bytes:
        """The site's message with its vector."""
        weights = {vector.UPDATE: _PEOPLE}
        return session.mask(1, vector.TRAIN, _TOPIC, _SHAPES, values, weights=weights)

    def _check(self, found: dict[str, NDArray[np.float64]], given: list[dict[str, NDArray[Any]]]) -> None:
        encoding = self.terms.encoding(vector.TRAIN, SITES)
        error = len(given) * encoding.rounding_error(vector.UPDATE)
        update = sum(values[vector.UPDATE].astype(np.float64) * _PEOPLE for values in given)
        sums = sum(values[vector.SUMS] for values in given)
        if not (
            np.array_equal(found[vector.SUMS], sums)
            and np.allclose(found[vector.UPDATE], update, rtol=1e-12, atol=error)
        ):
            raise RunError("the sum under masks is not the plain sum", where="benchmark", remedy="report this error")


def _terms(length: int, slots: int) -> Terms:
    update = SegmentTerms(name=vector.UPDATE, length=length, bound=_PEOPLE * _VALUE_BOUND, bits=32)
    sums = SegmentTerms(name=vector.SUMS, length=_sums_length(), bound=2.0**22, bits=64)
    return Terms(
        protocol=1,
        run="benchmark",
        set_up=1,
        first_slot=1,
        slots=slots,
        threshold=f"{THRESHOLD}-of-{SITES}",
        minimum_cohort=THRESHOLD,
        malicious_coordinator=True,
        dropout_recovery=True,
        groups=0,
        colluders=0.05,
        dropouts=0.05,
        rounding="nearest",
        layouts={vector.TRAIN: (sums, update)},
        shapes=_SHAPES,
    )


def _sums_length() -> int:
    return int(vector.flatten_metrics(vector.metrics_template(vector.TRAIN)).size)


def _median(values: Any) -> float:
    return float(statistics.median(values))


def _median_cost(costs: list[Cost]) -> Cost:
    return Cost(_median(cost.seconds for cost in costs), costs[0].peak_bytes, costs[0].sent_bytes)
