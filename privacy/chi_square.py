"""Between which figures an honest chi-square lies: for checks that noise was added as it was promised."""

from __future__ import annotations

from scipy.special import gammainccinv, gammaincinv


def chi_square_bounds(freedom: int, outside: float) -> tuple[float, float]:
    """Between these lies a chi-square figure of so many degrees of freedom, but for a probability of `outside`."""
    return 2 * float(gammaincinv(freedom / 2, outside / 2)), 2 * float(gammainccinv(freedom / 2, outside / 2))
