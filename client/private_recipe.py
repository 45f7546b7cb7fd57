"""The steps of private training that follow from public figures, so that nobody's data is used to tune them.

A step's noise has the standard deviation σC in each parameter's sum, over n people: the more people, the smaller it is
beside what they have in common, and the longer a step may be. The factor and the ceiling were found on synthetic
people; `docs/privacy.md` has the figures.
"""

from __future__ import annotations

import math
from typing import Final

LONGEST_STEP: Final = 6.5
"""Ceiling of the learning rate: beyond it training without noise gains nothing."""
_FACTOR: Final = 0.15


def learning_rate(
    people: int, sites: int, *, noise_multiplier: float, max_grad_norm: float, momentum: float, steps: int
) -> float:
    """Learning rate of every private step of a run of `steps` steps in all over `people` people of all `sites`.

    `noise_multiplier` is that of one step at one site, whose gradients are clipped to `max_grad_norm`.
    """
    noise = noise_multiplier * max_grad_norm * math.sqrt(sites) * math.sqrt(steps)
    return min(LONGEST_STEP, _FACTOR * people * (1 - momentum) / noise)
