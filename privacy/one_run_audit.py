"""A lower bound on ε from guesses about who was trained on: auditing with one training run.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv:2305.08846), Theorem 5.2: of m
canaries each is included by a fair coin of its own; an auditor who sees the output guesses the coins of r of them and
is right v times. If the training is (ε, δ)-DP, the number of right guesses is stochastically at most a sum of r coins
of bias e^ε / (1 + e^ε), up to a term in δ. So v right guesses that such coins would hardly ever give refute ε.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

_LARGEST = 50.0


def p_value(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Largest probability of `right` or more right guesses of `guesses`, under any (ε, δ)-DP training.

    Raises ValueError for counts that cannot be, ε below 0, or δ outside [0, 1].
    """
    if not 0 <= right <= guesses <= canaries or not epsilon >= 0 or not 0 <= delta <= 1:
        raise ValueError(f"{right} right of {guesses} guesses of {canaries} canaries, ε {epsilon}, δ {delta}")
    bias = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, bias))
    back = np.arange(1, right + 1)
    steepest = float(np.max(np.cumsum(binom.pmf(right - back, guesses, bias)) / back, initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * steepest)


def epsilon_lower_bound(right: int, guesses: int, canaries: int, delta: float, *, confidence: float = 0.95) -> float:
    """The largest ε refuted at this confidence, or 0: a true ε of at most that is refuted with 1 - confidence only.

    Raises ValueError as `p_value` does, and for a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}")
    allowed = 1 - confidence
    if p_value(right, guesses, canaries, 0.0, delta) > allowed:
        return 0.0
    low, high = 0.0, _LARGEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(right, guesses, canaries, middle, delta) <= allowed else (low, middle)
    return low
