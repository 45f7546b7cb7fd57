"""A site's answer to a message that asks for private training: reserve the cost, train with noise, record, reply.

The order is the promise: nothing is trained that the site's own ledger and budget do not allow, and nothing leaves the
site before the ledger says what was executed. Only the model leaves; its training loss and its evaluation are not
covered by the noise and stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from client.budget import BUDGET_FILE, LEDGER_FILE, read_budget
from client.ledger import Budget, PrivacyLedger
from client.private_recipe import learning_rate
from client.private_training import train_privately
from client.site import Site
from common import messages as names
from common.errors import InputError
from common.metrics import MINIMUM_PEOPLE
from common.model import MatchingModel, parameters_of, to_array_record
from privacy.events import PrivacyEvent, training_event


def train_within_budget(site: Site, model: MatchingModel, config: Mapping[str, Any], folder: Path) -> RecordDict:
    """One round's private training, charged to the ledger in `folder`: the new model, and the event executed.

    Raises InputError and RunError, BudgetExceeded among them, before anything was trained, or in place of a reply.
    """
    budget = read_budget(folder / BUDGET_FILE)
    _require_people(site, budget)
    ledger = PrivacyLedger.open(folder / LEDGER_FILE, create=False)
    asked = _event(site, config)
    rounds_to_come = max(0, int(config[names.ROUNDS_KEY]) - asked.round)
    reservation = ledger.reserve(asked, budget, steps_to_come=rounds_to_come * asked.steps)
    done = train_privately(
        model,
        site.train,
        steps=asked.steps,
        sampling_rate=asked.sampling_rate,
        learning_rate=_learning_rate(site, config),
        max_grad_norm=float(config[names.CLIP_KEY]),
        noise_multiplier=asked.noise_multiplier,
        momentum=float(config[names.MOMENTUM_KEY]),
    )
    executed = replace(
        asked, noise_multiplier=done.noise_multiplier, sampling_rate=done.sampling_rate, steps=done.steps_taken
    )
    reservation.confirm(executed)
    return RecordDict(
        {
            names.ARRAYS: to_array_record(parameters_of(model)),
            names.METRICS: MetricRecord({names.PEOPLE_KEY: site.train.people}),
            names.SITE: ConfigRecord({names.NAME_KEY: site.name, names.EVENT_KEY: json.dumps(executed.to_json())}),
        }
    )


def _event(site: Site, config: Mapping[str, Any]) -> PrivacyEvent:
    """What the round's settings ask for. Raises InputError for another unit, EventRefused, NoNoise."""
    if config[names.UNIT_KEY] != "candidate":
        raise InputError(
            f"the coordinator asks for private training with the unit {config[names.UNIT_KEY]!r}, unknown to this site",
            where="site",
            remedy="install the same version of DJMS on both",
        )
    return training_event(
        site=site.name,
        run=config[names.RUN_KEY],
        round=config[names.ROUND_KEY],
        noise_multiplier=config[names.NOISE_KEY],
        sampling_rate=config[names.SAMPLING_RATE_KEY],
        steps=config[names.STEPS_KEY],
    )


def _learning_rate(site: Site, config: Mapping[str, Any]) -> float:
    """From the people of all sites in the last round; before the first, as if all sites were as large as this one."""
    sites = int(config[names.SITES_KEY])
    return learning_rate(
        int(config[names.TOTAL_PEOPLE_KEY]) or site.train.people * sites,
        sites,
        noise_multiplier=float(config[names.NOISE_KEY]),
        max_grad_norm=float(config[names.CLIP_KEY]),
        momentum=float(config[names.MOMENTUM_KEY]),
        steps=int(config[names.STEPS_KEY]) * int(config[names.ROUNDS_KEY]),
    )


def _require_people(site: Site, budget: Budget) -> None:
    people = site.train.people
    if people < MINIMUM_PEOPLE:
        raise InputError(
            f"{site.name} has {people} people to train on, and a site takes part with {MINIMUM_PEOPLE} or more",
            where="privacy of the site",
            remedy="add people, or leave this site out",
        )
    if budget.delta * people > 1:
        raise InputError(
            f"delta {budget.delta:g} is above one over {people} people, so it would allow to publish somebody",
            where="privacy of the site",
            remedy=f"write at most {1 / people:.1g} in {BUDGET_FILE}",
        )
