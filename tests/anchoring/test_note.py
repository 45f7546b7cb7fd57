"""Signed notes: Go's published examples, and everything a note must not be."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchoring.cosignature import WitnessKey
from anchoring.errors import AnchoringError, CheckpointInvalid, SignatureInvalid, UnknownSigner
from anchoring.note import (
    LONGEST_NOTE,
    KeyInvalid,
    Note,
    Signature,
    Signer,
    VerifierKey,
    from_base64,
    new_private_key,
    open_note,
    sign_note,
    to_base64,
)

# The worked example in the documentation and tests of golang.org/x/mod/sumdb/note.
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
NOTE = f"{TEXT}\n{PETER_LINE}"
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"

peter = VerifierKey.from_text(PETER_KEY)
enoch = VerifierKey.from_text(ENOCH_KEY)
names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]).filter(lambda c: c != "+"), min_size=1)


def test_gos_published_note_verifies() -> None:
    note = open_note(NOTE, [peter])
    assert note.text == TEXT
    assert [signature.name for signature in note.signatures] == ["PeterNeumann"]
    assert open_note(NOTE.encode(), [peter]) == note
    assert note.to_text() == NOTE


def test_gos_private_key_signs_the_published_note_byte_for_byte() -> None:
    signer = Signer.from_text(PETER_PRIVATE)
    assert signer.verifier_key == peter
    assert sign_note(TEXT, signer) == NOTE
    seed = from_base64(PETER_PRIVATE[-44:])
    assert seed
    assert repr(seed[1:])[2:-1] not in repr(signer)


def test_gos_note_with_two_signatures_verifies_with_either_key_and_both() -> None:
    both = NOTE + ENOCH_LINE
    assert [key for key, _ in Note.parse(both).verified_by([peter])] == [peter]
    assert [key for key, _ in Note.parse(both).verified_by([enoch])] == [enoch]
    assert [key for key, _ in Note.parse(both).verified_by([enoch, peter])] == [peter, enoch]


def test_the_specifications_note_with_blank_lines_in_its_text_is_split_at_the_last_one() -> None:
    poem = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n"
    line = (
        "— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwa"
        "qP3ZekRwNtIc=\n"
    )
    note = Note.parse(f"{poem}\n{line}")
    assert note.text == poem
    assert (len(note.signatures), len(note.signatures[0].content)) == (1, 64)


@pytest.mark.parametrize(
    "message",
    [
        "",
        TEXT,
        TEXT + "\n",
        PETER_LINE,
        NOTE[:-1],
        "\x01" + NOTE,
        NOTE.replace("\n", "\r\n"),
        b"\xff" + NOTE.encode(),
        b"\xed\xa0\x80" + NOTE.encode(),
        "\ud800" + NOTE,
        NOTE.replace("— PeterNeumann", "— Bad Name"),
        NOTE.replace("— PeterNeumann", "— Bad\u2003Name"),
        NOTE.replace("— PeterNeumann", "— Bad+Name"),
        NOTE.replace("— PeterNeumann ", "—  "),
        NOTE.replace("— ", "- "),
        NOTE.replace("— ", "—"),
        NOTE + "Unexpected line.\n",
        NOTE + "— EnochRoot\n",
        NOTE + "— EnochRoot \n",
        NOTE + "— EnochRoot AAAAAA==\n",
        NOTE + "— EnochRoot AAAAAAB=\n",
        NOTE + "— EnochRoot AAAAAAA= \n",
        NOTE + "— EnochRoot AAAAAAA=AAAA\n",
        NOTE + "— EnochRoot AAAAAAA\n",
        NOTE + "— EnochRoot AAAAAA-A\n",
        f"{TEXT}\n{PETER_LINE * 101}",
        "a" * LONGEST_NOTE + "\n\n" + PETER_LINE,
        ("é" * (LONGEST_NOTE // 2) + "\n\n" + PETER_LINE).encode(),
        "é" * (LONGEST_NOTE // 2) + "\n\n" + PETER_LINE,
    ],
)
def test_what_is_no_note_is_refused_before_any_key_is_asked(message: str | bytes) -> None:
    with pytest.raises(CheckpointInvalid):
        Note.parse(message)


def test_a_hundred_signatures_are_read_and_of_one_key_only_the_first_is_verified() -> None:
    wrong = PETER_LINE.replace("RyyBwJnAM=", "RyyBwJnBM=")
    assert open_note(f"{TEXT}\n{PETER_LINE}{wrong * 99}", [peter]).text == TEXT
    with pytest.raises(SignatureInvalid):
        open_note(f"{TEXT}\n{wrong}{PETER_LINE}", [peter])


def test_a_note_that_no_known_key_signed_is_refused() -> None:
    for keys in ([], [enoch], [WitnessKey(peter.name, peter.public_key)]):
        with pytest.raises(UnknownSigner):
            open_note(NOTE, keys)


def test_a_known_name_with_an_unknown_id_is_an_unknown_signature() -> None:
    with pytest.raises(UnknownSigner):
        open_note(NOTE.replace("x08g", "xxxx"), [peter])
    assert open_note(NOTE + PETER_LINE.replace("x08g", "xxxx"), [peter]).text == TEXT
    assert open_note(NOTE + "— EnochRoot AAAAAAA=\n", [peter]).text == TEXT


def test_two_keys_of_one_name_and_id_are_told_apart_by_nobody_and_refused() -> None:
    class Same(VerifierKey):
        key_id = peter.key_id  # type: ignore[assignment]

    with pytest.raises(KeyInvalid):
        Note.parse(NOTE).verified_by([peter, Same(peter.name, bytes(32))])
    assert Note.parse(NOTE).verified_by([peter, peter])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (PETER_KEY, VerifierKey),
        # Of the tests of github.com/transparency-dev/formats: the first one's base64 has a '+' in it.
        ("TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6", VerifierKey),
        ("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", WitnessKey),
    ],
)
def test_published_keys_are_read_and_written_alike(text: str, kind: type[VerifierKey]) -> None:
    assert kind.from_text(text).to_text() == text


def test_every_part_and_every_change_of_a_key_is_refused_as_in_gos_tests() -> None:
    broken = [PETER_KEY[i:j] for i in range(len(PETER_KEY)) for j in range(i + 1, len(PETER_KEY) + 1)][:-1]
    broken = [text for text in broken if text != PETER_KEY]
    broken += [PETER_KEY[:i] + chr(ord(c) + 1) + PETER_KEY[i + 1 :] for i, c in enumerate(PETER_KEY)]
    broken += [
        "",
        PETER_KEY.replace("c74f20a3", "C74F20A3"),
        PETER_KEY + "=",
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        PETER_PRIVATE,
    ]
    for text in broken:
        with pytest.raises(KeyInvalid):
            VerifierKey.from_text(text)


def test_every_part_and_every_change_of_a_private_key_is_refused_and_not_quoted() -> None:
    changed = [PETER_PRIVATE[:i] + chr(ord(c) + 1) + PETER_PRIVATE[i + 1 :] for i, c in enumerate(PETER_PRIVATE)]
    parts = [PETER_PRIVATE[:n] for n in range(len(PETER_PRIVATE))]
    for text in [*parts, *changed, PETER_KEY, PETER_PRIVATE.removeprefix("PRIVATE+KEY+")]:
        with pytest.raises(KeyInvalid) as refused:
            Signer.from_text(text)
        assert PETER_PRIVATE[-20:-2] not in str(refused.value)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_public_key_has_32_bytes(length: int) -> None:
    with pytest.raises(KeyInvalid):
        VerifierKey("a", bytes(length))


def test_a_note_may_be_as_long_as_the_limit_and_no_longer() -> None:
    message = "a" * (LONGEST_NOTE - len(f"\n\n{PETER_LINE}".encode())) + f"\n\n{PETER_LINE}"
    assert len(Note.parse(message).to_text().encode()) == len(Note.parse(message.encode()).to_text().encode())
    for longer in ("a" + message, ("a" + message).encode()):
        with pytest.raises(CheckpointInvalid):
            Note.parse(longer)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\x00b", "a\u00a0b", "\ud800"])
def test_a_name_that_no_line_can_carry_is_refused(name: str) -> None:
    with pytest.raises(KeyInvalid):
        VerifierKey(name, bytes(32))


@given(names, st.binary(min_size=32, max_size=32))
def test_a_key_survives_its_text(name: str, public_key: bytes) -> None:
    key = VerifierKey(name, public_key)
    assert VerifierKey.from_text(key.to_text()) == key == pickle.loads(pickle.dumps(key))


@given(names, st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n")))
def test_what_is_signed_verifies_and_survives_its_text(name: str, text: str) -> None:
    signer = Signer.from_text(new_private_key(name))
    signed = sign_note(text + "\n", signer, Signer.from_text(PETER_PRIVATE))
    note = open_note(signed.encode(), [signer.verifier_key])
    assert (note.text, note.to_text()) == (text + "\n", signed)
    assert [key for key, _ in note.verified_by([peter, signer.verifier_key])] == [signer.verifier_key, peter]


def test_signing_again_replaces_the_signature_of_the_same_key() -> None:
    note = Note.parse(NOTE + ENOCH_LINE)
    replaced = note.signed_by(Signature(peter.name, peter.key_id, b"other"))
    assert [(one.name, len(one.content)) for one in replaced.signatures] == [("EnochRoot", 64), ("PeterNeumann", 5)]


@pytest.mark.parametrize("text", ["", "no newline", f"{TEXT}\n{PETER_LINE[:-1]}", "control\x07\n", "\ud800\n"])
def test_a_text_that_no_note_can_carry_is_not_signed(text: str) -> None:
    with pytest.raises(CheckpointInvalid):
        sign_note(text, Signer.from_text(PETER_PRIVATE))


def test_a_note_without_signers_is_not_written() -> None:
    with pytest.raises(CheckpointInvalid):
        sign_note(TEXT)


@given(st.data())
def test_every_flipped_byte_of_a_note_is_refused(data: st.DataObject) -> None:
    message = bytearray(NOTE.encode())
    place = data.draw(st.integers(0, len(message) - 1))
    message[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AnchoringError):
        open_note(bytes(message), [peter])


@given(st.binary() | st.text())
def test_arbitrary_input_is_refused_with_a_typed_error(message: bytes | str) -> None:
    with pytest.raises(AnchoringError):
        open_note(message, [peter])


@given(st.text())
def test_arbitrary_keys_are_refused_with_a_typed_error(text: str) -> None:
    with pytest.raises(KeyInvalid):
        VerifierKey.from_text(text)
    with pytest.raises(KeyInvalid):
        Signer.from_text("PRIVATE+KEY+" + text)


@given(st.binary(), st.text("ABab01+/=-_ \n"))
def test_base64_has_one_spelling(content: bytes, text: str) -> None:
    assert from_base64(to_base64(content)) == content
    decoded = from_base64(text)
    assert decoded is None or to_base64(decoded) == text
