"""Files that survive a power cut whole, and the lock that keeps a folder to one writer."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

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
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        self._unsettled.add(path.parent)

    def settle(self) -> None:
        """Put on disk the names of all that was written so far."""
        for folder in self._unsettled:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self._unsettled.clear()


def locked(folder: Path) -> int:
    """Take the folder's lock; closing the handle gives it back. Raises LogLocked."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise LogLocked(
            "another writer is appending to this log", where=folder, remedy="end that writer, or wait until it closes"
        ) from error
    return handle
