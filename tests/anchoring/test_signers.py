"""Keys of a log and the tree sizes for which they sign."""

from __future__ import annotations

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from anchoring.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from anchoring.errors import SignatureInvalid, UnknownSigner
from anchoring.note import KeyInvalid, Signer, VerifierKey
from anchoring.signers import LARGEST_SIZE, LogKey, Signers

ORIGIN = "example.org/log"


def signer(number: int, name: str = ORIGIN) -> Signer:
    return Signer.from_private_key(name, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


def checkpoint(size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, hashlib.sha256(str(size).encode()).digest())


first, second, third = signer(1), signer(2), signer(3)
rotated = Signers.of(first.verifier_key).succeeded_by(second.verifier_key, 100)


def test_old_checkpoints_stay_valid_after_the_keys_change() -> None:
    for size in (1, 99, 100):
        assert open_checkpoint(sign_checkpoint(checkpoint(size), first), rotated) == checkpoint(size)


def test_the_new_key_signs_from_the_tree_of_the_change_on() -> None:
    for size in (100, 101, LARGEST_SIZE):
        assert open_checkpoint(sign_checkpoint(checkpoint(size), second), rotated) == checkpoint(size)
    with pytest.raises(UnknownSigner):
        open_checkpoint(sign_checkpoint(checkpoint(99), second), rotated)


def test_a_retired_key_is_refused_beyond_its_window() -> None:
    with pytest.raises(UnknownSigner, match="101"):
        open_checkpoint(sign_checkpoint(checkpoint(101), first), rotated)


def test_a_retired_key_may_sign_beside_the_present_one_and_does_not_count() -> None:
    assert open_checkpoint(sign_checkpoint(checkpoint(101), first, second), rotated) == checkpoint(101)


def test_a_wrong_signature_of_a_retired_key_spoils_a_good_one() -> None:
    text = sign_checkpoint(checkpoint(101), second)
    line = sign_checkpoint(checkpoint(102), first).splitlines()[-1]
    with pytest.raises(SignatureInvalid):
        open_checkpoint(f"{text}{line}\n", rotated)


def test_a_window_may_be_of_one_size() -> None:
    only = LogKey(first.verifier_key, 5, 5)
    assert [size for size in range(10) if only.covers(size)] == [5]
    assert LARGEST_SIZE == 0x7FFF_FFFF_FFFF_FFFF


def test_a_key_outside_the_set_is_unknown() -> None:
    with pytest.raises(UnknownSigner, match="none of the keys"):
        open_checkpoint(sign_checkpoint(checkpoint(5), third), rotated)


def test_a_second_change_leaves_the_first_window_alone() -> None:
    keys = rotated.succeeded_by(third.verifier_key, 200).keys
    assert [(key.first_size, key.last_size) for key in keys] == [(0, 100), (100, 200), (200, None)]


def test_a_change_before_the_last_one_is_refused() -> None:
    with pytest.raises(KeyInvalid):
        rotated.succeeded_by(third.verifier_key, 99)


def test_a_key_stands_in_a_set_once() -> None:
    with pytest.raises(KeyInvalid):
        rotated.succeeded_by(first.verifier_key, 200)
    with pytest.raises(KeyInvalid):
        Signers(ORIGIN, ())
    with pytest.raises(KeyInvalid):
        Signers("", (LogKey(first.verifier_key),))


@pytest.mark.parametrize("window", [(-1, None), (5, 4), (0, LARGEST_SIZE + 1), (LARGEST_SIZE + 1, None), (True, None)])
def test_what_is_no_window_is_refused(window: tuple[int, int | None]) -> None:
    with pytest.raises(KeyInvalid):
        LogKey(first.verifier_key, *window)


@given(
    st.lists(
        st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 50), st.none() | st.integers(50, LARGEST_SIZE)),
        min_size=1,
        max_size=5,
        unique_by=lambda entry: entry[0],
    )
)
def test_signers_survive_their_json(entries: list[tuple[bytes, int, int | None]]) -> None:
    signers = Signers(ORIGIN, tuple(LogKey(VerifierKey(ORIGIN, key), low, high) for key, low, high in entries))
    assert Signers.from_json(signers.to_json()) == signers


def altered(**changes: object) -> str:
    content = json.loads(rotated.to_json())
    content["keys"][1] |= changes
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        rotated.to_json()[:-3],
        rotated.to_json() + "x",
        rotated.to_json().replace('"origin"', '"origine"'),
        rotated.to_json().replace('{\n  "origin"', '{\n  "more": 1, "origin"'),
        rotated.to_json().replace('"origin"', '"origin": "another.org", "origin"'),
        rotated.to_json().replace('"example.org/log",', "7,"),
        '{"origin": "example.org/log", "keys": []}',
        '{"origin": "example.org/log", "keys": {}}',
        '{"origin": "example.org/log", "keys": ["' + first.verifier_key.to_text() + '"]}',
        altered(first_size=1.0),
        altered(first_size="1"),
        altered(first_size=True),
        altered(first_size=None),
        altered(first_size=-1),
        altered(last_size=99),
        altered(last_size=10**30),
        altered(last_size=float("nan")),
        altered(last_size=float("inf")),
        altered(until=5),
        altered(key=None),
        altered(key="example.org/log+00000000+AAAA"),
        altered(key="\ud800+00000000+AAAA"),
        altered(key=first.verifier_key.to_text()),
        "[" * 100_000,
        '{"origin": "example.org/log", "keys": ' + "9" * 5000 + "}",
    ],
)
def test_a_text_that_is_no_set_of_signers_is_refused(text: str) -> None:
    with pytest.raises(KeyInvalid):
        Signers.from_json(text)


@given(st.text())
def test_arbitrary_text_is_no_set_of_signers(text: str) -> None:
    with pytest.raises(KeyInvalid):
        Signers.from_json(text)
