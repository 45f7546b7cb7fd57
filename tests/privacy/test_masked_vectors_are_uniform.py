"""Whatever masks a coordinator may take off a vector, what it sees is uniform as long as one of them is left.

Of a survivor it learns the self-mask seed, of a dropped site the mask key, from colluding sites the masks they share.
So a vector must be uniform as it is sent, and under each of its masks alone. All vectors here are constant, the worst
case: what is not uniform in a statistic is a mask's fault. The entropy is seeded, so that the outcome is always the
same; with fresh keys, a false alarm would come in fewer than one of a million runs.

The last tests leave masks out or use them twice, to show that the statistic would notice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2
from secure_federation import Cohort, federation_of, seeded, terms_of

from privacy.secure_aggregation import masks, site_sum
from privacy.secure_aggregation.fixed_point import Encoding
from privacy.secure_aggregation.messages import MaskedVector
from privacy.secure_aggregation.terms import SegmentTerms

FALSE_ALARM = 1e-6
CALLS = 100
"""At least as often the statistic is asked for in this file."""

SITES, SLOTS = 4, 8
NAMES = ("A", "B", "C", "D")
LAYOUT = (
    SegmentTerms(name="wide", length=2048, bound=1e9, bits=64),
    SegmentTerms(name="narrow", length=4096, bound=2.0, bits=32),
)

Vectors = dict[tuple[str, int], NDArray[np.uint8]]
AddMask = Callable[..., None]


@dataclass
class Masked:
    """Vectors by site and slot, and the keys and signs of the masks on each: its own first, then its partners'."""

    encoding: Encoding
    vectors: Vectors = field(default_factory=dict)
    masks: dict[tuple[str, int], list[tuple[bytes, Literal[1, -1]]]] = field(default_factory=dict)

    def under(self, left: int) -> Vectors:
        """The vectors as they are when every mask was taken off but the one at this place."""
        bare: Vectors = {}
        for place, vector in self.vectors.items():
            bare[place] = vector.copy()
            for number, (key, sign) in enumerate(self.masks[place]):
                if number != left:
                    masks.add_mask(self.encoding, bare[place], key, sign=-1 if sign == 1 else 1)
        return bare


def masked(
    monkeypatch: pytest.MonkeyPatch, share_of_bound: float, disturb: Callable[[AddMask], AddMask] = lambda add: add
) -> Masked:
    """Constant vectors of every site in every slot. `disturb` changes how masks are added, not what is noted."""
    federation = federation_of(NAMES)
    terms = terms_of(threshold="3-of-4", slots=SLOTS, layouts={"train": LAYOUT})
    cohort = Cohort(federation, terms, entropy=lambda name: seeded(f"uniform {name}")).made()
    made = Masked(cohort.encoding())
    noted: list[tuple[bytes, Literal[1, -1]]] = []
    add = disturb(masks.add_mask)

    def noting(encoding: Encoding, words: NDArray[np.uint8], key: bytes, *, sign: Literal[1, -1]) -> None:
        add(encoding, words, key, sign=sign)
        noted.append((key, sign))

    monkeypatch.setattr(site_sum, "add_mask", noting)
    values = {part.name: np.full(part.length, share_of_bound * part.bound) for part in LAYOUT}
    for slot in range(1, SLOTS + 1):
        for name in federation.names:
            noted.clear()
            message = MaskedVector.from_bytes(cohort.mask(name, slot, values))
            made.vectors[name, slot] = np.frombuffer(message.words, np.uint8)
            made.masks[name, slot] = list(noted)
    monkeypatch.undo()
    return made


def differences(encoding: Encoding, vectors: Vectors) -> list[Vectors]:
    """Between slots 1 and 2, 3 and 4 ... of one site, and between sites A and B, C and D ... in one slot."""
    sites, slots = sorted({name for name, _ in vectors}), sorted({slot for _, slot in vectors})
    families = [
        {((name, one), (name, other)) for name in sites for one, other in pairwise_apart(slots)},
        {((one, slot), (other, slot)) for slot in slots for one, other in pairwise_apart(sites)},
    ]
    found = []
    for family in families:
        found.append({})
        for one, other in family:
            found[-1][one] = vectors[one].copy()
            for words, less in zip(encoding.as_words(found[-1][one]), encoding.as_words(vectors[other]), strict=True):
                words -= less
    return [family for family in found if family]


def pairwise_apart(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=False))


def chi_square(values: NDArray[Any], bins: int) -> float:
    """Two-sided p-value of the hypothesis that these integers are uniform: neither uneven nor suspiciously even."""
    counts = np.bincount(values.ravel().astype(np.int64), minlength=bins)
    expected = values.size / bins
    assert expected >= 20, "too few values for the chi-square distribution"
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return 2 * min(chi2.sf(statistic, bins - 1), chi2.cdf(statistic, bins - 1))


def p_values(encoding: Encoding, vectors: list[NDArray[np.uint8]]) -> list[float]:
    """Bytes at every position of a word; then pairs of words, and of AES blocks, that follow one another."""
    stacked = np.stack(vectors)
    found = []
    for region, width in ((stacked[:, : encoding.wide_bytes], 8), (stacked[:, encoding.wide_bytes :], 4)):
        words = region.reshape(len(vectors), -1, width)
        found += [chi_square(words[:, :, position], 256) for position in range(width)]
        for lag in (1, 16 // width):
            pairs = words.reshape(len(vectors), -1, 2, lag, width)
            first, second = pairs[:, :, 0], pairs[:, :, 1]
            found.append(chi_square((first >> 4) * 16 + (second >> 4), 256))
            found.append(chi_square((first & 15) * 16 + (second & 15), 256))
            found.append(chi_square(first ^ second, 256))
    return found


def is_uniform(encoding: Encoding, vectors: Vectors) -> bool:
    """Whether independent vectors, and their differences, could be uniform."""
    families = [vectors, *differences(encoding, vectors)]
    found = [p for family in families for p in p_values(encoding, list(family.values()))]
    return min(found) * len(found) > FALSE_ALARM / CALLS


def of_site(name: str, vectors: Vectors) -> Vectors:
    """Those of one site: under one pairwise mask they are independent of each other, and not of the partner's."""
    return {place: vector for place, vector in vectors.items() if place[0] == name}


@pytest.mark.parametrize("share_of_bound", [0.0, 1.0, -1.0])
def test_vectors_are_uniform_under_all_their_masks_and_under_each_alone(
    monkeypatch: pytest.MonkeyPatch, share_of_bound: float
) -> None:
    made = masked(monkeypatch, share_of_bound)
    assert {len(own) for own in made.masks.values()} == {SITES}
    assert is_uniform(made.encoding, made.vectors)
    assert is_uniform(made.encoding, made.under(0)), "the self-mask does not hide the vector"
    for left in range(1, SITES):
        bare = made.under(left)
        for name in NAMES:
            assert is_uniform(made.encoding, of_site(name, bare)), f"pairwise mask {left} does not hide {name}"


def test_vectors_without_any_mask_are_seen_not_to_be_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    made = masked(monkeypatch, 1.0)
    assert not is_uniform(made.encoding, made.under(-1))


def without(place: int) -> Callable[[AddMask], AddMask]:
    """Leave out the mask at this place of every vector."""

    def disturb(add: AddMask) -> AddMask:
        calls = count()

        def adding(encoding: Encoding, words: NDArray[np.uint8], key: bytes, *, sign: Literal[1, -1]) -> None:
            if next(calls) % SITES != place:
                add(encoding, words, key, sign=sign)

        return adding

    return disturb


def twice(place: int) -> Callable[[AddMask], AddMask]:
    """Use the key at this place for two slots, one after the other."""

    def disturb(add: AddMask) -> AddMask:
        calls, used = count(), {}

        def adding(encoding: Encoding, words: NDArray[np.uint8], key: bytes, *, sign: Literal[1, -1]) -> None:
            call = next(calls)
            slot, within = divmod(call, SITES * SITES)
            if call % SITES == place:
                key = used.setdefault((slot // 2, within), key)
            add(encoding, words, key, sign=sign)

        return adding

    return disturb


PLACES = pytest.mark.parametrize("place", range(SITES), ids=["self-mask", "first", "second", "third"])


@PLACES
def test_a_mask_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    made = masked(monkeypatch, 1.0, without(place))
    assert not is_uniform(made.encoding, of_site("B", made.under(place)))


@PLACES
def test_a_key_that_serves_two_slots_is_noticed(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    made = masked(monkeypatch, 0.0, twice(place))
    assert is_uniform(made.encoding, made.vectors), "each vector by itself is still uniform under the other masks"
    assert not is_uniform(made.encoding, of_site("B", made.under(place)))


def test_all_keys_that_serve_two_slots_are_noticed_without_taking_a_mask_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def disturb(add: AddMask) -> AddMask:
        for place in range(SITES):
            add = twice(place)(add)
        return add

    made = masked(monkeypatch, 1.0, disturb)
    assert not is_uniform(made.encoding, made.vectors)
