"""What a run needs to go on after its coordinator was killed at any instant, in the run's own folder.

    run_state.jsonl              one line for each step, appended and on disk before the next step is taken
    models/round-003.safetensors the global model after each finished round, on disk before the line that tells of it

The lines, in the order of what happened: an execution of the run began; sites are about to be asked to train for a
round; a round ended, with its row, its privacy events and what the strategies must remember; the closing evaluation
came; the run is finished, or can never be. Rules kept here:

* a round is finished when its line is on disk, and not before; a line without its end was never written;
* a round that sites were asked to train for and that has no line of its end was interrupted;
* a state is for the run, the settings and the application it was made with, a model for its hash: others are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from flwr.app import ArrayRecord

from anchoring.durable_files import DurableFiles
from common.errors import InputError, RunError
from common.files import atomic_path, lock_of, sync
from common.model import from_array_record, parameters_of, read_model, to_array_record, to_bytes
from privacy.events import PrivacyEvent
from server.commitments import settings_sha256
from server.history import FINISHED, History
from server.job import Job
from server.outcome import MODEL_FILE, RESULT_FILE, ROUNDS_FILE
from server.wrapper import Past

LONGEST_GOODBYE = 60.0
"""Seconds that the process of a run which was stopped or cut off from its server may still live."""

STATE_FILE = "run_state.jsonl"
MODELS_FOLDER = "models"


class RunState:
    """The state of one run while it is carried out; a context manager, because one process at a time may.

    `attempt` counts the executions before this one, `begun` is the interrupted round, `times` when
    rounds started and ended, `evaluation` what the closing
    evaluation gave, `finished` whether nothing is left to do. Nothing of it is kept where `kept` is false: such a run
    begins at its start whenever it is executed. Raises RunError while another process carries out the run and where
    the run can never be finished, InputError for a state that is damaged or of something else.
    """

    def __init__(self, job: Job, *, kept: bool = True) -> None:
        self._job = job
        self._path = job.output / STATE_FILE if kept else None
        self._release = ExitStack()
        self._written: dict[int, dict[str, Any]] = {}
        self._cohort: list[str] = []
        self._events: list[PrivacyEvent] = []
        self._memory: dict[str, Any] = {}
        self._is_done = False
        self.attempt = 0
        self.begun: int | None = None
        self.times: dict[int, tuple[datetime | None, datetime | None]] = {}
        self.evaluation: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        """Read what is there, and note that an execution begins."""
        self._job.output.mkdir(parents=True, exist_ok=True)
        if self._path is not None:
            limit = time.monotonic() + LONGEST_GOODBYE
            while (lock := lock_of(self._job.output)) is None and time.monotonic() < limit:
                time.sleep(0.2)
            if lock is None:
                raise RunError(
                    "another process carries out this run", where=self._job.output, remedy="wait for its end, or end it"
                )
            with ExitStack() as unless_open:
                unless_open.callback(lock.release)
                self._open(self._path)
                self._release = unless_open.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Let another process carry out the run."""
        self._release.close()

    @property
    def finished(self) -> bool:
        """Whether the run has its result."""
        return self._is_done and (self._job.output / RESULT_FILE).is_file()

    @property
    def past(self) -> Past:
        """What strategies must know of former executions."""
        hashes = {number: str(row["model_sha256"]) for number, row in self._written.items()}
        return Past(dict(self._memory), tuple(self._events), hashes, self.finished_rounds(), self.model)

    def history(self) -> History:
        """The rounds that ended."""
        return History([dict(self._written[number]) for number in sorted(self._written)], set(self._cohort))

    def token(self, purpose: str) -> bytes:
        """`Job.token`, another one for each execution: sites may have answered a former one."""
        return self._job.token(f"{purpose}, execution {self.attempt}" if self.attempt else purpose)

    def finished_rounds(self) -> list[int]:
        """Their numbers, ascending."""
        return sorted(number for number, row in self._written.items() if row["status"] == FINISHED)

    def model(self, number: int) -> ArrayRecord:
        """The model after a finished round. Raises InputError when the file is missing, damaged or another."""
        path = model_path(self._job, number)
        model, _ = read_model(path)
        if hashlib.sha256(path.read_bytes()).hexdigest() != self._written[number]["model_sha256"]:
            raise InputError(
                f"this is not the model of round {number}, whose hash the run has noted",
                where=path,
                remedy="restore the run's folder from a copy, or start another run",
            )
        return to_array_record(parameters_of(model))

    def begin(self, number: int, sites: int) -> None:
        """So many sites are about to be asked to train for a round."""
        self._append({"begun": number, "sites": sites, "started": datetime.now(UTC).isoformat()})

    def end(
        self,
        number: int,
        history: History,
        *,
        arrays: ArrayRecord | None,
        events: Iterable[PrivacyEvent],
        memory: Mapping[str, Any],
        started: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """A round ended, and its model, where it gave one, is `arrays`; durable when this returns.

        Returns the rows that are new or changed.
        """
        began = self.times.get(number, (None, None))[0] if started is None else started
        self.times[number] = (began, datetime.now(UTC))
        times = [None if one is None else one.isoformat() for one in self.times[number]]
        content = b"" if arrays is None else to_bytes(from_array_record(arrays), self._job.card)
        if content:
            files = DurableFiles()
            files.write(model_path(self._job, number), content)
            files.settle()
        mine = [event.to_json() for event in events if event.round == number]
        changed = self._changed(history)
        self._append({"ended": number, **changed, "events": mine, "memory": memory, "times": times})
        if content:
            write_model(self._job, content)
        write_rounds(self._job, history)
        rows: list[dict[str, Any]] = changed["rows"]
        return rows

    def restore(self, history: History, arrays: ArrayRecord | None) -> None:
        """Write anew what is for people to read: the coordinator may have been killed before."""
        if arrays is not None:
            write_model(self._job, to_bytes(from_array_record(arrays), self._job.card))
        if history.rows:
            write_rounds(self._job, history)

    def evaluated(self, record: Mapping[str, Any], history: History, memory: Mapping[str, Any]) -> None:
        """The closing evaluation's sums: from here on the result is determined."""
        self._append({"evaluated": record, **self._changed(history), "memory": memory})
        write_rounds(self._job, history)

    def spoil(self, error: RunError) -> None:
        """The run can never have a result, however often it is resumed."""
        self._append({"spoiled": error.what, "where": error.where, "remedy": error.remedy})

    def finish(self) -> None:
        """The run has its result, and all its files are on disk."""
        if self._path is not None:
            for folder in (self._job.output, *(one for one in self._job.output.iterdir() if one.is_dir())):
                sync(folder)
        self._append({"finished": True})

    def _changed(self, history: History) -> dict[str, Any]:
        """Rows that are not on disk as they are now, and the cohort."""
        changed = [row for row in history.rows if self._written.get(row["round"]) != row]
        self._written |= {row["round"]: dict(row) for row in changed}
        return {"rows": changed, "cohort": history.cohort}

    def _open(self, path: Path) -> None:
        begin = {
            "run": self._job.run,
            "settings_sha256": settings_sha256(self._job.settings),
            "bundle_sha256": self._job.bundle_sha256 if self._job.settings.anchoring.enabled else None,
        }
        if path.is_file():
            self._read(path, begin)
        if not path.is_file():
            files = DurableFiles()
            files.write(path, _line(begin))
            files.settle()
        elif not self._is_done:
            self._append(begin)

    def _read(self, path: Path, begin: Mapping[str, Any]) -> None:
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # the coordinator was killed while it wrote this one
            lines.pop()
            os.truncate(path, sum(map(len, lines)))
        try:
            for line in lines:
                content = json.loads(line)
                if "run" in content:
                    _require_same(content, begin, path)
                    self.attempt += 1
                else:
                    self._take(content)
        except (ValueError, KeyError, TypeError):
            raise InputError(
                "the run's state is damaged", where=path, remedy="restore it from a copy, or start another run"
            ) from None

    def _take(self, content: dict[str, Any]) -> None:
        self._written |= {int(row["round"]): row for row in content.get("rows", ())}
        self._cohort = content.get("cohort", self._cohort)
        self._events += [PrivacyEvent.from_json(event) for event in content.get("events", ())]
        self._memory = content.get("memory", self._memory)
        if "begun" in content:
            self.begun = int(content["begun"])
            self.times[self.begun] = (datetime.fromisoformat(content["started"]), None)
        elif "ended" in content:
            self.begun = None
            started, ended = (None if one is None else datetime.fromisoformat(one) for one in content["times"])
            self.times[int(content["ended"])] = (started, ended)
        elif "evaluated" in content:
            self.evaluation = dict(content["evaluated"])
        elif "finished" in content:
            self._is_done = True
        elif "spoiled" in content:
            raise RunError(str(content["spoiled"]), where=content["where"], remedy=str(content["remedy"]))
        else:
            raise ValueError

    def _append(self, content: Mapping[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(_line(content))
                file.flush()
                os.fsync(file.fileno())


def model_path(job: Job, number: int) -> Path:
    """Where the global model after a finished round lies."""
    return job.output / MODELS_FOLDER / f"round-{number:03}.safetensors"


def write_model(job: Job, content: bytes) -> None:
    """Write `model.safetensors` anew."""
    with atomic_path(job.output / MODEL_FILE) as path:
        path.write_bytes(content)


def write_rounds(job: Job, history: History) -> None:
    """Write `rounds.csv` anew."""
    with atomic_path(job.output / ROUNDS_FILE) as path:
        history.to_frame().to_csv(path, index=False)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _require_same(found: Mapping[str, Any], begin: Mapping[str, Any], path: Path) -> None:
    """Check that the state is of this run, these settings and this application."""
    for key, what, remedy in (
        ("run", "the state of another run lies in this folder", "name another folder"),
        ("settings_sha256", "the run was begun with other settings", "resume it with its own, or start another run"),
        (
            "bundle_sha256",
            "the run was begun with another application, which its log names",
            "install that version again, or start another run",
        ),
    ):
        if found.get(key) != begin[key]:
            raise InputError(what, where=path, remedy=remedy)
