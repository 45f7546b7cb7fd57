"""`djms server`: the federation as its operator makes and keeps it: who belongs, and which certificates it has."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from common.cli import DjmsCommand, new_group
from common.errors import InputError
from common.files import atomic_path
from common.membership import JoinRequest, version_note
from common.public_keys import MembershipError, same_fingerprint
from common.report import Report
from server import membership
from server.federation_folder import CA_KEY_FILE, OFFLINE_ROOT, FederationFolder
from server.run_cli import register

Folder = Annotated[Path, typer.Option("--folder", help="The federation's folder.")]
RootKey = Annotated[
    Path | None,
    typer.Option("--root-key", help=f"The federation's root.pem, {CA_KEY_FILE} beside it [default: in the folder]."),
]
Out = Annotated[Path | None, typer.Option(help="Where the welcome is written [default: beside the request].")]
DEFAULT_FOLDER = Path("data/coordinator")

app = new_group("Coordinate a federation: make it, say which sites belong to it, and run its rounds.")


@app.callback()
def group() -> None:
    """Coordinate a federation: make it, say which sites belong to it, and run its rounds."""


@app.command("init", cls=DjmsCommand)
def init(
    name: Annotated[str, typer.Option(help="What the federation is called.")],
    address: Annotated[str, typer.Option(help="Where sites reach the server, e.g. fl.example.org:9092.")],
    folder: Folder = DEFAULT_FOLDER,
    root_key: RootKey = None,
) -> Report:
    """Make a federation: its offline key, its CA, the server's certificate and an empty log."""
    made = FederationFolder.create(folder, name, address, now=datetime.now(UTC), root_key=root_key)
    offline = folder / OFFLINE_ROOT.parent if root_key is None else root_key.parent
    text = (
        f"The federation {name}, at {address}.\n\n"
        f"Fingerprint   {made.fingerprint}\n"
        f"Private keys  {offline}: root.pem signs who belongs, {CA_KEY_FILE} the server's certificate.\n"
        + (
            "              Move this folder to a stick now, keep a copy of it in a safe, and name the file with\n"
            "              --root-key where a command needs it. Without it no site can be added or revoked any more.\n"
            if root_key is None
            else ""
        )
        + "\nSites ask to join with `djms client init`; add them with `djms server add-site request-NAME.json`.\n"
        "Tell each the fingerprint by telephone or on paper, not together with the welcome."
    )
    data = {
        "folder": str(folder),
        "name": name,
        "address": address,
        "fingerprint": made.fingerprint,
        "offline": str(offline),
        "server_certificate_until": made.server_certificate.not_valid_after_utc.isoformat(),
        "ca_until": made.ca.not_valid_after_utc.isoformat(),
    }
    return _with_warnings(made, data, Text(text), but_offline=True)


@app.command("add-site", cls=DjmsCommand)
def add_site(
    request: Annotated[Path, typer.Argument(help="The file that the site sent.")],
    fingerprint: Annotated[str | None, typer.Option(help="What the office read out on the telephone.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="The request came by hand: do not ask for the fingerprint.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="The same office with new keys.")] = False,
    witness: Annotated[bool, typer.Option(help="Let its cosignatures of the log count.")] = True,
    folder: Folder = DEFAULT_FOLDER,
    root_key: RootKey = None,
    out: Out = None,
) -> Report:
    """Let a site join, or join again with new keys, and write the welcome to send to it."""
    federation = FederationFolder(folder)
    asked = JoinRequest.from_text(_content(request, "request"))
    _require_compared(asked, fingerprint, yes=yes)
    root = federation.offline_keys(root_key).root
    change = membership.add(federation, asked, root, datetime.now(UTC), replace=replace, witness=witness)
    welcome = _write_welcome(federation, asked.name, request.parent if out is None else None, out)
    number = None if change.edition is None else change.edition.edition
    what = ("has new keys" if replace else "is a site now") if change.changed else "was a site already; nothing changed"
    text = (
        f"{asked.name} {what}. Edition {number}, {_count(len(federation.members()), 'site')}.\n"
        f"Send it {welcome}, and tell it by telephone the fingerprint of the federation's key:\n\n"
        f"{federation.fingerprint}"
    )
    note = version_note(asked.name, asked.djms, asked.protocol)
    data = {
        "name": asked.name,
        "fingerprint": asked.fingerprint,
        "changed": change.changed,
        "edition": number,
        "welcome": str(welcome),
        "version_note": note,
    }
    return _with_warnings(federation, data, Text(text + (f"\n\n{note}." if note else "")))


@app.command("revoke-site", cls=DjmsCommand)
def revoke_site(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    folder: Folder = DEFAULT_FOLDER,
    root_key: RootKey = None,
) -> Report:
    """Take a site out for good. Its keys never come back."""
    federation = FederationFolder(folder)
    change = membership.revoke(federation, name, federation.offline_keys(root_key).root, datetime.now(UTC))
    left = len(federation.members())
    number = None if change.edition is None else change.edition.edition
    text = (
        f"{name} {'is' if change.changed else 'was already'} revoked. "
        + (f"Edition {number}, {_count(left, 'site')}." if left else "No site is left.")
        + "\nIts keys never come back. No other site was touched; each takes the new edition when it reaches it."
    )
    data = {"name": name, "changed": change.changed, "edition": number, "sites": left}
    return _with_warnings(federation, data, Text(text))


@app.command("welcome", cls=DjmsCommand)
def welcome(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    folder: Folder = DEFAULT_FOLDER,
    out: Annotated[Path | None, typer.Option(help="Where it is written [default: welcome-NAME.json here].")] = None,
) -> Report:
    """Write a site's welcome again: the newest edition. Needs no private key."""
    federation = FederationFolder(folder)
    if name not in {one.name for one in federation.members()}:
        raise MembershipError("there is no such site", where=name[:64], remedy="see `djms server sites`")
    path = _write_welcome(federation, name, Path(), out)
    return Report({"name": name, "welcome": str(path)}, Text(f"The newest edition, for {name}: {path}"))


@app.command("sites", cls=DjmsCommand)
def sites(folder: Folder = DEFAULT_FOLDER) -> Report:
    """Show the federation and every site that is or was one."""
    federation = FederationFolder(folder)
    newest, members = federation.newest(), {one.name for one in federation.members()}
    unfinished = set(federation.unfinished())
    table = Table(box=None, pad_edge=False)
    for column in ("site", "", "since", "witness", "fingerprint"):
        table.add_column(column, no_wrap=True)
    rows: list[dict[str, Any]] = []
    for one in federation.records():
        state = "unfinished" if one.name in unfinished else "member" if one.name in members else "revoked"
        since = one.former[-1].until if one.status == "revoked" else one.since
        rows.append(
            {"name": one.name, "state": state, "since": since, "witness": one.witness, "fingerprint": one.fingerprint}
        )
        counts = "yes" if one.witness and state == "member" else "no"
        table.add_row(one.name, state, since, counts, one.fingerprint)
    edition = None if newest is None else newest.edition
    head = Text(
        f"{federation.file.name}, at {federation.file.address}\n"
        f"Federation's key    {federation.fingerprint}\n"
        f"Edition             {edition or 'none yet'}\n"
        f"Server certificate  until {federation.server_certificate.not_valid_after_utc:%Y-%m-%d}; "
        f"the CA's until {federation.ca.not_valid_after_utc:%Y-%m-%d}\n"
    )
    data = {"name": federation.file.name, "address": federation.file.address, "edition": edition, "sites": rows}
    data |= {"fingerprint": federation.fingerprint}
    return _with_warnings(federation, data, Group(head, table) if rows else head)


@app.command("renew", cls=DjmsCommand)
def renew(
    ca: Annotated[
        bool, typer.Option("--ca", help="The CA's certificate too; sites take it with a new edition.")
    ] = False,
    new_key: Annotated[bool, typer.Option("--new-key", help="Give the server a new private key.")] = False,
    folder: Folder = DEFAULT_FOLDER,
    root_key: RootKey = None,
) -> Report:
    """Issue the server's certificate anew. Restart the server afterwards."""
    federation = FederationFolder(folder)
    new = membership.renew(federation, federation.offline_keys(root_key), datetime.now(UTC), ca=ca, new_key=new_key)
    ends, ca_ends = federation.server_certificate.not_valid_after_utc, federation.ca.not_valid_after_utc
    text = f"The server's certificate is valid until {ends:%Y-%m-%d}, the CA's until {ca_ends:%Y-%m-%d}.\n"
    text += "Restart the server, so that it uses it. " + (
        "Sites go on with the CA's old certificate until that expires,\nand take the new one with the new edition."
        if ca
        else "Sites need do nothing."
    )
    data = {"server_certificate_until": ends.isoformat(), "ca_until": ca_ends.isoformat(), "new_edition": new}
    return _with_warnings(federation, data, Text(text))


@app.command("publish", cls=DjmsCommand)
def publish(folder: Folder = DEFAULT_FOLDER, root_key: RootKey = None) -> Report:
    """Sign a new edition where the newest is out of date, as after `djms anchor rotate`."""
    federation = FederationFolder(folder)
    root = federation.offline_keys(root_key).root
    with federation.locked():
        edition, new = membership.publish(federation, root)
    number = None if edition is None else edition.edition
    text = "There is no site yet." if number is None else f"Edition {number} {'is new' if new else 'is up to date'}."
    return _with_warnings(federation, {"edition": number, "changed": new}, Text(text))


def _require_compared(request: JoinRequest, fingerprint: str | None, *, yes: bool) -> None:
    """Raise unless the operator has the fingerprint from the office itself, or says that the file came by hand."""
    shown = f"the request of {request.name} has the fingerprint {request.fingerprint}"
    if fingerprint is not None and not same_fingerprint(fingerprint, request.fingerprint):
        raise MembershipError(
            f"{shown}, and you typed another: either it was mistyped, or this is not the request that the office made",
            where="--fingerprint",
            remedy="have it read out again; if it still differs, add nobody and find out who sent this file",
        )
    if fingerprint is None and not yes:
        raise MembershipError(
            shown,
            where="--fingerprint",
            remedy="call the office, have it read out what `djms client show` says there, and give that with "
            "--fingerprint; if you fetched the file yourself, --yes",
        )


def _content(path: Path, what: str) -> bytes:
    if not path.is_file():
        raise InputError(f"the {what} does not exist", where=path, remedy="check the path")
    return path.read_bytes()


def _write_welcome(federation: FederationFolder, name: str, beside: Path | None, out: Path | None) -> Path:
    text = federation.newest_text()
    path = (beside or Path()) / f"welcome-{name}.json" if out is None else out
    with atomic_path(path) as temporary:
        temporary.write_text(text or "", encoding="utf-8")
    return path


def _with_warnings(
    federation: FederationFolder, data: dict[str, Any], text: RenderableType, *, but_offline: bool = False
) -> Report:
    warnings = federation.warnings(datetime.now(UTC))
    shown = [one for one in warnings if not (but_offline and "private keys lie" in one)]
    if not shown:
        return Report({**data, "warnings": warnings}, text)
    return Report({**data, "warnings": warnings}, Group(text, Text("\n" + "\n".join(f"! {one}." for one in shown))))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


register(app)
