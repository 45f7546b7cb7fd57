"""`djms client start | approve | status`: a site at work, and what its operator decides."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from client.approvals import Approvals, Bundle, Changes
from client.site_folder import SiteFolder
from common.bundle import app_directory
from common.cli import DjmsCommand, log_to_stderr
from common.errors import InputError
from common.membership import djms_version
from common.report import Report

Folder = Annotated[Path, typer.Option("--folder", help="The site's folder.")]
DEFAULT_FOLDER = Path("data/site")
TABLE_FILE = "table.csv"
_MOST_SHOWN = 40


def register(app: typer.Typer) -> None:
    """Add the commands to the group of `djms client`."""
    for name, command in (("start", start), ("approve", approve), ("status", status)):
        app.command(name, cls=DjmsCommand)(command)


def start(
    folder: Folder = DEFAULT_FOLDER,
    table: Annotated[
        Path | None, typer.Option(help=f"The site's training table [default: {TABLE_FILE} in the folder].")
    ] = None,
    health: Annotated[
        str | None, typer.Option(help="HOST:PORT on loopback for health checks (grpc.health.v1), in plain text.")
    ] = None,
) -> Report:
    """Connect to the coordinator and answer its rounds until asked to end."""
    site = SiteFolder(folder)
    site.membership()
    where = folder / TABLE_FILE if table is None else table
    if not where.is_file():
        raise InputError("the site's training table is not there", where=where, remedy="name it with --table")
    installed = _installed()
    if not Approvals(site.folder).has(installed.sha256):
        raise InputError(
            f"the application that is installed here (bundle {installed.sha256[:16]}) is not approved",
            where=folder,
            remedy="look at it and approve it with `djms client approve`",
        )
    log_to_stderr()
    log = logging.getLogger(__name__)
    for warning in site.warnings(datetime.now(UTC)):
        log.warning("%s", warning)
    log.info("starting %s", site.name)
    from client.app import app as application  # seconds of imports, after everything that can be wrong
    from client.node import SiteNode

    if health is None:
        SiteNode(site, where, application).serve()
    else:
        from common.health import serve

        server = serve(health)
        try:
            SiteNode(site, where, application, on_line=server.set).serve()
        finally:
            server.stop()
    return Report({"ended": True}, Text(f"{site.name} has ended."))


def approve(
    folder: Folder = DEFAULT_FOLDER,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
) -> Report:
    """Approve the application that is installed here, after showing what changed since the last one."""
    site = SiteFolder(folder)
    approvals = Approvals(site.folder)
    installed, last, offered = _installed(), approvals.last(), approvals.offered()
    text = f"Bundle     {installed.sha256}\n           DJMS {installed.djms}, {len(installed.files)} files\n"
    if offered is not None and offered.sha256 != installed.sha256:
        text += (
            f"\nA coordinator came with another bundle, {offered.sha256[:16]} (DJMS {offered.djms}), on "
            f"{offered.since:%Y-%m-%d %H:%M} UTC.\nIt differs from what is installed here:\n"
            f"{_changes_text(Changes.between(installed, offered))}\n"
            "To take part in its runs, install that version here first.\n"
        )
    if approvals.has(installed.sha256):
        text += "\nThis bundle is approved."
        return Report(_data(installed, None, approved=True), Text(text))
    changes = None if last is None else Changes.between(last, installed)
    if changes is None:
        text += "\nIt is the first one that is approved here."
    else:
        since = f"{last.since:%Y-%m-%d}" if last is not None else ""
        text += f"\nSince the bundle that was approved on {since}:\n{_changes_text(changes)}"
    if not yes:
        typer.echo(text, err=True)
        if not typer.confirm("Approve it?", err=True):
            raise InputError("nothing was approved", where=folder, remedy="give the command again, and say yes")
        text = ""
    approvals.approve(installed)
    text += f"\n{site.name} answers runs of {installed.sha256[:16]} from now on."
    return Report(_data(installed, changes, approved=True), Text(text.lstrip("\n")))


def status(folder: Folder = DEFAULT_FOLDER) -> Report:
    """Show whether the site is at work, what it did last, and what is to be done."""
    from client.node import NodeStatus, is_running

    site = SiteFolder(folder)
    said, running = NodeStatus.read(site.folder), is_running(site.folder)
    approvals = Approvals(site.folder)
    last, offered = approvals.last(), approvals.offered()
    if not running:
        state = "not running: start it with `djms client start`"
    elif said is not None and said.connected:
        state = f"connected since {said.changed}"
    else:
        state = "running, and the coordinator cannot be reached: it keeps trying"
    lines = [f"The site {site.name}", f"State      {state}"]
    if said is not None and said.last_answered:
        lines.append(f"Last       answered '{said.last_message}' of run {said.last_run} at {said.last_answered}")
        if said.last_refusal:
            lines.append(f"           with a refusal: {said.last_refusal}")
    lines.append("Bundle     " + ("none approved yet" if last is None else f"{last.sha256[:16]}, DJMS {last.djms}"))
    todo = site.warnings(datetime.now(UTC))
    if last is None:
        todo.append("No application is approved: run `djms client approve`")
    if offered is not None and not approvals.has(offered.sha256):
        todo.append(
            f"A run came with the bundle {offered.sha256[:16]} (DJMS {offered.djms}), which is not approved here: "
            "`djms client approve` shows how it differs"
        )
    data: dict[str, Any] = {
        "name": site.name,
        "running": running,
        "connected": running and said is not None and said.connected,
        "last_run": "" if said is None else said.last_run,
        "last_answered": "" if said is None else said.last_answered,
        "last_refusal": "" if said is None else said.last_refusal,
        "approved": None if last is None else last.sha256,
        "offered": None if offered is None else offered.sha256,
        "warnings": todo,
    }
    return Report(data, Text("\n".join(lines) + ("\n" if todo else "") + "".join(f"\n! {one}." for one in todo)))


def _installed() -> Bundle:
    """The bundle that the installed code makes. Raises InputError where its sources are not there."""
    root = app_directory()
    if root is None:
        raise InputError(
            "DJMS is installed without its sources, so the hash of its application cannot be known",
            where="djms",
            remedy="clone the repository and install it with `pip install -e .`",
        )
    from flwr.cli.build import build_fab_from_disk

    return Bundle.of(build_fab_from_disk(root), djms_version())


def _changes_text(changes: Changes) -> str:
    lines = [
        f"  {mark} {path}"
        for mark, paths in (("+", changes.added), ("~", changes.changed), ("-", changes.removed))
        for path in paths
    ]
    if len(lines) > _MOST_SHOWN:
        lines = [*lines[:_MOST_SHOWN], f"  and {len(lines) - _MOST_SHOWN} more"]
    return "\n".join(lines) or "  no file differs"


def _data(bundle: Bundle, changes: Changes | None, *, approved: bool) -> dict[str, Any]:
    return {
        "sha256": bundle.sha256,
        "djms": bundle.djms,
        "files": len(bundle.files),
        "approved": approved,
        "added": () if changes is None else changes.added,
        "changed": () if changes is None else changes.changed,
        "removed": () if changes is None else changes.removed,
    }
