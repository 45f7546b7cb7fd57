"""A site's secret from its revealed shares, checked against what the site advertised.

A wrong share would give a wrong secret and a sum that is noise. So every secret is checked, and when it does not fit,
other choices of shares are tried: one site that lies, or whose share was damaged, does not stop the round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, combinations, islice

from privacy.secure_aggregation.errors import CohortTooSmall, RecoveryFailed
from privacy.secure_aggregation.keys import commitment, public_key
from privacy.secure_aggregation.secret_sharing import combine
from privacy.secure_aggregation.topology import Topology

_CHOICES = 200
"""Choices of shares to try after the first ones: all of them in a small cohort."""


def recover_seed(shares: Mapping[int, bytes], expected: bytes, topology: Topology, site: str, slot: int) -> bytes:
    """A survivor's self-mask seed (32 bytes). Raises CohortTooSmall, RecoveryFailed."""

    def fits(seed: bytes) -> bool:
        return commitment(seed, context=topology.context, site=site, slot=slot) == expected

    return _recover(shares, fits, topology.threshold, site)


def recover_key(shares: Mapping[int, bytes], expected: bytes, topology: Topology, site: str) -> bytes:
    """A dropped site's private mask key (32 bytes). Raises CohortTooSmall, RecoveryFailed."""
    return _recover(shares, lambda key: public_key(key) == expected, topology.threshold, site)


def _recover(shares: Mapping[int, bytes], fits: Callable[[bytes], bool], threshold: int, site: str) -> bytes:
    if len(shares) < threshold:
        raise CohortTooSmall(
            f"{len(shares)} shares of {site}'s secret were revealed and {threshold} are needed",
            remedy="this sum is given up",
        )
    for chosen in _choices(sorted(shares), threshold):
        secret = combine({index: shares[index] for index in chosen})
        if fits(secret):
            return secret
    raise RecoveryFailed(
        f"the revealed shares of {site} do not give the secret it committed to",
        remedy="this sum is given up; find out which site reveals wrong shares, and leave it out",
    )


def _choices(holders: list[int], threshold: int) -> Iterator[tuple[int, ...]]:
    """Every run of `threshold` holders in a circle, so that one liar among many is left out soon; then others."""
    circle = holders + holders
    runs = (tuple(sorted(circle[start : start + threshold])) for start in range(len(holders)))
    return chain(runs, islice(combinations(holders, threshold), _CHOICES))
