"""Noise that sites add in shares, so that whatever sum of enough of them is seen has enough of it.

The distributed discrete Gaussian mechanism (Kairouz, Liu and Steinke 2021, arXiv:2102.06387): every site clips its
update to the L2 norm S, puts it on the grid of the secure sum, and adds whole-numbered noise of variance

    ceil((z S')² / h)        S' = S in steps of the grid, z the noise multiplier, h the shares that are relied on.

Rules kept here:

* the grid is reached by cutting towards zero, which makes no vector longer: the sensitivity is S' and nothing above it;
* h counts honest sites among the fewest survivors that a sum can have, one's own share with them: dropouts and
  colluders within what the set-up tolerates leave at least (z S')² of variance;
* a sum of h discrete Gaussians is not quite one. Their divergence is bounded by τ = 10 Σ exp(-2π² σ² k / (k+1)), k from
  1 to h - 1 (theorem 1 there); at the least variance that is allowed here τ < h 10^-427, so nothing is added to ε for
  it, and a grid too coarse for that is refused (`GridTooCoarse`);
* the noise that was really added is measured, and refused where it is not the noise that was promised.

Neighbours differ by one site's contribution: the sum with it and the sum with zeros in its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError
from privacy.chi_square import chi_square_bounds
from privacy.discrete_gaussian import RandomBytes, discrete_gaussian

LEAST_VARIANCE = 100
"""Of one share, in squared steps of the grid."""

TAIL = 12.0
"""Standard deviations that words leave room for: beyond them lies less than 10^-32 of a draw."""

FALSE_ALARM = 1e-12
"""Greatest probability with which honest noise is taken for another."""


class GridTooCoarse(InputError):
    """The grid of the sum is too coarse for this clipping norm and noise."""


@dataclass(frozen=True)
class NoiseShare:
    """One site's part: updates clipped to `norm`, on a grid of `steps` (a power of two) to the unit, of `shares`.

    `noise_multiplier` is what is asked for; what is executed is never less. Raises GridTooCoarse, ValueError.
    """

    noise_multiplier: float
    norm: float
    steps: float
    shares: int

    def __post_init__(self) -> None:
        """Refuse what protects nobody."""
        figures = (self.noise_multiplier, self.norm, self.steps)
        if not all(0.0 < figure < math.inf for figure in figures) or self.shares < 1:
            raise ValueError("noise, norm, steps and shares are above 0")
        if self.variance < LEAST_VARIANCE:
            raise GridTooCoarse(
                f"a share of the noise is {math.sqrt(self.variance):.2g} steps of the secure sum's grid, and it takes "
                f"{math.isqrt(LEAST_VARIANCE)}",
                where="privacy of the site",
                remedy="raise privacy.dp.update_norm, or lower privacy.secure_agg.max_people or value_bound",
            )

    @property
    def sensitivity(self) -> Fraction:
        """S' in steps, exactly."""
        return Fraction(self.norm) * Fraction(self.steps)

    @property
    def variance(self) -> int:
        """Of one share, in squared steps."""
        return math.ceil((Fraction(self.noise_multiplier) * self.sensitivity) ** 2 / self.shares)

    @property
    def executed_multiplier(self) -> float:
        """√(shares · variance) / S', rounded down: what `shares` such shares amount to."""
        exact = Fraction(self.shares * self.variance) / self.sensitivity**2
        return max(self.noise_multiplier, math.nextafter(math.sqrt(exact), 0.0))

    @property
    def reach(self) -> float:
        """How large a noised value may be: the norm and `TAIL` standard deviations."""
        return self.norm + TAIL * math.sqrt(self.variance) / self.steps

    def on_grid(self, update: NDArray[np.float64]) -> NDArray[np.int64]:
        """The update, clipped to the norm and cut to the grid; its L2 norm is at most S' steps, exactly.

        Raises RunError where the update holds what is no number.
        """
        length = float(np.linalg.norm(update))
        if not math.isfinite(length):
            raise RunError(
                "training diverged, the update holds values that are not numbers",
                where="private training",
                remedy="lower federated.learning_rate",
            )
        factor = min(1.0, self.norm / length) if length else 1.0
        limit = math.floor(self.sensitivity**2)
        while True:
            steps = np.trunc(np.asarray(update, dtype=np.float64) * factor * self.steps).astype(np.int64)
            if sum(int(step) ** 2 for step in steps) <= limit:
                return steps
            factor *= 1.0 - 1e-12  # what float64 rounded up

    def noised(self, steps: NDArray[np.int64], random_bytes: RandomBytes) -> NDArray[np.float64]:
        """What may be shown, in units: `steps`, of one site or a sum, and this share of noise. Exact in float64.

        Raises RunError where the noise is not the noise that was promised.
        """
        shown = steps + discrete_gaussian(steps.size, self.variance, random_bytes)
        self.require_noise(steps, shown)
        return shown.astype(np.float64) / self.steps

    def require_noise(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        """Raise RunError unless the difference has the length that noise of this variance has (chi-square)."""
        added = (after - before).astype(np.float64)
        low, high = chi_square_bounds(max(1, added.size), FALSE_ALARM)
        if not low <= float(added @ added) / self.variance <= high:
            raise RunError(
                "the noise that was added is not the noise that was promised, so this training is not released",
                where="private training",
                remedy="install DJMS anew",
            )
