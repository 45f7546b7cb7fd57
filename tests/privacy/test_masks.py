"""Mask streams against another library's AES."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from Crypto.Cipher import AES
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secure_aggregation import masks
from privacy.secure_aggregation.errors import ShapeChanged
from privacy.secure_aggregation.fixed_point import Encoding, Segment
from privacy.secure_aggregation.masks import add_mask

KEY = sha256(b"one key").digest()
OTHER = sha256(b"another key").digest()
CHUNK_WORDS = masks._CHUNK // 4


def encoding_of(wide: int, narrow: int) -> Encoding:
    return Encoding([Segment("n", narrow, 1.0, 32), Segment("w", wide, 1.0, 64)], 3)


def vector_of(encoding: Encoding, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, encoding.size, np.uint8)


def stream_of(key: bytes, size: int) -> bytes:
    return AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=0).encrypt(bytes(size))


def recomputed(encoding: Encoding, words: np.ndarray, key: bytes, sign: int) -> bytes:
    """The masked vector word by word: 64-bit words first, modulo by Python's integers."""
    stream, out, at = stream_of(key, encoding.size), bytearray(), 0
    while at < encoding.size:
        width = 8 if at < encoding.wide_bytes else 4
        word, mask = (int.from_bytes(bytes(source[at : at + width]), "little") for source in (words, stream))
        out += ((word + sign * mask) % 256**width).to_bytes(width, "little")
        at += width
    return bytes(out)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.binary(min_size=32, max_size=32), st.sampled_from([1, -1]))
def test_masked_words_are_what_another_library_computes(wide: int, narrow: int, key: bytes, sign: int) -> None:
    encoding = encoding_of(wide, narrow)
    words = vector_of(encoding)
    expected = recomputed(encoding, words, key, sign)
    add_mask(encoding, words, key, sign=sign)
    assert words.tobytes() == expected


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (0, CHUNK_WORDS),
        (0, CHUNK_WORDS - 1),
        (0, CHUNK_WORDS + 1),
        (1, 2 * CHUNK_WORDS + 3),
        (CHUNK_WORDS // 2 + 1, 3),
        (CHUNK_WORDS // 2, CHUNK_WORDS),
        (CHUNK_WORDS + 5, 0),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_chunks_and_the_seam_between_word_sizes_leave_no_trace(wide: int, narrow: int, sign: int) -> None:
    encoding = encoding_of(wide, narrow)
    words = vector_of(encoding)
    expected = recomputed(encoding, words, KEY, sign)
    add_mask(encoding, words, KEY, sign=sign)
    assert words.tobytes() == expected


def test_the_stream_starts_as_the_block_cipher_says() -> None:
    encoding = encoding_of(0, 8)
    words = np.zeros(32, np.uint8)
    add_mask(encoding, words, KEY, sign=1)
    blocks = bytes(16) + (1).to_bytes(16, "big")
    assert words.tobytes() == AES.new(KEY, AES.MODE_ECB).encrypt(blocks)


@pytest.mark.parametrize("first", [1, -1])
def test_adding_and_subtracting_restores_the_words(first: int) -> None:
    encoding = encoding_of(70_001, 100_003)
    words = vector_of(encoding)
    before = words.copy()
    add_mask(encoding, words, KEY, sign=first)
    assert (words != before).mean() > 0.99
    add_mask(encoding, words, OTHER, sign=-first)
    add_mask(encoding, words, KEY, sign=-first)
    add_mask(encoding, words, OTHER, sign=first)
    assert (words == before).all()


def test_pairwise_masks_cancel_in_the_sum() -> None:
    encoding = Encoding([Segment("s", 1000, 1.0, 32), Segment("t", 11, 1.0, 64)], 2)
    rng = np.random.default_rng(0)
    sites = [encoding.encode({"s": rng.uniform(-1, 1, 1000), "t": rng.uniform(-1, 1, 11)}) for _ in range(2)]
    plain, masked = sites[0].copy(), sites[0].copy()
    encoding.add(plain, sites[1])
    add_mask(encoding, masked, KEY, sign=1)
    add_mask(encoding, sites[1], KEY, sign=-1)
    encoding.add(masked, sites[1])
    assert (masked == plain).all()


def test_streams_of_two_keys_are_unrelated_and_each_is_uniform() -> None:
    encoding = encoding_of(0, 250_000)
    near = bytes([KEY[0] ^ 1]) + KEY[1:]
    streams = []
    for key in (KEY, near, OTHER):
        words = np.zeros(encoding.size, np.uint8)
        add_mask(encoding, words, key, sign=1)
        streams.append(words)
    bits = 8 * encoding.size
    spread = 6 * (bits / 4) ** 0.5
    for i, one in enumerate(streams):
        assert abs(int(np.bitwise_count(one).sum()) - bits / 2) < spread
        counts = np.bincount(one, minlength=256)
        expected = encoding.size / 256
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 6 * (2 * 255) ** 0.5
        for other in streams[:i]:
            assert abs(int(np.bitwise_count(one ^ other).sum()) - bits / 2) < spread


def test_nothing_is_drawn_for_an_empty_vector() -> None:
    encoding = encoding_of(0, 0)
    add_mask(encoding, np.zeros(0, np.uint8), KEY, sign=1)


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33, 64])
def test_keys_of_another_length_are_refused(length: int) -> None:
    encoding = encoding_of(1, 1)
    words = vector_of(encoding)
    before = words.copy()
    with pytest.raises(ValueError, match="32 bytes") as caught:
        add_mask(encoding, words, b"\x41" * length, sign=1)
    assert "AAA" not in str(caught.value)
    assert (words == before).all()


@pytest.mark.parametrize("sign", [0, 2, -2])
def test_another_sign_is_refused(sign: int) -> None:
    encoding = encoding_of(1, 1)
    with pytest.raises(ValueError, match="added"):
        add_mask(encoding, vector_of(encoding), KEY, sign=sign)  # type: ignore[arg-type]


def test_a_vector_of_another_size_is_refused() -> None:
    encoding = encoding_of(1, 1)
    with pytest.raises(ShapeChanged):
        add_mask(encoding, np.zeros(encoding.size + 4, np.uint8), KEY, sign=1)
