"""Receipts: files that prove, offline and without the log, that an entry stands in it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from anchoring.checkpoint import Checkpoint, sign_checkpoint
from anchoring.cosignature import WitnessKey, WitnessPolicy, cosign
from anchoring.errors import (
    AnchoringError,
    CheckpointInvalid,
    ProofInvalid,
    QuorumMissing,
    ReceiptInvalid,
    RootMismatch,
    SignatureInvalid,
    UnknownSigner,
)
from anchoring.merkle import MerkleTree, leaf_hash
from anchoring.note import Signer
from anchoring.receipt import LONGEST_RECEIPT, Receipt
from anchoring.signers import LARGEST_SIZE, Signers

ORIGIN = "example.org/log"
ENTRIES = [f"entry {number}".encode() for number in range(100)]
TREE = MerkleTree()
TREE.extend([leaf_hash(entry) for entry in ENTRIES])


def signer(number: int, name: str) -> Signer:
    return Signer.from_private_key(name, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


log, torino, milano = signer(1, ORIGIN), signer(2, "torino"), signer(3, "milano")
signers = Signers.of(log.verifier_key)
policy = WitnessPolicy(2, (WitnessKey.of(torino), WitnessKey.of(milano)))


def receipt(index: int, size: int = 100, extra: bytes | None = None) -> Receipt:
    text = sign_checkpoint(Checkpoint(ORIGIN, size, TREE.root(size)), log)
    text = cosign(cosign(text, torino, 1679315147), milano, 1679315148)
    return Receipt(index, tuple(TREE.inclusion_proof(index, size)), text, extra)


@given(st.data(), st.integers(1, 100), st.none() | st.binary())
def test_a_receipt_survives_its_text_and_verifies(data: st.DataObject, size: int, extra: bytes | None) -> None:
    index = data.draw(st.integers(0, size - 1))
    made = receipt(index, size, extra)
    read = Receipt.from_text(made.to_text().encode())
    assert read == made == Receipt.from_text(made.to_text())
    assert read.verify(ENTRIES[index], signers, policy) == Checkpoint(ORIGIN, size, TREE.root(size))


@given(
    st.integers(0, LARGEST_SIZE),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63),
    st.none() | st.binary(),
)
def test_the_form_is_exact_for_every_content(index: int, proof: list[bytes], extra: bytes | None) -> None:
    made = Receipt(index, tuple(proof), receipt(0).checkpoint_text, extra)
    assert Receipt.from_text(made.to_text()) == made


def test_the_text_is_the_specifications() -> None:
    lines = receipt(5, 8, b"extra").to_text().split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra ZXh0cmE=", "index 5"]
    assert [len(line) for line in lines[3:7]] == [44, 44, 44, 0]
    assert lines[7:9] == [ORIGIN, "8"]
    assert [line.split(" ")[:2] for line in lines[11:14]] == [["—", ORIGIN], ["—", "torino"], ["—", "milano"]]


def test_the_specifications_example_is_read_up_to_its_shortened_signatures() -> None:
    published = (
        "c2sp.org/tlog-proof@v1\nindex 73894\n"
        "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\nB95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=\n"
        "EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=\nRoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=\n"
        "AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=\n\n"
        "example.com/fancylog\n109482\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n\n"
        "— example.com/fancylog hI2DJwAA\n"
    )
    read = Receipt.from_text(published)
    assert (read.index, len(read.proof)) == (73894, 5)
    assert read.to_text() == published
    with pytest.raises(UnknownSigner):
        read.verify(b"entry", Signers.of(signer(1, "example.com/fancylog").verifier_key))


def test_another_entry_is_not_proven() -> None:
    with pytest.raises(RootMismatch):
        receipt(5).verify(ENTRIES[6], signers)


def test_another_index_or_proof_is_not_proven() -> None:
    made = receipt(5)
    for index in (4, 6, 99, 100, LARGEST_SIZE):
        with pytest.raises((ProofInvalid, RootMismatch)):
            Receipt(index, made.proof, made.checkpoint_text).verify(ENTRIES[5], signers)
    for proof in (made.proof[:-1], (*made.proof, bytes(32)), made.proof[::-1], ()):
        with pytest.raises((ProofInvalid, RootMismatch)):
            Receipt(5, proof, made.checkpoint_text).verify(ENTRIES[5], signers)


def test_a_proof_in_an_empty_tree_proves_nothing() -> None:
    empty = sign_checkpoint(Checkpoint(ORIGIN, 0, MerkleTree().root(0)), log)
    with pytest.raises(ProofInvalid):
        Receipt(0, (), empty).verify(b"", signers)


def test_a_receipt_of_another_log_or_key_is_refused() -> None:
    with pytest.raises(UnknownSigner):
        receipt(5).verify(ENTRIES[5], Signers.of(signer(9, ORIGIN).verifier_key))
    with pytest.raises(CheckpointInvalid):
        receipt(5).verify(ENTRIES[5], Signers.of(signer(1, "example.org/another").verifier_key))


def test_a_receipt_stays_valid_when_the_log_changes_its_key() -> None:
    later = signers.succeeded_by(signer(4, ORIGIN).verifier_key, 100)
    assert receipt(5).verify(ENTRIES[5], later, policy).size == 100
    with pytest.raises(UnknownSigner):
        receipt(5).verify(ENTRIES[5], signers.succeeded_by(signer(4, ORIGIN).verifier_key, 99))


def test_a_receipt_without_its_witnesses_is_refused_by_a_policy() -> None:
    made = receipt(5)
    body, logs, one, two = made.checkpoint_text.rpartition("\n\n")[0], *made.checkpoint_text.splitlines()[-3:]
    alone = Receipt(5, made.proof, f"{body}\n\n{logs}\n{two}\n")
    assert alone.verify(ENTRIES[5], signers).size == 100
    with pytest.raises(QuorumMissing, match="torino"):
        alone.verify(ENTRIES[5], signers, policy)
    witnesses = Receipt(5, made.proof, f"{body}\n\n{one}\n{two}\n")
    with pytest.raises(UnknownSigner):
        witnesses.verify(ENTRIES[5], signers, policy)


def test_signatures_are_verified_before_the_proof() -> None:
    made = receipt(5)
    forged = made.checkpoint_text.replace("\n100\n", "\n101\n")
    with pytest.raises(SignatureInvalid):
        Receipt(5, (), forged).verify(ENTRIES[5], signers)


def test_a_proof_may_be_as_long_as_in_the_largest_tree() -> None:
    made = Receipt(LARGEST_SIZE, (bytes(32),) * 63, receipt(0).checkpoint_text)
    assert Receipt.from_text(made.to_text()) == made


@pytest.mark.parametrize(
    ("index", "proof"),
    [(-1, ()), (2**63, ()), (True, ()), (0, (bytes(31),)), (0, (b"",)), (0, (bytes(32),) * 64)],
)
def test_what_no_receipt_can_say_is_refused(index: int, proof: tuple[bytes, ...]) -> None:
    with pytest.raises(ReceiptInvalid):
        Receipt(index, proof, receipt(0).checkpoint_text)


TEXT = receipt(5, extra=b"extra").to_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "c2sp.org/tlog-proof@v1\n",
        "c2sp.org/tlog-proof@v1\n\n" + TEXT.partition("\n\n")[2],
        "c2sp.org/tlog-proof@v1\nextra AAAA\n\n" + TEXT.partition("\n\n")[2],
        TEXT.replace("@v1", "@v2"),
        "\n" + TEXT,
        " " + TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("index 5", "index 05"),
        TEXT.replace("index 5", "index +5"),
        TEXT.replace("index 5", "index -5"),
        TEXT.replace("index 5", "index  5"),
        TEXT.replace("index 5", "index 5 "),
        TEXT.replace("index 5", "index "),
        TEXT.replace("index 5", "index"),
        TEXT.replace("index 5", "5"),
        TEXT.replace("index 5", "Index 5"),
        TEXT.replace("index 5", f"index {2**63}"),
        TEXT.replace("index 5", "index " + "9" * 5000),
        TEXT.replace("index 5", "index 5\nindex 5"),
        TEXT.replace("index 5", "index 5\nAAAA"),
        TEXT.replace("index 5", "index 5\n" + "AAAA" * 11),
        TEXT.replace("index 5\n", "index 5\n\n"),
        TEXT.replace("extra ZXh0cmE=", "extra ZXh0cmF="),
        TEXT.replace("extra ZXh0cmE=", "extra ZXh0cmE"),
        TEXT.replace("extra ZXh0cmE=", "extra ZXh0cmE=\nextra ZXh0cmE="),
        TEXT.replace("extra ZXh0cmE=", "extra"),
        TEXT.replace("extra ZXh0cmE=\nindex 5", "index 5\nextra ZXh0cmE="),
        TEXT.partition("\n\n")[0],
        TEXT.partition("\n\n")[0] + "\n\n",
        TEXT[:-1],
        b"\xff" + TEXT.encode(),
        "\ud800" + TEXT,
        TEXT + "x" * LONGEST_RECEIPT,
    ],
)
def test_a_text_that_is_no_receipt_is_refused(text: str | bytes) -> None:
    with pytest.raises((ReceiptInvalid, CheckpointInvalid)):
        Receipt.from_text(text)


@given(st.data(), st.integers(1, 100))
def test_every_flipped_byte_of_a_receipt_is_refused(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    text = bytearray(receipt(index, size).to_text().encode())
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AnchoringError):
        Receipt.from_text(bytes(text)).verify(ENTRIES[index], signers, policy)


def test_every_byte_of_a_receipt_counts() -> None:
    text = receipt(5).to_text().encode()
    for place in range(len(text)):
        for change in (1, 2, 16, 32, 128):
            flipped = bytearray(text)
            flipped[place] ^= change
            with pytest.raises(AnchoringError):
                Receipt.from_text(bytes(flipped)).verify(ENTRIES[5], signers, policy)


def test_the_extra_data_is_vouched_for_by_nobody() -> None:
    read = Receipt.from_text(TEXT.replace("extra ZXh0cmE=", "extra b3RoZXI="))
    assert read.extra == b"other"
    assert read.verify(ENTRIES[5], signers, policy).size == 100


@given(st.binary() | st.text())
def test_arbitrary_input_is_refused_with_a_typed_error(text: bytes | str) -> None:
    with pytest.raises(AnchoringError):
        Receipt.from_text(text)


@given(st.binary(), st.integers(0, 20))
def test_arbitrary_bytes_in_the_middle_are_refused_with_a_typed_error(middle: bytes, place: int) -> None:
    text = receipt(5).to_text().encode()
    cut = len(text) * place // 20
    if middle:
        with pytest.raises(AnchoringError):
            Receipt.from_text(text[:cut] + middle + text[cut:]).verify(ENTRIES[5], signers, policy)
