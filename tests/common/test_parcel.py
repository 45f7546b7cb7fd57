"""A parcel is read by its receiver alone, believed by its sender's signature, and refused by name otherwise."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from common import parcel as parcels
from common.parcel import (
    Header,
    Parcel,
    ParcelDamaged,
    ParcelOfOtherVersion,
    ParcelOfStranger,
    ParcelRefused,
    key_text,
    read_key,
)
from privacy.roster import Identity
from server import pki

NOW = datetime.now(UTC)
HOST = "fl.example.org"
PLAIN = b"the global model" * 100
CA_KEY, SERVER_KEY, SITE_KEY = (generate_private_key(SECP256R1()) for _ in range(3))
CA = pki.ca_certificate(CA_KEY, "Prova", NOW)
CERTIFICATE = pki.server_certificate(CA_KEY, CA, SERVER_KEY.public_key(), HOST, NOW)
IDENTITY = Identity.generate("CPI_A")


def sign(message: bytes) -> bytes:
    return SERVER_KEY.sign(message, ECDSA(SHA256()))


def question(**changes: object) -> Header:
    content = {
        "kind": parcels.CONTRIBUTE,
        "federation": "abcd",
        "run": "run-1",
        "step": 3,
        "sender": parcels.COORDINATOR,
        "receiver": "CPI_A",
        "certificate": pki.certificate_pem(CERTIFICATE).decode(),
    }
    return Header.model_validate(content | changes)


def answer() -> Parcel:
    header = question(kind=parcels.ANSWER, sender="CPI_A", receiver=parcels.COORDINATOR, certificate="")
    return Parcel.seal(header, PLAIN, SITE_KEY.public_key(), IDENTITY.sign)


def asked(**changes: object) -> Parcel:
    return Parcel.seal(question(**changes), PLAIN, SITE_KEY.public_key(), sign)


def believe(parcel: Parcel, host: str = HOST, now: datetime = NOW) -> None:
    parcel.require_coordinator(pki.certificate_pem(CA), host, now)


def with_header(content: bytes, **changes: object) -> bytes:
    line, rest = content.split(b"\n", 1)
    return rfc8785.dumps(json.loads(line) | changes) + b"\n" + rest


def test_a_question_is_believed_and_read_by_its_receiver() -> None:
    found = Parcel.from_bytes(asked().content)
    believe(found)
    assert found.open(SITE_KEY) == PLAIN
    assert found.header.file_name == "djms-run-1-0003-coordinator-to-CPI_A.parcel"


def test_an_answer_is_believed_and_read_by_its_receiver() -> None:
    found = Parcel.from_bytes(answer().content)
    found.require_site(IDENTITY.public_key)
    assert found.open(SITE_KEY) == PLAIN


def test_a_carrier_reads_nothing_of_the_content() -> None:
    assert b"global model" not in asked().content
    with pytest.raises(ParcelDamaged, match="another key"):
        Parcel.from_bytes(asked().content).open(generate_private_key(SECP256R1()))
    with pytest.raises(ParcelDamaged, match="another key"):
        Parcel.from_bytes(asked().content).open(generate_private_key(SECP384R1()))


def test_the_same_content_is_sealed_otherwise_each_time() -> None:
    first, second = asked().content.split(b"\n", 2)[2], asked().content.split(b"\n", 2)[2]
    assert first != second


def test_a_parcel_that_was_altered_anywhere_is_refused() -> None:
    for made, check in (
        (asked(), believe),
        (answer(), lambda found: found.require_site(IDENTITY.public_key)),
    ):
        content = made.content
        for at in [*range(0, len(content), 37), len(content) - 1]:
            altered = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            with pytest.raises(ParcelRefused):
                check(Parcel.from_bytes(altered))


@pytest.mark.parametrize("changes", [{"step": 4}, {"run": "run-2"}, {"receiver": "CPI_B"}, {"kind": "unmask"}])
def test_a_header_that_was_rewritten_does_not_fit_the_signature(changes: dict[str, object]) -> None:
    with pytest.raises(ParcelDamaged, match="altered"):
        believe(Parcel.from_bytes(with_header(asked().content, **changes)))


def test_a_part_of_a_parcel_is_none() -> None:
    content = asked().content
    for length in (0, 1, 100, content.index(b"\n") + 5, len(content) - 1):
        with pytest.raises(ParcelDamaged):
            believe(Parcel.from_bytes(content[:length]))


@pytest.mark.parametrize("changes", [{"run": ".."}, {"run": "../x"}, {"receiver": ".."}, {"step": 0}, {"kind": "x"}])
def test_a_header_holds_nothing_that_could_lead_a_file_elsewhere(changes: dict[str, object]) -> None:
    with pytest.raises(ParcelDamaged, match="header is not as it must be"):
        Parcel.from_bytes(with_header(asked().content, **changes))


def test_a_header_has_one_spelling() -> None:
    line, rest = asked().content.split(b"\n", 1)
    with pytest.raises(ParcelDamaged, match="spelled"):
        Parcel.from_bytes(json.dumps(json.loads(line)).encode() + b"\n" + rest)


def test_another_version_is_refused_naming_both() -> None:
    for changes in ({"protocol": 999, "djms": "9.9"}, {"format": "djms.parcel/v2", "djms": "9.9", "more": 1}):
        with pytest.raises(ParcelOfOtherVersion, match=r"DJMS 9\.9 .*and here is DJMS"):
            Parcel.from_bytes(with_header(asked().content, **changes))


def test_a_certificate_of_another_ca_host_or_time_is_not_believed() -> None:
    other = generate_private_key(SECP256R1())
    foreign = pki.server_certificate(other, pki.ca_certificate(other, "Prova", NOW), SERVER_KEY.public_key(), HOST, NOW)
    with pytest.raises(ParcelOfStranger):
        believe(asked(certificate=pki.certificate_pem(foreign).decode()))
    with pytest.raises(ParcelOfStranger):
        believe(asked(), host="other.example.org")
    with pytest.raises(ParcelOfStranger):
        believe(asked(), now=CERTIFICATE.not_valid_after_utc + timedelta(days=1))


def test_the_holder_of_another_key_cannot_speak_for_the_coordinator_or_a_site() -> None:
    thief = generate_private_key(SECP256R1())
    forged = Parcel.seal(question(), PLAIN, SITE_KEY.public_key(), lambda text: thief.sign(text, ECDSA(SHA256())))
    with pytest.raises(ParcelDamaged, match="altered"):
        believe(forged)
    with pytest.raises(ParcelDamaged, match="altered"):
        answer().require_site(Identity.generate("CPI_A").public_key)


def test_an_answer_is_no_question_and_a_question_no_answer() -> None:
    with pytest.raises(ParcelDamaged):
        believe(answer())
    with pytest.raises(ParcelDamaged):
        asked().require_site(IDENTITY.public_key)


def test_keys_of_larger_curves_serve_as_well() -> None:
    key = generate_private_key(SECP384R1())
    sealed = Parcel.seal(question(), PLAIN, key.public_key(), sign)
    assert Parcel.from_bytes(sealed.content).open(key) == PLAIN
    assert key_text(read_key(key_text(key.public_key()))) == key_text(key.public_key())
