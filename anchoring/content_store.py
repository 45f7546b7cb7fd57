"""Contents by their SHA-256: what entries of a log speak of, kept where a hash finds it.

    <folder>/ab/cdef…      62 more hexadecimal digits; the file's SHA-256 is its name

Rules: a content is durable before its name is handed out; the same content is stored once; what is read has the hash
that was asked for, or it is a `ContentDamaged`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from anchoring.durable_files import PART, DurableFiles
from anchoring.errors import ContentDamaged

_NAME = re.compile(r"[0-9a-f]{64}")
_RESTORE = "restore it from a copy; its hash tells whether the copy is the right one"


class ContentStore:
    """A folder of contents. It is made with the first one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Store a content; returns its SHA-256 in hexadecimal when it is durable.

        A file under that name is replaced: it may be damaged, or left by a writer that was killed before its folder
        was on disk.
        """
        name = hashlib.sha256(content).hexdigest()
        files = DurableFiles()
        files.write(self._path(name), content)
        files.settle()
        return name

    def get(self, name: str) -> bytes:
        """The content with this SHA-256. Raises ContentDamaged when it is missing or another one."""
        path = self._path(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise ContentDamaged("the content is missing from the store", where=path, remedy=_RESTORE) from None
        found = hashlib.sha256(content).hexdigest()
        if found != name:
            raise ContentDamaged(
                f"the content has not the hash that it is stored under, but {found}", where=path, remedy=_RESTORE
            )
        return content

    def names(self) -> Iterator[str]:
        """The names of all that is stored, in order; files that are none of the store's are passed over."""
        for path in sorted(self.folder.glob("??/*")):
            if not path.name.endswith(PART) and _NAME.fullmatch(name := path.parent.name + path.name):
                yield name

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ContentDamaged("a hash has other than 64 hexadecimal digits", where=self.folder, remedy=_RESTORE)
        return self.folder / name[:2] / name[2:]
