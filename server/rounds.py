"""A federated run from the coordinator's side: rounds, their history, the last evaluation, the model on disk.

    rounds.csv          one row a round, written anew after each
    model.safetensors   the model after the last finished round, canonical bytes
    federation.json     the threshold, the test metrics from sums over sites, the cohort, the abandoned rounds
    privacy_ledger.json with differential privacy, the events that sites executed, for any accountant

The reply to round r evaluates the model that came in, which is that of the last finished round before it, so a round's
own metrics are known one exchange later; after the last round one evaluation exchange closes the history.

With differential privacy sites keep losses and evaluations to themselves, so there is none of this, and the final model
is the mean of the last finished rounds' models. Its card says what the executed events cost.

Where the run is anchored, the final model is in the log before it is handed out, and `receipts/` proves it.

A round that its strategy abandons leaves the model as it was and is recorded; the run goes on, until too many in a row
were abandoned.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import pandas as pd
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from common import messages as names
from common.errors import RunError
from common.evaluation_sums import EvaluationSums
from common.files import atomic_path
from common.model import MatchingModel, from_array_record, parameters_of, sha256_of, to_array_record, to_bytes
from server.abandoned import RoundAbandoned
from server.anchored import anchored
from server.exchange import TooFewSites, exchange, shortened, wait_for_sites
from server.history import History
from server.job import Job
from server.outcome import MODEL_FILE, ROUNDS_FILE, write_result
from server.private_outcome import close_private_run
from server.strategies import build_strategy
from server.wrapper import Release, Wrapper


def run(grid: Grid, job: Job) -> None:
    """Run all rounds of `job` and write the results.

    Raises RunError when sites are missing at the start, when a site cheats or training diverges, after
    `federated.max_abandoned` abandoned rounds in a row, and when no round was finished.
    """
    settings = job.settings
    job.output.mkdir(parents=True, exist_ok=True)
    wait_for_sites(
        grid,
        job.sites,
        at_least=settings.quorum,
        timeout=settings.federated.wait_timeout,
        cancelled=job.cancelled,
    )

    def ask(asked_on: Grid, asked: Iterable[Message]) -> list[Message]:
        return _ask(asked_on, asked, job)

    strategy = anchored(build_strategy(settings, job.sites, job.roster, ask, job.run, job.token), job, ask)
    private = settings.privacy.differential_privacy
    arrays = to_array_record(parameters_of(MatchingModel(settings.hidden, seed=settings.seed, from_zero=private)))
    history = History()
    finished: deque[ArrayRecord] = deque(maxlen=settings.privacy.dp.averaged_rounds)
    for number in range(1, settings.federated.rounds + 1):
        started = time.monotonic()
        try:
            aggregated, metrics = _train(grid, job, strategy, arrays, number)
        except RoundAbandoned as abandoned:
            _record_abandoned(job, history, number, started, arrays, abandoned)
            continue
        arrays = _finite(aggregated, number)
        finished.append(arrays)
        _record_finished(job, history, number, started, arrays, _numbers(metrics), strategy)
    if private:
        close_private_run(grid, job, strategy, finished, history)
    else:
        _close(grid, job, strategy, arrays, history)


def _train(
    grid: Grid, job: Job, strategy: Wrapper, arrays: ArrayRecord, number: int
) -> tuple[ArrayRecord | None, MetricRecord | None]:
    """One round's exchanges: what the strategy made of the replies. Raises RoundAbandoned."""
    _await_quorum(grid, job, where=f"round {number}")
    messages = strategy.configure_train(number, arrays, _config_of(job), grid)
    aggregated, metrics = strategy.aggregate_train(number, _ask(grid, messages, job))
    if not job.settings.privacy.differential_privacy:
        _require_sums(_numbers(metrics), names.VALIDATION, where=f"round {number}")
    return aggregated, metrics


def _evaluate(grid: Grid, job: Job, strategy: Wrapper, arrays: ArrayRecord) -> dict[str, Any]:
    """The closing evaluation's sums over sites. Raises RunError when it was abandoned twice."""
    with contextlib.suppress(RoundAbandoned):
        return _evaluate_once(grid, job, strategy, arrays)
    try:
        return _evaluate_once(grid, job, strategy, arrays)
    except RoundAbandoned as abandoned:
        raise RunError(
            f"the closing evaluation was abandoned twice, the second time because {abandoned.what}",
            where="federation",
            remedy=abandoned.remedy,
        ) from abandoned


def _evaluate_once(grid: Grid, job: Job, strategy: Wrapper, arrays: ArrayRecord) -> dict[str, Any]:
    settings = job.settings.federated
    _await_quorum(grid, job, where="closing evaluation")
    messages = strategy.configure_evaluate(settings.rounds, arrays, _config_of(job), grid)
    record = _numbers(strategy.aggregate_evaluate(settings.rounds, _ask(grid, messages, job)))
    for prefix in (names.VALIDATION, names.TEST):
        _require_sums(record, prefix, where="closing evaluation")
    return record


def _require_sums(record: dict[str, Any], prefix: str, *, where: str) -> None:
    """Raise RoundAbandoned when what sites added up cannot be sums over people, as where one of them lies."""
    try:
        EvaluationSums.from_record(record, prefix)
    except (ValueError, KeyError) as error:
        raise RoundAbandoned(
            "the sites' sums are none that honest answers add up to",
            where=where,
            remedy="find out which site answers wrongly, and leave it out",
        ) from error


def _ask(grid: Grid, messages: Iterable[Message], job: Job) -> list[Message]:
    """One exchange: every site has `federated.round_timeout` to answer."""
    return exchange(grid, messages, timeout=job.settings.federated.round_timeout, cancelled=job.cancelled)


def _close(grid: Grid, job: Job, strategy: Wrapper, arrays: ArrayRecord, history: History) -> None:
    """Evaluate the last model on every site's validation and test people, and write the results."""
    record = _evaluate(grid, job, strategy, arrays)
    threshold = history.evaluated(EvaluationSums.from_record(record, names.VALIDATION))
    _write_rounds(job, history)
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


def _record_finished(
    job: Job,
    history: History,
    number: int,
    started: float,
    arrays: ArrayRecord,
    record: dict[str, Any],
    strategy: Wrapper,
) -> None:
    """Enter a finished round and write its model; the reply's evaluation belongs to the round before."""
    parameters = from_array_record(arrays)
    private = job.settings.privacy.differential_privacy
    if not private:
        history.evaluated(EvaluationSums.from_record(record, names.VALIDATION))
    history.finish(
        number,
        seconds=time.monotonic() - started,
        participants=strategy.participants,
        people=None if names.PEOPLE_KEY not in record else int(record[names.PEOPLE_KEY]),
        train_loss=None if private else record[names.TRAIN_LOSS_KEY] / record[names.PEOPLE_KEY],
        model_sha256=sha256_of(parameters, job.card),
        reason="; ".join(shortened(list(strategy.left_out))),
    )
    with atomic_path(job.output / MODEL_FILE) as path:
        path.write_bytes(to_bytes(parameters, job.card))
    _write_rounds(job, history)
    job.on_round(history.rows[-1])


def _record_abandoned(
    job: Job, history: History, number: int, started: float, arrays: ArrayRecord, abandoned: RoundAbandoned
) -> None:
    """Enter an abandoned round. Raises RunError when it was one too many."""
    history.abandon(
        number,
        seconds=time.monotonic() - started,
        sites=abandoned.sites,
        model_sha256=sha256_of(from_array_record(arrays), job.card),
        reason=abandoned.what,
    )
    _write_rounds(job, history)
    job.on_round(history.rows[-1])
    in_a_row = history.abandoned_in_a_row
    if number == job.settings.federated.rounds and in_a_row == number:
        stopped = "no round was finished, the last was abandoned because"
    elif in_a_row >= job.settings.federated.max_abandoned:
        several = f"{in_a_row} rounds in a row were abandoned, the last because"
        stopped = several if in_a_row > 1 else "a round was abandoned because"
    else:
        return
    raise RunError(f"{stopped} {abandoned.what}", where=f"round {number}", remedy=abandoned.remedy) from abandoned


def _await_quorum(grid: Grid, job: Job, *, where: str) -> None:
    """Wait until enough sites are there: Flower's own sampling waits without end when none is."""
    quorum = job.settings.quorum
    if len(list(grid.get_node_ids())) >= quorum:
        return
    timeout = job.settings.federated.wait_timeout
    try:
        wait_for_sites(grid, job.sites, at_least=quorum, timeout=timeout, cancelled=job.cancelled)
    except TooFewSites as error:
        raise RoundAbandoned(error.what, where=where, remedy=error.remedy) from error


def _config_of(job: Job) -> ConfigRecord:
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


def _write_rounds(job: Job, history: History) -> None:
    with atomic_path(job.output / ROUNDS_FILE) as path:
        history.to_frame().to_csv(path, index=False)
