"""Every refusal as a file: from this state, this message ends with exactly this error and changes nothing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from secure_federation import drawn, seeded

from privacy.roster import Identity, Roster
from privacy.secure_aggregation import errors
from privacy.secure_aggregation.coordinator import SecureSum, SetUp
from privacy.secure_aggregation.site import SiteSession
from privacy.secure_aggregation.terms import Limits, Terms

FOLDER = Path(__file__).parent / "vectors" / "v1"
TRANSCRIPT = FOLDER / "transcript.json"
VECTORS = {path.stem: path for path in sorted(FOLDER.glob("*.json")) if path != TRANSCRIPT}

ALL_REFUSALS = {
    name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, errors.ProtocolError)
} - {"ProtocolError"}


def read(path: Path) -> dict[str, Any]:
    vector = json.loads(path.read_text(encoding="utf-8"))
    assert vector["version"] == 1
    assert vector["name"] == path.stem
    return vector


def roster_of(vector: dict[str, Any]) -> Roster:
    return Roster.from_yaml(vector["roster"], bytes.fromhex(vector["root_key"]))


def identity_of(name: str, seed: str) -> Identity:
    return Identity(name, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)))


def site_step(vector: dict[str, Any]) -> tuple[Callable[[], object], Callable[[], bytes]]:
    """The step to take, and the session's state at any time."""
    details, step = vector["arguments"], vector["step"]
    message = bytes.fromhex(details.get("message", ""))
    identity = identity_of(vector["site"], vector["test_identity_seed"])
    if step == "advertise":
        limits = Limits(**details["limits"])
        terms = Terms.from_bytes(message)
        return lambda: SiteSession.advertise(identity, terms, limits, last_slot=details["last_slot"]), lambda: b""
    if step == "from_bytes":
        return lambda: SiteSession.from_bytes(message), lambda: b""
    session, roster = SiteSession.from_bytes(bytes.fromhex(vector["state"])), roster_of(vector)

    def mask() -> bytes:
        values = {name: np.array(value, dtype=np.float64) for name, value in details["values"].items()}
        return session.mask(
            details["slot"], details["kind"], bytes.fromhex(details["topic"]), details["shapes"], values
        )

    steps: dict[str, Callable[[], object]] = {
        "share": lambda: session.share(message, roster),
        "begin": lambda: session.begin(message),
        "mask": mask,
        "attest": lambda: session.attest(message, identity),
        "unmask": lambda: session.unmask(message, roster),
        "encoding": lambda: session.terms.encoding(details["kind"], details["cohort"]),
    }
    return steps[step], session.to_bytes


def coordinator_step(vector: dict[str, Any]) -> Callable[[], object]:
    """Make all calls but the last, and return that."""
    set_up = SetUp(Terms.from_bytes(bytes.fromhex(vector["terms"])), roster_of(vector))
    total: SecureSum | None = None

    def made(call: list[str]) -> Callable[[], object]:
        nonlocal total
        method, *given = call
        owner: object = set_up
        if not hasattr(set_up, method):
            asked = vector["sum"]
            total = total or SecureSum(set_up, asked["slot"], asked["kind"], bytes.fromhex(asked["topic"]))
            owner = total
        arguments = [given[0], bytes.fromhex(given[1])] if given else []
        return lambda: getattr(owner, method)(*arguments)

    *before, last = vector["calls"]
    for call in before:
        made(call)()
    return made(last)


@pytest.mark.parametrize("name", VECTORS)
def test_each_refusal_has_its_name_and_changes_nothing_but_that_a_site_beyond_its_bounds_leaves(name: str) -> None:
    vector = read(VECTORS[name])
    if vector["party"] == "site":
        step, state = site_step(vector)
    else:
        step, state = coordinator_step(vector), lambda: b""
    before = state()
    with pytest.raises(errors.ProtocolError) as refused:
        step()
    assert type(refused.value).__name__ == vector["refusal"]
    assert refused.value.remedy
    if vector["refusal"] == "ValueOutOfRange":
        with pytest.raises(errors.ValueOutOfRange, match="left the run"):
            step()
    else:
        assert state() == before
    if vector.get("state"):
        assert before == bytes.fromhex(vector["state"])


def test_there_is_a_vector_for_every_refusal() -> None:
    assert {read(path)["refusal"] for path in VECTORS.values()} == ALL_REFUSALS


def test_the_transcript_is_reproduced_byte_for_byte() -> None:
    vector = read(TRANSCRIPT)
    messages = iter(vector["messages"])

    def is_next(what: str, name: str, message: bytes) -> bytes:
        assert [what, name, message.hex()] == next(messages)
        return message

    _, _, encoded = next(messages)
    terms, roster = Terms.from_bytes(bytes.fromhex(encoded)), roster_of(vector)
    identities = {name: identity_of(name, seed) for name, seed in vector["test_identity_seeds"].items()}
    entropy = {name: seeded(seed) for name, seed in vector["test_entropy"].items()}
    set_up, sessions = SetUp(terms, roster), {}
    for name in identities:
        sessions[name], advert = SiteSession.advertise(identities[name], terms, Limits(), entropy=entropy[name])
        set_up.add_advert(name, is_next("advert", name, advert))
    set_up.close_adverts()
    for name, session in sessions.items():
        listed = is_next("advert_list", name, set_up.adverts_for(name))
        sealed = session.share(listed, roster, entropy=entropy[name])
        set_up.add_shares(name, is_next("sealed_shares", name, sealed))
    set_up.close_shares()
    for name, session in sessions.items():
        session.begin(is_next("begin", name, set_up.begin_for(name)))
    topic = bytes.fromhex(vector["topic"])
    total = SecureSum(set_up, 1, "train", topic)
    for name, parts in vector["values"].items():
        values = {part: np.array([float.fromhex(value) for value in drawn]) for part, drawn in parts.items()}
        masked = sessions[name].mask(1, "train", topic, terms.shapes, values, rng=drawn(name, 1))
        total.add_masked(name, is_next("masked_vector", name, masked))
    survivors = is_next("survivors", "", total.close())
    for name in vector["values"]:
        total.add_attestation(name, is_next("attestation", name, sessions[name].attest(survivors, identities[name])))
    for name in vector["values"]:
        asked = is_next("unmask_request", name, total.unmask_request_for(name))
        total.add_revealed(name, is_next("revealed", name, sessions[name].unmask(asked, roster)))
    (part,) = total.result()
    assert next(messages, None) is None
    assert list(part.members) == vector["sum"]["members"]
    assert {name: [v.hex() for v in value.tolist()] for name, value in part.values.items()} == vector["sum"]["values"]


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors", Path(__file__).parent / "make_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_those_that_the_generator_makes() -> None:
    made = maker().all_vectors()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert sorted(there) == sorted(made)
    assert [name for name in made if there[name] != made[name]] == []
