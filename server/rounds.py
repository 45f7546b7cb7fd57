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

A run whose coordinator was killed is executed again and goes on after its last finished round (`server.run_state`). The
round that was under way is run again; with differential privacy it is entered as abandoned instead, and paid for as if
all sites had trained. A run that has its result is left as it is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid

from common import messages as names
from common.errors import RunError
from common.evaluation_sums import EvaluationSums
from common.model import MatchingModel, from_array_record, parameters_of, sha256_of, to_array_record
from server.abandoned import RoundAbandoned
from server.anchored import anchored
from server.closing import await_quorum, close_run, config_of, numbers, require_sums
from server.differential_privacy import NotPrivate
from server.exchange import exchange, shortened, wait_for_sites
from server.history import INTERRUPTED
from server.job import Job
from server.private_outcome import close_private_run
from server.run_mirror import RunMirror
from server.run_state import RunState
from server.secure_aggregation import Ask
from server.strategies import build_strategy
from server.wrapper import Wrapper


def run(grid: Grid, job: Job, *, resumable: bool = True) -> None:
    """Run all rounds of `job` that are not finished yet, and write the results.

    Where the run is not `resumable`, nothing is kept for that, and the coordinator's database hears nothing of it: it
    begins at its start however often it is executed, and does the same whenever sites answer the same.

    Raises RunError when sites are missing at the start, when a site cheats or training diverges, after
    `federated.max_abandoned` abandoned rounds in a row, and when no round was finished; and as `RunState`.
    """
    with RunState(job, kept=resumable) as state, RunMirror(job, shown=resumable) as mirror:
        mirror.rounds(state.history().rows, state.times)
        if state.finished:
            return
        wait_for_sites(
            grid,
            job.sites,
            at_least=job.settings.quorum,
            timeout=job.settings.federated.wait_timeout,
            cancelled=job.cancelled,
            onlooker=mirror,
        )

        def ask(asked_on: Grid, asked: Iterable[Message]) -> list[Message]:
            """One exchange: every site has `federated.round_timeout` to answer."""
            timeout = job.settings.federated.round_timeout
            return exchange(asked_on, asked, timeout=timeout, cancelled=job.cancelled, onlooker=mirror)

        strategy = anchored(build_strategy(job.settings, job.sites, job.roster, ask, job.run, state.token), job, ask)
        _Rounds(grid, job, state, strategy, ask, mirror).carry_out()
        state.finish()


class _Rounds:
    """One execution of a run: what it has so far."""

    def __init__(self, grid: Grid, job: Job, state: RunState, strategy: Wrapper, ask: Ask, mirror: RunMirror) -> None:
        self._grid = grid
        self._job = job
        self._state = state
        self._strategy = strategy
        self._ask = ask
        self._mirror = mirror
        self._private = job.settings.privacy.differential_privacy
        self._history = state.history()
        kept = job.settings.privacy.dp.averaged_rounds if self._private else 1
        self._finished: deque[ArrayRecord] = deque(map(state.model, state.finished_rounds()[-kept:]), maxlen=kept)
        self._initial = to_array_record(
            parameters_of(MatchingModel(job.settings.hidden, seed=job.settings.seed, from_zero=self._private))
        )

    @property
    def _arrays(self) -> ArrayRecord:
        """The global model."""
        return self._finished[-1] if self._finished else self._initial

    def carry_out(self) -> None:
        """All rounds that are left, and the end."""
        if self._state.attempt:
            self._take_up()
        for number in range(len(self._history.rows) + 1, self._job.settings.federated.rounds + 1):
            self._mirror.number, started = number, time.monotonic()
            try:
                aggregated, metrics = self._train(number)
            except RoundAbandoned as abandoned:
                self._record_abandoned(number, started, abandoned)
            except NotPrivate as error:
                self._state.spoil(error)
                raise
            else:
                self._finished.append(_finite(aggregated, number))
                self._record_finished(number, started, numbers(metrics))
        self._mirror.number = None
        if not self._finished:
            raise RunError("no round was finished", where="federation", remedy="see the reasons in rounds.csv")
        if self._private:
            close_private_run(self._grid, self._job, self._strategy, self._finished, self._history)
        else:
            close_run(self._grid, self._job, self._strategy, self._arrays, self._history, self._state, self._ask)
            self._mirror.rounds(self._history.finished_rows[-1:], self._state.times)  # the evaluation belongs to it

    def _take_up(self) -> None:
        """Go on after former executions. The round that was under way counts as executed where privacy is at stake."""
        self._strategy.resume(self._state.past)
        self._state.restore(self._history, self._finished[-1] if self._finished else None)
        if self._private and (number := self._state.begun) is not None:
            self._strategy.interrupted(number, self._job.sites)
            self._abandon(number, None, 0, INTERRUPTED)

    def _train(self, number: int) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """One round's exchanges: what the strategy made of the replies. Raises RoundAbandoned."""
        await_quorum(self._grid, self._job, where=f"round {number}")
        messages = list(self._strategy.configure_train(number, self._arrays, config_of(self._job), self._grid))
        self._state.begin(number, len(messages))
        aggregated, metrics = self._strategy.aggregate_train(number, self._ask(self._grid, messages))
        if not self._private:
            require_sums(numbers(metrics), names.VALIDATION, where=f"round {number}")
        return aggregated, metrics

    def _record_finished(self, number: int, started: float, record: dict[str, Any]) -> None:
        """Enter a finished round, and keep its model; the reply's evaluation belongs to the round before."""
        if not self._private:
            self._history.evaluated(EvaluationSums.from_record(record, names.VALIDATION))
        self._history.finish(
            number,
            seconds=time.monotonic() - started,
            participants=self._strategy.participants,
            people=None if names.PEOPLE_KEY not in record else int(record[names.PEOPLE_KEY]),
            train_loss=None if self._private else record[names.TRAIN_LOSS_KEY] / record[names.PEOPLE_KEY],
            model_sha256=self._model_sha256(),
            reason="; ".join(shortened(list(self._strategy.left_out))),
        )
        self._keep(number, self._arrays, _moment(started))

    def _record_abandoned(self, number: int, started: float, abandoned: RoundAbandoned) -> None:
        """Enter an abandoned round. Raises RunError when it was one too many."""
        self._abandon(number, started, abandoned.sites, abandoned.what)
        in_a_row = self._history.abandoned_in_a_row
        if number == self._job.settings.federated.rounds and not self._finished:
            stopped = "no round was finished, the last was abandoned because"
        elif in_a_row >= self._job.settings.federated.max_abandoned:
            several = f"{in_a_row} rounds in a row were abandoned, the last because"
            stopped = several if in_a_row > 1 else "a round was abandoned because"
        else:
            return
        raise RunError(f"{stopped} {abandoned.what}", where=f"round {number}", remedy=abandoned.remedy) from abandoned

    def _abandon(self, number: int, started: float | None, sites: int, reason: str) -> None:
        seconds = None if started is None else time.monotonic() - started
        self._history.abandon(number, seconds=seconds, sites=sites, model_sha256=self._model_sha256(), reason=reason)
        self._keep(number, None, None if started is None else _moment(started))

    def _keep(self, number: int, arrays: ArrayRecord | None, started: datetime | None) -> None:
        strategy = self._strategy
        changed = self._state.end(
            number,
            self._history,
            arrays=arrays,
            events=strategy.events,
            memory=strategy.memory(),
            started=started,
        )
        self._mirror.rounds(changed, self._state.times)
        self._job.on_round(self._history.rows[-1])

    def _model_sha256(self) -> str:
        return sha256_of(from_array_record(self._arrays), self._job.card)


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


def _moment(started: float) -> datetime:
    """When the monotonic clock showed this."""
    return datetime.now(UTC) - timedelta(seconds=time.monotonic() - started)
