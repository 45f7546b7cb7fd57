"""What happened to people's data, kept apart from what it cost.

A `PrivacyEvent` is one release, or several alike, of one site: noise of a known size was added to a sum of clipped
contributions. Accountants (`privacy.accounting`) read events and return ε; an event knows no ε.

A contract with every reader, of any year:

* an event never changes its meaning: a new mechanism or relation gets a new name, no name is taken back or reused;
* an event has exactly the keys of `KEYS`, whatever else arrives is an `EventRefused`;
* `noise_multiplier` is the standard deviation of the noise divided by the *sensitivity*, the largest L2 norm by which
  the sum can change between neighbours. For "add-or-remove-one" that is the clipping norm C, for "replace-one" 2C.
  So a Gaussian release has the Rényi divergence α/(2σ²) under either relation (Mironov 2017, Proposition 7);
* "gaussian": `steps` releases, each of everybody's sum with fresh noise; `sampling_rate` is 1;
* "poisson-sampled-gaussian": `steps` releases, each of the sum over a fresh sample that everybody enters independently
  with probability `sampling_rate` (Mironov, Talwar and Zhang 2019, arXiv:1908.10530). Its one relation is
  "add-or-remove-one": a replaced person moves two shares of a mixture, which no single sensitivity describes;
* neighbours differ in one `unit`: one "candidate" with all their pairs, or one "site" with all it holds. For a site,
  "add-or-remove-one" compares its contribution with zeros in its place: that it took part is no secret.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from common.errors import RunError
from common.exact_json import exact_json

Mechanism = Literal["poisson-sampled-gaussian", "gaussian"]
Unit = Literal["candidate", "site"]
NeighbouringRelation = Literal["add-or-remove-one", "replace-one"]

LEAST_NOISE_MULTIPLIER = 1e-6
"""Below it ε passes 10^11 in one step: that is no noise."""
LARGEST_NOISE_MULTIPLIER = 1e9

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LARGEST_COUNT = 2**31 - 1


class EventRefused(RunError):
    """A privacy event with impossible content, or that is no event."""

    def __init__(self, what: str, *, where: str = "privacy event", remedy: str) -> None:
        super().__init__(what, where=where, remedy=remedy)


class NoNoise(EventRefused):
    """A release without noise: no ε describes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyEvent:
    """`steps` noised releases of one site, alike in everything that an accountant needs.

    `run` is the run's name, `round` its number in the run (0: before the first), `purpose` what was released, such as
    "training" or "evaluation": for people who read the ledger, not for accountants. Raises EventRefused and NoNoise.
    """

    mechanism: Mechanism
    unit: Unit
    site: str
    noise_multiplier: float
    sampling_rate: float
    steps: int
    neighbouring_relation: NeighbouringRelation
    purpose: str
    run: str
    round: int

    def __post_init__(self) -> None:
        """Refuse what no release can be."""
        _require_choice("mechanism", self.mechanism, get_args(Mechanism))
        _require_choice("unit", self.unit, get_args(Unit))
        _require_choice("neighbouring_relation", self.neighbouring_relation, get_args(NeighbouringRelation))
        for key in ("site", "purpose", "run"):
            _require_name(key, getattr(self, key))
        _require_count("steps", self.steps, least=1)
        _require_count("round", self.round, least=0)
        object.__setattr__(self, "noise_multiplier", _noise(self.noise_multiplier))
        object.__setattr__(self, "sampling_rate", _rate(self.sampling_rate))
        if self.mechanism == "gaussian" and self.sampling_rate != 1.0:
            raise EventRefused(
                f"sampling_rate is {self.sampling_rate!r} for the mechanism 'gaussian', which samples nobody",
                remedy="write 1, or the mechanism 'poisson-sampled-gaussian'",
            )
        if self.mechanism == "poisson-sampled-gaussian" and self.neighbouring_relation != "add-or-remove-one":
            raise EventRefused(
                "'poisson-sampled-gaussian' is defined for neighbours by 'add-or-remove-one' only",
                remedy="record the event with that relation",
            )

    def costs_at_most(self, other: PrivacyEvent) -> bool:
        """Whether nobody pays more for this release than for the other, whatever else they pay."""
        return (
            self.mechanism == other.mechanism
            and self.noise_multiplier >= other.noise_multiplier
            and self.sampling_rate <= other.sampling_rate
            and self.steps <= other.steps
        )

    def to_json(self) -> dict[str, str | int | float]:
        """The event as a JSON object with exactly `KEYS`; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: object) -> PrivacyEvent:
        """Read a JSON object. Raises EventRefused for anything but an object with exactly `KEYS`."""
        if not isinstance(content, Mapping):
            raise EventRefused(f"found {type(content).__name__}, not an object", remedy=_REMEDY)
        if wrong := sorted(str(key) for key in content.keys() ^ set(KEYS)):
            raise EventRefused(f"missing or unknown: {', '.join(wrong)}", remedy=_REMEDY)
        return cls(**content)

    def to_dp_event(self) -> Any:
        """The same as a `dp_accounting.DpEvent`, to be read with neighbours that differ by the event's sensitivity.

        That is dp-accounting's ADD_OR_REMOVE_ONE for every event here. Its REPLACE_ONE is not used, because its
        accountants disagree on it: for a Gaussian release, RDP divides the noise by the sensitivity and PLD by half
        of it (measured, 0.6.0: σ = 4, δ = 1e-6 gives 1.14 and 2.25).
        """
        import dp_accounting  # a second: only who accounts pays for it

        release = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        if self.mechanism == "poisson-sampled-gaussian":
            release = dp_accounting.PoissonSampledDpEvent(self.sampling_rate, release)
        return dp_accounting.SelfComposedDpEvent(release, self.steps)


def training_event(
    *,
    unit: Unit = "candidate",
    site: str,
    run: str,
    round: int,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    purpose: str = "training",
) -> PrivacyEvent:
    """The event of one site's private training in one round."""
    return PrivacyEvent(
        mechanism="gaussian" if unit == "site" else "poisson-sampled-gaussian",
        unit=unit,
        site=site,
        noise_multiplier=noise_multiplier,
        sampling_rate=sampling_rate,
        steps=steps,
        neighbouring_relation="add-or-remove-one",
        purpose=purpose,
        run=run,
        round=round,
    )


NOISED_BY_COORDINATOR = "training-noised-by-coordinator"
"""Purpose of a training whose noise the coordinator adds: it sees each site's own update before."""


KEYS = tuple(field.name for field in fields(PrivacyEvent))
"""Every key of an event in JSON, in the order they are written."""

_REMEDY = "use the ledger as it was written; if it is, it comes from another version of DJMS"


def events_to_json(events: Iterable[PrivacyEvent]) -> str:
    """A list of events as JSON text, as in `results/<run>/privacy_ledger.json`."""
    return json.dumps([event.to_json() for event in events], indent=2, allow_nan=False) + "\n"


def events_from_json(text: str) -> list[PrivacyEvent]:
    """Read what `events_to_json` wrote. Raises EventRefused for anything else, naming the event by its place."""
    try:
        content = exact_json(text)
    except ValueError:
        raise EventRefused(
            "the text is not JSON: cut short or altered", where="privacy ledger", remedy=_REMEDY
        ) from None
    if not isinstance(content, list):
        raise EventRefused("the text is not a list of events", where="privacy ledger", remedy=_REMEDY)
    events = []
    for place, entry in enumerate(content, start=1):
        try:
            events.append(PrivacyEvent.from_json(entry))
        except EventRefused as refused:
            raise type(refused)(refused.what, where=f"privacy event {place}", remedy=refused.remedy) from None
    return events


def _require_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EventRefused(f"{key} is {value!r}", remedy=f"write one of: {', '.join(choices)}")


def _require_name(key: str, value: object) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise EventRefused(f"{key} is {value!r}", remedy="write 1 to 64 letters, digits, '_', '.' or '-'")


def _require_count(key: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST_COUNT:
        raise EventRefused(f"{key} is {value!r}", remedy=f"write a whole number from {least} to {_LARGEST_COUNT}")


def _number(value: object) -> float:
    """The value as a float; NaN for what is no number, so that every comparison refuses it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _noise(value: object) -> float:
    noise = _number(value)
    if not noise >= LEAST_NOISE_MULTIPLIER:
        raise NoNoise(
            f"noise_multiplier is {value!r}, which is no noise",
            remedy=f"nothing private can be released without; it is at least {LEAST_NOISE_MULTIPLIER:g}",
        )
    if noise > LARGEST_NOISE_MULTIPLIER:
        raise EventRefused(
            f"noise_multiplier is {value!r}", remedy=f"write a number of at most {LARGEST_NOISE_MULTIPLIER:g}"
        )
    return noise


def _rate(value: object) -> float:
    rate = _number(value)
    if not 0.0 < rate <= 1.0:
        raise EventRefused(f"sampling_rate is {value!r}", remedy="write a number above 0 and at most 1")
    return rate
