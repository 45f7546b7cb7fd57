"""The discrete Gaussian, drawn exactly: whole numbers with probability proportional to exp(-x² / 2σ²).

Floating-point noise has gaps that give away what it was added to (Mironov 2012); this sampler computes with integers
only, so the probabilities are those of the formula and not near them. Canonne, Kamath and Steinke, "The Discrete
Gaussian for Differential Privacy", NeurIPS 2020 (arXiv:2004.00010), algorithms 1 to 3. Their theorem 7: its noise
protects as the continuous Gaussian of the same σ does, Rényi divergence α Δ²/2σ² for whole vectors at distance Δ.

Chance comes from a source of random bytes, the operating system's cryptographic one in production.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RandomBytes = Callable[[int], bytes]
"""How many bytes, to that many bytes that nobody can foresee."""


def discrete_gaussian(size: int, variance: int, random_bytes: RandomBytes = os.urandom) -> NDArray[np.int64]:
    """Independent draws with parameter σ² = `variance`, a whole number from 1 to 2^100; shape (size,).

    Raises ValueError for another variance, OverflowError for a draw outside of 64 bits.
    """
    if not 1 <= variance <= 2**100:
        raise ValueError(f"a variance of {variance} is none from 1 to 2^100")
    scale = math.isqrt(variance) + 1
    return np.array([_gaussian(variance, scale, random_bytes) for _ in range(size)], dtype=np.int64)


def _gaussian(variance: int, scale: int, random_bytes: RandomBytes) -> int:
    """Algorithm 3: a discrete Laplace draw, kept with the probability that makes it Gaussian."""
    while True:
        drawn = _laplace(scale, random_bytes)
        distance = abs(drawn) * scale - variance
        if _bernoulli_exp(distance * distance, 2 * variance * scale * scale, random_bytes):
            return drawn


def _laplace(scale: int, random_bytes: RandomBytes) -> int:
    """Algorithm 2 with s = 1: probability proportional to exp(-|x| / scale)."""
    while True:
        low = _below(scale, random_bytes)
        if not _bernoulli_exp(low, scale, random_bytes):
            continue
        high = 0
        while _bernoulli_exp(1, 1, random_bytes):
            high += 1
        drawn = low + scale * high
        negative = _below(2, random_bytes) == 1
        if drawn or not negative:  # zero has one sign
            return -drawn if negative else drawn


def _bernoulli_exp(numerator: int, denominator: int, random_bytes: RandomBytes) -> bool:
    """Algorithm 1: true with probability exp(-numerator / denominator)."""
    while numerator > denominator:
        if not _bernoulli_exp(1, 1, random_bytes):
            return False
        numerator -= denominator
    count = 1
    while _below(denominator * count, random_bytes) < numerator:
        count += 1
    return count % 2 == 1


def _below(limit: int, random_bytes: RandomBytes) -> int:
    """A whole number from 0 to limit - 1, each equally likely, by rejection."""
    bits = (limit - 1).bit_length()
    octets = -(-bits // 8)
    surplus = 8 * octets - bits
    while True:
        drawn = int.from_bytes(random_bytes(octets), "little") >> surplus
        if drawn < limit:
            return drawn
