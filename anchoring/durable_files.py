"""Files that survive a power cut whole, and the lock that keeps a folder to one writer."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock

from anchoring.errors import AnchoringError
from common.files import lock_of, sync

PART = ".part"


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
            sync(folder)
        self._unsettled.clear()


def locked(folder: Path) -> FileLock:
    """Take the folder's lock; `release` gives it back, and so does the end of the process. Raises LogLocked."""
    lock = lock_of(folder)
    if lock is None:
        raise LogLocked(
            "another writer is appending to this log", where=folder, remedy="end that writer, or wait until it closes"
        )
    return lock
