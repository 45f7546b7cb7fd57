"""The roster: what is believed is what the root signed, whatever text arrives."""

from __future__ import annotations

import base64
import copy
import pickle
from typing import Any

import pytest
import rfc8785
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from privacy.roster import Identity, Roster, RosterError
from privacy.secure_aggregation.errors import KeyNotSigned


def fixed(name: str, number: int) -> Identity:
    return Identity(name, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


ROOT = fixed("root", 1)
SITES = [fixed("Torino", 2), fixed("Bari", 3), fixed("office_3.a-b", 4)]
MEMBERS = {site.name: site.public_key for site in SITES}
TEXT = Roster.sign("Collocamento mirato – Città", MEMBERS, ROOT)
ROSTER = Roster.from_yaml(TEXT, ROOT.public_key)


def signed(content: dict[str, Any], root: Identity = ROOT) -> str:
    """A text whose signature is right, whatever the content."""
    unsigned = {key: value for key, value in content.items() if key != "signature"}
    signature = root.sign(b"djms/v1/roster\x00" + rfc8785.dumps(unsigned))
    return yaml.safe_dump(unsigned | {"signature": base64.b64encode(signature).decode()})


def content_of(text: str = TEXT) -> dict[str, Any]:
    content = yaml.safe_load(text)
    assert isinstance(content, dict)
    return content


def refusal(text: str, root_key: bytes = ROOT.public_key) -> str:
    with pytest.raises(RosterError) as caught:
        Roster.from_yaml(text, root_key)
    assert isinstance(caught.value, InputError)
    message = str(caught.value)
    assert message.startswith("roster: ")
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_a_signed_roster_comes_back_as_it_was_signed() -> None:
    assert ROSTER.federation == "Collocamento mirato – Città"
    assert dict(ROSTER.members) == MEMBERS
    assert list(ROSTER.members) == sorted(MEMBERS)
    assert len(ROSTER.digest) == 32


def test_the_signature_covers_label_and_canonical_json_sorted_by_name() -> None:
    content = content_of()
    signature = base64.b64decode(content.pop("signature"))
    assert [site["name"] for site in content["sites"]] == sorted(MEMBERS)
    message = b"djms/v1/roster\x00" + rfc8785.dumps(content)
    Ed25519PublicKey.from_public_bytes(ROOT.public_key).verify(signature, message)


def test_the_order_of_sites_and_comments_do_not_matter() -> None:
    content = content_of()
    content["sites"].reverse()
    assert Roster.from_yaml("# ours\r\n" + yaml.safe_dump(content), ROOT.public_key).digest == ROSTER.digest
    backwards = dict(reversed(list(MEMBERS.items())))
    assert Roster.sign(ROSTER.federation, backwards, ROOT) == TEXT


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True), st.binary(min_size=32, max_size=32), min_size=1
    ).filter(lambda members: len(set(members.values())) == len(members)),
    st.text(min_size=1, max_size=200).filter(str.isprintable),
)
@settings(max_examples=100, deadline=None)
def test_whatever_is_signed_is_read_back(members: dict[str, bytes], federation: str) -> None:
    # Among these names are numbers, dates, "null" and "yes" as YAML reads them.
    roster = Roster.from_yaml(Roster.sign(federation, members, ROOT), ROOT.public_key)
    assert (roster.federation, dict(roster.members)) == (federation, members)


def test_another_content_has_another_digest() -> None:
    others = [
        Roster("elsewhere", MEMBERS),
        Roster(ROSTER.federation, MEMBERS | {"Bari": bytes(32)}),
        Roster(ROSTER.federation, {"Bari": MEMBERS["Bari"]}),
    ]
    assert len({roster.digest for roster in [ROSTER, *others]}) == 4


def test_a_site_is_believed_only_with_its_own_signature() -> None:
    torino, bari, _ = SITES
    ROSTER.verify("Torino", b"label message", torino.sign(b"label message"))
    wrong = [
        ("Torino", b"label message", bari.sign(b"label message")),
        ("Bari", b"label message", torino.sign(b"label message")),
        ("Torino", b"another message", torino.sign(b"label message")),
        ("Torino", b"label message", torino.sign(b"label message")[:-1]),
        ("Torino", b"label message", b""),
    ]
    for name, message, signature in wrong:
        with pytest.raises(KeyNotSigned, match="is not by the identity"):
            ROSTER.verify(name, message, signature)
    with pytest.raises(KeyNotSigned, match="is not a site"):
        ROSTER.verify("torino", b"label message", torino.sign(b"label message"))
    with pytest.raises(KeyNotSigned) as caught:
        ROSTER.verify("x" * 10**6 + "\n", b"", bytes(64))
    assert len(str(caught.value)) < 400


def test_a_key_that_is_no_point_of_the_curve_verifies_nothing() -> None:
    roster = Roster("f", {"odd": b"\xff" * 32})
    with pytest.raises(KeyNotSigned):
        roster.verify("odd", b"message", bytes(64))


def test_another_root_is_not_believed() -> None:
    other = fixed("root", 9)
    assert "signature" in refusal(TEXT, other.public_key)
    assert "signature" in refusal(Roster.sign(ROSTER.federation, MEMBERS, other))
    for key in (b"", ROOT.public_key[:-1], ROOT.public_key + b"\x00"):
        assert "32 bytes" in refusal(TEXT, key)


def test_a_signature_for_another_purpose_is_not_believed() -> None:
    content = content_of()
    del content["signature"]
    bare = ROOT.sign(rfc8785.dumps(content))
    assert "signature" in refusal(yaml.safe_dump(content | {"signature": base64.b64encode(bare).decode()}))


def test_every_alteration_of_the_content_is_noticed() -> None:
    def altered(change: str) -> str:
        content = content_of()
        if change == "federation":
            content["federation"] += "!"
        elif change == "a name":
            content["sites"][0]["name"] = "Bar"
        elif change == "a key":
            content["sites"][0]["identity"] = base64.b64encode(bytes(32)).decode()
        elif change == "keys swapped":
            one, two = content["sites"][:2]
            one["identity"], two["identity"] = two["identity"], one["identity"]
        elif change == "one left out":
            content["sites"].pop()
        elif change == "one more":
            content["sites"].append({"name": "new", "identity": base64.b64encode(bytes(32)).decode()})
        return yaml.safe_dump(content)

    for change in ("federation", "a name", "a key", "keys swapped", "one left out", "one more"):
        assert "its signature is not the federation's" in refusal(altered(change)), change


def replaced(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    content = copy.deepcopy(content_of())
    place: Any = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return content


KEY = base64.b64encode(MEMBERS["Bari"]).decode()
NAME = ("sites", 0, "name")
IDENTITY = ("sites", 0, "identity")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (replaced(("extra",), 1), "does not consist of"),
        (replaced(("sites", 0, "extra"), 1), "site 1 does not consist of"),
        (replaced(("sites", 0), "Bari"), "site 1 does not consist of"),
        (replaced(("version",), 2), "version"),
        (replaced(("version",), True), "version"),
        (replaced(("version",), "1"), "version"),
        (replaced(("federation",), 3), "federation's name"),
        (replaced(("federation",), ""), "federation's name"),
        (replaced(("federation",), "a\nb"), "printed"),
        (replaced(("federation",), "x" * 201), "federation's name"),
        (replaced(("sites",), []), "no sites"),
        (replaced(("sites",), {"Bari": KEY}), "not a list"),
        (replaced(NAME, 17), "site's name"),
        (replaced(NAME, ""), "site's name"),
        (replaced(NAME, "Forlì"), "site's name"),
        (replaced(NAME, "Bari\n"), "site's name"),
        (replaced(NAME, "x" * 65), "site's name"),
        (replaced(NAME, "Torino"), "'Torino' stands in it twice"),
        (replaced(IDENTITY, base64.b64encode(MEMBERS["Torino"]).decode()), "two sites have one identity"),
        (replaced(IDENTITY, KEY[:-4]), "'Bari' is not the base64 of 32 bytes"),
        (replaced(IDENTITY, KEY + "AAAA"), "not the base64 of 32 bytes"),
        (replaced(IDENTITY, KEY[:-1]), "not the base64 of 32 bytes"),
        (replaced(IDENTITY, " " + KEY), "not the base64 of 32 bytes"),
        (replaced(IDENTITY, "é" * 44), "not the base64 of 32 bytes"),
        (replaced(IDENTITY, ""), "not the base64 of 32 bytes"),
        (replaced(IDENTITY, 7), "not the base64 of 32 bytes"),
        (replaced(IDENTITY, None), "not the base64 of 32 bytes"),
    ],
)
def test_damage_is_named_even_when_the_root_signed_it(content: dict[str, Any], reason: str) -> None:
    assert reason in refusal(signed(content))


def test_two_spellings_of_one_key_are_not_two_keys() -> None:
    # The last character before "=" carries two bits that belong to no byte.
    spelled = KEY[:-2] + chr(ord(KEY[-2]) + 1) + "="
    assert base64.b64decode(spelled) == base64.b64decode(KEY)
    assert "not the base64" in refusal(signed(replaced(IDENTITY, spelled)))


@pytest.mark.parametrize("signature", ["", "AAAA", 5, None, [], base64.b64encode(bytes(63)).decode()])
def test_a_damaged_signature_is_named(signature: object) -> None:
    assert "the signature is not the base64 of 64 bytes" in refusal(yaml.safe_dump(replaced(("signature",), signature)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "a: b: c",
        "\x00",
        "!!python/object/apply:os.system ['true']",
        "[" * 100_000,
        "&a [*a]",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "2020-99-99",
        "2020-01-01T99:99:99Z",
        "version: " + "9" * 5000,
        "a: &x !!set {*x}",
        "!!int ''",
        "!!float x",
        "!!bool maybe",
        "!!timestamp never",
        "!!binary é",
        "<<: 3",
        "federation: \ud800",
        TEXT + "---\n" + TEXT,
        TEXT.replace("version: 1", "version: 1.0"),
        "x" * (4 * 2**20 + 1),
    ],
)
def test_texts_that_are_no_roster_are_refused_with_a_sentence(text: str) -> None:
    refusal(text)


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_mutated_text_gives_the_signed_roster_or_a_roster_error(data: st.DataObject) -> None:
    text = TEXT
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.one_of(st.just(start), st.integers(start, min(len(text), start + 40))))
        snippets = st.sampled_from(
            [
                "\n",
                " ",
                "- ",
                ": ",
                "&a ",
                "*a",
                "!!int ",
                "!!python/none ",
                "<<: ",
                "[",
                "{",
                "}",
                "'",
                '"',
                "#",
                "|",
                "?",
            ]
        )
        piece = data.draw(st.one_of(st.text(max_size=5), snippets, st.just(text[start:end] * 2)))
        text = text[:start] + piece + text[end:]
    try:
        roster = Roster.from_yaml(text, ROOT.public_key)
    except RosterError:
        return
    assert roster == ROSTER


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.just(KEY),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["federation", "version", "sites", "signature", "name", "identity"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_other_yaml_value_is_a_roster_error(value: object) -> None:
    refusal(yaml.safe_dump(value))


def test_what_cannot_be_a_roster_is_not_signed() -> None:
    for members in ({}, {"a b": bytes(32)}, {"a": bytes(31)}, {"a": bytes(32), "b": bytes(32)}):
        with pytest.raises(RosterError):
            Roster.sign("f", members, ROOT)
    with pytest.raises(RosterError):
        Roster.sign("", MEMBERS, ROOT)


def test_members_cannot_be_changed_afterwards() -> None:
    with pytest.raises(TypeError):
        ROSTER.members["Bari"] = bytes(32)  # type: ignore[index]
    mine = dict(MEMBERS)
    roster = Roster("f", mine)
    mine["Bari"] = bytes(32)
    assert roster.members["Bari"] == MEMBERS["Bari"]
    assert pickle.loads(pickle.dumps(roster)) == roster


def test_an_identity_survives_its_file_and_is_new_each_time() -> None:
    identity = Identity.generate("Torino")
    again = Identity.from_pem("Torino", identity.to_pem())
    assert again.public_key == identity.public_key != Identity.generate("Torino").public_key
    assert again.sign(b"m") == identity.sign(b"m")
    assert len(identity.sign(b"m")) == 64
    assert identity.to_pem().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_the_repr_of_an_identity_shows_its_name_and_fingerprint_only() -> None:
    identity = fixed("Torino", 0x2A)
    assert repr(identity) == str(identity) == f"Identity(name='Torino', public_key={identity.fingerprint})"
    assert "2a2a" not in repr(identity)


def test_what_is_no_ed25519_private_key_is_refused() -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    for wrong in (b"", b"junk", pem[:60], pem.replace(b"PRIVATE", b"PUBLIC"), other, locked):
        with pytest.raises(RosterError, match="no Ed25519 private key") as caught:
            Identity.from_pem("Torino", wrong)
        assert caught.value.__cause__ is None
    with pytest.raises(RosterError):
        Identity.from_pem("two words", pem)
