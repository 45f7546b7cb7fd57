"""Shamir's secret sharing over GF(2^128), for many 16-byte secrets at once.

Shamir 1979, "How to share a secret". The field is GF(2)[x] / (1 + x + x^2 + x^7 + x^128); an element is 16 bytes, big
endian, its lowest bit the constant coefficient. Field and shares are those of pycryptodome's
`Crypto.Protocol.SecretSharing.Shamir` without `ssss`: either combines what the other has split.

Rules kept here:

* every secret has a polynomial of its own, with fresh coefficients; fewer than `threshold` shares say nothing about it;
* how long anything takes depends on lengths and indices, which everybody knows, and never on a secret or a share;
* whether a combined secret is the right one is for the caller to check against its owner's commitment: `combine` gives
  something for any shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy.secure_aggregation.errors import RecoveryFailed

Entropy: TypeAlias = Callable[[int], bytes]
"""Gives that many random bytes: `os.urandom`, or a seeded stream where test vectors are made."""

ELEMENT_BYTES: Final = 16
MAX_HOLDERS: Final = 2**16

# Elements in numpy: uint64 of shape (2, ...), first the high words, then the low ones.
_Words: TypeAlias = NDArray[np.uint64]

_BITS: Final = 128
_POLYNOMIAL: Final = (1 << 128) | 0x87


def split(secrets: bytes, *, threshold: int, holders: int, entropy: Entropy) -> list[bytes]:
    """Split `secrets`, m 16-byte secrets one after the other; item i is the share of the holder with index i + 1.

    A share is as long as `secrets`. `1 <= threshold <= holders <= 2**16`. Takes (threshold - 1) * m * 16 bytes from
    `entropy` in one call: the coefficients of degree 1 of all secrets, then those of degree 2, and so on.
    Raises ValueError for other lengths or numbers.
    """
    if not secrets or len(secrets) % ELEMENT_BYTES:
        raise ValueError(f"secrets must be a positive multiple of {ELEMENT_BYTES} bytes, these are {len(secrets)}")
    if not 1 <= threshold <= holders <= MAX_HOLDERS:
        raise ValueError(f"no sharing among {holders} holders with threshold {threshold}")
    random = entropy((threshold - 1) * len(secrets))
    if len(random) != (threshold - 1) * len(secrets):
        raise ValueError(f"entropy gave {len(random)} bytes instead of {(threshold - 1) * len(secrets)}")

    coefficients = _to_words(secrets + random).reshape(2, threshold, 1, -1)
    # Row i will hold the polynomials' values at i. A power of two rows: then those whose number has a given bit set are
    # a regular pattern. Row 0 is the secret itself and is not handed out, as are the rows above `holders`.
    rows = 1 << holders.bit_length()
    values = np.repeat(coefficients[:, -1], rows, axis=1)
    for degree in range(threshold - 2, -1, -1):
        values = _times_row_number(values)
        values ^= coefficients[:, degree]
    return [_to_bytes(values[:, index]) for index in range(1, holders + 1)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The values at 0 of the polynomials through exactly the given shares (index -> m * 16 bytes).

    These are the secrets if at least as many shares are given as the threshold says and each is right; otherwise they
    are other bytes. Raises RecoveryFailed for no shares, indices out of 1..2**16, or lengths that do not fit.
    """
    lengths = {len(share) for share in shares.values()}
    if len(lengths) != 1 or 0 in lengths or lengths.pop() % ELEMENT_BYTES:
        raise RecoveryFailed(
            f"{len(shares)} shares do not have one length of whole {ELEMENT_BYTES}-byte elements",
            remedy="abandon the round and see which site's shares are damaged",
        )
    if not all(isinstance(index, int) and 1 <= index <= MAX_HOLDERS for index in shares):
        raise RecoveryFailed(
            f"a share has an index out of 1..{MAX_HOLDERS}", remedy="abandon the round and see who sent it"
        )
    indices = tuple(sorted(shares))
    values = _to_words(b"".join(shares[index] for index in indices)).reshape(2, len(indices), 1, -1)
    # The sum of coefficient * value, sorted by the coefficients' bits: planes[:, b] is to be multiplied by x^b.
    planes = np.zeros((2, _BITS, values.shape[-1]), np.uint64)
    for position, mask in enumerate(_lagrange_masks(indices)):
        planes ^= values[:, position] & mask
    for level in range(_BITS.bit_length() - 1):
        planes = planes[:, 0::2] ^ _times_power(planes[:, 1::2], 1 << level)
    return _to_bytes(planes[:, 0])


def _to_words(elements: bytes) -> _Words:
    """Elements as words of shape (2, number of elements)."""
    return np.ascontiguousarray(np.frombuffer(elements, ">u8").astype(np.uint64).reshape(-1, 2).T)


def _to_bytes(words: _Words) -> bytes:
    return words.T.astype(">u8").tobytes()


def _times_row_number(values: _Words) -> _Words:
    """Multiply row i of (2, rows, m) by the element i; `rows` is a power of two."""
    _, rows, number = values.shape
    product = np.zeros((3, rows, number), np.uint64)
    for bit in range(rows.bit_length() - 1):
        pattern = (-1, rows >> (bit + 1), 2, 1 << bit, number)
        factor = values.reshape(pattern)[:, :, 1]
        product[1:].reshape(pattern)[:, :, 1] ^= factor << bit
        if bit:
            product[:2].reshape(pattern)[:, :, 1] ^= factor >> (64 - bit)
    return _reduced(product)


def _times_power(values: _Words, power: int) -> _Words:
    """Multiply every element by x^power, 1 <= power <= 64."""
    product = np.zeros((3, *values.shape[1:]), np.uint64)
    if power < 64:
        product[1:] = values << power
    product[:2] ^= values >> (64 - power)
    return _reduced(product)


def _reduced(product: _Words) -> _Words:
    """From three words, highest first, back to two: x^128 = 1 + x + x^2 + x^7. Works in `product`'s own memory."""
    top, high, low = product
    low ^= top ^ (top << 1) ^ (top << 2) ^ (top << 7)
    high ^= (top >> 63) ^ (top >> 62) ^ (top >> 57)
    return product[1:]


@lru_cache(maxsize=1024)
def _lagrange_masks(indices: tuple[int, ...]) -> _Words:
    """The coefficients' bits as masks, shape (shares, 128, 1): all ones where bit b of a share's coefficient is set."""
    packed = b"".join(value.to_bytes(ELEMENT_BYTES, "little") for value in lagrange_at_zero(indices))
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little").reshape(len(indices), _BITS, 1)
    masks = np.uint64(0) - bits.astype(np.uint64)
    masks.flags.writeable = False
    return masks


def lagrange_at_zero(indices: tuple[int, ...]) -> list[int]:
    """The field elements c_i with f(0) = sum of c_i * f(i) for every polynomial f of degree below `len(indices)`.

    c_i is the product of j / (j + i) over the other indices j. `indices` are distinct and not zero.
    """
    denominators = []
    for i in indices:
        product = i
        for j in indices:
            if j != i:
                product = _multiply(product, i ^ j)
        denominators.append(product)
    # With i itself among the denominator's factors the numerator is the same for all: the product of all indices. One
    # inversion serves all denominators (Montgomery's trick): peel them off the inverse of their product.
    numerator = list(accumulate(indices, _multiply))[-1]
    before = list(accumulate(denominators, _multiply, initial=1))
    rest = _inverse(before[-1])
    coefficients = []
    for position in reversed(range(len(indices))):
        coefficients.append(_multiply(numerator, _multiply(rest, before[position])))
        rest = _multiply(rest, denominators[position])
    return coefficients[::-1]


def _multiply(a: int, b: int) -> int:
    """The product of two elements; fast where `b` is small."""
    product = 0
    while b:
        lowest = b & -b
        product ^= a * lowest
        b ^= lowest
    while top := product >> _BITS:
        product ^= (top << _BITS) ^ top ^ (top << 1) ^ (top << 2) ^ (top << 7)
    return product


def _inverse(a: int) -> int:
    """The inverse of an element other than zero, by the extended Euclidean algorithm."""
    r, s, u, v = _POLYNOMIAL, a, 0, 1
    while s > 1:
        shift = r.bit_length() - s.bit_length()
        if shift < 0:
            r, s, u, v = s, r, v, u
            continue
        r, u = r ^ (s << shift), u ^ (v << shift)
    return v
