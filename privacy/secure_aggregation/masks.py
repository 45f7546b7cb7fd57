"""Mask streams: what makes a site's words look uniform, and what cancels in the cohort's sum.

A stream is the keystream of AES-256 in counter mode (NIST SP 800-38A, section 6.5) from the counter block zero.

Rules kept here:

* a key is used for one stream only: the caller derives one for each purpose, pair of sites and slot;
* the stream runs through the vector's bytes in order, so both ends of a pair add and subtract the very same words.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from privacy.secure_aggregation.fixed_point import Encoding

KEY_BYTES: Final = 32

# A multiple of both word sizes; keystream, zeros and the words they meet stay in a core's L2 cache.
_CHUNK: Final = 2**18
_ZEROS: Final = bytes(_CHUNK)


def add_mask(encoding: Encoding, words: NDArray[np.uint8], key: bytes, *, sign: Literal[1, -1]) -> None:
    """words += sign * stream(key), in place, modulo each segment's 2^bits.

    `words` is a vector of `encoding`; the stream is as long, read as little-endian words. Raises ShapeChanged for a
    vector of another size and ValueError for a key that is not 32 bytes or another sign, with `words` unchanged.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a mask key has {KEY_BYTES} bytes, this one has {len(key)}")
    if sign not in (1, -1):
        raise ValueError("a mask is added (1) or subtracted (-1)")
    apply: np.ufunc = np.add if sign == 1 else np.subtract
    regions: tuple[NDArray[Any], ...] = encoding.as_words(words)
    encryptor = Cipher(AES(key), CTR(bytes(16))).encryptor()
    zeros = memoryview(_ZEROS)
    keystream = np.empty(min(_CHUNK, encoding.size), np.uint8)
    for region in regions:
        step = _CHUNK // region.itemsize
        for start in range(0, len(region), step):
            part = region[start : start + step]
            encryptor.update_into(zeros[: part.nbytes], keystream.data)
            apply(part, keystream[: part.nbytes].view(region.dtype), out=part)
