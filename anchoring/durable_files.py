"""Files that survive a power cut whole, and the lock that keeps a folder to one writer."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from anchoring.errors import AnchoringError

PART = ".part"
LOCK = ".lock"


class LogLocked(AnchoringError):
    """Another writer has the log."""


class DurableFiles:
    """Files that take their names whole, and are on disk under them when `settle` returns."""

    def __init__(self) -> None:
        self._unsettled: set[Path] = set()

    def make(self, folder: Path) -> None:
        """Make a folder and those above it that are missing."""
        for missing in (folder, *folder.parents):
            if missing.is_dir():
                break
            self._unsettled.add(missing.parent)
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file and put it in its place; readable by its owner only."""
        if not path.parent.is_dir():
            self.make(path.parent)
        part = path.with_name(f".{path.name}{PART}")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        self._unsettled.add(path.parent)

    def settle(self) -> None:
        """Put on disk the names of all that was written so far."""
        for folder in self._unsettled:
            sync_folder(folder)
        self._unsettled.clear()


def sync_folder(folder: Path) -> None:
    """Put a folder's names on disk. Windows has no such call: there a new name is as durable as the system makes it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def locked(folder: Path) -> FileLock:
    """Take the folder's lock; `release` gives it back, and so does the end of the process. Raises LogLocked."""
    lock = FileLock(folder / LOCK, timeout=0, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise LogLocked(
            "another writer is appending to this log", where=folder, remedy="end that writer, or wait until it closes"
        ) from error
    return lock
