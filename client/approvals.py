"""Which application bundles a site's operator approved: a site answers runs of these, and with its installed code only.

    approved/<sha256>.json   one bundle: when it was approved, and the SHA-256 of each file in it
    offered.json             the last bundle that a coordinator came with and that was not approved, as a listing

A bundle that comes with a run is never unpacked or run: its hash says which code the coordinator means, and what runs
is what is installed here. So a bundle can be approved when it is the one that the installed code makes.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import InputError, RunError
from common.files import atomic_path

_FOLDER, _OFFERED = "approved", "offered.json"
_MOST_FILES, _LONGEST_FILE = 5_000, 10 * 2**20


class BundleRefused(RunError):
    """A bundle that this site's operator has not approved."""


class Bundle(BaseModel):
    """A bundle as it is remembered: its hash, the SHA-256 of each of its files by path, and since when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    djms: str
    files: Mapping[str, str]
    since: datetime

    @classmethod
    def of(cls, content: bytes, djms: str) -> Bundle:
        """List a bundle's bytes. Raises InputError where they are no bundle."""
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [one for one in archive.infolist() if not one.filename.startswith(".info/")]
                if len(members) > _MOST_FILES or any(one.file_size > _LONGEST_FILE for one in members):
                    raise ValueError
                files = {one.filename: hashlib.sha256(archive.read(one)).hexdigest() for one in members}
        except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError):
            raise InputError(
                "it is no application bundle", where="bundle", remedy="make one with the same version of DJMS"
            ) from None
        return cls(sha256=hashlib.sha256(content).hexdigest(), djms=djms, files=files, since=datetime.now(UTC))


@dataclass(frozen=True)
class Changes:
    """Paths that one bundle has and another has not, or has otherwise."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    @classmethod
    def between(cls, before: Bundle, after: Bundle) -> Changes:
        """From one bundle to another."""
        old, new = before.files, after.files
        return cls(
            added=tuple(sorted(set(new) - set(old))),
            changed=tuple(sorted(path for path in set(new) & set(old) if new[path] != old[path])),
            removed=tuple(sorted(set(old) - set(new))),
        )


class Approvals:
    """The bundles that the site in a folder approved."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def require(self, bundle_sha256: str) -> None:
        """Raise BundleRefused unless this bundle is approved."""
        if not self.has(bundle_sha256):
            raise BundleRefused(
                f"the application bundle {bundle_sha256[:16]} is not approved at this site",
                where="site",
                remedy="the site's operator reads what changed, updates DJMS there and runs `djms client approve`",
            )

    def has(self, bundle_sha256: str) -> bool:
        """Whether this bundle is approved."""
        return re.fullmatch(r"[0-9a-f]{64}", bundle_sha256) is not None and self._path(bundle_sha256).is_file()

    def last(self) -> Bundle | None:
        """The bundle that was approved last; None before the first. Raises InputError for a damaged file."""
        bundles = [_read(path) for path in (self._folder / _FOLDER).glob("*.json")]
        return max(bundles, key=lambda one: one.since, default=None)

    def approve(self, bundle: Bundle) -> None:
        """Approve a bundle from now on."""
        (self._folder / _FOLDER).mkdir(mode=0o700, exist_ok=True)
        _write(self._path(bundle.sha256), bundle)
        offered = self.offered()
        if offered is not None and offered.sha256 == bundle.sha256:
            (self._folder / _OFFERED).unlink(missing_ok=True)

    def offered(self) -> Bundle | None:
        """The last bundle that was refused here; None where none was."""
        path = self._folder / _OFFERED
        return _read(path) if path.is_file() else None

    def note_offered(self, bundle: Bundle) -> None:
        """Remember what was refused, so that the operator can see how it differs."""
        _write(self._folder / _OFFERED, bundle)

    def _path(self, sha256: str) -> Path:
        return self._folder / _FOLDER / f"{sha256}.json"


def require_approved(folder: Path, bundle_sha256: str) -> None:
    """Raise BundleRefused unless the site in `folder` approved this bundle."""
    Approvals(folder).require(bundle_sha256)


def _write(path: Path, bundle: Bundle) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(bundle.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> Bundle:
    try:
        return Bundle.model_validate_json(path.read_bytes())
    except ValidationError:
        raise InputError("it is no note on a bundle", where=path, remedy="remove it, and approve again") from None
