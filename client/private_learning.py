"""A site's answer to a message that asks for private training: reserve the cost, train with noise, record, reply.

The order is the promise: nothing is trained that the site's own ledger and budget do not allow, and nothing leaves the
site before the ledger says what was executed. Only the model leaves; its training loss and its evaluation are not
covered by the noise and stay.

With the unit "candidate" noise enters every step of training. With the unit "site" training is the usual one, and what
it changed is clipped and noised as a whole: by this site's share under secure aggregation, else by the coordinator,
which then sees the update before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from client.budget import BUDGET_FILE, LEDGER_FILE, read_budget
from client.ledger import Budget, PrivacyLedger
from client.private_recipe import learning_rate
from client.private_training import train_privately
from client.site import Site
from common import messages as names
from common import secure_vector as vector
from common.errors import InputError
from common.metrics import MINIMUM_PEOPLE
from common.model import MatchingModel, parameters_of, to_array_record
from privacy.distributed_noise import NoiseShare
from privacy.events import NOISED_BY_COORDINATOR, PrivacyEvent, training_event

Config = Mapping[str, Any]


@dataclass(frozen=True)
class _Result:
    """What training gave: what it is to be sent as, and the event that was executed."""

    arrays: ArrayRecord
    metrics: MetricRecord
    executed: PrivacyEvent


def train_within_budget(
    site: Site,
    model: MatchingModel,
    config: Config,
    folder: Path,
    *,
    usual: Callable[[], object],
    share: Config | None,
) -> RecordDict:
    """One round's private training, charged to the ledger in `folder`: the answer, and the event executed.

    `usual` trains the model in place without noise, for the unit "site"; `share` is this site's share of the noise, as
    `client.secure_aggregation` wrote it, None without secure aggregation. Raises InputError and RunError,
    BudgetExceeded among them, before anything was trained, or in place of a reply.
    """
    budget = read_budget(folder / BUDGET_FILE)
    _require_people(site, budget)
    ledger = PrivacyLedger.open(folder / LEDGER_FILE, create=False)
    asked = _event(site, config, share)
    rounds_to_come = max(0, int(config[names.ROUNDS_KEY]) - asked.round)
    reservation = ledger.reserve(asked, budget, steps_to_come=rounds_to_come * asked.steps)
    if asked.unit == "candidate":
        done = _by_person(site, model, config, asked)
    else:
        done = _as_a_whole(model, config, asked, usual, share)
    reservation.confirm(done.executed)
    return RecordDict(
        {
            names.ARRAYS: done.arrays,
            names.METRICS: done.metrics,
            names.SITE: ConfigRecord({names.NAME_KEY: site.name, names.EVENT_KEY: json.dumps(done.executed.to_json())}),
        }
    )


def _by_person(site: Site, model: MatchingModel, config: Config, asked: PrivacyEvent) -> _Result:
    """The model, trained with noise in every step."""
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
    people = MetricRecord({names.PEOPLE_KEY: site.train.people})
    return _Result(to_array_record(parameters_of(model)), people, executed)


def _as_a_whole(
    model: MatchingModel, config: Config, asked: PrivacyEvent, usual: Callable[[], object], share: Config | None
) -> _Result:
    """What training changed, clipped and noised, float64 on the grid of the secure sum; without one, the model."""
    incoming = to_array_record(parameters_of(model))
    usual()
    trained = to_array_record(parameters_of(model))
    weight = MetricRecord({names.WEIGHT_KEY: float(config[names.SITE_WEIGHT_KEY])})
    if share is None:
        return _Result(trained, weight, asked)
    own = _share_of(config, share)
    noised = own.noised(own.on_grid(vector.update_of(trained, incoming).astype(np.float64)), os.urandom)
    executed = replace(asked, noise_multiplier=own.executed_multiplier)
    return _Result(_shaped(noised, incoming), weight, executed)


def _share_of(config: Config, share: Config) -> NoiseShare:
    return NoiseShare(
        noise_multiplier=float(config[names.NOISE_KEY]),
        norm=float(config[names.UPDATE_NORM_KEY]),
        steps=float(share[names.STEPS_TO_UNIT_KEY]),
        shares=int(share[names.SHARES_KEY]),
    )


def _shaped(values: NDArray[np.float64], like: ArrayRecord) -> ArrayRecord:
    shaped: dict[str, Array] = {}
    start = 0
    for name, array in like.items():
        shape = array.numpy().shape
        size = int(np.prod(shape))
        shaped[name] = Array(values[start : start + size].reshape(shape))
        start += size
    return ArrayRecord(shaped)


def _event(site: Site, config: Config, share: Config | None) -> PrivacyEvent:
    """What the round's settings ask for. Raises InputError for another unit, EventRefused, NoNoise."""
    asked = {
        "site": site.name,
        "run": config[names.RUN_KEY],
        "round": config[names.ROUND_KEY],
        "noise_multiplier": config[names.NOISE_KEY],
    }
    if config[names.UNIT_KEY] == "candidate":
        rate, steps = config[names.SAMPLING_RATE_KEY], config[names.STEPS_KEY]
        return training_event(unit="candidate", sampling_rate=rate, steps=steps, **asked)
    if config[names.UNIT_KEY] == "site":
        purpose = "training" if share is not None else NOISED_BY_COORDINATOR
        return training_event(unit="site", sampling_rate=1.0, steps=1, purpose=purpose, **asked)
    raise InputError(
        f"the coordinator asks for private training with the unit {config[names.UNIT_KEY]!r}, unknown to this site",
        where="site",
        remedy="install the same version of DJMS on both",
    )


def _learning_rate(site: Site, config: Config) -> float:
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
