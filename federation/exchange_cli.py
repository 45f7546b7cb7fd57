"""`djms exchange`: rounds whose messages are carried as files, for offices without a network path.

`open`, `collect`, `close` and `status` are the coordinator's; `contribute` and `unmask` a site's. Every command may be
given again: what was done is found done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from common import parcel as parcels
from common.bundle import bundle_sha256
from common.cli import DjmsCommand, new_group, settings_of
from common.errors import DjmsError, InputError
from common.parcel import LONGEST_PARCEL, Parcel
from common.report import Report

if TYPE_CHECKING:
    from client.file_rounds import App
    from server.file_grid import Step
    from server.file_rounds import FileRun, Progress

COORDINATOR_FOLDER, SITE_FOLDER = Path("data/coordinator"), Path("data/site")
TABLE_FILE = "table.csv"
Coordinator = Annotated[Path, typer.Option("--folder", help="The federation's folder.")]
SiteOption = Annotated[Path, typer.Option("--folder", help="The site's folder.")]
Run = Annotated[str | None, typer.Option("--run", help="Which run [default: the only one that is not finished].")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to put the parcels [default: exchange/…/outbox].")]
TableOption = Annotated[
    Path | None, typer.Option("--table", help=f"The site's training table [default: {TABLE_FILE} in the folder].")
]
_WHAT = {
    "query.witness": "what sites saw of the log",
    "query.advertise": "keys of secure aggregation, 1 of 2",
    "query.share": "keys of secure aggregation, 2 of 2",
    "query.attest": "signatures on the list of survivors",
    "query.unmask": "taking the masks off",
    "train": "training",
    "evaluate": "evaluation",
}

_UNFINISHED = "Next  The last command did not come to its end: give it again, or djms exchange close"

app = new_group("Rounds by file: parcels on a stick or a share instead of a network.")


@app.callback()
def group() -> None:
    """Rounds by file: parcels on a stick or a share instead of a network."""


@app.command("open", cls=DjmsCommand)
def open_(
    context: typer.Context,
    folder: Coordinator = COORDINATOR_FOLDER,
    out: Out = None,
    labels: Annotated[
        Literal["outcomes", "rule"], typer.Option(help="What the sites' tables learn from; stands on the model's card.")
    ] = "outcomes",
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="The sites' people are synthetic; stands on the model's card.")
    ] = False,
) -> Report:
    """Open a run over all sites, and write the first parcels; the settings are the run's. Each call opens another."""
    from server.federation_folder import FederationFolder
    from server.file_rounds import open_run

    bundle = bundle_sha256()
    if bundle is None:
        raise InputError(
            "the application's sources are not there, and sites compare their hash",
            where="djms",
            remedy="clone the repository and install it with `pip install -e .`",
        )
    settings = settings_of(context)
    run = open_run(FederationFolder(folder), settings, labels=labels, synthetic=synthetic, bundle_sha256=bundle)
    note = f"Bundle  {bundle}\n        Sites answer when their operators have approved it (`djms client approve`)."
    return _report(run, run.go_on(out), {"bundle_sha256": bundle}, f"Opened {run.run}.\n{note}")


@app.command("contribute", cls=DjmsCommand)
def contribute(
    parcel: Annotated[Path, typer.Argument(help="The parcel that came from the coordinator.")],
    folder: SiteOption = SITE_FOLDER,
    table: TableOption = None,
    out: Out = None,
) -> Report:
    """Answer a parcel of the coordinator: keys, training, what this site saw of the log."""
    return _answered(parcel, parcels.CONTRIBUTE, folder, table, out)


@app.command("unmask", cls=DjmsCommand)
def unmask(
    parcel: Annotated[Path, typer.Argument(help="The parcel that came from the coordinator.")],
    folder: SiteOption = SITE_FOLDER,
    table: TableOption = None,
    out: Out = None,
) -> Report:
    """Help to take the masks off a round's sum, so that the coordinator reads the sum and nothing else."""
    return _answered(parcel, parcels.UNMASK, folder, table, out)


@app.command("collect", cls=DjmsCommand)
def collect(
    answers: Annotated[list[Path], typer.Argument(metavar="PARCEL...", help="The parcels that came from sites.")],
    folder: Coordinator = COORDINATOR_FOLDER,
    out: Out = None,
) -> Report:
    """Take answers in, go on as far as they allow, and write the parcels to carry next.

    A parcel that is refused is named when the others have been taken in.
    """
    from server.federation_folder import FederationFolder
    from server.file_rounds import FileRun

    federation = FederationFolder(folder)
    taken: list[str] = []
    again: list[str] = []
    refused: list[DjmsError] = []
    runs: dict[str, FileRun] = {}
    for path in answers:
        try:
            with _naming(path):
                parcel = Parcel.from_bytes(_read(path))
                run = runs.setdefault(parcel.header.run, FileRun(federation, _run_of(parcel, federation.fingerprint)))
                (taken if run.take(parcel) else again).append(parcel.header.sender)
        except DjmsError as error:
            refused.append(error)
    stood = [(run, run.go_on(out)) for run in runs.values()]
    if refused:
        first = refused[0]
        others = f" ({len(refused)} of {len(answers)} parcels were refused)" if len(answers) > 1 else ""
        raise type(first)(f"{first.what}{others}", where=first.where, remedy=first.remedy)
    run, progress = stood[-1]
    words = [f"Taken in: {', '.join(sorted(taken)) or 'nothing new'}."]
    words += [f"Taken in before: {', '.join(sorted(again))}."] if again else []
    return _report(run, progress, {"taken": sorted(taken), "again": sorted(again)}, " ".join(words))


@app.command("close", cls=DjmsCommand)
def close(
    folder: Coordinator = COORDINATOR_FOLDER,
    run: Run = None,
    step: Annotated[
        int | None,
        typer.Option("--step", help="Which step [default: the open one]; one that is closed stays as it is."),
    ] = None,
    out: Out = None,
    abandon: Annotated[bool, typer.Option("--abandon", help="Go on even where the round is given up by it.")] = False,
) -> Report:
    """Go on without the sites that have not answered the open step; at the end, show what the run gave."""
    found = _run(folder, run)
    without = found.close(step, abandon=abandon)
    note = f"Going on without {', '.join(without)}." if without else "Nobody was waited for."
    return _report(found, found.go_on(out), {"without": list(without)}, note)


@app.command("status", cls=DjmsCommand)
def status(folder: Coordinator = COORDINATOR_FOLDER, run: Run = None) -> Report:
    """Show who has answered, who is missing, and what to do next."""
    found = _run(folder, run)
    return _report(found, found.progress(found.outbox), {}, "")


def _answered(path: Path, kind: str, folder: Path, table: Path | None, out: Path | None) -> Report:
    from client.file_rounds import FileSite
    from client.site_folder import SiteFolder

    site = SiteFolder(folder)
    answering = FileSite(site, folder / TABLE_FILE if table is None else table, _application)
    with _naming(path):
        made = answering.answer(_read(path), kind, out)
    said = "had answered" if made.again else "answered"
    text = f"{site.name} {said} step {made.step} of {made.run}.\n"
    text += "".join(f"! It refused: {reason}\n" for reason in made.refusals)
    text += f"\nCarry    {made.path}\nto       the coordinator, who takes it in with `djms exchange collect`"
    data = {
        "name": site.name,
        "run": made.run,
        "step": made.step,
        "parcel": str(made.path),
        "again": made.again,
        "refusals": list(made.refusals),
    }
    return Report(data, text)


def _application() -> App:
    from client.app import app as application

    return application


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of a parcel that is refused which file it is."""
    try:
        yield
    except parcels.ParcelRefused as error:
        raise type(error)(error.what, where=path, remedy=error.remedy) from error


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError("the parcel does not exist", where=path, remedy="check the path")
    if path.stat().st_size > LONGEST_PARCEL:
        raise parcels.ParcelDamaged("it is too long for a parcel", where=path, remedy="check which file this is")
    return path.read_bytes()


def _run_of(parcel: Parcel, fingerprint: str) -> str:
    """The run that an answer belongs to. Raises ParcelRefused where it is no answer to this federation."""
    header = parcel.header
    if header.federation != fingerprint:
        raise parcels.ParcelOfOtherFederation(
            "it belongs to another federation", where="parcel", remedy="name this one's folder with --folder"
        )
    if header.kind != parcels.ANSWER:
        raise parcels.ParcelOfOtherKind(
            f"it is a question for {header.receiver}",
            where="parcel",
            remedy=f"that site answers it with `djms exchange {header.kind}`",
        )
    return header.run


def _run(folder: Path, name: str | None) -> FileRun:
    from server.federation_folder import FederationFolder
    from server.file_rounds import FileRun, runs_of

    federation = FederationFolder(folder)
    if name is not None:
        return FileRun(federation, name)
    runs = runs_of(federation)
    stood = [(one, one.progress()) for one in runs]
    going = [one for one, how in stood if how.result is None and how.error is None]
    if len(going) > 1:
        names = ", ".join(one.run for one in going)
        raise InputError("several runs are going", where=folder, remedy=f"name one with --run: {names}")
    if not runs:
        raise InputError("no run by file was opened here", where=folder, remedy="open one with `djms exchange open`")
    return (going or runs)[-1]


def _report(run: FileRun, progress: Progress, more: dict[str, Any], note: str) -> Report:
    step = progress.step
    data: dict[str, Any] = {
        "run": run.run,
        "directory": str(run.folder),
        "finished": progress.result is not None,
        "step": None if step is None else step.number,
        "asks": None if step is None else step.message_type,
        "command": progress.command or None,
        "answered": [] if step is None else list(step.answered),
        "missing": [] if step is None else list(step.missing),
        "parcels": [str(path) for path in progress.parcels],
        "error": progress.error,
        "result": progress.result,
        **more,
    }
    if progress.result is not None:
        text = _result_text(run, progress.result)
    elif progress.error is not None:
        text = f"The run {run.run} cannot go on.\n! {progress.error}"
    elif step is None:
        text = f"Run   {run.run}, nothing was asked yet\n\n{_UNFINISHED}"
    else:
        text = _step_text(run, progress, step)
    return Report(data, f"{note}\n\n{text}" if note else text)


def _step_text(run: FileRun, progress: Progress, step: Step) -> str:
    """Who has answered, who is missing, what to do next; one string, so that paths are not broken."""
    width = max(map(len, run.job.sites))
    lines = [f"Run   {run.run}, step {step.number}: {_WHAT.get(step.message_type, step.message_type)}", ""]
    for site in run.job.sites:
        if site in step.lost:
            state = "not a member any more"
        elif site not in step.asked:
            state = "not asked in this step"
        else:
            state = "missing" if site in step.missing else "answered"
        lines.append(f"      {site:{width}}  {state}")
    if step.complete:
        return "\n".join([*lines, "", _UNFINISHED])
    lines += ["", f"Next  Carry to each missing site its parcel; there: djms exchange {progress.command} PARCEL"]
    lines += [f"      {path}" for path in progress.parcels]
    lines.append("      then here: djms exchange collect PARCEL...")
    lines.append(f"      To go on without those that are missing: djms exchange close --step {step.number}")
    return "\n".join(lines)


def _result_text(run: FileRun, result: dict[str, Any]) -> str:
    privacy, anchoring = result["differential_privacy"], result["anchoring"]
    rounds = run.job.settings.federated.rounds
    folder = run.folder / "result"
    lines = [
        f"The run {run.run} is finished: {rounds - len(result['abandoned'])} of {rounds} rounds.",
        "",
        f"Model     {result['model_sha256']}",
        f"          {folder}/model.safetensors",
    ]
    if privacy is not None:
        lines.append(f"Privacy   ε {privacy['epsilon']:.4g} at δ {privacy['delta']:g} for each {privacy['unit']}")
    if anchoring is not None:
        cosigned = f"{anchoring['cosigned']} of {anchoring['witnesses']} witnesses cosigned"
        lines += [f"Log       {anchoring['size']} entries, {cosigned}", "Receipts"]
        lines += [f"          {path}" for path in _receipts(folder)]
    return "\n".join(lines)


def _receipts(folder: Path) -> Sequence[Path]:
    return sorted((folder / "receipts").glob("*.tlog-proof"))
