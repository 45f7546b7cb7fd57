"""Fixed-point words against exact integers and fractions."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from math import floor, frexp
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.secure_aggregation.errors import ResolutionTooLow, ShapeChanged, TermsRefused, ValueOutOfRange
from privacy.secure_aggregation.fixed_point import CHUNK, Encoding, Rounding, Segment

BOUNDS = st.floats(1e-9, 1e9) | st.integers(-40, 40).map(lambda power: 2.0**power) | st.sampled_from([1.0, 5.0, 100.0])
BITS = st.sampled_from([32, 64])


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    number = draw(st.integers(1, 4))
    segments = [Segment(f"s{i}", draw(st.integers(0, 4)), draw(BOUNDS), draw(BITS)) for i in range(number)]
    return Encoding(segments, draw(st.integers(1, 30) | st.integers(31, 260_000)))


@st.composite
def site_values(draw: st.DrawFn, encoding: Encoding) -> dict[str, NDArray[np.float64]]:
    """One site's values, often at the very bound or halfway between two words."""
    values = {}
    for segment in encoding.segments:
        step = 2.0 ** -encoding.exponent(segment.name)
        one = st.sampled_from(
            [segment.bound, -segment.bound, 0.0, -0.0, step / 2, -step / 2, 1.5 * step, 5e-324]
        ) | st.floats(-1, 1).map(lambda share, bound=segment.bound: share * bound)
        values[segment.name] = np.array(draw(st.lists(one, min_size=segment.length, max_size=segment.length)), float)
    return values


def exact_integers(
    encoding: Encoding, values: dict[str, NDArray[np.float64]], rng: np.random.Generator | None
) -> dict[str, list[int]]:
    """The integers the words must be, in exact arithmetic."""
    integers = {}
    for segment in encoding.segments:
        scaled = [Fraction(float(v)) * Fraction(2) ** encoding.exponent(segment.name) for v in values[segment.name]]
        if rng is None:
            integers[segment.name] = [round(value) for value in scaled]
        else:
            draws = rng.random(segment.length)
            integers[segment.name] = [
                floor(v) + (Fraction(float(u)) < v - floor(v)) for u, v in zip(draws, scaled, strict=True)
            ]
    return integers


@settings(max_examples=300, deadline=None)
@given(st.data(), encodings(), st.sampled_from(["nearest", "stochastic"]), st.integers(0, 2**32))
def test_the_decoded_sum_is_the_integer_sum_bit_for_bit(
    data: st.DataObject, encoding: Encoding, rounding: Rounding, seed: int
) -> None:
    total = np.zeros(encoding.size, np.uint8)
    sums = {segment.name: [0] * segment.length for segment in encoding.segments}
    # A large cohort is a few different sites, the first of them many times over.
    sites = min(encoding.cohort, data.draw(st.integers(1, 8)))
    for site in range(sites):
        values = data.draw(site_values(encoding))
        times = encoding.cohort - sites + 1 if site == 0 else 1
        stochastic = rounding == "stochastic"
        rng, again = (np.random.default_rng((seed, site)) if stochastic else None for _ in range(2))
        words = encoding.encode(values, rounding=rounding, rng=rng)
        repeated = [part * np.array(times, part.dtype) for part in encoding.as_words(words)]
        encoding.add(total, np.concatenate([part.view(np.uint8) for part in repeated]))
        for name, integers in exact_integers(encoding, values, again).items():
            sums[name] = [old + times * new for old, new in zip(sums[name], integers, strict=True)]
    for name, decoded in encoding.decode(total).items():
        expected = [float(integer) * 2.0 ** -encoding.exponent(name) for integer in sums[name]]
        assert decoded.dtype == np.float64
        assert decoded.tolist() == expected


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 2**20), BOUNDS, BITS)
def test_the_exponent_is_the_greatest_without_overflow(cohort: int, bound: float, bits: Literal[32, 64]) -> None:
    limit = 2 ** (bits - 1) - 1
    try:
        exponent = Encoding([Segment("s", 1, bound, bits)], cohort).exponent("s")
    except ResolutionTooLow:
        # Even the coarsest scale with 2^12 steps or more would overflow.
        mantissa, _ = frexp(bound)
        assert cohort * (Fraction(mantissa) * 2**13 + 1) > limit
        return
    assert cohort * (Fraction(bound) * Fraction(2) ** exponent + 1) <= limit
    assert cohort * (Fraction(bound) * Fraction(2) ** (exponent + 1) + 1) > limit
    assert Fraction(bound) * Fraction(2) ** exponent >= 2**12


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10_000), st.sampled_from([-1.0, 1.0]), BITS, st.integers(-40, 40))
def test_at_the_bound_the_sum_fits_and_with_one_exponent_more_it_wraps(
    cohort: int, sign: float, bits: Literal[32, 64], power: int
) -> None:
    bound = 2.0**power
    encoding = Encoding([Segment("s", 1, bound, bits)], cohort)
    word = exact_integers(encoding, {"s": np.array([sign * bound])}, None)["s"][0]
    limit = 2 ** (bits - 1) - 1
    assert abs(cohort * word) <= limit
    finer = 2 * cohort * word
    # (1) keeps one step free for each site's rounding; a sum within that margin would just fit.
    assume(not -limit - 1 <= finer <= limit)
    total = (finer % 2**bits).to_bytes(bits // 8, "little")
    decoded = encoding.decode(np.frombuffer(total, np.uint8))["s"][0]
    assert np.sign(decoded) != sign


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_whole_cohort_at_the_bound_does_not_wrap(bits: Literal[32, 64], rounding: Rounding) -> None:
    rng = np.random.default_rng(1)
    for cohort in (1, 2, 3, 5, 7, 100, 550):
        for bound in (0.3, 1.0, 1.1, 77.7):
            encoding = Encoding([Segment("s", 2, bound, bits)], cohort)
            total = np.zeros(encoding.size, np.uint8)
            for _ in range(cohort):
                words = encoding.encode({"s": np.array([bound, -bound])}, rounding=rounding, rng=rng)
                encoding.add(total, words)
            error = cohort * encoding.rounding_error("s", rounding)
            up, down = encoding.decode(total)["s"]
            slack = cohort * bound * 2**-52
            assert abs(up - cohort * bound) <= error + slack
            assert abs(down + cohort * bound) <= error + slack


def test_known_exponents() -> None:
    # 1 * (1 * 2^30 + 1) <= 2^31 - 1 < 2^31 + 1; and 5 * (2^28 + 1) <= 2^31 - 1 < 5 * (2^29 + 1).
    assert Encoding([Segment("s", 1, 1.0, 32)], 1).exponent("s") == 30
    assert Encoding([Segment("s", 1, 1.0, 32)], 5).exponent("s") == 28
    assert Encoding([Segment("s", 1, 1.0, 64)], 5).exponent("s") == 60
    assert Encoding([Segment("s", 1, 2.0**100, 32)], 1).exponent("s") == -70


def test_wide_words_lie_first_and_all_are_little_endian() -> None:
    segments = [Segment("a", 1, 1.0, 32), Segment("b", 1, 1.0, 64), Segment("c", 2, 2.0, 32), Segment("d", 1, 4.0, 64)]
    encoding = Encoding(segments, 1)
    assert encoding.size == 28
    values = {"a": [1.0], "b": [-1.0], "c": [1.0, -2.0], "d": [0.5]}
    words = encoding.encode({name: np.array(value) for name, value in values.items()})
    expected = (
        (-(2**62)).to_bytes(8, "little", signed=True)
        + (2**59).to_bytes(8, "little")
        + (2**30).to_bytes(4, "little")
        + (2**29).to_bytes(4, "little")
        + (-(2**30)).to_bytes(4, "little", signed=True)
    )
    assert words.tobytes() == expected
    assert list(encoding.decode(words)) == ["a", "b", "c", "d"]
    assert {name: value.tolist() for name, value in encoding.decode(words).items()} == values


def test_weights_multiply_in_float64_and_only_where_they_are_given() -> None:
    encoding = Encoding([Segment("s", 3, 1000.0, 64), Segment("t", 1, 1.0, 32)], 3)
    values = {"s": np.array([0.1, -0.7, 3.3], np.float32), "t": np.array([0.25])}
    words = encoding.encode(values, weights={"s": 123.456})
    expected = exact_integers(encoding, {"s": values["s"].astype(float) * 123.456, "t": values["t"]}, None)
    wide, narrow = encoding.as_words(words)
    assert wide.view(np.int64).tolist() == expected["s"]
    assert narrow.view(np.int32).tolist() == expected["t"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.longdouble])
def test_any_float_type_and_stride_is_taken(dtype: Any) -> None:
    encoding = Encoding([Segment("s", CHUNK + 3, 1.0, 32)], 2)
    values = np.linspace(-1, 1, 2 * (CHUNK + 3)).astype(dtype)[::2]
    decoded = encoding.decode(encoding.encode({"s": values}))["s"]
    assert np.abs(decoded - values.astype(float)).max() <= encoding.rounding_error("s")


@pytest.mark.parametrize("scaled", [2.0**10 + 0.25, -(2.0**10) - 0.25, 2.0**50 + 0.25, 2.0**51 + 0.5, -(2.0**51) - 0.5])
def test_stochastic_rounding_has_no_bias(scaled: float) -> None:
    number = 40_000
    encoding = Encoding([Segment("s", number, 1.0, 64)], 1)
    values = np.full(number, scaled * 2.0 ** -encoding.exponent("s"))
    words = encoding.encode({"s": values}, rounding="stochastic", rng=np.random.default_rng(3))
    integers = encoding.as_words(words)[0].view(np.int64)
    assert set(integers.tolist()) == {floor(scaled), floor(scaled) + 1}
    ups = int((integers - floor(scaled)).sum())
    chance = scaled - floor(scaled)
    assert abs(ups - number * chance) < 6 * (number * chance * (1 - chance)) ** 0.5


@pytest.mark.parametrize("whole", [0.0, 2.0**20, 2.0**52, 2.0**52 + 1, 2.0**53, 2.0**62, -(2.0**52) - 1, -(2.0**62)])
def test_stochastic_rounding_leaves_integers_alone(whole: float) -> None:
    encoding = Encoding([Segment("s", 1000, 1.0, 64)], 1)
    values = np.full(1000, whole * 2.0 ** -encoding.exponent("s"))
    words = encoding.encode({"s": values}, rounding="stochastic", rng=np.random.default_rng(3))
    assert set(encoding.as_words(words)[0].view(np.int64).tolist()) == {int(whole)}


def test_stochastic_rounding_repeats_with_its_generator_and_needs_one() -> None:
    encoding = Encoding([Segment("s", 1000, 1.0, 32)], 3)
    values = {"s": np.random.default_rng(0).uniform(-1, 1, 1000)}
    first, again, other = (
        encoding.encode(values, rounding="stochastic", rng=np.random.default_rng(seed)).tobytes() for seed in (5, 5, 6)
    )
    assert first == again != other
    with pytest.raises(ValueError, match="generator"):
        encoding.encode(values, rounding="stochastic")
    with pytest.raises(ValueError, match="rounding"):
        encoding.encode(values, rounding="up")  # type: ignore[arg-type]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_one_contribution_errs_by_no_more_than_stated(rounding: Rounding) -> None:
    encoding = Encoding([Segment("s", 10_000, 3.0, 32)], 7)
    values = np.random.default_rng(0).uniform(-3, 3, 10_000)
    words = encoding.encode({"s": values}, rounding=rounding, rng=np.random.default_rng(1))
    error = np.abs(encoding.decode(words)["s"] - values).max()
    stated = encoding.rounding_error("s", rounding)
    assert 0.9 * stated < error <= stated


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.0 + 2**-52, -1.0 - 2**-52, 1e308])
@pytest.mark.parametrize("position", [0, CHUNK - 1, CHUNK, CHUNK + 1])
def test_a_value_out_of_range_is_refused_wherever_it_stands(value: float, position: int) -> None:
    encoding = Encoding([Segment("weights", CHUNK + 2, 1.0, 32)], 3)
    values = np.zeros(CHUNK + 2)
    values[position] = value
    with pytest.raises(ValueOutOfRange, match="'weights'") as caught:
        encoding.encode({"weights": values})
    assert str(value) not in str(caught.value)


@pytest.mark.parametrize("weight", [2.1, -2.1, np.nan, np.inf, 1e308])
def test_the_bound_holds_for_the_weighted_value(weight: float) -> None:
    encoding = Encoding([Segment("s", 2, 1.0, 32)], 3)
    with pytest.raises(ValueOutOfRange):
        encoding.encode({"s": np.array([0.5, -0.5])}, weights={"s": weight})
    encoding.encode({"s": np.array([0.5, -0.5])}, weights={"s": 2.0})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"s": np.zeros(3)},
        {"s": np.zeros(3), "t": np.zeros(2)},
        {"s": np.zeros(3), "t": np.zeros(1), "u": np.zeros(1)},
        {"s": np.zeros((3, 1)), "t": np.zeros(1)},
        {"s": np.zeros(3, int), "t": np.zeros(1)},
        {"s": np.zeros(3, complex), "t": np.zeros(1)},
    ],
)
def test_another_shape_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ShapeChanged):
        Encoding([Segment("s", 3, 1.0, 32), Segment("t", 1, 1.0, 64)], 2).encode(values)


def test_a_weight_for_an_unknown_segment_is_refused() -> None:
    with pytest.raises(ShapeChanged):
        Encoding([Segment("s", 1, 1.0, 32)], 2).encode({"s": np.zeros(1)}, weights={"S": 2.0})


@pytest.mark.parametrize(
    "words", [np.zeros(15, np.uint8), np.zeros(17, np.uint8), np.zeros(16, np.int8), np.zeros(32, np.uint8)[::2]]
)
def test_a_vector_of_another_size_is_refused(words: Any) -> None:
    encoding = Encoding([Segment("s", 2, 1.0, 32), Segment("t", 1, 1.0, 64)], 2)
    right = np.zeros(16, np.uint8)
    for call in (
        lambda: encoding.decode(words),
        lambda: encoding.add(right, words),
        lambda: encoding.add(words, right),
        lambda: encoding.as_words(words),
    ):
        with pytest.raises(ShapeChanged):
            call()


def test_a_segment_with_too_few_steps_left_is_refused() -> None:
    segments = [Segment("s", 1, 1.0, 32)]
    # 2^12 steps, the fewest allowed, fit as long as n * (2^12 + 1) <= 2^31 - 1.
    largest = (2**31 - 1) // (2**12 + 1)
    assert Encoding(segments, largest).exponent("s") == 12
    with pytest.raises(ResolutionTooLow, match="'s'"):
        Encoding(segments, largest + 1)
    with pytest.raises(ResolutionTooLow):
        Encoding(segments, 2**40)
    Encoding([Segment("s", 1, 1.0, 64)], 2**40)


@pytest.mark.parametrize(
    ("segments", "cohort"),
    [
        ([Segment("s", 1, 1.0, 32)], 0),
        ([Segment("s", 1, 1.0, 32)], -1),
        ([Segment("s", 1, 1.0, 32), Segment("s", 2, 1.0, 64)], 2),
        ([Segment("s", -1, 1.0, 32)], 2),
        ([Segment("s", 1, 1.0, 16)], 2),  # type: ignore[arg-type]
        ([Segment("s", 1, 0.0, 32)], 2),
        ([Segment("s", 1, -1.0, 32)], 2),
        ([Segment("s", 1, float("nan"), 32)], 2),
        ([Segment("s", 1, float("inf"), 32)], 2),
        ([Segment("s", 1, 5e-324, 32)], 2),
    ],
)
def test_terms_that_make_no_sense_are_refused(segments: list[Segment], cohort: int) -> None:
    with pytest.raises(TermsRefused):
        Encoding(segments, cohort)


def test_adding_leaves_the_summand_alone_and_takes_bytes_from_the_wire() -> None:
    encoding = Encoding([Segment("s", 2, 1.0, 32), Segment("t", 1, 1.0, 64)], 3)
    values = {"s": np.array([0.5, -0.25]), "t": np.array([-0.75])}
    words = np.frombuffer(encoding.encode(values).tobytes(), np.uint8)
    total = np.zeros(encoding.size, np.uint8)
    for _ in range(3):
        encoding.add(total, words)
    decoded = encoding.decode(total)
    assert decoded["s"].tolist() == [1.5, -0.75]
    assert decoded["t"].tolist() == [-2.25]
    assert encoding.decode(words)["t"].tolist() == [-0.75]


def test_an_encoding_without_values_is_empty() -> None:
    for segments in ([], [Segment("s", 0, 1.0, 32), Segment("t", 0, 1.0, 64)]):
        encoding = Encoding(segments, 3)
        words = encoding.encode({segment.name: np.zeros(0) for segment in segments})
        assert words.size == encoding.size == 0
        encoding.add(words, words)
        assert all(value.size == 0 for value in encoding.decode(words).values())


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_encoding_needs_little_memory_besides_its_result(rounding: Rounding) -> None:
    number = 1_000_000
    encoding = Encoding([Segment("s", number, 100.0, 32)], 5)
    values = {"s": np.random.default_rng(0).normal(size=number).astype(np.float32)}
    rng = np.random.default_rng(1)
    tracemalloc.start()
    try:
        words = encoding.encode(values, weights={"s": 7.5}, rounding=rounding, rng=rng)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert words.nbytes == 4 * number
    assert peak < words.nbytes + 5 * 8 * CHUNK
