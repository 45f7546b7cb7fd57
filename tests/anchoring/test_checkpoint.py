"""Checkpoints: one spelling for each tree, believed only with the signature of the log it is of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from anchoring.checkpoint import Checkpoint, open_checkpoint, parsed_number, sign_checkpoint
from anchoring.errors import AnchoringError, CheckpointInvalid, SignatureInvalid, UnknownSigner
from anchoring.merkle import EMPTY_ROOT
from anchoring.note import Note, Signer, VerifierKey, sign_note
from anchoring.signers import LARGEST_SIZE, LogKey, Signers

ORIGIN = "example.org/log"
ROOT = hashlib.sha256(b"root").digest()
signer = Signer.from_private_key(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
signers = Signers.of(signer.verifier_key)
lines = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)

# A checkpoint of a public Certificate Transparency log, signed and published by others.
PUBLISHED = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkp\
tQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g\
8Ei59RA23oHP7Ry1k3ZFWwQ=
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtq\
B0DrAWfBw==
"""
PUBLISHED_KEY = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"


def test_a_published_checkpoint_of_a_public_log_opens_with_its_published_key() -> None:
    checkpoint = open_checkpoint(PUBLISHED, Signers.of(VerifierKey.from_text(PUBLISHED_KEY)))
    assert (checkpoint.origin, checkpoint.size) == ("arche2025h1.staging.ct.transparency.dev", 1432088532)
    assert checkpoint.root.hex().startswith("53b58cefd8eb")


def test_a_published_checkpoint_with_another_size_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        open_checkpoint(PUBLISHED.replace("1432088532", "1432088533"), Signers.of(VerifierKey.from_text(PUBLISHED_KEY)))


def test_the_body_is_the_specifications() -> None:
    checkpoint = Checkpoint.from_body(
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    assert (checkpoint.origin, checkpoint.size, checkpoint.root[:2].hex()) == (
        "example.com/behind-the-sofa",
        20852163,
        "0ac5",
    )


@given(lines, st.integers(1, LARGEST_SIZE), st.binary(min_size=32, max_size=32), st.lists(lines, max_size=3))
def test_a_checkpoint_survives_signing_and_opening(origin: str, size: int, root: bytes, extensions: list[str]) -> None:
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    assert Checkpoint.from_body(checkpoint.body) == checkpoint
    keys = Signers(origin, (LogKey(signer.verifier_key),))
    assert open_checkpoint(sign_checkpoint(checkpoint, signer), keys) == checkpoint
    assert open_checkpoint(Note.parse(sign_checkpoint(checkpoint, signer).encode()), keys) == checkpoint


def test_the_empty_trees_root_is_the_hash_of_nothing() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Checkpoint.from_body(Checkpoint(ORIGIN, 0, EMPTY_ROOT).body).size == 0
    with pytest.raises(CheckpointInvalid):
        Checkpoint(ORIGIN, 0, ROOT)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Checkpoint("", 1, ROOT),
        lambda: Checkpoint("a\nb", 1, ROOT),
        lambda: Checkpoint("a\tb", 1, ROOT),
        lambda: Checkpoint("\ud800", 1, ROOT),
        lambda: Checkpoint(ORIGIN, -1, ROOT),
        lambda: Checkpoint(ORIGIN, 2**63, ROOT),
        lambda: Checkpoint(ORIGIN, True, ROOT),
        lambda: Checkpoint(ORIGIN, 1, ROOT[:-1]),
        lambda: Checkpoint(ORIGIN, 1, ROOT, ("",)),
        lambda: Checkpoint(ORIGIN, 1, ROOT, ("a\nb",)),
    ],
)
def test_what_no_checkpoint_can_say_is_refused(make: Callable[[], Checkpoint]) -> None:
    with pytest.raises(CheckpointInvalid):
        make()


BODY = Checkpoint(ORIGIN, 7, ROOT, ("one", "two")).body


@pytest.mark.parametrize(
    "body",
    [
        "\n",
        "a\n",
        f"{ORIGIN}\n7\n",
        BODY.replace("\n7\n", "\n07\n"),
        BODY.replace("\n7\n", "\n+7\n"),
        BODY.replace("\n7\n", "\n-7\n"),
        BODY.replace("\n7\n", "\n 7\n"),
        BODY.replace("\n7\n", "\n7.0\n"),
        BODY.replace("\n7\n", "\n7_0\n"),
        BODY.replace("\n7\n", "\n٧\n"),
        BODY.replace("\n7\n", "\n\n"),
        BODY.replace("\n7\n", f"\n{2**63}\n"),
        BODY.replace("\n7\n", f"\n{10**19}\n"),
        BODY.replace("\n7\n", "\n0\n"),
        BODY.replace("=\n", "\n"),
        BODY.replace("=\n", "==\n"),
        BODY.replace("=\n", " =\n"),
        BODY.replace("one\n", "\n"),
        "\n" + BODY,
        BODY + "\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(body: str) -> None:
    with pytest.raises(CheckpointInvalid):
        open_checkpoint(sign_note(body, signer), signers)


def test_a_body_ends_in_a_newline() -> None:
    with pytest.raises(CheckpointInvalid):
        Checkpoint.from_body(BODY[:-1])


def test_a_root_has_one_base64() -> None:
    text = Checkpoint(ORIGIN, 7, bytes(32)).body
    assert text.endswith("AAA=\n")
    with pytest.raises(CheckpointInvalid):
        Checkpoint.from_body(text.replace("AAA=\n", "AAB=\n"))


def test_a_checkpoint_of_another_log_is_refused_although_a_known_key_signed_it() -> None:
    with pytest.raises(CheckpointInvalid, match="another"):
        open_checkpoint(sign_checkpoint(Checkpoint("example.org/other", 7, ROOT), signer), signers)


def test_a_checkpoint_that_the_log_did_not_sign_is_refused() -> None:
    other = Signer.from_private_key(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with pytest.raises(UnknownSigner):
        open_checkpoint(sign_checkpoint(Checkpoint(ORIGIN, 7, ROOT), other), signers)


@given(st.data(), st.integers(1, LARGEST_SIZE))
def test_every_flipped_byte_of_a_signed_checkpoint_is_refused(data: st.DataObject, size: int) -> None:
    text = bytearray(sign_checkpoint(Checkpoint(ORIGIN, size, ROOT), signer).encode())
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AnchoringError):
        open_checkpoint(bytes(text), signers)


def test_every_single_bit_of_a_signed_checkpoint_counts() -> None:
    text = sign_checkpoint(Checkpoint(ORIGIN, 7, ROOT), signer).encode()
    for place in range(len(text)):
        for bit in range(8):
            flipped = bytearray(text)
            flipped[place] ^= 1 << bit
            with pytest.raises(AnchoringError):
                open_checkpoint(bytes(flipped), signers)


@pytest.mark.parametrize("cut", [*range(0, 40), *range(-40, 0)])
def test_every_cut_checkpoint_is_refused(cut: int) -> None:
    with pytest.raises(AnchoringError):
        open_checkpoint(sign_checkpoint(Checkpoint(ORIGIN, 7, ROOT), signer).encode()[:cut], signers)


@given(st.integers(0, LARGEST_SIZE), st.text("0123456789+- _"))
def test_a_number_has_one_spelling(number: int, text: str) -> None:
    assert parsed_number(str(number)) == number
    parsed = parsed_number(text)
    assert parsed is None or str(parsed) == text
