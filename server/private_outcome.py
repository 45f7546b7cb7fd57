"""The end of a run with differential privacy: what it cost, from what was executed, and the model that says so."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from common.errors import RunError
from common.files import atomic_path
from common.model import from_array_record, sha256_of, to_bytes
from privacy.accounting import Spent, spent
from privacy.events import NOISED_BY_COORDINATOR, PrivacyEvent, events_to_json
from server.history import History
from server.job import Job
from server.outcome import LEDGER_FILE, MODEL_FILE, write_result
from server.wrapper import Release, Wrapper


def close_private_run(
    grid: Grid, job: Job, strategy: Wrapper, finished: Collection[ArrayRecord], history: History
) -> None:
    """Write the events, the mean of the `finished` rounds' models, and the result; anchor that model where it is due.

    Raises RunError where sites executed nothing, or more than the run's ε allows, and AccountantsDisagree: such a run
    has no result.
    """
    settings = job.settings.privacy.dp
    price = spent(strategy.events, settings.delta)
    if not strategy.events or price.unit is None or not 0.0 < price.epsilon <= settings.epsilon:
        raise RunError(
            f"what the sites executed costs ε {price.epsilon:.4g}, and privacy.dp.epsilon is {settings.epsilon:g}",
            where="privacy of the run",
            remedy="the model is not released; find out which site trained otherwise than it was asked to",
        )
    card = replace(job.card, epsilon=price.epsilon, delta=settings.delta, unit=price.unit)
    parameters = _mean(finished)
    strategy.release(grid, Release(parameters, card, None))
    with atomic_path(job.output / LEDGER_FILE) as path:
        path.write_text(events_to_json(strategy.events), encoding="utf-8")
    with atomic_path(job.output / MODEL_FILE) as path:
        path.write_bytes(to_bytes(parameters, card))
    write_result(
        job,
        {
            "model_sha256": sha256_of(parameters, card),
            "threshold": None,
            "cohort": history.cohort,
            "abandoned": history.abandoned_rounds,
            "secure_aggregation": strategy.protection,
            "differential_privacy": _as_json(job, price, strategy.events),
            "anchoring": strategy.anchoring,
            "test_people": None,
            "test_metrics": None,
        },
    )


def _mean(models: Collection[ArrayRecord]) -> dict[str, np.ndarray]:
    """The mean of each parameter, float32."""
    parameters = [from_array_record(arrays) for arrays in models]
    return {
        name: np.mean([each[name].astype(np.float64) for each in parameters], axis=0).astype(np.float32)
        for name in parameters[0]
    }


def _as_json(job: Job, price: Spent, events: Collection[PrivacyEvent]) -> dict[str, Any]:
    by_coordinator = any(event.purpose == NOISED_BY_COORDINATOR for event in events)
    content = asdict(replace(price, by_accountant={}, by_site={}))
    return {
        **content,
        "by_accountant": dict(price.by_accountant),
        "by_site": dict(price.by_site),
        "run": job.run,
        "noise_added_by": "coordinator" if by_coordinator else "sites",
        "averaged_rounds": job.settings.privacy.dp.averaged_rounds,
    }
