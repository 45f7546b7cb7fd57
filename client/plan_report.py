"""What a run would cost and reach, before anything is spent: the figures behind `djms privacy plan`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from client.expected_quality import MeasuredTable, expected_quality
from client.private_recipe import learning_rate
from common.encoding import INPUT_SIZE
from common.metrics import MINIMUM_PEOPLE
from common.settings import DifferentialPrivacySettings, Settings
from privacy.accounting import spent
from privacy.events import EventRefused
from privacy.planning import Plan, PlanRefused, plan

SYNTHETIC = (
    "Measured on synthetic people whose labels were made by a rule: a guide to how quality falls with ε, no promise "
    "for real people."
)
_MEASURED_WITH = ("max_grad_norm", "sampling_rate", "momentum", "averaged_rounds", "hidden")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the caller plans with: `candidates` are the people of all `sites`, before some are kept for testing."""

    epsilon: float
    delta: float
    candidates: int
    sites: int
    rounds: int
    local_steps: int


def plan_report(wanted: Wanted, settings: Settings, table: MeasuredTable | None) -> dict[str, Any]:
    """The plan as one JSON object. Raises PlanRefused, and AccountantsDisagree.

    Sites are taken to be equally large.
    """
    dp = settings.privacy.dp
    share = 1.0 - settings.data.validation_share - settings.data.test_share
    people = round(wanted.candidates / wanted.sites * share)
    _refuse(wanted, people)
    found = _site_plan(wanted) if dp.unit == "site" else _candidate_plan(wanted, people, dp.sampling_rate)
    events = [found.event(site="any", run="plan", round=number) for number in range(1, wanted.rounds + 1)]
    price = spent(events, wanted.delta)
    rate = None
    if found.unit == "candidate":
        rate = learning_rate(
            people * wanted.sites,
            wanted.sites,
            noise_multiplier=found.noise_multiplier,
            max_grad_norm=dp.max_grad_norm,
            momentum=dp.momentum,
            steps=found.steps,
        )
    return {
        "unit": found.unit,
        "epsilon_asked": wanted.epsilon,
        "epsilon": price.epsilon,
        "delta": wanted.delta,
        "by_accountant": dict(price.by_accountant),
        "noise_multiplier": found.noise_multiplier,
        "sampling_rate": found.sampling_rate,
        "steps": found.steps,
        "rounds": found.rounds,
        "local_steps": found.local_steps,
        "learning_rate": rate,
        "noise_in_mean": _noise_in_mean(found, settings) if found.unit == "site" else None,
        "candidates": wanted.candidates,
        "sites": wanted.sites,
        "training_people_per_site": people,
        **_quality(wanted, dp, table),
    }


def _noise_in_mean(found: Plan, settings: Settings) -> float:
    """How long the noise in the mean of all sites' updates is expected to be, beside one site's longest update."""
    parameters, width = 0, INPUT_SIZE
    for units in (*settings.hidden, 1):
        parameters += (width + 1) * units
        width = units
    return found.noise_multiplier * math.sqrt(parameters) / found.people


def _refuse(wanted: Wanted, people: int) -> None:
    if people < MINIMUM_PEOPLE:
        raise PlanRefused(
            f"{wanted.candidates} people at {wanted.sites} sites leave {people} to train on at each, and a site takes "
            f"part with {MINIMUM_PEOPLE} or more",
            remedy="plan with more people, or join sites with neighbouring ones",
        )
    if 0.0 < wanted.delta < 1.0 < wanted.delta * wanted.candidates:
        raise PlanRefused(
            f"δ {wanted.delta:g} is above one over {wanted.candidates} people, so it would allow to publish somebody",
            remedy=f"write at most {1 / wanted.candidates:.1g}, better a tenth of it",
        )


def _candidate_plan(wanted: Wanted, people: int, sampling_rate: float) -> Plan:
    batch = round(sampling_rate * people)
    try:
        return plan(wanted.epsilon, wanted.delta, people, wanted.rounds, wanted.local_steps, batch)
    except EventRefused as refused:  # more steps than an event can count
        raise PlanRefused(refused.what, remedy=refused.remedy) from None


def _site_plan(wanted: Wanted) -> Plan:
    return plan(wanted.epsilon, wanted.delta, wanted.sites, wanted.rounds, 1, wanted.sites, unit="site")


def _quality(wanted: Wanted, dp: DifferentialPrivacySettings, table: MeasuredTable | None) -> dict[str, Any]:
    none = {"expected_loss": None, "expected_quality": None, "quality_without_noise": None}
    if (reason := _why_unmeasured(wanted, dp, table)) is not None or table is None:
        return {**none, "quality_note": f"No measurement: {reason}."}
    found = expected_quality(table, wanted.candidates, wanted.epsilon)
    without = expected_quality(table, wanted.candidates, None)
    if found is None:
        sizes = sorted({row.people for row in table.rows})
        noises = sorted({row.epsilon for row in table.rows if row.epsilon is not None})
        ends = f"{sizes[0]:,} to {sizes[-1]:,} people and ε {noises[0]:g} to {noises[-1]:g}" if noises else "no ε"
        return {**none, "quality_note": f"No measurement: it was measured for {ends} only."}
    return {
        "expected_loss": found.log_loss,
        "expected_quality": asdict(found),
        "quality_without_noise": None if without is None else asdict(without),
        "quality_note": SYNTHETIC,
    }


def _why_unmeasured(wanted: Wanted, dp: DifferentialPrivacySettings, table: MeasuredTable | None) -> str | None:
    if dp.unit == "site":
        return "quality was measured for the protection of single people, not of whole offices"
    if table is None:
        return "this installation has no table of measured quality"
    for key, name in (("sites", "sites"), ("delta", "δ"), ("rounds", "rounds"), ("local_steps", "local steps")):
        if (measured := getattr(table, key)) != (asked := getattr(wanted, key)):
            return f"it was measured with {name} {measured:g}, and {asked:g} was asked for"
    usual = DifferentialPrivacySettings()
    changed = [key for key in _MEASURED_WITH if getattr(dp, key) != getattr(usual, key)]
    return f"it was measured with another privacy.dp.{changed[0]}" if changed else None
