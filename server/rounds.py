"""A federated run from the coordinator's side: rounds, their history, the last evaluation, the model on disk.

    rounds.csv          one row a round, written anew after each
    model.safetensors   the model after the last finished round, canonical bytes
    federation.json     the threshold, the test metrics from sums over sites, the cohort

The reply to round r evaluates the model of round r - 1, so a round's own metrics are known one exchange later; after
the last round one evaluation exchange closes the history.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid

from common import messages as names
from common.errors import RunError
from common.evaluation_sums import EvaluationSums
from common.files import atomic_path
from common.model import MatchingModel, from_array_record, parameters_of, sha256_of, to_array_record, to_bytes
from server.exchange import exchange, site_of, wait_for_sites
from server.job import Job
from server.strategies import build_strategy

ROUNDS_FILE = "rounds.csv"
MODEL_FILE = "model.safetensors"
RESULT_FILE = "federation.json"


@dataclass
class History:
    """What is known of each round."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """A finished round; how good its model is follows with `evaluated`."""
        self.rows.append(row)

    def evaluated(self, sums: EvaluationSums) -> float:
        """Enter the validation metrics of the last round's model; returns the threshold they were taken at."""
        threshold = sums.best_f1_threshold()
        if self.rows:
            self.rows[-1] |= {"threshold": threshold, **sums.metrics(threshold)}
        return threshold


def run(grid: Grid, job: Job) -> None:
    """Run all rounds of `job` and write the results. Raises RunError when sites are missing or fail."""
    settings = job.settings
    job.output.mkdir(parents=True, exist_ok=True)
    wait_for_sites(
        grid,
        job.sites,
        at_least=settings.federated.quorum,
        timeout=settings.federated.wait_timeout,
        cancelled=job.cancelled,
    )
    strategy = build_strategy(settings.federated, job.sites)
    arrays = to_array_record(parameters_of(MatchingModel(settings.training.hidden, seed=settings.seed)))
    history = History()
    cohort: set[str] = set()
    for number in range(1, settings.federated.rounds + 1):
        started = time.monotonic()
        messages = strategy.configure_train(number, arrays, _config_of(job), grid)
        replies = exchange(grid, messages, timeout=settings.federated.round_timeout, cancelled=job.cancelled)
        aggregated, metrics = strategy.aggregate_train(number, replies)
        arrays = _finite(aggregated, number)
        taking_part = sorted({site_of(reply) for reply in replies if reply.has_content()})
        cohort.update(taking_part)
        record = _numbers(metrics)
        history.evaluated(EvaluationSums.from_record(record, names.VALIDATION))
        parameters = from_array_record(arrays)
        history.add(
            {
                "round": number,
                "seconds": round(time.monotonic() - started, 3),
                "sites": len(taking_part),
                "people": int(record[names.PEOPLE_KEY]),
                "train_loss": record[names.TRAIN_LOSS_KEY] / record[names.PEOPLE_KEY],
                "model_sha256": sha256_of(parameters, job.card),
            }
        )
        _write(job, history, to_bytes(parameters, job.card))
        job.on_round(history.rows[-1])
    _close(grid, job, strategy, arrays, history, cohort)


def _close(grid: Grid, job: Job, strategy: Any, arrays: ArrayRecord, history: History, cohort: set[str]) -> None:
    """Evaluate the last model on every site's validation and test people, and write the results."""
    rounds = job.settings.federated.rounds
    messages = strategy.configure_evaluate(rounds, arrays, _config_of(job), grid)
    replies = exchange(grid, messages, timeout=job.settings.federated.round_timeout, cancelled=job.cancelled)
    record = _numbers(strategy.aggregate_evaluate(rounds, replies))
    threshold = history.evaluated(EvaluationSums.from_record(record, names.VALIDATION))
    parameters = from_array_record(arrays)
    _write(job, history, to_bytes(parameters, job.card))
    result = {
        "model_sha256": sha256_of(parameters, job.card),
        "threshold": threshold,
        "cohort": sorted(cohort),
        "test_people": int(record[names.PEOPLE_KEY]),
        "test_metrics": EvaluationSums.from_record(record, names.TEST).metrics(threshold),
    }
    with atomic_path(job.output / RESULT_FILE) as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _config_of(job: Job) -> ConfigRecord:
    settings = job.settings
    return ConfigRecord(
        {
            names.VERSION_KEY: names.PROTOCOL_VERSION,
            names.ROUNDS_KEY: settings.federated.rounds,
            names.SEED_KEY: settings.seed,
            names.HIDDEN_KEY: list(settings.training.hidden),
            names.EPOCHS_KEY: settings.federated.local_epochs,
            names.BATCH_SIZE_KEY: settings.federated.batch_size,
            names.LEARNING_RATE_KEY: settings.federated.learning_rate,
            names.VALIDATION_SHARE_KEY: settings.data.validation_share,
            names.TEST_SHARE_KEY: settings.data.test_share,
        }
    )


def _finite(arrays: ArrayRecord | None, number: int) -> ArrayRecord:
    """The round's model in float32. Raises RunError when training diverged."""
    if arrays is None:
        raise RunError("no site sent a model", where=f"round {number}", remedy="see the sites' logs")
    parameters = from_array_record(arrays)
    if not all(bool(pd.notna(values).all()) for values in parameters.values()):
        raise RunError(
            "training diverged, the model holds values that are not numbers",
            where=f"round {number}",
            remedy="lower federated.learning_rate",
        )
    return to_array_record(parameters)


def _numbers(metrics: MetricRecord | None) -> dict[str, Any]:
    return dict(metrics) if metrics is not None else {}


def _write(job: Job, history: History, model: bytes) -> None:
    with atomic_path(job.output / MODEL_FILE) as path:
        path.write_bytes(model)
    with atomic_path(job.output / ROUNDS_FILE) as path:
        pd.DataFrame(history.rows).to_csv(path, index=False)
