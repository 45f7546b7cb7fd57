"""Cosignatures of witnesses, and quorums of them."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from anchoring.checkpoint import Checkpoint, sign_checkpoint
from anchoring.cosignature import LATEST_TIME, WitnessKey, WitnessPolicy, cosign, verify_cosignatures
from anchoring.errors import AnchoringError, CheckpointInvalid, QuorumMissing, SignatureInvalid
from anchoring.note import KeyInvalid, Note, Signature, Signer, VerifierKey, sign_note

ORIGIN = "example.org/log"


def signer(number: int, name: str) -> Signer:
    return Signer.from_private_key(name, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


log = signer(1, ORIGIN)
torino, milano, roma = (signer(number, name) for number, name in enumerate(("torino", "milano", "roma"), start=2))
keys = tuple(WitnessKey.of(one) for one in (torino, milano, roma))
TEXT = sign_checkpoint(Checkpoint(ORIGIN, 7, hashlib.sha256(b"root").digest()), log)

# A checkpoint of a public Certificate Transparency log with cosignatures of public witnesses, published by others.
PUBLISHED = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g\
8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4A\
scylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJb\
qmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtq\
B0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cU\
iOvKFYe/TmN9DAg==
"""
PUBLISHED_KEYS = tuple(
    map(
        WitnessKey.from_text,
        (
            "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
            "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
            "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
            "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
        ),
    )
)


def test_published_cosignatures_of_public_witnesses_verify() -> None:
    assert verify_cosignatures(PUBLISHED, PUBLISHED_KEYS) == (
        ("transparency.dev/DEV:witness-little-garden", 0x6A122120),
        ("witness1.smartit.nu/witness1", 0x6A122120),
        ("remora.n621.de", 0x6A122120),
        ("witness.stagemole.eu", 0x6A122120),
    )
    assert len(WitnessPolicy(4, PUBLISHED_KEYS).require(PUBLISHED)) == 4


def test_published_cosignatures_over_another_size_are_refused() -> None:
    for key in PUBLISHED_KEYS:
        with pytest.raises(SignatureInvalid):
            verify_cosignatures(PUBLISHED.replace("1432088532", "1432088531"), [key])


def test_the_specifications_example_has_its_time_before_its_signature() -> None:
    line = Note.parse(
        "a\n\n— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZ"
        "qhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    ).signatures[0]
    assert (int.from_bytes(line.content[:8]), len(line.content)) == (1679315147, 72)


def test_what_is_signed_is_the_specifications_text() -> None:
    seen: list[bytes] = []

    def sign(message: bytes) -> bytes:
        seen.append(message)
        return torino.sign(message)

    cosign(TEXT, Signer("torino", torino.public_key, sign), 1679315147)
    assert seen == [b"cosignature/v1\ntime 1679315147\n" + TEXT.split("\n\n")[0].encode() + b"\n"]


@given(st.integers(0, LATEST_TIME), st.integers(0, LATEST_TIME))
def test_cosignatures_carry_their_times_and_leave_the_logs_signature_alone(one: int, two: int) -> None:
    text = cosign(cosign(TEXT.encode(), torino, one), milano, two)
    assert text.startswith(TEXT)
    assert verify_cosignatures(text, keys) == (("torino", one), ("milano", two))


def test_a_witness_that_signs_again_replaces_its_cosignature() -> None:
    assert verify_cosignatures(cosign(cosign(TEXT, torino, 1), torino, 2), keys) == (("torino", 2),)


def test_of_two_cosignatures_by_one_witness_one_counts() -> None:
    again = cosign(TEXT, torino, 2).splitlines(keepends=True)[-1]
    text = cosign(TEXT, torino, 1) + again
    assert verify_cosignatures(text, keys) == (("torino", 1),)
    with pytest.raises(QuorumMissing):
        WitnessPolicy(2, keys).require(text)


def test_two_names_of_one_key_count_once() -> None:
    alias = Signer("torino-two", torino.public_key, torino.sign)
    text = cosign(cosign(TEXT, torino, 1), alias, 2)
    witnesses = (*keys, WitnessKey.of(alias))
    assert len(verify_cosignatures(text, witnesses)) == 2
    with pytest.raises(QuorumMissing, match="1 of the 2"):
        WitnessPolicy(2, witnesses).require(text)
    assert WitnessPolicy(1, witnesses).require(text) == (("torino", 1),)


def test_a_missing_quorum_names_how_many_and_who() -> None:
    policy = WitnessPolicy(3, keys)
    with pytest.raises(QuorumMissing, match=r"1 of the 3 .* missing: milano, roma"):
        policy.require(cosign(TEXT, torino, 1))
    with pytest.raises(QuorumMissing, match="0 of the 3"):
        policy.require(TEXT)
    full = cosign(cosign(cosign(TEXT, torino, 1), milano, 2), roma, 3)
    assert [name for name, _ in policy.require(full)] == ["torino", "milano", "roma"]


def test_the_cosignature_of_a_stranger_does_not_count() -> None:
    assert verify_cosignatures(cosign(TEXT, signer(9, "stranger"), 1), keys) == ()
    assert verify_cosignatures(cosign(TEXT, signer(9, "torino"), 1), keys) == ()


def test_a_cosignature_of_another_checkpoint_is_refused() -> None:
    other = cosign(sign_checkpoint(Checkpoint(ORIGIN, 8, hashlib.sha256(b"8").digest()), log), torino, 1)
    with pytest.raises(SignatureInvalid):
        verify_cosignatures(TEXT + other.splitlines(keepends=True)[-1], keys)


def test_a_note_signature_is_no_cosignature_and_the_other_way_round() -> None:
    noted = Note.parse(sign_checkpoint(Checkpoint.from_body(Note.parse(TEXT).text), log, torino))
    assert verify_cosignatures(noted, keys) == ()
    line = noted.signatures[1]
    with pytest.raises(SignatureInvalid):
        verify_cosignatures(noted.signed_by(Signature("torino", keys[0].key_id, line.content)), keys)
    assert Note.parse(cosign(TEXT, torino, 1)).verified_by([torino.verifier_key]) == ()


def test_another_time_than_the_signed_one_is_refused() -> None:
    note = Note.parse(cosign(TEXT, torino, 5))
    line = note.signatures[1]
    for time in ((6).to_bytes(8), (2**63).to_bytes(8), b""):
        with pytest.raises(SignatureInvalid):
            verify_cosignatures(note.signed_by(Signature("torino", line.key_id, time + line.content[8:])), keys)


def test_times_go_up_to_the_specifications_limit_and_no_further() -> None:
    assert LATEST_TIME == 0x7FFF_FFFF_FFFF_FFFF
    assert verify_cosignatures(cosign(TEXT, torino, LATEST_TIME), keys) == (("torino", LATEST_TIME),)
    assert verify_cosignatures(cosign(TEXT, torino, 0), keys) == (("torino", 0),)
    note = Note.parse(TEXT)
    signed = torino.sign(b"cosignature/v1\ntime %d\n%b" % (2**63, note.text.encode()))
    with pytest.raises(SignatureInvalid):
        verify_cosignatures(note.signed_by(Signature("torino", keys[0].key_id, (2**63).to_bytes(8) + signed)), keys)


@pytest.mark.parametrize("time", [-1, 2**63, True, 1.5])
def test_a_time_that_no_cosignature_carries_is_refused(time: int) -> None:
    with pytest.raises(CheckpointInvalid):
        cosign(TEXT, torino, time)


def test_only_checkpoints_are_cosigned_and_verified() -> None:
    for text in ("no note", sign_note("no checkpoint\n", log), sign_note("a\n07\nAAAA\n", log)):
        with pytest.raises(CheckpointInvalid):
            cosign(text, torino, 1)
        with pytest.raises(CheckpointInvalid):
            verify_cosignatures(text, keys)


@pytest.mark.parametrize(
    ("quorum", "witnesses"),
    [
        (0, keys),
        (4, keys),
        (True, keys),
        (1, ()),
        (1, (keys[0], keys[0])),
        (2, (keys[0], WitnessKey("another", keys[0].public_key))),
    ],
)
def test_a_policy_that_means_nothing_or_cannot_be_met_is_refused(
    quorum: int, witnesses: tuple[WitnessKey, ...]
) -> None:
    with pytest.raises(KeyInvalid):
        WitnessPolicy(quorum, witnesses)


def test_a_witness_key_and_a_verifier_key_of_the_same_bytes_are_different_keys() -> None:
    key = VerifierKey("torino", torino.public_key)
    assert key != keys[0]
    assert key.key_id != keys[0].key_id
    with pytest.raises(KeyInvalid, match="type 1"):
        WitnessKey.from_text(key.to_text())


@given(st.data())
def test_every_flipped_byte_of_a_cosigned_body_or_cosignature_is_refused(data: st.DataObject) -> None:
    text = bytearray(cosign(TEXT, torino, 1679315147).encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    theirs = len(TEXT.split("\n\n")[0]) + 2, len(TEXT.encode())
    if theirs[0] <= place < theirs[1]:
        # The log's own line is none of the witness's business, but it is read and must not be damaged in form.
        try:
            assert WitnessPolicy(1, keys).require(bytes(text)) == (("torino", 1679315147),)
        except AnchoringError:
            return
    else:
        with pytest.raises(AnchoringError):
            WitnessPolicy(1, keys).require(bytes(text))
