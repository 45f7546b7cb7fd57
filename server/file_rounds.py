"""Rounds by file from the coordinator's side: a run is opened, answers are taken in, and it goes on as far as it can.

    exchange/<run>/job.json    what to run; written last when a run is opened
    exchange/<run>/open.json   the application that sites must have approved, and the version that opened the run
    exchange/<run>/key.pem     private key that answers are sealed for; removed when the run has its result
    exchange/<run>/steps/      everything that was asked and answered (`server.file_grid`)
    exchange/<run>/outbox/     parcels to carry now
    exchange/<run>/rounds.csv  the rounds so far
    exchange/<run>/error.json  why the run cannot go on
    exchange/<run>/flower.log  what Flower said in the last execution
    exchange/<run>/result/     what a run over the network leaves in its folder

It is the same code as over the network, `server.rounds.run`, executed anew by every command. Rules kept here: an answer
is taken in when its sender belongs to the federation and signed it, and it answers the question that this site was
asked in the step that is open; the same answer may come as often as it likes, another one never.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from anchoring.durable_files import DurableFiles
from common import messages as names
from common import parcel as parcels
from common.errors import DjmsError, RunError
from common.files import atomic_path
from common.membership import djms_version
from common.parcel import Header, Parcel
from common.private_folder import locked_folder
from common.settings import Settings
from server import pki
from server.federation_folder import FederationFolder
from server.file_grid import STEPS, FileGrid, Step, Suspended, steps_of
from server.job import JOB_FILE, Job
from server.outcome import RESULT_FILE, ROUNDS_FILE
from server.rounds import run as carry_out
from server.run_parcels import KEY_FILE, RunParcels, kind_of
from server.submission import describe

EXCHANGE, OUTBOX, RESULT = "exchange", "outbox", "result"
_OPEN, _ERROR, _FLOWER, _WORK = "open.json", "error.json", "flower.log", ".work-"


@dataclass(frozen=True)
class Progress:
    """How a run stands: the `step` that is open, or the result, or the error that ended it."""

    run: str
    folder: Path
    step: Step | None
    result: dict[str, Any] | None
    error: str | None
    parcels: tuple[Path, ...]

    @property
    def command(self) -> str:
        """What sites answer the open step with."""
        return kind_of(self.step.message_type) if self.step is not None else ""


def open_run(
    federation: FederationFolder, settings: Settings, *, labels: str, synthetic: bool, bundle_sha256: str
) -> FileRun:
    """Make a run over all members of the federation. Raises InputError when the settings do not suit so many."""
    runs = federation.folder / EXCHANGE
    job = describe(federation, settings, labels=labels, synthetic=synthetic)
    files = DurableFiles()
    files.make(runs / job.run)
    files.write(runs / job.run / KEY_FILE, pki.key_pem(generate_private_key(SECP256R1())))
    files.write(runs / job.run / _OPEN, json.dumps({"bundle_sha256": bundle_sha256, "djms": djms_version()}).encode())
    files.settle()
    replace(job, output=runs / job.run / RESULT).write(runs)
    return FileRun(federation, job.run)


def runs_of(federation: FederationFolder) -> list[FileRun]:
    """The runs by file, the newest last."""
    found = sorted((federation.folder / EXCHANGE).glob(f"*/{JOB_FILE}"))
    return [FileRun(federation, path.parent.name) for path in found]


class FileRun:
    """One run by file."""

    def __init__(self, federation: FederationFolder, run: str) -> None:
        """Open it. Raises ParcelOfOtherRun where the federation has none of this name."""
        self._federation = federation
        self.run = run
        self.folder = federation.folder / EXCHANGE / run
        if not (self.folder / JOB_FILE).is_file():
            raise parcels.ParcelOfOtherRun(
                "this federation has no run by file of this name", where=run, remedy="see `djms exchange status`"
            )
        job = Job.read(federation.folder / EXCHANGE, run)
        opened = json.loads((self.folder / _OPEN).read_text(encoding="utf-8"))
        self.job = replace(job, bundle_sha256=str(opened["bundle_sha256"]))
        self._djms = str(opened["djms"])
        self._parcels = RunParcels(federation, self.job, self.folder)

    @property
    def steps(self) -> list[Step]:
        """All exchanges so far."""
        return steps_of(self.folder / STEPS)

    def progress(self, paths: tuple[Path, ...] = ()) -> Progress:
        """How it stands by what is on disk."""
        last = self.steps[-1:]
        result = self.folder / RESULT / RESULT_FILE
        error = self.folder / _ERROR
        return Progress(
            self.run,
            self.folder,
            last[0] if last and not result.is_file() else None,
            json.loads(result.read_text(encoding="utf-8")) if result.is_file() else None,
            str(json.loads(error.read_text(encoding="utf-8"))["error"]) if error.is_file() else None,
            paths,
        )

    @property
    def outbox(self) -> tuple[Path, ...]:
        """The parcels that lie there to be carried."""
        return tuple(sorted((self.folder / OUTBOX).glob(f"*{parcels.SUFFIX}")))

    def go_on(self, out: Path | None = None) -> Progress:
        """Execute the run as far as answers are there, and write the parcels to carry next to `out`, or to its outbox.

        Raises what `server.rounds.run` raises, DoesNotRepeat, and RunError where another version opened the run.
        """
        with locked_folder(self.folder):
            if self.progress().result is None:
                self._execute()
            else:
                (self.folder / KEY_FILE).unlink(missing_ok=True)
            return self.progress(self._written(out))

    def take(self, parcel: Parcel) -> bool:
        """Take an answer in; returns False where it was taken in before. Raises ParcelRefused."""
        header = parcel.header
        self._parcels.require_sender(parcel)
        with locked_folder(self.folder):
            step = self._step_of(header)
            path = step.answer_of(header.sender)
            if path.is_file():
                if path.read_bytes() == parcel.content:
                    return False
                raise parcels.SecondAnswer(
                    f"{header.sender} answered step {header.step} otherwise before",
                    where="parcel",
                    remedy="the first answer counts; ask that site why there are two",
                )
            self._require_open(step, header)
            self._parcels.read(step, header.sender, parcel)
            files = DurableFiles()
            files.write(path, parcel.content)
            files.settle()
        return True

    def close(self, number: int | None = None, *, abandon: bool = False) -> tuple[str, ...]:
        """Close the open step for the sites that have not answered, and return their names.

        Where it has another `number` nothing is done: a command that is given again closes no second step.
        Raises RunError where the round would be given up by that, unless to `abandon` it is what is wanted.
        """
        with locked_folder(self.folder):
            step = self.progress().step
            if step is None or step.complete or number not in (None, step.number):
                return ()
            missing, there, needed = step.missing, len(step.answered), self._needed(step)
            if there < needed and not abandon:
                raise RunError(
                    f"step {step.number} has {there} of the {needed} answers it needs, so the round would be given up",
                    where=self.run,
                    remedy=f"wait for {', '.join(missing)}, or give the round up with --abandon",
                )
            step.close()
        return missing

    def _execute(self) -> None:
        if self._djms != djms_version():
            raise RunError(
                f"DJMS {self._djms} opened the run, and here is DJMS {djms_version()}",
                where=self.run,
                remedy="install that version again until the run is over, or open another run",
            )
        for left in self.folder.glob(f"{_WORK}*"):
            shutil.rmtree(left)
        (self.folder / _ERROR).unlink(missing_ok=True)
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=self.folder))
        run = Run.create_empty(1)
        run.fab_hash = self.job.bundle_sha256 or ""
        box = self._parcels
        grid = FileGrid(self.folder, self.job.sites, run, box.seal, box.opened, box.lost)
        try:
            with _inside_a_run(), _logging_to(self.folder / _FLOWER):
                carry_out(grid, replace(self.job, output=work), resumable=False)
        except Suspended:
            if (work / ROUNDS_FILE).is_file():
                (work / ROUNDS_FILE).replace(self.folder / ROUNDS_FILE)
        except DjmsError as error:
            with atomic_path(self.folder / _ERROR) as path:
                path.write_text(json.dumps({"error": str(error)}) + "\n", encoding="utf-8")
            raise
        else:
            shutil.copy(work / ROUNDS_FILE, self.folder / ROUNDS_FILE)
            work.replace(self.folder / RESULT)
            (self.folder / KEY_FILE).unlink()  # nothing that was carried can be opened any more
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _written(self, out: Path | None) -> tuple[Path, ...]:
        """Copy what is to be carried; what is not any more is removed from the run's own outbox."""
        step = self.progress().step
        sites = () if step is None or step.complete else step.missing
        folder = self.folder / OUTBOX if out is None else out
        files, paths = DurableFiles(), []
        for site in sites:
            assert step is not None
            content = step.question_of(site).read_bytes()
            paths.append(folder / Parcel.from_bytes(content).header.file_name)
            if not paths[-1].is_file() or paths[-1].read_bytes() != content:
                files.write(paths[-1], content)
        files.settle()
        if out is None and folder.is_dir():
            for old in set(folder.glob(f"*{parcels.SUFFIX}")) - set(paths):
                old.unlink()
        return tuple(paths)

    def _step_of(self, header: Header) -> Step:
        steps = self.steps
        if header.step > len(steps):
            raise parcels.ParcelOfOtherStep(
                f"it answers step {header.step}, and the run is at step {len(steps)}",
                where="parcel",
                remedy="the run's folder may have been restored from an old copy: use the newest one",
            )
        step = steps[header.step - 1]
        if header.sender not in step.asked or header.answers != step.asked[header.sender]:
            raise parcels.ParcelOfOtherStep(
                f"it answers no question that {header.sender} was asked in step {header.step}",
                where="parcel",
                remedy="have that site answer the parcel that it was sent",
            )
        return step

    def _require_open(self, step: Step, header: Header) -> None:
        number = len(self.steps)
        if self.progress().result is not None:
            raise parcels.ParcelOfOtherRun("the run is over", where=self.run, remedy="carry nothing more for it")
        if step.closed is not None or step.number < number:
            raise parcels.ParcelOfOtherStep(
                f"it answers step {step.number}, which was closed without {header.sender}; the run is at step {number}",
                where="parcel",
                remedy=f"that site answers its next parcel; see `djms exchange status --run {self.run}`",
            )

    def _needed(self, step: Step) -> int:
        """Answers without which the strategies give the round up."""
        settings = self.job.settings
        if step.message_type == names.WITNESS:  # sites that do not say are left out, and are as if missing
            return max(0, min(len(step.asked), settings.quorum - (len(self.job.sites) - len(step.asked))))
        if step.message_type in (names.UNMASK, names.ATTEST):
            secure = settings.privacy.secure_agg
            if (count := secure.threshold_count) is not None:
                return max(settings.quorum, count[0])
            return max(settings.quorum, -(-len(step.asked) * int(secure.threshold.rstrip("%")) // 100))
        return settings.quorum


@contextmanager
def _inside_a_run() -> Iterator[None]:
    """Messages can be made only inside a run of Flower's; there is none around this one."""
    before = TaskIdentity._run_id, TaskIdentity._task_id, TaskIdentity._node_id
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._task_id, TaskIdentity._node_id = before


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send what Flower's strategies say to a file, and only there."""
    logger = logging.getLogger("flwr")
    before = logger.handlers[:], logger.propagate
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers[:], logger.propagate = [file], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before
        file.close()
