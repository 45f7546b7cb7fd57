"""Manifests: one spelling for what a round says, and nothing that no round can be."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from anchoring.errors import AnchoringError, EntryInvalid
from anchoring.manifest import (
    ROUND_TYPE,
    PrivacyRecord,
    RoundManifest,
    RoundRecord,
    pseudonym,
    type_of,
)

Content = dict[str, Any]
SITES = [f"{number:032x}" for number in range(5)]

hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
metrics = st.none() | st.dictionaries(texts, numbers, max_size=3)
exact = numbers.filter(
    lambda number: abs(number) < 2**53 or abs(number) >= 1e21
)  # others are written as too long integers
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | exact | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)


@st.composite
def records(draw: st.DrawFn, number: int) -> RoundRecord:
    cohort = draw(st.sets(st.sampled_from(SITES)))
    return RoundRecord(
        number=number,
        status="finished" if cohort else "abandoned",
        cohort=tuple(sorted(cohort)),
        dropouts=tuple(sorted(set(SITES) - cohort)),
        weight=draw(st.none() | st.floats(min_value=0, allow_infinity=False)),
        metrics=draw(metrics),
    )


@st.composite
def manifests(draw: st.DrawFn) -> RoundManifest:
    last = draw(st.integers(0, 12))
    begun = draw(st.integers(0, last))
    privacy = PrivacyRecord(
        unit=draw(st.sampled_from(["candidate", "site"])),
        epsilon=draw(st.floats(min_value=0, exclude_min=True, allow_infinity=False)),
        delta=draw(st.floats(0, 1, exclude_min=True, exclude_max=True)),
        event=draw(objects),
        ledger_sha256=draw(hashes),
    )
    return RoundManifest(
        run=draw(texts),
        round=last,
        released=draw(st.booleans()),
        model_sha256=draw(hashes),
        card=draw(objects),
        settings_sha256=draw(hashes),
        bundle_sha256=draw(st.none() | hashes),
        quorum=draw(st.integers(1, 100)),
        rounds=tuple(draw(records(number)) for number in range(begun + 1, last + 1)),
        metrics=draw(metrics),
        privacy=draw(st.none() | st.just(privacy)),
        previous=draw(st.none() | hashes),
    )


@settings(max_examples=100, deadline=None)
@given(manifests())
def test_a_manifest_survives_its_bytes_and_they_are_canonical(manifest: RoundManifest) -> None:
    entry = manifest.to_bytes()
    read = RoundManifest.from_bytes(entry)
    assert read == manifest
    assert read.to_bytes() == entry == rfc8785.dumps(json.loads(entry, parse_int=float))
    assert read.sha256 == hashlib.sha256(entry).hexdigest()
    assert type_of(entry) == ROUND_TYPE == "djms.round/v1"


EXAMPLE = RoundManifest(
    run="20251125T031300Z-0a1b2c3d",
    round=3,
    released=False,
    model_sha256="1" * 64,
    card={"epsilon": 0.5, "hidden": [4], "kind": "mlp"},
    settings_sha256="2" * 64,
    bundle_sha256=None,
    quorum=3,
    rounds=(
        RoundRecord(
            number=2,
            status="finished",
            cohort=tuple(SITES[:4]),
            dropouts=(SITES[4],),
            weight=160.0,
            metrics={"auc": 0.75},
        ),
        RoundRecord(number=3, status="abandoned", cohort=(), dropouts=tuple(SITES), weight=None, metrics=None),
    ),
    metrics=None,
    privacy=PrivacyRecord(
        unit="candidate", epsilon=0.25, delta=1e-05, event={"steps": 4, "noise_multiplier": 1.5}, ledger_sha256="3" * 64
    ),
    previous="4" * 64,
)
ENTRY = EXAMPLE.to_bytes()


def test_the_text_is_what_any_json_library_reads() -> None:
    content = json.loads(ENTRY)
    assert content["rounds"][0]["cohort"] == SITES[:4]
    assert content["privacy"]["delta"] == 1e-05
    assert list(content) == sorted(content)
    assert b" " not in ENTRY
    assert ENTRY.startswith(b'{"bundle_sha256":null,"card":{"epsilon":0.5,"hidden":[4],"kind":"mlp"},"metrics":null,')


@pytest.mark.parametrize(
    "entry",
    [
        json.dumps(json.loads(ENTRY)).encode(),
        json.dumps(json.loads(ENTRY), indent=1).encode(),
        json.dumps(dict(reversed(json.loads(ENTRY).items())), separators=(",", ":")).encode(),
        b" " + ENTRY,
        ENTRY + b"\n",
        b"\xef\xbb\xbf" + ENTRY,
        ENTRY.decode().encode("utf-16"),
        ENTRY.replace(b'"round":3', b'"round":3.0'),
        ENTRY.replace(b'"round":3', b'"round":03'),
        ENTRY.replace(b'"round":3', b'"round":3e0'),
        ENTRY.replace(b'"quorum":3', b'"quorum":+3'),
        ENTRY.replace(b'"weight":160', b'"weight":160.0'),
        ENTRY.replace(b'"weight":160', b'"weight":1.6e2'),
        ENTRY.replace(b'"weight":160', b'"weight":-0'),
        ENTRY.replace(b'"epsilon":0.25', b'"epsilon":0.250'),
        ENTRY.replace(b'"epsilon":0.25', b'"epsilon":2.5e-1'),
        ENTRY.replace(b'"delta":0.00001', b'"delta":1e-5'),
        ENTRY.replace(b'"delta":0.00001', b'"delta":0.000010000000000000000001'),
        ENTRY.replace(b'"kind":"mlp"', b'"kind":"\\u006dlp"'),
        ENTRY.replace(b'"kind":"mlp"', b'"kind":"mlp","kind":"mlp"'),
        ENTRY.replace(b'"round":3', b'"round":3,"round":3'),
        ENTRY.replace(b'"round":3', b'"round":2,"round":3'),
        ENTRY.replace(b'"auc":0.75', b'"auc":0.75,"auc":0.75'),
        ENTRY.replace(b'"epsilon":0.25', b'"epsilon":NaN'),
        ENTRY.replace(b'"auc":0.75', b'"auc":NaN'),
        ENTRY.replace(b'"auc":0.75', b'"auc":Infinity'),
        ENTRY.replace(b'"auc":0.75', b'"auc":1e999'),
        ENTRY.replace(b'"epsilon":0.5', b'"epsilon":NaN'),
        ENTRY.replace(b'"epsilon":0.5', b'"epsilon":-Infinity'),
        ENTRY.replace(b'"epsilon":0.5', b'"epsilon":1e999'),
        ENTRY.replace(b'"hidden":[4]', b'"hidden":[9007199254740993]'),
        ENTRY.replace(b'"hidden":[4]', b'"hidden":[' + b"9" * 5000 + b"]"),
        ENTRY.replace(b'"hidden":[4]', b'"hidden":' + b"[" * 5000 + b"]" * 5000),
        ENTRY.replace(b'"hidden":[4]', b'"hidden":' + b"[" * 200 + b"]" * 201),
        ENTRY.replace(b'"mlp"', b'"\\ud800"'),
        ENTRY.replace(b'"mlp"', b'"\xff"'),
        ENTRY.replace(b'"mlp"', b'"\xed\xa0\x80"'),
        ENTRY.replace(b'"mlp"', b'"m\nlp"'),
        ENTRY.replace(b'"mlp"', b"'mlp'"),
        ENTRY.replace(b'"hidden":[4]', b'"hidden":[4,]'),
        ENTRY[:-1],
        ENTRY + ENTRY,
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"djms.round/v1"',
        b"\x00",
    ],
)
def test_another_spelling_is_refused_whatever_it_says(entry: bytes) -> None:
    assert entry != ENTRY
    with pytest.raises(EntryInvalid):
        RoundManifest.from_bytes(entry)


def _set(key: str, value: object) -> Callable[[Content], object]:
    *way, last = key.split(".")

    def change(content: Content) -> None:
        target: Any = content
        for step in way:
            target = target[int(step)] if step.isdecimal() else target[step]
        target[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(lambda content, key=key: content.pop(key) for key in json.loads(ENTRY)),
        *(_set(key, value) for key in json.loads(ENTRY) for value in (True, 1.5, -1, [], "", "x", {"x": 1}, [None])
          if not (key == "released" and value is True)
          and not (key == "run" and value == "x")
          and not (key == "card" and value == {"x": 1})
          and not (key == "metrics" and value == {"x": 1})
          and not (key == "rounds" and value == [])),
        _set("more", 1),
        _set("type", "djms.round/v2"),
        _set("run", "x" * 201),
        _set("run", None),
        _set("round", None),
        _set("round", "3"),
        _set("quorum", 0),
        _set("model_sha256", "1" * 63),
        _set("model_sha256", "A" * 64),
        _set("model_sha256", "1" * 64 + "\n"),
        _set("previous", "4" * 65),
        _set("metrics", {"auc": "0.75"}),
        _set("metrics", {"auc": None}),
        _set("metrics", {"auc": True}),
        _set("rounds.0.more", 1),
        _set("rounds.0.number", 0),
        _set("rounds.0.number", 2.5),
        _set("rounds.0.number", "2"),
        _set("rounds.0.status", "started"),
        _set("rounds.0.weight", -1),
        _set("rounds.0.weight", "160"),
        _set("rounds.0.cohort", ["CPI_Padova"]),
        _set("rounds.0.cohort", SITES[0]),
        _set("rounds.0.cohort", None),
        _set("rounds.0.dropouts", [SITES[4][:-1]]),
        _set("privacy.more", 1),
        _set("privacy.epsilon", 0),
        _set("privacy.epsilon", -1),
        _set("privacy.delta", 0),
        _set("privacy.delta", 1),
        _set("privacy.unit", "row"),
        _set("privacy.event", []),
        _set("privacy.ledger_sha256", None),
    ],
)  # fmt: skip
def test_what_no_round_says_is_refused_though_its_form_is_canonical(change: Callable[[Content], object]) -> None:
    content = json.loads(ENTRY)
    change(content)
    with pytest.raises(EntryInvalid):
        RoundManifest.from_bytes(rfc8785.dumps(content))


@pytest.mark.parametrize("numbers", [[3, 2], [2, 2], [3, 4], [4], [1, 3, 2]])
def test_rounds_out_of_order_twice_or_beyond_the_manifests_own_are_refused(numbers: list[int]) -> None:
    content = json.loads(ENTRY)
    content["rounds"] = [{**content["rounds"][0], "number": number} for number in numbers]
    with pytest.raises(EntryInvalid):
        RoundManifest.from_bytes(rfc8785.dumps(content))


@pytest.mark.parametrize(
    "changed",
    [
        {"cohort": SITES[:4], "dropouts": SITES[3:]},
        {"cohort": [*SITES[:4], SITES[0]], "dropouts": SITES[4:]},
        {"cohort": SITES[:4], "dropouts": [SITES[4], SITES[4]]},
        {"cohort": [], "dropouts": SITES},
        {"status": "abandoned"},
    ],
)
def test_a_site_twice_or_a_round_that_finished_without_anybody_is_refused(changed: Content) -> None:
    content = json.loads(ENTRY)
    content["rounds"][0] |= changed
    with pytest.raises(EntryInvalid):
        RoundManifest.from_bytes(rfc8785.dumps(content))


def test_a_manifest_that_could_not_be_read_cannot_be_made() -> None:
    with pytest.raises(ValidationError):
        RoundManifest(**{**EXAMPLE.model_dump(), "run": ""})
    with pytest.raises(ValidationError):
        RoundManifest(**{**EXAMPLE.model_dump(), "rounds": EXAMPLE.rounds[::-1]})
    with pytest.raises(ValidationError):
        EXAMPLE.round = 4


def test_every_flipped_byte_gives_another_hash_or_no_manifest() -> None:
    for place in range(len(ENTRY)):
        flipped = bytearray(ENTRY)
        flipped[place] ^= 1 << place % 7
        try:
            read = RoundManifest.from_bytes(bytes(flipped))
        except EntryInvalid:
            continue
        assert read != EXAMPLE
        assert read.sha256 != EXAMPLE.sha256
        assert read.to_bytes() == flipped


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")) | values.map(rfc8785.dumps))
def test_arbitrary_bytes_are_refused_with_a_typed_error(entry: bytes) -> None:
    with pytest.raises(AnchoringError):
        RoundManifest.from_bytes(entry)
    assert type_of(entry) is None or isinstance(type_of(entry), str)


def test_an_error_says_nothing_of_what_the_entry_says() -> None:
    content = json.loads(ENTRY) | {"run": "Rossi" * 100}
    for entry in (rfc8785.dumps(content), b"Rossi", ENTRY.replace(b"mlp", b"Rossi") + b" "):
        with pytest.raises(EntryInvalid) as caught:
            RoundManifest.from_bytes(entry)
        assert "Rossi" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (b'{"type":"djms.records/v1"}', "djms.records/v1"),
        (b'{"type":""}', ""),
        (b'{"type":1}', None),
        (b'{"type":null}', None),
        (b'{"type":"a","type":"b"}', None),
        (b'{"Type":"a"}', None),
        (b'["type"]', None),
        (b'"type"', None),
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_an_entrys_type_is_what_it_says_or_none(entry: bytes, kind: str | None) -> None:
    assert type_of(entry) == kind


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), texts, texts)
def test_pseudonyms_differ_between_runs_and_between_sites(one: bytes, other: bytes, name: str, another: str) -> None:
    mine = pseudonym(one, name)
    assert mine == pseudonym(one, name)
    assert len(bytes.fromhex(mine)) == 16
    assert (mine == pseudonym(other, name)) == (one == other)
    assert (mine == pseudonym(one, another)) == (name == another)
    assert mine != hashlib.sha256(name.encode()).hexdigest()[:32]


def test_a_pseudonym_is_the_hmac_of_its_domain_and_the_name() -> None:
    expected = hmac.digest(b"s" * 32, b"djms/v1/site-pseudonym\x00" + "CPI_Forlì".encode(), "sha256")
    assert pseudonym(b"s" * 32, "CPI_Forlì") == expected.hex()[:32]
