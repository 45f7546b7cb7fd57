"""The end of a run without differential privacy: the last model on every site's people, and the result."""

from __future__ import annotations

import contextlib
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid

from common import messages as names
from common.errors import RunError
from common.evaluation_sums import EvaluationSums
from common.model import from_array_record, sha256_of
from server.abandoned import RoundAbandoned
from server.exchange import TooFewSites, wait_for_sites
from server.history import History
from server.job import Job
from server.outcome import write_result
from server.run_state import RunState
from server.secure_aggregation import Ask
from server.wrapper import Release, Wrapper


def close_run(
    grid: Grid, job: Job, strategy: Wrapper, arrays: ArrayRecord, history: History, state: RunState, ask: Ask
) -> None:
    """Evaluate the last model on every site's validation and test people, and write the results.

    What came of the evaluation is on disk before anything is released, so a run that is killed here releases the same.
    """
    record = state.evaluation if state.evaluation is not None else _evaluate(grid, job, strategy, arrays, ask)
    threshold = history.evaluated(EvaluationSums.from_record(record, names.VALIDATION))
    if state.evaluation is None:
        state.evaluated(record, history, strategy.memory())
    parameters = from_array_record(arrays)
    metrics = EvaluationSums.from_record(record, names.TEST).metrics(threshold)
    known = {name: value for name, value in metrics.items() if value is not None}
    strategy.release(grid, Release(parameters, job.card, known))
    result = {
        "model_sha256": sha256_of(parameters, job.card),
        "threshold": threshold,
        "cohort": history.cohort,
        "abandoned": history.abandoned_rounds,
        "secure_aggregation": strategy.protection,
        "differential_privacy": None,
        "anchoring": strategy.anchoring,
        "test_people": int(record[names.PEOPLE_KEY]),
        "test_metrics": metrics,
    }
    write_result(job, result)


def _evaluate(grid: Grid, job: Job, strategy: Wrapper, arrays: ArrayRecord, ask: Ask) -> dict[str, Any]:
    """The closing evaluation's sums over sites. Raises RunError when it was abandoned twice."""
    with contextlib.suppress(RoundAbandoned):
        return _evaluate_once(grid, job, strategy, arrays, ask)
    try:
        return _evaluate_once(grid, job, strategy, arrays, ask)
    except RoundAbandoned as abandoned:
        raise RunError(
            f"the closing evaluation was abandoned twice, the second time because {abandoned.what}",
            where="federation",
            remedy=abandoned.remedy,
        ) from abandoned


def _evaluate_once(grid: Grid, job: Job, strategy: Wrapper, arrays: ArrayRecord, ask: Ask) -> dict[str, Any]:
    settings = job.settings.federated
    await_quorum(grid, job, where="closing evaluation")
    messages = strategy.configure_evaluate(settings.rounds, arrays, config_of(job), grid)
    record = numbers(strategy.aggregate_evaluate(settings.rounds, ask(grid, messages)))
    for prefix in (names.VALIDATION, names.TEST):
        require_sums(record, prefix, where="closing evaluation")
    return record


def require_sums(record: dict[str, Any], prefix: str, *, where: str) -> None:
    """Raise RoundAbandoned when what sites added up cannot be sums over people, as where one of them lies."""
    try:
        EvaluationSums.from_record(record, prefix)
    except (ValueError, KeyError) as error:
        raise RoundAbandoned(
            "the sites' sums are none that honest answers add up to",
            where=where,
            remedy="find out which site answers wrongly, and leave it out",
        ) from error


def await_quorum(grid: Grid, job: Job, *, where: str) -> None:
    """Wait until enough sites are there: Flower's own sampling waits without end when none is."""
    quorum = job.settings.quorum
    if len(list(grid.get_node_ids())) >= quorum:
        return
    timeout = job.settings.federated.wait_timeout
    try:
        wait_for_sites(grid, job.sites, at_least=quorum, timeout=timeout, cancelled=job.cancelled)
    except TooFewSites as error:
        raise RoundAbandoned(error.what, where=where, remedy=error.remedy) from error


def config_of(job: Job) -> ConfigRecord:
    """What every message with a model tells sites of the run's settings."""
    settings = job.settings
    return ConfigRecord(
        {
            names.VERSION_KEY: names.PROTOCOL_VERSION,
            names.ROUNDS_KEY: settings.federated.rounds,
            names.SEED_KEY: settings.seed,
            names.HIDDEN_KEY: list(settings.hidden),
            names.EPOCHS_KEY: settings.federated.local_epochs,
            names.BATCH_SIZE_KEY: settings.federated.batch_size,
            names.LEARNING_RATE_KEY: settings.federated.learning_rate,
            names.VALIDATION_SHARE_KEY: settings.data.validation_share,
            names.TEST_SHARE_KEY: settings.data.test_share,
        }
    )


def numbers(metrics: MetricRecord | None) -> dict[str, Any]:
    """Metrics as a dictionary, empty where there are none."""
    return dict(metrics) if metrics is not None else {}
