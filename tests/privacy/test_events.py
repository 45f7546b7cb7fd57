"""A privacy event means one thing for ever, and nothing that is no release becomes one."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import dp_accounting
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.events import KEYS, EventRefused, NoNoise, PrivacyEvent, events_from_json, events_to_json

TRAINING: dict[str, Any] = {
    "mechanism": "poisson-sampled-gaussian",
    "unit": "candidate",
    "site": "CPI_Verona",
    "noise_multiplier": 1.1,
    "sampling_rate": 0.05,
    "steps": 80,
    "neighbouring_relation": "add-or-remove-one",
    "purpose": "training",
    "run": "2026-01",
    "round": 3,
}
COUNTS = TRAINING | {"mechanism": "gaussian", "sampling_rate": 1.0, "steps": 1, "purpose": "evaluation"}


@st.composite
def events(draw: st.DrawFn) -> PrivacyEvent:
    sampled = draw(st.booleans())
    return PrivacyEvent(
        mechanism="poisson-sampled-gaussian" if sampled else "gaussian",
        unit=draw(st.sampled_from(["candidate", "site"])),
        site=draw(st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)),
        noise_multiplier=draw(st.floats(1e-6, 1e9)),
        sampling_rate=draw(st.floats(0, 1, exclude_min=True)) if sampled else 1.0,
        steps=draw(st.integers(1, 2**31 - 1)),
        neighbouring_relation="add-or-remove-one" if sampled else draw(st.sampled_from(["replace-one"])),
        purpose="training",
        run="run-1",
        round=draw(st.integers(0, 2**31 - 1)),
    )


def test_the_keys_are_those_of_the_published_ledger() -> None:
    assert list(TRAINING) == list(KEYS) == list(PrivacyEvent(**TRAINING).to_json())
    assert PrivacyEvent(**TRAINING).to_json() == TRAINING


@given(st.lists(events(), max_size=4))
def test_events_come_back_from_json_as_they_were(ledger: list[PrivacyEvent]) -> None:
    text = events_to_json(ledger)
    assert events_from_json(text) == ledger
    assert [list(entry) for entry in json.loads(text)] == [list(KEYS)] * len(ledger)


def test_an_event_cannot_be_edited() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PrivacyEvent(**TRAINING).noise_multiplier = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("noise", [0, 0.0, -1.0, 1e-7, math.nan, -math.inf, True, "1.1", None])
def test_a_release_without_noise_is_refused_by_name(noise: object) -> None:
    with pytest.raises(NoNoise, match="no noise"):
        PrivacyEvent(**TRAINING | {"noise_multiplier": noise})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("noise_multiplier", math.inf),
        ("noise_multiplier", 10**400),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.01),
        ("sampling_rate", -0.1),
        ("sampling_rate", math.nan),
        ("sampling_rate", "0.1"),
        ("steps", 0),
        ("steps", -1),
        ("steps", 1.0),
        ("steps", True),
        ("steps", 2**31),
        ("round", -1),
        ("mechanism", "laplace"),
        ("mechanism", ["gaussian"]),
        ("unit", "pair"),
        ("neighbouring_relation", "replace"),
        ("neighbouring_relation", "replace-one"),
        ("site", ""),
        ("site", "CPI Verona"),
        ("run", "a\n"),
        ("purpose", None),
    ],
)
def test_what_no_release_can_be_is_refused_and_the_key_named(key: str, value: object) -> None:
    with pytest.raises(EventRefused) as refused:
        PrivacyEvent(**TRAINING | {key: value})
    assert key in str(refused.value) or value == "replace-one"


def test_noise_on_everybody_samples_nobody() -> None:
    with pytest.raises(EventRefused, match="samples nobody"):
        PrivacyEvent(**COUNTS | {"sampling_rate": 0.5})
    assert PrivacyEvent(**COUNTS | {"neighbouring_relation": "replace-one"}).steps == 1


@pytest.mark.parametrize("content", [None, [], "event", 1, TRAINING | {"epsilon": 1.0}, {"mechanism": "gaussian"}, {}])
def test_other_objects_are_not_events(content: object) -> None:
    with pytest.raises(EventRefused):
        PrivacyEvent.from_json(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-3],
        lambda text: text.replace("1.1", "NaN"),
        lambda text: text.replace("1.1", "Infinity"),
        lambda text: text.replace("1.1", "1e999"),
        lambda text: text.replace('"steps": 80', '"steps": 80, "steps": 1'),
        lambda text: text.replace('"steps": 80', '"steps": 80.0'),
        lambda text: text[1:-2].strip(),
        lambda text: "",
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_ledger_is_refused(damage: Any) -> None:
    with pytest.raises(EventRefused):
        events_from_json(damage(events_to_json([PrivacyEvent(**TRAINING)])))


def test_a_refused_event_is_named_by_its_place() -> None:
    text = json.dumps([TRAINING, TRAINING | {"noise_multiplier": 0}])
    with pytest.raises(NoNoise, match="privacy event 2"):
        events_from_json(text)


def test_dp_accounting_is_told_the_same() -> None:
    gaussian = dp_accounting.GaussianDpEvent(1.1)
    sampled = dp_accounting.PoissonSampledDpEvent(0.05, gaussian)
    assert PrivacyEvent(**TRAINING).to_dp_event() == dp_accounting.SelfComposedDpEvent(sampled, 80)
    assert PrivacyEvent(**COUNTS).to_dp_event() == dp_accounting.SelfComposedDpEvent(gaussian, 1)
