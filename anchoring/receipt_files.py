"""The files of a release's receipts: their names, and how thousands of them become durable together."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from anchoring.records import RecordReceipt
from common.files import sync

_NAME = re.compile(r"row-([0-9]{6,})\.tlog-proof")


def write_all(part: Path, receipts: Iterable[tuple[int, RecordReceipt]]) -> None:
    """Write receipts into a new folder, all durable at the end."""
    part.mkdir(mode=0o700)
    paths = []
    for row, receipt in receipts:
        paths.append(part / receipt_name(row))
        handle = os.open(paths[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        content = receipt.to_text().encode()
        try:
            while content:
                content = content[os.write(handle, content) :]
        finally:
            os.close(handle)
    _settle_together(part, paths)


def _settle_together(folder: Path, paths: Sequence[Path]) -> None:
    """Put new files and their folder on disk.

    syncfs(2) vouches for each file as fsync(2) does, and reports as it does what could not be written. It takes 0.2 s
    for 10,000 files, where their own fsyncs take 0.5 s after an os.sync() and 4 s without. Not every system has it.
    """
    syncfs = _syncfs()
    if syncfs is None:
        for path in (*paths, folder):
            sync(path)
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(handle):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(handle)


def _syncfs() -> Callable[[int], int] | None:
    if os.name != "posix":
        return None
    function: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return function


def receipt_name(row: int) -> str:
    """Name of the file of a row's receipt."""
    return f"row-{row:06d}.tlog-proof"


def row_of(path: Path) -> int | None:
    """The row whose receipt has this file name; None for any other name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match and path.name == receipt_name(int(match[1])) else None
