"""Who shares secrets with whom: how many neighbours a cohort of some size needs, the graph itself, and random groups.

In a large cohort a site masks and shares with k neighbours only (Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure
Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020): sites stand on a ring in random order and each is
joined to the k/2 next on either side (a Harary graph). Its *holders* are these neighbours and itself, h = k + 1 in all,
and t of them rebuild its secrets. `plan_neighbourhood` takes the smallest k whose `failure_bounds` are small enough:

* Insecurity, at most 2^-80 (`SECURITY_BITS`): some honest site has enough colluding holders to be uncovered, or honest
  sites' masks fall into several sums. One graph fails with at most 2^-40; 2^-40 more are for a coordinator that tries
  up to 2^40 key sets of a site it colludes with (the seed hashes all keys) for a graph that suits it.
* Incorrectness, at most 2^-20 (`CORRECTNESS_BITS`): some site has fewer than t holders left, and the slot is lost.

Rules: what decides is computed exactly, so that every party finds the same k and t; shares of colluders and dropouts
are rounded up to whole sites; k is at least `FEWEST_NEIGHBOURS`, for in a small cohort the bounds hold because a share
of it is one or two colluders, and a sparse graph would give away that a complete one withstands many more; where no k
keeps the bounds, the graph is complete.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from common.settings_rules import SMALLEST_GROUP
from privacy.secure_aggregation import failure_bounds
from privacy.secure_aggregation.errors import (
    CohortTooSmall,
    DuplicateSite,
    GroupTooSmall,
    MalformedMessage,
    ThresholdTooLow,
)

SECURITY_BITS = 80
CORRECTNESS_BITS = 20
FEWEST_NEIGHBOURS = 40

_RING = b"djms/v1/neighbour-ring"
_GROUPS = b"djms/v1/groups"
_COUNT = re.compile(r"([0-9]{1,6})-of-([1-9][0-9]{0,5})")
_PERCENT = re.compile(r"([0-9]{1,6})%")


@dataclass(frozen=True)
class Threshold:
    """How many holders rebuild a secret: `amount` of them, or `amount` per cent of them when `relative`."""

    amount: int
    relative: bool

    def of(self, holders: int) -> int:
        """Return t for so many holders, never more than them and always above half of them.

        Raises:
            CohortTooSmall: fewer holders than a fixed threshold.
            ThresholdTooLow: a fixed threshold that is not above half of the holders.
        """
        if self.relative:
            return max(-(-self.amount * holders // 100), holders // 2 + 1)
        if holders < self.amount:
            raise CohortTooSmall(
                f"{holders} sites are fewer than the threshold of {self.amount}",
                remedy="wait for more sites, or lower privacy.secure_agg.threshold",
            )
        if 2 * self.amount <= holders:
            raise ThresholdTooLow(
                f"a threshold of {self.amount} is not above half of {holders} sites",
                remedy=f"set privacy.secure_agg.threshold to at least '{holders // 2 + 1}-of-{holders}', or to '60%'",
            )
        return self.amount


@dataclass(frozen=True)
class Neighbourhood:
    """The plan for a cohort: everyone has `neighbours` neighbours, `threshold` of `neighbours` + 1 holders suffice.

    The two bounds are base-2 logarithms of probabilities, 0.0 at most. In a complete graph nothing is random: -inf when
    the assumed numbers of colluders and dropouts are harmless, 0.0 when they are not. `tolerated_colluders` is how many
    colluding sites a complete graph withstands, None for a k-regular one, where it depends on who they are.
    """

    sites: int
    neighbours: int
    threshold: int
    log2_insecurity: float
    log2_incorrectness: float
    tolerated_colluders: int | None


def parse_threshold(text: str) -> Threshold:
    """Read "3-of-5" or "60%".

    Raises:
        MalformedMessage: the text has neither form, or asks for more than all.
        ThresholdTooLow: what it asks for is not above half.
    """
    if count := _COUNT.fullmatch(text):
        amount, whole, relative = int(count[1]), int(count[2]), False
    elif percent := _PERCENT.fullmatch(text):
        amount, whole, relative = int(percent[1]), 100, True
    else:
        raise MalformedMessage(
            "the threshold is neither like '3-of-5' nor like '60%'", remedy="write privacy.secure_agg.threshold so"
        )
    if amount > whole:
        raise MalformedMessage(
            f"the threshold '{text}' asks for more than all", remedy="lower privacy.secure_agg.threshold"
        )
    if 2 * amount <= whole:
        raise ThresholdTooLow(
            f"the threshold '{text}' is not above half",
            remedy="raise privacy.secure_agg.threshold, for example to '60%'",
        )
    return Threshold(amount, relative)


@lru_cache(maxsize=256)
def plan_neighbourhood(
    sites: int, threshold: str, *, colluders: float, dropouts: float, malicious_coordinator: bool
) -> Neighbourhood:
    """Choose k and t for a cohort of `sites`; deterministic, so that sites and coordinator find the same.

    "t-of-n" means the complete graph and t as written. "p%" means t = max(ceil(p/100 (k+1)), floor((k+1)/2) + 1) and
    the smallest even k, from `FEWEST_NEIGHBOURS` to below `sites` - 1, that keeps both bounds; if none does, the
    complete graph.

    `colluders` and `dropouts` are the shares of sites, in [0, 1), assumed to work with the coordinator and to vanish in
    one slot. `malicious_coordinator`: it may tell holders different lists, and the consistency check is on.

    Raises:
        CohortTooSmall: fewer than two sites, or fewer than t.
        ThresholdTooLow: t is not above half of the holders.
        MalformedMessage: a threshold or a share that is none.
    """
    wanted = parse_threshold(threshold)
    if sites < 2:
        raise CohortTooSmall("a sum over fewer than two sites hides nobody", remedy="wait for more sites")
    colluding, dropped = min(_whole(colluders, sites), sites - 1), _whole(dropouts, sites)
    for k in range(FEWEST_NEIGHBOURS, sites - 1, 2) if wanted.relative else ():
        t = wanted.of(k + 1)
        lost = failure_bounds.incorrect(sites, k, t, dropped)
        if lost > Fraction(1, 2**CORRECTNESS_BITS):
            continue
        unsafe = _insecurity(sites, k, t, colluding, dropped, malicious_coordinator)
        if unsafe <= Fraction(1, 2**SECURITY_BITS):
            return Neighbourhood(sites, k, t, _log2(unsafe), _log2(lost), None)
    t = wanted.of(sites)
    tolerated = max(0, 2 * t - sites - 1) if malicious_coordinator else t - 1
    harmless = colluding < (2 * t - sites if malicious_coordinator else t)
    enough = sites - dropped >= t
    return Neighbourhood(sites, sites - 1, t, -math.inf if harmless else 0.0, -math.inf if enough else 0.0, tolerated)


def _insecurity(n: int, k: int, t: int, colluding: int, dropped: int, malicious_coordinator: bool) -> Fraction:
    apart = failure_bounds.disconnected(n, k, min(n, colluding + dropped))
    if not malicious_coordinator:
        return failure_bounds.uncovered(n, k, colluding, t) + apart
    bare = failure_bounds.uncovered(n, k, colluding, 2 * t - (k + 1))
    # `divided` contains this event and costs far more to compute; it is asked only where it may decide.
    if bare > Fraction(1, 2**SECURITY_BITS):
        return bare + apart
    return max(bare, failure_bounds.divided(n, k, t, colluding)) + apart


class Graph:
    """The k-regular Harary graph on the ring of `names` in the random order that `seed` (32 bytes) gives.

    `neighbours` is even, or len(names) - 1 for the complete graph. Names may come in any order.

    Raises:
        DuplicateSite: a name stands twice.
        CohortTooSmall: there are not enough names for so many neighbours.
        MalformedMessage: an odd number of neighbours that is not everybody.
    """

    def __init__(self, names: Iterable[str], neighbours: int, seed: bytes) -> None:
        self._ring = _shuffled(names, _RING, seed)
        if not 1 <= neighbours < len(self._ring):
            raise CohortTooSmall(
                f"{len(self._ring)} sites cannot have {neighbours} neighbours each", remedy="wait for more sites"
            )
        self._complete = neighbours == len(self._ring) - 1
        if neighbours % 2 and not self._complete:
            raise MalformedMessage(
                f"{neighbours} neighbours are not an even number", remedy="use the plan of plan_neighbourhood"
            )
        self._half = neighbours // 2
        self._place = {name: place for place, name in enumerate(self._ring)}
        self._everyone = tuple(sorted(self._ring)) if self._complete else ()
        self._holders: dict[str, tuple[str, ...]] = {}

    def neighbours_of(self, name: str) -> tuple[str, ...]:
        """Return the sites that `name` shares with, sorted. Raises KeyError for a name that is not in the graph."""
        return tuple(holder for holder in self.holders_of(name) if holder != name)

    def holders_of(self, name: str) -> tuple[str, ...]:
        """Return its neighbours and itself, sorted; a holder's Shamir index is its position + 1. KeyError as above."""
        place = self._place[name]
        if self._complete:
            return self._everyone
        if name not in self._holders:
            n = len(self._ring)
            around = range(place - self._half, place + self._half + 1)
            self._holders[name] = tuple(sorted(self._ring[p % n] for p in around))
        return self._holders[name]


def groups_of(names: Iterable[str], groups: int, seed: bytes) -> tuple[tuple[str, ...], ...]:
    """Part `names` at random into `groups` whose sizes differ by at most one; each is sorted. `seed` has 32 bytes.

    Raises:
        DuplicateSite: a name stands twice.
        GroupTooSmall: no group is asked for, or several of which one has fewer than `SMALLEST_GROUP` sites.
    """
    order = _shuffled(names, _GROUPS, seed)
    if groups < 1 or not order or (groups > 1 and len(order) // groups < SMALLEST_GROUP):
        raise GroupTooSmall(
            f"{len(order)} sites do not make {groups} groups of at least {SMALLEST_GROUP}",
            remedy=f"set privacy.secure_agg.groups to at most {max(1, len(order) // SMALLEST_GROUP)}",
        )
    return tuple(tuple(sorted(order[start::groups])) for start in range(groups))


def _shuffled(names: Iterable[str], label: bytes, seed: bytes) -> list[str]:
    order = sorted(names, key=lambda name: hashlib.sha256(label + seed + name.encode()).digest())
    if len(set(order)) < len(order):
        raise DuplicateSite("a name stands twice among the sites", remedy="give every site a name of its own")
    return order


def _whole(share: float, sites: int) -> int:
    # Read as it is written in decimal: 0.07 of 100 sites is 7, while 0.07 * 100 is above 7 and would round up to 8.
    if not 0 <= share < 1:
        raise MalformedMessage(
            f"{share} is no share of sites", remedy="set shares of colluders and dropouts from 0 to below 1"
        )
    return math.ceil(Fraction(repr(float(share))) * sites)


def _log2(probability: Fraction) -> float:
    if probability <= 0:
        return -math.inf
    return min(0.0, math.log2(probability.numerator) - math.log2(probability.denominator))
