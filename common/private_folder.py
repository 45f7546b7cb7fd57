"""A folder that holds private keys: made whole or not at all, changed by one command at a time, read by its owner only.

Why a private key that others can read is refused: on a machine with several users it must be counted as stolen, and a
copy leaves no trace. Keys on a stick are not checked: the file systems of sticks know no owners, and refusing them
would only lead to copies on disks.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError, RunError
from common.files import LOCK, lock_of, sync


@contextmanager
def new_folder(folder: Path, remedy: str) -> Iterator[Path]:
    """A folder to fill beside `folder`, which it becomes when the block ends well; it vanishes when it does not.

    What a killed block left is removed by the next. Raises InputError, with the remedy, when something lies in `folder`
    already.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("there is something in the folder already", where=folder, remedy=remedy)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(mode=0o700, exist_ok=True)
    with locked_folder(part):
        for left in part.iterdir():
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield part
            _sync_tree(part)
            _take_place(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    sync(folder.parent)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep every other command out of the folder. Raises RunError while one is at work there."""
    lock = lock_of(folder)
    if lock is None:
        raise RunError(
            "another command is changing this folder", where=folder, remedy="wait until it has ended, then try again"
        )
    try:
        yield
    finally:
        lock.release()


def require_private(path: Path) -> None:
    """Raise InputError when the private key is missing, or others than its owner may read it."""
    if not path.is_file():
        raise InputError("the private key is missing", where=path, remedy="restore it, or make new keys")
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):  # Windows keeps access elsewhere
        raise InputError(
            "others than its owner can read this private key",
            where=path,
            remedy="make new keys if others could use this machine meanwhile, and `chmod 600` it if they could not",
        )


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner may read, below a folder that `new_folder` makes."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _take_place(part: Path, folder: Path) -> None:
    try:
        part.replace(folder)
    except OSError as error:
        raise InputError(
            f"the new folder cannot take its place: {error.strerror}",
            where=folder,
            remedy="if this is where a disk is mounted, name a folder below it",
        ) from error


def _sync_tree(folder: Path) -> None:
    for below, _, files in os.walk(folder):
        for name in files:
            sync(Path(below) / name)
        sync(Path(below))
