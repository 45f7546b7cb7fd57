"""`djms server start | submit | status | stop`: the coordinator's server, and the runs it carries out."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from common.bundle import app_directory
from common.cli import DjmsCommand, log_to_stderr, settings_of
from common.errors import InputError
from common.report import Report
from server.federation_folder import FederationFolder

Folder = Annotated[Path, typer.Option("--folder", help="The federation's folder.")]
DEFAULT_FOLDER = Path("data/coordinator")


def register(app: typer.Typer) -> None:
    """Add the commands to the group of `djms server`."""
    for name, command in (("start", start), ("submit", submit), ("status", status), ("stop", stop)):
        app.command(name, cls=DjmsCommand)(command)


def start(
    folder: Folder = DEFAULT_FOLDER,
    bind: Annotated[
        str | None,
        typer.Option(help="IP address that sites reach [default: every interface; loopback for a loopback address]."),
    ] = None,
    health: Annotated[
        str | None, typer.Option(help="HOST:PORT on loopback for health checks (grpc.health.v1), in plain text.")
    ] = None,
) -> Report:
    """Run the server until it is asked to end: SuperLink with TLS, for the sites that belong and no others."""
    from common.health import require_loopback
    from server.coordinator import Coordinator, bind_address

    federation = FederationFolder(folder)
    address = bind_address(federation, bind)
    if health is not None:
        require_loopback(health)
    log_to_stderr()
    for warning in federation.warnings(datetime.now(UTC)):
        logging.getLogger(__name__).warning("%s", warning)
    Coordinator(federation, address, health).serve()
    return Report({"ended": True}, Text("The server has ended."))


def submit(
    context: typer.Context,
    folder: Folder = DEFAULT_FOLDER,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run that was interrupted, after its last round.")
    ] = None,
    labels: Annotated[
        Literal["outcomes", "rule"], typer.Option(help="What the sites' tables learn from; stands on the model's card.")
    ] = "outcomes",
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="The sites' people are synthetic; stands on the model's card.")
    ] = False,
    application: Annotated[
        Path | None, typer.Option("--app", help="Folder of the application [default: DJMS as it is installed].")
    ] = None,
) -> Report:
    """Hand a run over all sites to the running server; the settings are the run's."""
    from server import submission
    from server.coordinator import control_of

    federation = FederationFolder(folder)
    control = control_of(federation)
    if resume is None:
        job = submission.new_job(federation, settings_of(context), labels=labels, synthetic=synthetic)
    else:
        job = submission.job_of(federation, resume)
    made = submission.submit(federation, control, job, _application(application))
    text = (
        f"{'Resumed' if resume else 'Submitted'} {made.run}: {job.settings.federated.rounds} rounds over "
        f"{len(made.sites)} sites.\n\n"
        f"Bundle  {made.bundle_sha256}\n"
        "        Sites answer when their operators have approved it (`djms client approve`).\n"
        f"Files   {job.output}\n"
        "Next    djms server status"
    )
    data = {
        "run": made.run,
        "flower_run": made.flower_run,
        "bundle_sha256": made.bundle_sha256,
        "sites": made.sites,
        "directory": str(job.output),
    }
    return Report(data, Text(text))


def status(folder: Folder = DEFAULT_FOLDER) -> Report:
    """Show in one screen who is connected, which run is going, whom it waits for, and what is to be done."""
    from server.status import status_of, status_text

    federation = FederationFolder(folder)
    now = datetime.now(UTC)
    found = status_of(federation, now)
    return Report(found.to_json(), status_text(found, now))


def stop(
    run: Annotated[str | None, typer.Argument(help="A run to stop; without it the server itself ends.")] = None,
    folder: Folder = DEFAULT_FOLDER,
) -> Report:
    """Stop a run, or end the server."""
    from server.coordinator import control_of, stop_server
    from server.submission import stop_run

    federation = FederationFolder(folder)
    if run is not None:
        stop_run(federation, control_of(federation), run)
        return Report({"stopped": run}, Text(f"Stopped {run}; `djms server submit --resume {run}` goes on with it."))
    if not stop_server(federation):
        raise InputError("the server is not running", where=folder, remedy="start it with `djms server start`")
    return Report({"ended": True}, Text("The server has ended. Sites wait, and connect again when it is back."))


def _application(folder: Path | None) -> Path:
    found = app_directory() if folder is None else folder
    if found is None or not (found / "pyproject.toml").is_file():
        raise InputError(
            "the application's sources are not there, and sites compare their hash",
            where=folder or "--app",
            remedy="clone the repository and install it with `pip install -e .`",
        )
    return found
