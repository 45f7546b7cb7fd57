"""A list on which nobody is missing is answered without signatures: what a cheating coordinator can make of that.

The first half is a model of what it learns, searched through: every site may be told another cohort and another list.
It adds up masked vectors so that all masks it does not know cancel; each way to do so is a sum it can open. With
2t > n + c there must be one at most, over at least t - c honest sites. The second half is the real sites.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pytest
from secure_federation import Cohort, federation_of, listing, masked_sum, request, terms_of, values_of

from privacy.secure_aggregation.coordinator import SecureSum
from privacy.secure_aggregation.errors import SecondUnmasking, TooFewSignatures, WrongSurvivors

SMALLEST = 3


@dataclass(frozen=True)
class Told:
    """What one site is told: who is in the cohort, and whose vectors arrived."""

    cohort: frozenset[int]
    survivors: frozenset[int]

    @property
    def complete(self) -> bool:
        return self.cohort == self.survivors


def possible(site: int, n: int, t: int) -> Iterator[Told]:
    """Everything that a site accepts to be told."""
    least = max(t, SMALLEST)
    others = [other for other in range(n) if other != site]
    for size in range(least, n + 1):
        for rest in combinations(others, size - 1):
            cohort = frozenset((site, *rest))
            for left in range(least, size + 1):
                for there in combinations(rest, left - 1):
                    yield Told(cohort, frozenset((site, *there)))


def openable(told: Sequence[Told], t: int, colluders: int, *, signatures: bool = True) -> list[frozenset[int]]:
    """The sums over honest sites that can be opened; honest sites come first, and colluders tell all they hold.

    Without `signatures` a list with somebody missing is answered on nobody's word either.
    """
    honest = range(len(told))
    signed = {one: sum(other == one for other in told) + colluders for one in told}
    answers = {site: told[site] for site in honest if told[site].complete or not signatures or signed[told[site]] >= t}
    seeds = [sum(site in one.survivors for one in answers.values()) + colluders >= t for site in honest]
    keys = [sum(site in one.cohort - one.survivors for one in answers.values()) + colluders >= t for site in honest]
    parent = list(honest)

    def root(site: int) -> int:
        while parent[site] != site:
            site = parent[site]
        return site

    hidden = {site for site in honest if not seeds[site]}
    for one, other in combinations(honest, 2):
        if keys[one] or keys[other]:
            continue  # the coordinator computes the mask of this pair
        there, back = other in told[one].cohort, one in told[other].cohort
        if there and back:
            parent[root(one)] = root(other)
        elif there:
            hidden.add(one)
        elif back:
            hidden.add(other)
    closed = {root(site) for site in honest} - {root(site) for site in hidden}
    return [frozenset(site for site in honest if root(site) == one) for one in closed]


def least_of(t: int, colluders: int) -> int:
    return max(t, SMALLEST) - colluders


def holds(told: Sequence[Told], t: int, colluders: int) -> bool:
    sums = openable(told, t, colluders)
    return len(sums) <= 1 and all(len(one) >= least_of(t, colluders) for one in sums)


@pytest.mark.parametrize(("n", "t", "colluders"), [(3, 2, 0), (4, 3, 0), (4, 3, 1), (5, 4, 0), (5, 4, 1), (5, 4, 2)])
def test_whatever_sites_are_told_one_sum_at_most_is_opened(n: int, t: int, colluders: int) -> None:
    assert 2 * t > n + colluders
    choices = [list(possible(site, n, t)) for site in range(n - colluders)]
    assert all(holds(told, t, colluders) for told in product(*choices))


@pytest.mark.parametrize(
    ("n", "t", "colluders"), [(5, 3, 0), (6, 4, 0), (6, 4, 1), (7, 4, 0), (7, 5, 2), (8, 5, 1), (9, 6, 2), (10, 6, 1)]
)
def test_nor_in_larger_cohorts_by_anything_that_was_tried(n: int, t: int, colluders: int) -> None:
    """Few different stories, each told to many, come closest to an attack; sites that fit none get one of their own."""
    assert 2 * t > n + colluders
    chance = random.Random(n * 100 + t * 10 + colluders)
    honest = n - colluders
    choices = [list(possible(site, n, t)) for site in range(honest)]
    for _ in range(4_000):
        stories = [chance.choice(choices[chance.randrange(honest)]) for _ in range(chance.randint(1, 3))]
        told = []
        for site in range(honest):
            fitting = [story for story in stories if site in story.survivors]
            told.append(chance.choice(fitting or choices[site]))
        assert holds(told, t, colluders), told


def test_the_search_finds_the_attacks_that_there_are() -> None:
    """The two of the document's section 6.1: with no signatures at all, 3-of-5 uncovers two sites, and one."""
    everybody = frozenset(range(5))
    lists = {0: {2, 3}, 1: {2, 4}, 2: {3, 4}, 3: {2, 4}, 4: {2, 3}}
    two = [Told(everybody, everybody - lists[site]) for site in range(5)]
    assert openable(two, 3, 0, signatures=False) == [frozenset({0, 1})]
    assert holds(two, 3, 0)
    one = [
        Told(frozenset({0, 1, 2}), frozenset({0, 1, 2})),
        Told(everybody, everybody - {2}),
        Told(everybody, everybody - {1}),
        Told(everybody, everybody - {1, 2}),
        Told(everybody, everybody - {1, 2}),
    ]
    assert frozenset({0}) in openable(one, 3, 0, signatures=False)
    assert holds(one, 3, 0)


def test_the_search_finds_what_one_colluder_too_many_can_do() -> None:
    """3-of-5 with one: A and B are told that C and D are missing, C and D that A and B are; the colluder signs both."""
    everybody = frozenset(range(5))
    told = [Told(everybody, everybody - {2, 3})] * 2 + [Told(everybody, everybody - {0, 1})] * 2
    assert not holds(told, 3, 1)


def everybody_delivered(**changes: object) -> tuple[Cohort, SecureSum, dict[str, dict[str, np.ndarray]]]:
    cohort = Cohort(federation_of(5), terms_of(malicious_coordinator=True, **changes)).made()
    values = {name: values_of(cohort.encoding(), place) for place, name in enumerate(cohort.set_up.cohort)}
    total = SecureSum(cohort.set_up, 1, "train", bytes(32))
    return cohort, total, values


def test_a_round_in_which_nobody_is_missing_needs_no_signature_and_one_with_a_gap_does() -> None:
    cohort, _, values = everybody_delivered(threshold="3-of-5")
    (whole,) = masked_sum(cohort, 1, values)
    assert whole.members == cohort.set_up.cohort
    some = {name: values[name] for name in list(values)[:4]}
    (part,) = masked_sum(cohort, 2, some)
    assert part.members == tuple(some)


def delivered(threshold: str = "3-of-5") -> Cohort:
    cohort, _, values = everybody_delivered(threshold=threshold)
    for name in values:
        cohort.mask(name, 1, values[name])
    return cohort


def test_a_list_with_a_gap_is_never_answered_without_signatures() -> None:
    cohort = delivered()
    names = cohort.set_up.cohort
    with pytest.raises(WrongSurvivors):
        cohort.unmask(names[0], request(listing(1, names[:4], names[4:])))


def test_a_site_that_answered_without_signatures_signs_nothing_any_more_in_that_slot() -> None:
    cohort = delivered()
    names = cohort.set_up.cohort
    cohort.unmask(names[0], request(listing(1, names)))
    for survivors in (names, names[:4]):
        listed = listing(1, survivors, set(names) - set(survivors))
        with pytest.raises(SecondUnmasking):
            cohort.attest(names[0], listed.to_bytes())
        with pytest.raises(SecondUnmasking):
            cohort.unmask(names[0], request(listed))


def test_a_site_that_signed_answers_no_list_without_signatures_any_more() -> None:
    cohort = delivered()
    names = cohort.set_up.cohort
    cohort.attest(names[0], listing(1, names[:4], names[4:]).to_bytes())
    with pytest.raises(WrongSurvivors):
        cohort.unmask(names[0], request(listing(1, names)))
    cohort.attest(names[1], listing(1, names).to_bytes())
    with pytest.raises(TooFewSignatures):
        cohort.unmask(names[1], request(listing(1, names)))


def test_what_is_revealed_without_signatures_holds_no_share_of_a_key() -> None:
    from privacy.secure_aggregation.messages import Revealed

    cohort = delivered()
    names = cohort.set_up.cohort
    revealed = Revealed.from_bytes(cohort.unmask(names[0], request(listing(1, names))))
    assert not revealed.keys
    assert set(revealed.seeds) == set(names)


def test_groups_are_never_unmasked_without_signatures() -> None:
    cohort = Cohort(federation_of(6), terms_of(malicious_coordinator=True, threshold="60%", groups=2)).made()
    names = cohort.set_up.cohort
    for place, name in enumerate(names):
        cohort.mask(name, 1, values_of(cohort.encoding(), place))
    with pytest.raises(WrongSurvivors):
        cohort.unmask(names[0], request(listing(1, names)))
