"""`djms client`: a site as its operator makes it and lets it join a federation; at work it is `client.node_cli`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from client.ledger import Budget
from client.node_cli import register
from client.site_folder import SiteFolder
from common.cli import DjmsCommand, new_group, settings_of
from common.errors import InputError
from common.membership import version_note
from common.report import Report

Folder = Annotated[Path, typer.Option("--folder", help="The site's folder.")]
DEFAULT_FOLDER = Path("data/site")

app = new_group("Be a site: make its keys, join a federation, take part in its rounds.")


@app.callback()
def group() -> None:
    """Be a site: make its keys, join a federation, take part in its rounds."""


@app.command("init", cls=DjmsCommand)
def init(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The site's name, e.g. CPI_Verona.")] = None,
    folder: Folder = DEFAULT_FOLDER,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make new keys for the site that is there.")] = False,
) -> Report:
    """Make a site's private keys, here, and the request to send to the coordinator.

    What its people may pay in all is set with --budget.max-epsilon, --budget.delta and --budget.valid-until.
    """
    if rotate:
        return _rotate(SiteFolder(folder), name)
    if name is None:
        raise InputError("the site has no name", where="NAME", remedy="write `djms client init CPI_Verona`")
    budget = settings_of(context).privacy.budget
    made = SiteFolder.create(folder, name, Budget(budget.max_epsilon, budget.delta, budget.valid_until))
    request = folder / made.request.name
    fingerprint = made.keys().public.fingerprint(name)
    until = "for good" if budget.valid_until is None else f"until {budget.valid_until}"
    text = (
        f"The site {name}, in {folder}. Its private keys were made here and stay here.\n\n"
        f"Request      {request}\n"
        f"Fingerprint  {fingerprint}\n"
        f"Budget       ε {budget.max_epsilon:g} at δ {budget.delta:g} {until}, in {folder}/ledger/budget.yaml\n"
        f"Limits       {folder}/site.yaml\n\n"
        "Send the request to the coordinator by mail. When they call, read out the fingerprint, and write down that\n"
        "of the federation's key; `djms client join` asks for it."
    )
    data = {"name": name, "folder": str(folder), "request": str(request), "fingerprint": fingerprint}
    return Report(data, Text(text))


@app.command("join", cls=DjmsCommand)
def join(
    welcome: Annotated[Path, typer.Argument(help="The file that the coordinator sent.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="Of the federation's key, as you were told by telephone; the first time.")
    ] = None,
    folder: Folder = DEFAULT_FOLDER,
) -> Report:
    """Join a federation, or take its newest edition: who belongs, and where the server is."""
    if not welcome.is_file():
        raise InputError("the welcome does not exist", where=welcome, remedy="check the path")
    site = SiteFolder(folder)
    joined = site.join(welcome.read_bytes(), fingerprint)
    edition = joined.welcome
    text = (
        f"{site.name} {'has' if joined.changed else 'had already'} edition {edition.edition} of {edition.federation}."
    )
    text += f"\nServer  {edition.address}"
    if joined.rotated:
        text += "\nThe new keys are in use, the old ones are gone. Restart the site."
    note = version_note("The coordinator", edition.djms, edition.protocol)
    data = {
        "name": site.name,
        "federation": edition.federation,
        "edition": edition.edition,
        "address": edition.address,
        "changed": joined.changed,
        "rotated": joined.rotated,
        "version_note": note,
    }
    return _with_warnings(site, data, text + (f"\n{note}." if note else ""))


@app.command("show", cls=DjmsCommand)
def show(folder: Folder = DEFAULT_FOLDER) -> Report:
    """Show the site: its fingerprint, what it joined, and what is to be done."""
    site = SiteFolder(folder)
    waiting = site.waiting_keys()
    fingerprint = (site.keys() if waiting is None else waiting).public.fingerprint(site.name)
    data: dict[str, Any] = {"name": site.name, "fingerprint": fingerprint, "joined": site.has_joined}
    text = f"The site {site.name}\nFingerprint       {fingerprint}{' (of the keys that wait)' if waiting else ''}\n"
    if not site.has_joined:
        text += f"Not joined yet: send {site.request} to the coordinator"
        return _with_warnings(site, data, text)
    edition, members = site.membership(), site.roster().members
    data |= {"federation": edition.federation, "edition": edition.edition, "address": edition.address}
    data |= {"federation_fingerprint": edition.fingerprint, "sites": sorted(members)}
    text += (
        f"Federation        {edition.federation}, edition {edition.edition}\n"
        f"Federation's key  {edition.fingerprint}\n"
        f"Server            {edition.address}\n"
        f"Sites             {', '.join(sorted(members))}"
    )
    return _with_warnings(site, data, text)


def _rotate(site: SiteFolder, name: str | None) -> Report:
    if name is not None and name != site.name:
        raise InputError(f"this site is called {site.name}", where=name[:64], remedy="leave the name away")
    request = site.rotate()
    waiting = site.waiting_keys()
    fingerprint = (site.keys() if waiting is None else waiting).public.fingerprint(site.name)
    text = (
        f"New keys of {site.name} wait. The old ones stay in use until it joins with a welcome that knows the new.\n\n"
        f"Request      {request}\nFingerprint  {fingerprint}\n\n"
        "Send the request to the coordinator, who adds it with `djms server add-site --replace`. If the old keys were\n"
        "stolen, have the site revoked at once."
    )
    return Report({"name": site.name, "request": str(request), "fingerprint": fingerprint}, Text(text))


def _with_warnings(site: SiteFolder, data: dict[str, Any], text: str) -> Report:
    warnings = site.warnings(datetime.now(UTC))
    shown = "".join(f"\n! {one}." for one in warnings)
    return Report({**data, "warnings": warnings}, Text(text + (f"\n{shown}" if shown else "")))


register(app)
