"""`djms anchor records`: commit records with personal data to the log, verify their receipts, erase them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from anchoring.anchor_folder import SIGNERS_FILE, AnchorFolder
from anchoring.cli import Anchor, KeyOption, SignersOption, WitnessesOption, folder_of
from anchoring.cosignature import WitnessPolicy
from anchoring.errors import AnchoringError
from anchoring.receipt import LONGEST_RECEIPT
from anchoring.record_release import RecordRelease, clear_beginnings, is_pending, is_release
from anchoring.record_release import commit as commit_rows
from anchoring.record_release import erase as erase_rows
from anchoring.record_release import reissue as reissue_receipts
from anchoring.record_release import resume as resume_commit
from anchoring.records import RecordReceipt, canonical_rows, new_release_id
from anchoring.signers import Signers
from anchoring.verification import read_policy, read_signers
from common.cli import DjmsCommand, new_group
from common.errors import InputError
from common.progress import progress_bars
from common.report import Report

RECORDS_FOLDER = Path("data/records")
"""Where releases go, each into a folder named by its random id."""

Release = Annotated[Path, typer.Option(help="The release's folder.")]

app = new_group("Records with personal data: a receipt opens one, and the log has nothing of them.")


@app.callback()
def group() -> None:
    """Records with personal data: a receipt opens one, and the log has nothing of them."""


@app.command(cls=DjmsCommand)
def commit(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="The records: CSV, UTF-8, with a header.")] = None,
    out: Annotated[Path | None, typer.Option(help=f"Folder to make [default: {RECORDS_FOLDER}/<random id>].")] = None,
    resume: Annotated[Path | None, typer.Option(help="Finish the commit that was cut short in this folder.")] = None,
    anchor: Anchor = None,
) -> Report:
    """Commit each row and write its receipt.

    The log gets one entry with nothing personal in it. Row 1 is the first below the header.
    """
    log = AnchorFolder.open(folder_of(context, anchor))
    if resume is not None and file is None and out is None:
        with progress_bars() as bars, bars.step("Finishing the commit"):
            return _committed(resume_commit(resume, log), log)
    if file is None or resume is not None:
        what = "it takes a file to commit, or --resume and the folder of a commit that was cut short"
        raise InputError(what, where="djms anchor records commit", remedy="give one of the two")
    with progress_bars() as bars, bars.step("Committing"):
        rows = canonical_rows(file.read_bytes(), file)
        name = new_release_id()
        if out is None:
            _require_none_pending(RECORDS_FOLDER)
        return _committed(commit_rows(rows, RECORDS_FOLDER / name if out is None else out, log, release=name), log)


@app.command(cls=DjmsCommand)
def verify(
    receipts: Annotated[list[Path], typer.Argument(help="Receipts, or folders of receipts.")],
    signers: SignersOption = None,
    key: KeyOption = None,
    witnesses: WitnessesOption = None,
    show: Annotated[bool, typer.Option("--show", help="Show the rows, which are personal data.")] = False,
) -> Report:
    """Verify receipts of records, offline.

    Everything is recomputed, from the row up to the log's signature. It stops at the first receipt that does not fit.
    """
    trusted, policy = read_signers(signers, key), read_policy(witnesses)
    verified = [_verified(path, trusted, policy, show) for path in _files(receipts)]
    data = {"verified": len(verified), "witnesses_asked": policy is not None, "receipts": verified}
    lines = [line for one in verified for line in _proof_lines(one, policy is not None)]
    return Report(data, "\n".join([f"Verified: {_counted(len(verified), 'receipt')}.", *lines]))


@app.command(cls=DjmsCommand)
def erase(
    release: Release,
    row: Annotated[list[int] | None, typer.Option(help="A row's number, as in its receipt's name. Repeatable.")] = None,
    match: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Rows with this cell; repeated, with all of them."),
    ] = None,
) -> Report:
    """Erase records for ever.

    Receipt, row and nonce go, and the row's leaf cannot be opened any more; other receipts stay valid. Out of reach are
    receipts given out, backups, and the table that was committed. A value on a command line may stay in the shell's
    history; a number tells nothing.
    """
    if bool(row) == bool(match):
        raise InputError(
            "it takes rows by number or by their cells",
            where="djms anchor records erase",
            remedy="give --row or --match",
        )
    before = RecordRelease.open(release).erased
    after = erase_rows(release, row or (), _conditions(match or ()))
    new = sorted(after.erased - before)
    unseen = after.entry.rows - len(after.erased) - len(after.held())
    data = {
        "release": after.entry.release,
        "folder": str(release),
        "erased": new,
        "erased_before": sorted(before),
        "without_receipt": unseen,
    }
    text = f"Erased in {release}: {_listed(new)}."
    if new:
        text += (
            "\nNobody who kept no copy can open what was committed of them; all other receipts stay valid."
            "\nOut of reach: receipts that were given out, backups, and the table that was committed."
        )
    if match and unseen:
        text += f"\nThe receipts of {_counted(unseen, 'row')} are not in the folder, so these could not be compared."
    return Report(data, text)


@app.command(cls=DjmsCommand)
def reissue(context: typer.Context, release: Release, anchor: Anchor = None) -> Report:
    """Prove a release's receipts anew.

    They get the newest checkpoint that enough witnesses cosigned: at the time of the commit there was none yet.
    """
    log = AnchorFolder.open(folder_of(context, anchor))
    with progress_bars() as bars, bars.step("Proving anew"):
        count = reissue_receipts(release, log)
    return Report(
        {"folder": str(release), "reissued": count}, f"Proven anew in {release}: {_counted(count, 'receipt')}."
    )


@app.command("list", cls=DjmsCommand)
def list_(
    folder: Annotated[Path, typer.Option("--in", help="Folder of releases.")] = RECORDS_FOLDER,
) -> Report:
    """List releases of records."""
    found = [path for path in sorted(folder.iterdir()) if is_release(path)] if folder.is_dir() else []
    releases = [_described(path) for path in found]
    data = {"folder": str(folder), "releases": releases}
    if not releases:
        return Report(data, f"No releases of records in {folder}.")
    table = Table(box=None, pad_edge=False)
    for column in ("release", "rows", "receipts here", "erased", "entry of the log"):
        table.add_column(column, justify="left" if column in ("release", "entry of the log") else "right", no_wrap=True)
    for one in releases:
        if one["pending"]:
            table.add_row(Path(one["folder"]).name, "–", "–", "–", "unfinished: commit --resume")
        else:
            counts = [f"{one[name]:,}" for name in ("rows", "held", "erased")]
            table.add_row(Path(one["folder"]).name, *counts, f"{one['entry']} of '{one['origin']}'")
    return Report(data, Group(Text(f"Releases of records in {folder}\n"), table))


def _require_none_pending(root: Path) -> None:
    """A commit that is run again without a folder is most likely one that was cut short."""
    clear_beginnings(root)
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if is_pending(folder):
            raise InputError(
                "a commit was cut short in this folder",
                where=folder,
                remedy=f"finish it with `djms anchor records commit --resume {_quoted(folder)}`, then commit others",
            )


def _committed(release: RecordRelease, log: AnchorFolder) -> Report:
    receipts, first = release.receipt_path(1).parent, release.receipt_path(1).name
    data = {
        "release": release.entry.release,
        "folder": str(release.folder),
        "receipts": str(receipts),
        "rows": release.entry.rows,
        "root": release.entry.root.hex(),
        "origin": release.origin,
        "entry": release.place,
    }
    return Report(
        data,
        f"Committed: {_counted(release.entry.rows, 'row')}, as entry {release.place} of the log '{release.origin}'. "
        "Nothing personal is in the log.\n"
        f"Receipts: {receipts}; {first} is that of the first row below the header.\n"
        "A receipt shows its row to whoever has it: give it to the person it is about, and to nobody else.\n"
        f"Next: djms anchor records verify {_quoted(receipts)} --signers {_quoted(log.folder / SIGNERS_FILE)}",
    )


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        inside = sorted(path.glob("*.tlog-proof")) if path.is_dir() else [path]
        if not inside:
            raise InputError("there is no receipt in this folder", where=path, remedy="name a folder with receipts")
        yield from inside


def _verified(path: Path, signers: Signers, policy: WitnessPolicy | None, show: bool) -> dict[str, Any]:
    with path.open("rb") as file:
        content = file.read(LONGEST_RECEIPT + 1)
    try:
        receipt = RecordReceipt.from_text(content)
        proven = receipt.verify(signers, policy)
    except AnchoringError as error:
        error.where = str(path) if error.where is None else f"{path}: {error.where}"
        raise
    result = {
        "receipt": str(path),
        "release": proven.entry.release,
        "row": proven.row,
        "rows": proven.entry.rows,
        "origin": proven.origin,
        "entry": proven.place,
        "tree_size": proven.tree_size,
        "cosignatures": len(proven.cosigned),
        "witnesses": [{"name": name, "time": time} for name, time in proven.cosigned],
    }
    return {**result, "record": receipt.record.cells()} if show else result


def _proof_lines(one: dict[str, Any], asked: bool) -> Iterator[str]:
    cosigned = f"cosigned by {_counted(one['cosignatures'], 'witness', 'es')}" if asked else "no witness was asked for"
    yield f"\n{one['receipt']}"
    yield f"  row {one['row']:,} of {one['rows']:,} in the release {one['release']}"
    yield f"  entry {one['entry']:,} of the log '{one['origin']}', in its tree of {one['tree_size']:,}; {cosigned}"
    yield from (f"    {_plain(column)}: {_plain(cell)}" for column, cell in one.get("record", {}).items())


def _plain(text: str) -> str:
    """Text that cannot command a terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _conditions(texts: Sequence[str]) -> dict[str, str]:
    conditions: dict[str, str] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or column in conditions:
            what = "a condition is not of the form COLUMN=VALUE, or is the second one on its column"
            raise InputError(what, where="--match", remedy="quote it, for example --match 'Codice=17'")
        conditions[column] = value
    return conditions


def _described(folder: Path) -> dict[str, Any]:
    if is_pending(folder):
        return {"folder": str(folder), "pending": True}
    release = RecordRelease.open(folder)
    return {
        "folder": str(folder),
        "pending": False,
        "release": release.entry.release,
        "rows": release.entry.rows,
        "held": len(release.held()),
        "erased": len(release.erased),
        "origin": release.origin,
        "entry": release.place,
    }


def _listed(rows: Sequence[int]) -> str:
    if not rows:
        return "nothing that was not erased before"
    named = ", ".join(map(str, rows[:20])) + (" and others" if len(rows) > 20 else "")
    return f"{'row' if len(rows) == 1 else 'rows'} {named}"


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
