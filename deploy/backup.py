"""One night's backup of a site's or a coordinator's folder, while it is at work: one archive, for its owner only.

    python deploy/backup.py /var/lib/djms/site /var/backups/djms --keep 14

    restore/    what can be put back as it is: keys, settings, who belongs, runs and their models
    set-aside/  what must not be put back unless nothing has happened since: a site's privacy ledger and what it saw
                of the log, a coordinator's log. An older one would have a budget spent twice, or fork the log

Not in it: people's tables, whose backup is the office's own; a coordinator's root key, which belongs on a stick; and
what is made anew at every start. Databases are copied by SQLite itself, so a copy is whole whatever is being written.
"""

from __future__ import annotations

import io
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from common.cli import DjmsCommand, new_group, run
from common.errors import InputError, RunError
from common.files import LOCK, atomic_path
from common.report import Report

SET_ASIDE = {
    "site": ("ledger/ledger.sqlite", "ledger/ledger.sqlite.head", "witness/state.json", "witness/last.checkpoint"),
    "coordinator": ("log",),
}
LEFT_OUT = {"site": ("table.csv", "dataset.json", "node", "runs", "exchange"), "coordinator": ("offline", "superlink")}
_MARKS = {"site": "site.yaml", "coordinator": "federation.yaml"}
_DATABASES = (".sqlite", ".db")
_BESIDE_A_DATABASE = ("-wal", "-shm", "-journal")
_SEAL = ".head"
_TRIES = 20

app = new_group("Back up a folder of DJMS.")


@app.command(cls=DjmsCommand)
def backup(
    folder: Annotated[Path, typer.Argument(help="A site's folder, or a coordinator's.")],
    out: Annotated[Path, typer.Argument(help="Where the archives are.")],
    keep: Annotated[int, typer.Option(min=1, help="How many archives of this folder stay.")] = 14,
) -> Report:
    """Write one archive of the folder, and remove the oldest."""
    kind = kind_of(folder)
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError("the archives would lie in the folder itself", where=out, remedy="choose another place")
    name = f"djms-{kind}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.tar.gz"
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_path(out / name) as path, tarfile.open(path, "w:gz") as archive:
        count = sum(_add(archive, kind, folder, file) for file in sorted(files_of(kind, folder)))
    removed = sorted(out.glob(f"djms-{kind}-*.tar.gz"))[:-keep]
    for old in removed:
        old.unlink()
    data = {"archive": str(out / name), "files": count, "removed": len(removed)}
    return Report(data, f"{out / name}: {count} files; {len(removed)} older archives removed.")


def kind_of(folder: Path) -> str:
    """Whether this is a `site` or a `coordinator`. Raises InputError when it is neither."""
    for kind, mark in _MARKS.items():
        if (folder / mark).is_file():
            return kind
    raise InputError("this is neither a site's folder nor a coordinator's", where=folder, remedy="check the path")


def files_of(kind: str, folder: Path) -> Iterator[Path]:
    """The files to back up; what belongs to a database goes with it, and half-written files are nobody's."""
    for file in folder.rglob("*"):
        below = file.relative_to(folder)
        if not file.is_file() or file.is_symlink() or _among(below, LEFT_OUT[kind]):
            continue
        if file.name == LOCK or (file.name.startswith(".") and file.suffix == ".part"):
            continue
        if any(file.name.endswith(database + end) for database in _DATABASES for end in (*_BESIDE_A_DATABASE, _SEAL)):
            continue
        yield file


def _add(archive: tarfile.TarFile, kind: str, folder: Path, file: Path) -> int:
    """Add one file, a database with its seal; returns how many that were."""
    below = file.relative_to(folder)
    parts = _database(file) if file.suffix in _DATABASES else {"": file.read_bytes()}
    for end, content in parts.items():
        path = below.with_name(below.name + end)
        about = tarfile.TarInfo(str(Path("set-aside" if _among(path, SET_ASIDE[kind]) else "restore") / path))
        about.size, about.mode, about.mtime = len(content), 0o600, int(file.stat().st_mtime)
        archive.addfile(about, io.BytesIO(content))
    return len(parts)


def _database(file: Path) -> dict[str, bytes]:
    """A database as it is at one moment, and the seal beside it that belongs to this moment."""
    seal = file.with_name(file.name + _SEAL)
    for _ in range(_TRIES):
        before = seal.read_bytes() if seal.is_file() else None
        content = _copy(file)
        if before == (seal.read_bytes() if seal.is_file() else None):
            return {"": content} if before is None else {"": content, _SEAL: before}
    raise RunError("the database changes faster than it can be copied", where=file, remedy="try again at a quiet hour")


def _copy(file: Path) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / file.name
        reading = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        try:
            with closing(reading) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        except sqlite3.Error as error:
            raise RunError(
                f"the database cannot be copied ({error})", where=file, remedy="see whether it is damaged"
            ) from None
        return copy.read_bytes()


def _among(below: Path, names: tuple[str, ...]) -> bool:
    return any(below == Path(name) or Path(name) in below.parents for name in names)


if __name__ == "__main__":
    sys.exit(run(app))
