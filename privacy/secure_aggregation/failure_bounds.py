"""How likely a random neighbour graph fails: exact probabilities and union bounds, as fractions.

n sites stand on a ring in random order, each shares its secrets among h = k + 1 holders (the k/2 next on either side
and itself), t of whom rebuild them; c sites collude with the coordinator and d drop out. All counts are hypergeometric:
drawn without replacement, computed in integers, so that every party finds the very same number.

What each function bounds is an event in *some* place of the ring, summed over the places. A result may exceed 1.
"""

from __future__ import annotations

import math
from fractions import Fraction


def tail(population: int, marked: int, drawn: int, at_least: int) -> Fraction:
    """Return the probability that `drawn` of `population`, without replacement, hold `at_least` of the `marked`."""
    unavoidable = max(0, drawn - (population - marked))
    if at_least <= unavoidable:
        return Fraction(1)
    most = min(marked, drawn)
    if at_least > most:
        return Fraction(0)
    ways = math.comb(marked, at_least) * math.comb(population - marked, drawn - at_least)
    total = ways
    for x in range(at_least, most):
        ways = ways * ((marked - x) * (drawn - x)) // ((x + 1) * (population - marked - drawn + x + 1))
        total += ways
    return Fraction(total, math.comb(population, drawn))


def uncovered(n: int, k: int, colluding: int, at_least: int) -> Fraction:
    """Bound: some honest site has `at_least` colluding neighbours. Over the n - c honest sites.

    At t, colluders rebuild any secret of that site. At 2t - h, a coordinator that cheats does: colluders give it their
    shares as of a survivor and as of a dropped site, every honest holder gives one of the two, and h + x >= 2t.
    """
    return (n - colluding) * tail(n - 1, colluding, k, at_least)


def divided(n: int, k: int, threshold: int, colluding: int) -> Fraction:
    """Bound: a coordinator that shows different lists to different parts of the ring obtains more than one large sum.

    While this event does not happen, every sum it learns is of at least t - x honest sites, x < 2t - h the colluders
    among the holders of one of them; whatever lists it shows and whoever it declares dropped. This needs that nobody
    reveals a share of a site unless t of that site's holders signed the list it was shown (Bonawitz et al. 2017, 6.2).

    The event: two honest sites a and b, next to each other but for j - 1 colluders between them, with x colluders among
    the holders of both and x + j >= 2t - h. Why it is needed:

    * Let t holders of a have signed one list and t of b another. Honest sites sign once, and both have h + j holders
      together, so 2t <= h + j + x. Otherwise all whose secrets are revealed within reach of each other share one list.
    * A site's vector is uncovered only when each honest neighbour's secrets are revealed too, of one kind or the other,
      or when their masks would stay. So, from each to the next along its holders, one list is signed for all of them.
    * At least t - x honest holders of that site signed this list. They stand in it as survivors, so what is revealed of
      them is their own mask; the masks they share with the site stay, and vanish only in a sum with all of them.

    Exact for a place and a j, then summed: a honest, j - 1 colluders, b honest, and 2t - h - 2j + 1 colluders or more
    among the other k holders. The event contains `uncovered(..., 2t - h)`, with b the next honest site after a.
    """
    ways = math.comb(n, colluding)
    total = Fraction(0)
    for j in range(1, colluding + 2):
        enough, rest = 2 * threshold - (k + 1) - 2 * j + 1, n - j - 1
        if enough <= 0 or rest < 0:
            # Every longer run is as bad: a honest site followed by j - 1 colluders, whatever comes then.
            total += Fraction(math.comb(n - j, colluding - j + 1), ways)
            break
        here = Fraction(math.comb(rest, colluding - j + 1), ways)
        if here:
            total += here * tail(rest, colluding - j + 1, min(k, rest), enough)
    return n * total


def disconnected(n: int, k: int, missing: int) -> Fraction:
    """Bound: honest survivors fall into parts that share no mask, `missing` sites (c + d) being none of them.

    Two survivors with fewer than k/2 others between them are joined, so there must be two disjoint runs of k/2
    consecutive missing sites with a survivor on each side between them: n(n - k - 1)/2 pairs of places, each filled
    with probability C(missing, k)/C(n, k). (Bell et al. bound one run of k/2 at n places; two are needed.)
    Holds for sites that drop out independently of the graph; for a coordinator that chooses them, see `divided`.
    """
    return Fraction(n * (n - k - 1) * math.comb(missing, k), 2 * math.comb(n, k))


def incorrect(n: int, k: int, threshold: int, dropped: int) -> Fraction:
    """Bound: some site keeps fewer than t holders, and the sum is lost.

    Over the n - d survivors, lost when h - t + 1 of their k neighbours dropped, and over the d that dropped after they
    had shared, for whom h - t are enough because they are a holder of themselves.
    """
    spare = k + 1 - threshold
    survivors = (n - dropped) * tail(n - 1, dropped, k, spare + 1)
    return survivors + (dropped * tail(n - 1, dropped - 1, k, spare) if dropped else 0)
