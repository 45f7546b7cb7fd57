"""Chance in private training: who is drawn, what is added, and the check that both were as promised.

Chance comes from a source of random bytes, the operating system's cryptographic one in production. The check measures
what was really done, and refuses it where it is not what was promised.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from scipy.special import bdtr, bdtrc, ndtri

from common.errors import RunError
from privacy.chi_square import chi_square_bounds
from privacy.discrete_gaussian import RandomBytes

FALSE_ALARM = 1e-12
"""Greatest probability with which one honest call of `train_privately` is taken for a dishonest one."""


class PoissonSampler:
    """Draws each of `people` people independently with probability `rate`."""

    def __init__(self, people: int, rate: float, random_bytes: RandomBytes) -> None:
        self.people, self.rate, self.drawn = people, rate, 0
        self._random_bytes = random_bytes

    def draw(self) -> NDArray[np.int64]:
        """The people of one step, in ascending order; each draw is independent of the others."""
        chosen = np.flatnonzero(uniform(self.people, self._random_bytes) < self.rate)
        self.drawn += len(chosen)
        return chosen

    def check(self, steps: int, promised: float) -> None:
        """Raise RunError where the number of people drawn is not what the promised rate gives (binomial tails)."""
        trials = self.people * steps
        few = bdtr(self.drawn, trials, promised) if promised < 1 else float(self.drawn >= trials)
        many = 1.0 if self.drawn == 0 or promised == 1 else bdtrc(self.drawn - 1, trials, promised)
        if self.rate != promised or not min(few, many) >= FALSE_ALARM / 4:
            raise _not_as_promised("people were not drawn with the sampling rate that was promised")


class PrivateOptimiser(DPOptimizer):  # type: ignore[misc]
    """Opacus's optimiser, with noise from a cryptographic source and drawn in double precision.

    Opacus draws single-precision noise, which never passes 5.8 standard deviations; here it reaches 8.2.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, *, random_bytes: RandomBytes, **arguments: float) -> None:
        super().__init__(optimiser, **arguments)
        self._random_bytes = random_bytes

    def add_noise(self) -> None:
        """Put the noised sum of clipped gradients into `p.grad`, as Opacus's own method does."""
        for p in self.params:
            noise = standard_normal(p.numel(), self._random_bytes) * (self.noise_multiplier * self.max_grad_norm)
            p.grad = (p.summed_grad.double() + torch.from_numpy(noise).view_as(p)).to(p.dtype)


class NoiseCheck:
    """Measures the noise of every step and compares it with what was promised; a step hook of the optimiser.

    Before the step is made, `p.grad * expected_batch_size` less the sum of clipped gradients is the noise itself. With
    noise as promised its squared length over (noise_multiplier * max_grad_norm)^2 is chi-square distributed, with as
    many degrees of freedom as there are numbers. Three such figures must lie between their quantiles:

    * each step's, over all parameters: a step without noise, or with noise of another size;
    * each parameter tensor's, over all steps: noise that left a tensor out, or was a little too small throughout;
    * that of the sum of all steps' noise, over the number of steps: noise that was used again, or taken back.

    The probability that honest noise fails any of them is at most FALSE_ALARM / 2, shared out evenly (Bonferroni); the
    other half is the sampler's. The optimiser's own figures must be those that were promised as well. This finds
    mistakes of whoever builds or changes this software. It is no defence against a site that means to cheat itself.
    """

    def __init__(self, *, steps: int, noise_multiplier: float, max_grad_norm: float, expected_batch_size: float):
        self.steps_seen = 0
        self._steps = steps
        self._promised = (noise_multiplier, max_grad_norm, expected_batch_size)
        self._scale = 1 / (noise_multiplier * max_grad_norm)
        self._energy: list[float] = []
        self._sum: list[torch.Tensor] = []

    def __call__(self, optimiser: DPOptimizer) -> None:
        """Look at one step after noise was added and before it is made. Raises RunError."""
        if (optimiser.noise_multiplier, optimiser.max_grad_norm, optimiser.expected_batch_size) != self._promised:
            raise _not_as_promised("the optimiser's noise or clipping is not the one that was asked for")
        size = optimiser.expected_batch_size
        noise = [(p.grad.double() * size - p.summed_grad.view_as(p).double()) * self._scale for p in optimiser.params]
        energy = [float((values**2).sum()) for values in noise]
        if not self.steps_seen:
            self._energy, self._sum = [0.0] * len(noise), [torch.zeros_like(values) for values in noise]
        self.steps_seen += 1
        self._energy = [before + now for before, now in zip(self._energy, energy, strict=True)]
        self._sum = [before + now for before, now in zip(self._sum, noise, strict=True)]
        self._require(sum(energy), sum(values.numel() for values in noise))

    def finish(self, steps: int) -> None:
        """Look at all steps together. Raises RunError, also where the number of steps is not `steps`."""
        if self.steps_seen != steps:
            raise _not_as_promised(f"{steps} steps were asked for and {self.steps_seen} were made with noise")
        for energy, total in zip(self._energy, self._sum, strict=True):
            self._require(energy, total.numel() * steps)
        length = sum(float((total**2).sum()) for total in self._sum)
        self._require(length / steps, sum(total.numel() for total in self._sum))

    def _require(self, energy: float, freedom: int) -> None:
        figures = self._steps + len(self._sum) + 1
        low, high = chi_square_bounds(freedom, FALSE_ALARM / 2 / figures)
        if not low <= energy <= high:  # also where it is not a number
            raise _not_as_promised("the noise that was added is not the noise that was promised")


def uniform(size: int, random_bytes: RandomBytes) -> NDArray[np.float64]:
    """Uniform on (0, 1), shape (size,): the middles of 2^52 equal cells, each equally likely."""
    cell = np.frombuffer(random_bytes(8 * size), dtype="<u8") >> 12
    return (cell.astype(np.float64) + 0.5) * 2.0**-52


def standard_normal(size: int, random_bytes: RandomBytes) -> NDArray[np.float64]:
    """Standard normal, shape (size,), by inversion of the distribution function: within 8.3, beyond it never."""
    return np.asarray(ndtri(uniform(size, random_bytes)), dtype=np.float64)


def _not_as_promised(what: str) -> RunError:
    return RunError(
        f"{what}, so this training is not released", where="private training", remedy="install DJMS anew at this site"
    )
