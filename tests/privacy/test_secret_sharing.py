"""Shamir sharing against pycryptodome's, and against what the scheme promises."""

from __future__ import annotations

import os
from itertools import combinations

import pytest
from Crypto.Protocol.SecretSharing import Shamir, _Element
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secure_aggregation.errors import RecoveryFailed
from privacy.secure_aggregation.secret_sharing import combine, lagrange_at_zero, split


@st.composite
def sharings(draw: st.DrawFn, largest: int = 40) -> tuple[int, int, int]:
    """A threshold, a number of holders, and a number of secrets."""
    holders = draw(st.integers(1, largest))
    return draw(st.integers(1, holders)), holders, draw(st.integers(1, 5))


def shared(secrets: bytes, threshold: int, holders: int) -> dict[int, bytes]:
    shares = split(secrets, threshold=threshold, holders=holders, entropy=os.urandom)
    return {index + 1: share for index, share in enumerate(shares)}


def value_at(x: int, points: dict[int, bytes]) -> bytes:
    """Interpolate one 16-byte element at any x (also through a point at 0), in pycryptodome's arithmetic."""
    total = _Element(0)
    for i, y in points.items():
        term = _Element(y)
        for j in points:
            if j != i:
                term = term * (_Element(x) + _Element(j)) * (_Element(i) + _Element(j)).inverse()
        total = total + term
    return bytes(total.encode())


@settings(max_examples=60, deadline=None)
@given(sharings(), st.randoms(use_true_random=False))
def test_any_threshold_of_the_shares_gives_the_secrets(sharing: tuple[int, int, int], random: object) -> None:
    threshold, holders, number = sharing
    secrets = os.urandom(16 * number)
    shares = shared(secrets, threshold, holders)
    chosen = random.sample(sorted(shares), threshold)  # type: ignore[attr-defined]
    assert combine({index: shares[index] for index in chosen}) == secrets
    assert combine(shares) == secrets


@settings(max_examples=60, deadline=None)
@given(sharings(), st.randoms(use_true_random=False))
def test_one_share_too_few_gives_something_else(sharing: tuple[int, int, int], random: object) -> None:
    threshold, holders, number = sharing
    if threshold == 1:
        return
    secrets = os.urandom(16 * number)
    shares = shared(secrets, threshold, holders)
    guess = combine({index: shares[index] for index in random.sample(sorted(shares), threshold - 1)})  # type: ignore[attr-defined]
    assert all(guess[at : at + 16] != secrets[at : at + 16] for at in range(0, len(secrets), 16))


def test_every_subset_of_a_small_sharing_behaves_as_promised() -> None:
    secrets = os.urandom(32)
    shares = shared(secrets, 3, 5)
    for size in range(1, 6):
        for chosen in combinations(shares, size):
            assert (combine({index: shares[index] for index in chosen}) == secrets) == (size >= 3)


@pytest.mark.parametrize("candidate", [bytes(16), b"\xff" * 16, bytes(15) + b"\x01", os.urandom(16)])
def test_to_one_holder_too_few_every_secret_is_possible(candidate: bytes) -> None:
    threshold, holders = 4, 7
    secret = os.urandom(16)
    shares = shared(secret, threshold, holders)
    seen = {index: shares[index] for index in (2, 3, 7)}
    # A polynomial of degree 3 has the candidate at 0 and agrees with all that was seen ...
    world = {index: value_at(index, {0: candidate, **seen}) for index in range(1, holders + 1)}
    assert {index: world[index] for index in seen} == seen
    # ... and it is a sharing like any other.
    for chosen in combinations(world, threshold):
        assert combine({index: world[index] for index in chosen}) == candidate


def test_a_share_alone_looks_uniform_whatever_the_secret() -> None:
    for secret in (bytes(16 * 4000), b"\xff" * 16 * 4000):
        share = split(secret, threshold=2, holders=2, entropy=os.urandom)[1]
        ones = int.from_bytes(share, "big").bit_count()
        bits = 8 * len(share)
        assert abs(ones - bits / 2) < 6 * (bits / 4) ** 0.5


@settings(max_examples=25, deadline=None)
@given(sharings(largest=20))
def test_pycryptodome_combines_our_shares(sharing: tuple[int, int, int]) -> None:
    threshold, holders, number = sharing
    secrets = os.urandom(16 * number)
    shares = shared(secrets, threshold, holders)
    last = sorted(shares)[-threshold:]
    for at in range(0, len(secrets), 16):
        theirs = Shamir.combine([(index, shares[index][at : at + 16]) for index in last], ssss=False)
        assert theirs == secrets[at : at + 16]


@settings(max_examples=25, deadline=None)
@given(sharings(largest=20))
def test_we_combine_pycryptodomes_shares(sharing: tuple[int, int, int]) -> None:
    threshold, holders, number = sharing
    secrets = [os.urandom(16) for _ in range(number)]
    sharings_ = [dict(Shamir.split(threshold, holders, secret, ssss=False)) for secret in secrets]
    chosen = range(holders - threshold + 1, holders + 1)
    assert combine({i: b"".join(shares[i] for shares in sharings_) for i in chosen}) == b"".join(secrets)


@pytest.mark.parametrize("indices", [(1,), (1, 2, 3), (65536, 65535, 1), (3, 40000, 65536, 129), tuple(range(20, 60))])
def test_interpolation_agrees_with_pycryptodome_at_large_indices(indices: tuple[int, ...]) -> None:
    shares = {index: os.urandom(16) for index in indices}
    assert combine(shares) == Shamir.combine(list(shares.items()), ssss=False)


def test_coefficients_sum_to_one_as_a_constant_polynomial_demands() -> None:
    total = 0
    for coefficient in lagrange_at_zero(tuple(range(1, 62))):
        total ^= coefficient
    assert total == 1


def test_the_greatest_number_of_holders_is_served() -> None:
    secret = os.urandom(16)
    shares = split(secret, threshold=3, holders=2**16, entropy=os.urandom)
    chosen = (1, 2**15, 2**16)
    assert Shamir.combine([(index, shares[index - 1]) for index in chosen], ssss=False) == secret


def test_shares_depend_on_entropy_alone_and_take_as_much_as_stated() -> None:
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return bytes(range(256))[:size]

    first = split(bytes(32), threshold=3, holders=4, entropy=entropy)
    assert first == split(bytes(32), threshold=3, holders=4, entropy=entropy)
    assert asked == [64, 64]
    # f(1) is the sum of the coefficients: of degree 1 at bytes 0..31 for both secrets, of degree 2 at 32..63.
    assert first[0] == bytes(a ^ b for a, b in zip(range(32), range(32, 64), strict=True))


def test_combining_does_not_depend_on_the_order_of_shares() -> None:
    shares = shared(os.urandom(32), 3, 5)
    assert combine(dict(reversed(shares.items()))) == combine(shares)


@pytest.mark.parametrize("length", [0, 1, 15, 17, 33])
def test_secrets_of_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        split(bytes(length), threshold=1, holders=1, entropy=os.urandom)


@pytest.mark.parametrize(("threshold", "holders"), [(0, 3), (-1, 3), (4, 3), (1, 0), (1, 2**16 + 1)])
def test_impossible_sharings_are_refused(threshold: int, holders: int) -> None:
    with pytest.raises(ValueError, match="no sharing"):
        split(bytes(16), threshold=threshold, holders=holders, entropy=os.urandom)


@pytest.mark.parametrize("surplus", [-1, 1])
def test_entropy_that_gives_another_number_of_bytes_is_refused(surplus: int) -> None:
    with pytest.raises(ValueError, match="entropy gave"):
        split(bytes(16), threshold=3, holders=5, entropy=lambda size: bytes(size + surplus))


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {1: b""},
        {1: bytes(15)},
        {1: bytes(16), 2: bytes(32)},
        {0: bytes(16), 1: bytes(16)},
        {-1: bytes(16)},
        {2**16 + 1: bytes(16)},
        {"1": bytes(16)},
    ],
)
def test_shares_that_cannot_be_shares_are_refused(shares: dict[int, bytes]) -> None:
    with pytest.raises(RecoveryFailed):
        combine(shares)
