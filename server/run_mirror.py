"""What people see of a run while it goes on: its rounds and whom it waits for, written to the coordinator's database.

The database is written when something changed, and a run goes on without it: what could not be written is kept here
and written with a later change, not before `RETRY_SECONDS` have passed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import DjmsError
from server.exchange import named_site_of
from server.job import Job
from server.outcome import RESULT_FILE

if TYPE_CHECKING:
    from server.run_store import RunStore, Waiting

RETRY_SECONDS = 10.0

_LOG = logging.getLogger("flwr")  # so that it stands where Flower's own messages do

Times = tuple[datetime | None, datetime | None]


class RunMirror:
    """The database's picture of one run; a context manager around its execution.

    Where there is no coordinator's folder, or nothing is to be `shown`, nothing is written. It looks on at exchanges:
    `number` is the round that they belong to, None after the last one.
    """

    def __init__(self, job: Job, *, shown: bool = True) -> None:
        self._job = job
        self._folder = job.coordinator if shown else None
        self._store: RunStore | None = None
        self._retry_at = 0.0
        self._nodes: dict[int, str] = {}
        self._waiting: Waiting | None = None
        self._unwritten: dict[object, Callable[[RunStore], None]] = {}
        self._lasting: dict[object, Callable[[RunStore], None]] = {}
        self.number: int | None = None

    def __enter__(self) -> Self:
        """The run is going on."""
        self._write("run", lambda store: store.add_run(self._job, status="running"), lasting=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The run ended, and how; of an execution that was ended from outside nothing is said."""
        if self._folder is None:
            return
        self._write("waiting", lambda store: store.set_waiting(self._job.run, None), now=False)
        if kind is None or issubclass(kind, Exception):
            self._end(kind, error)
        if self._store is not None:
            self._store.close()

    def _end(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        if kind is None:
            sentence, result = self._result()
            status = "finished"
        else:
            status, result = "stopped" if self._job.cancelled.is_set() else "failed", {}
            failed = f"The coordinator's application failed with {kind.__name__}; see the run's log."
            sentence = str(error) if isinstance(error, DjmsError) else failed
        self._retry_at = 0.0
        self._write("status", lambda store: store.set_status(self._job.run, status, sentence, **result))

    def rounds(self, rows: Sequence[Mapping[str, Any]], times: Mapping[int, Times]) -> None:
        """These rounds ended."""
        for row in rows:
            self._round(dict(row), times.get(row["round"], (None, None)))
        self._write("waiting", lambda store: store.set_waiting(self._job.run, None))

    def asked(self, grid: Grid, messages: Sequence[Message], seconds: float) -> None:
        """The run waits for these messages' receivers."""
        if self._folder is None or not messages:
            return
        from server.run_store import Waiting

        nodes = {message.metadata.dst_node_id for message in messages}
        if nodes - set(self._nodes):
            self._nodes |= {node.node_id: node.name for node in grid.get_nodes() if node.name}
        asked = tuple(sorted(self._name(node) for node in nodes))
        step = messages[0].metadata.message_type.removeprefix("query.")
        self._waiting = Waiting(self.number, step, datetime.now(UTC) + timedelta(seconds=seconds), asked, ())
        self._write_waiting()

    def answered(self, replies: Sequence[Message]) -> None:
        """These sites need not be waited for any more."""
        if self._waiting is None:
            return
        for reply in replies:
            self._learn(reply)
        from server.run_store import Waiting

        before = self._waiting
        came = {self._name(reply.metadata.src_node_id) for reply in replies if not reply.has_error()}
        answered = tuple(sorted({*before.answered, *came}))
        self._waiting = Waiting(before.round, before.step, before.until, before.asked, answered)
        self._write_waiting()

    def over(self) -> None:
        """Nobody is waited for; that is written with the next change."""
        self._waiting = None
        self._write("waiting", lambda store: store.set_waiting(self._job.run, None), now=False)

    def _learn(self, reply: Message) -> None:
        """Take a site's name from its reply, where the SuperLink does not know it."""
        node, name = reply.metadata.src_node_id, named_site_of(reply)
        if node in self._nodes or name is None or self._waiting is None:
            return
        before, unknown = self._waiting, self._name(node)
        self._nodes[node] = name
        asked = tuple(sorted(name if one == unknown else one for one in before.asked))
        self._waiting = type(before)(before.round, before.step, before.until, asked, before.answered)

    def _name(self, node: int) -> str:
        return self._nodes.get(node, f"node {node}")

    def _round(self, row: dict[str, Any], times: Times) -> None:
        key = ("round", row["round"])
        self._write(key, lambda store: store.set_round(self._job.run, row, *times), now=False, lasting=True)

    def _write_waiting(self) -> None:
        waiting = self._waiting
        self._write("waiting", lambda store: store.set_waiting(self._job.run, waiting))

    def _result(self) -> tuple[str, dict[str, Any]]:
        """A sentence, and the model with its price."""
        content = json.loads((self._job.output / RESULT_FILE).read_text(encoding="utf-8"))
        privacy = content["differential_privacy"]
        rounds, abandoned = self._job.settings.federated.rounds, len(content["abandoned"])
        return f"{rounds - abandoned} of {rounds} rounds were finished.", {
            "model_sha256": content["model_sha256"],
            "epsilon": None if privacy is None else privacy["epsilon"],
        }

    def _write(
        self, what: object, write: Callable[[RunStore], None], *, now: bool = True, lasting: bool = False
    ) -> None:
        """Write this and what could not be written before; what is newer takes the place of the same thing.

        What is `lasting` is written again after an outage: nobody knows which database comes back.
        """
        if self._folder is None:
            return
        self._unwritten[what] = write
        if lasting:
            self._lasting[what] = write
        if not now or time.monotonic() < self._retry_at:
            return
        from server.run_store import RunStore

        try:
            if self._store is None:
                self._store = RunStore.open(self._folder)
            for key, pending in list(self._unwritten.items()):
                pending(self._store)
                del self._unwritten[key]
        except DjmsError as error:
            if self._retry_at == 0.0:
                _LOG.warning("%s The run goes on without it.", error)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._unwritten = {**self._lasting, **self._unwritten}
        else:
            self._retry_at = 0.0
