"""Floats as words modulo 2^32 or 2^64, such that the sum over a whole cohort is exact and cannot overflow.

Rules kept here:

* what is added is integers: the decoded sum is the sum of the sites' rounded values, bit for bit, in any order;
* a value that could make a sum overflow is refused and never clipped; the error names the segment and no value;
* everybody who knows the segments and the cohort's size has the same encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.secure_aggregation.errors import ResolutionTooLow, ShapeChanged, TermsRefused, ValueOutOfRange

Rounding: TypeAlias = Literal["nearest", "stochastic"]

CHUNK: Final = 2**16
"""Values encoded at a time: what is needed besides the vector itself stays small."""

MIN_RESOLUTION: Final = 2**12
"""A segment's bound is at least this many steps."""

# Within these, neither a power of two used here nor its inverse leaves the range of float64.
_SMALLEST_BOUND: Final = 2.0**-500
_LARGEST_BOUND: Final = 2.0**500

_Vector: TypeAlias = NDArray[np.uint8]
_Floats: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Segment:
    """A run of `length` values, each with |value| <= `bound` at every site, carried in words of `bits` bits."""

    name: str
    length: int
    bound: float
    bits: Literal[32, 64]


class Encoding:
    """How vectors of these segments become words that a cohort of at most n sites can add up.

    A value v is carried as the integer closest to v * 2^e ("nearest", ties to even), or as one of its two neighbours,
    drawn so that the mean is v * 2^e ("stochastic"), in two's complement. Each segment has its own e: the greatest with

        n * (bound * 2^e + 1) <= 2^(bits-1) - 1.                                                             (1)

    Why no sum wraps: `encode` sees to it that |v| <= bound, and v * 2^e is exact in float64 (unless it is so close to
    0 that it underflows, which makes it no larger). Rounding moves it by at most 1/2 ("nearest") or by less than 1
    ("stochastic"), so one site's integer is at most bound * 2^e + 1 in size, and a sum of n or fewer is at most the
    left side of (1). Its right side is the greatest integer whose negative also fits in a word of two's complement; so
    the integer sum lies where decoding is unambiguous, whatever the words passed through on the way.

    A vector is `size` bytes, little endian: first the 64-bit segments, for alignment, then the 32-bit ones, both in the
    order given. Raises ResolutionTooLow if bound * 2^e < 2^12 for a segment, and TermsRefused for segments or a cohort
    that make no sense (the coordinator names them, so it is it who errs).
    """

    def __init__(self, segments: Sequence[Segment], cohort: int) -> None:
        _check_terms(segments, cohort)
        self.segments = tuple(segments)
        self.cohort = cohort
        self.wide_bytes = 8 * sum(segment.length for segment in segments if segment.bits == 64)
        self.size = self.wide_bytes + 4 * sum(segment.length for segment in segments if segment.bits == 32)
        self._segments = {segment.name: segment for segment in segments}
        self._exponents = {segment.name: _greatest_exponent(segment, cohort) for segment in segments}
        self._slices: dict[str, slice] = {}
        ends = {64: 0, 32: self.wide_bytes}
        for segment in segments:
            start = ends[segment.bits]
            ends[segment.bits] += segment.length * segment.bits // 8
            self._slices[segment.name] = slice(start, ends[segment.bits])

    def exponent(self, name: str) -> int:
        """The segment's e: its words count in steps of 2^-e. May be negative."""
        return self._exponents[name]

    def rounding_error(self, name: str, rounding: Rounding = "nearest") -> float:
        """The most by which one site's contribution differs from value * weight, as computed in float64."""
        step = 2.0 ** -self._exponents[name]
        return step / 2 if rounding == "nearest" else step

    def encode(
        self,
        values: Mapping[str, _Floats],
        *,
        weights: Mapping[str, float] = MappingProxyType({}),
        rounding: Rounding = "nearest",
        rng: np.random.Generator | None = None,
    ) -> _Vector:
        """A new vector of the words of value * weight (float64 product; a segment without a weight has 1.0).

        `values` has every segment as a float array of shape (length,). "stochastic" draws from `rng` one number per
        value, in the segments' order. Raises ShapeChanged if names, shapes or types differ from the segments',
        ValueOutOfRange if a product is not finite or beyond its bound, ValueError for another `rounding` or if
        "stochastic" has no `rng`.
        """
        if rounding not in ("nearest", "stochastic") or (rounding == "stochastic" and rng is None):
            raise ValueError('rounding is "nearest", or "stochastic" with a generator')
        draw = rng if rounding == "stochastic" else None
        self._check_shapes(values, weights)
        vector = np.empty(self.size, np.uint8)
        buffer = np.empty(min(CHUNK, max((segment.length for segment in self.segments), default=0)))
        for segment in self.segments:
            words = self._words(vector, segment)
            weight = float(weights.get(segment.name, 1.0))
            for part in _chunks(segment.length):
                scaled = buffer[: part.stop - part.start]
                with np.errstate(over="ignore", invalid="ignore"):
                    np.multiply(values[segment.name][part], weight, out=scaled, dtype=np.float64, casting="same_kind")
                _check_bound(scaled, segment)
                scaled *= 2.0 ** self._exponents[segment.name]
                _round(scaled, draw)
                np.copyto(words[part], scaled, casting="unsafe")
        return vector

    def decode(self, words: _Vector) -> dict[str, NDArray[np.float64]]:
        """The sums that `words` (a sum of at most n vectors, without masks) stand for, shape (length,) each.

        Exact up to 2^53 steps, beyond it the closest float64. Raises ShapeChanged for words of another size.
        """
        self._check_vector(words)
        return {
            segment.name: np.multiply(
                self._words(words, segment), 2.0 ** -self._exponents[segment.name], dtype=np.float64
            )
            for segment in self.segments
        }

    def add(self, total: _Vector, words: _Vector) -> None:
        """total += words, in place, modulo each segment's 2^bits. Raises ShapeChanged for another size."""
        wide, narrow = self.as_words(total)
        more_wide, more_narrow = self.as_words(words)
        wide += more_wide
        narrow += more_narrow

    def as_words(self, vector: _Vector) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """Views of a vector's 64-bit words and of its 32-bit words. Raises ShapeChanged for another size."""
        self._check_vector(vector)
        return vector[: self.wide_bytes].view("<u8"), vector[self.wide_bytes :].view("<u4")

    def _words(self, vector: _Vector, segment: Segment) -> NDArray[np.signedinteger[Any]]:
        """A view of a segment's words, as two's complement."""
        return vector[self._slices[segment.name]].view(f"<i{segment.bits // 8}")

    def _check_vector(self, vector: _Vector) -> None:
        if vector.dtype != np.uint8 or vector.shape != (self.size,) or not vector.flags.c_contiguous:
            raise ShapeChanged(
                f"a vector has shape {vector.shape} and type {vector.dtype} instead of {self.size} bytes in one run",
                remedy="make the set-up anew for the model in use",
            )

    def _check_shapes(self, values: Mapping[str, _Floats], weights: Mapping[str, float]) -> None:
        remedy = "make the set-up anew for the model in use"
        if values.keys() != self._segments.keys() or not weights.keys() <= values.keys():
            raise ShapeChanged("values or weights have other names than the segments of the set-up", remedy=remedy)
        for name, segment in self._segments.items():
            shape, dtype = values[name].shape, values[name].dtype
            if shape != (segment.length,) or dtype.kind != "f":
                raise ShapeChanged(
                    f"segment '{name}' has shape {shape} and type {dtype} instead of {segment.length} floats",
                    remedy=remedy,
                )


def _check_terms(segments: Sequence[Segment], cohort: int) -> None:
    remedy = "correct the segments that the coordinator's terms name"
    if cohort < 1:
        raise TermsRefused(f"a cohort of {cohort} sites has no sum", remedy=remedy)
    if len({segment.name for segment in segments}) < len(segments):
        raise TermsRefused("two segments have the same name", remedy=remedy)
    for segment in segments:
        if segment.length < 0 or segment.bits not in (32, 64):
            raise TermsRefused(f"segment '{segment.name}' has an impossible length or word size", remedy=remedy)
        if not _SMALLEST_BOUND <= segment.bound <= _LARGEST_BOUND:
            raise TermsRefused(f"segment '{segment.name}' has no usable bound: {segment.bound}", remedy=remedy)


def _greatest_exponent(segment: Segment, cohort: int) -> int:
    """Solve (1) of `Encoding` for e, in exact arithmetic. Raises ResolutionTooLow."""
    bound = Fraction(segment.bound)
    room = Fraction(2 ** (segment.bits - 1) - 1, cohort) - 1
    if room < MIN_RESOLUTION:
        raise _resolution_too_low(segment, cohort)
    ratio = room / bound
    # 2^(difference - 1) < ratio < 2^(difference + 1)
    difference = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    exponent = difference if Fraction(2) ** difference <= ratio else difference - 1
    if bound * Fraction(2) ** exponent < MIN_RESOLUTION:
        raise _resolution_too_low(segment, cohort)
    return exponent


def _resolution_too_low(segment: Segment, cohort: int) -> ResolutionTooLow:
    return ResolutionTooLow(
        f"{segment.bits}-bit words leave segment '{segment.name}' too few steps for sums over {cohort} sites",
        remedy="use 64-bit words for it, or smaller cohorts",
    )


def _chunks(length: int) -> Iterator[slice]:
    for start in range(0, length, CHUNK):
        yield slice(start, min(start + CHUNK, length))


def _check_bound(products: NDArray[np.float64], segment: Segment) -> None:
    # Extremes that are not numbers fail both comparisons.
    if not (products.max() <= segment.bound and products.min() >= -segment.bound):
        raise ValueOutOfRange(
            f"a value of segment '{segment.name}' is not finite or beyond the bound {segment.bound}",
            remedy="clip the values or raise the segment's bound in the settings",
        )


def _round(scaled: NDArray[np.float64], rng: np.random.Generator | None) -> None:
    """Round in place; with a generator, up with the probability of the fraction.

    Not `floor(x + u)`: from 2^51 on float64 rounds that sum, which biases it and can move an integer.
    """
    if rng is None:
        np.rint(scaled, out=scaled)
        return
    floor = np.floor(scaled)
    scaled -= floor
    np.add(floor, rng.random(scaled.size) < scaled, out=scaled)
