"""The application as it is sent to sites: where its sources lie, and the hash of the bundle that is made of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import common


def app_directory() -> Path | None:
    """The project's root, which holds the Flower app's description; None where DJMS is installed without it."""
    root = Path(str(common.__file__)).parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def bundle_sha256() -> str | None:
    """SHA-256, in hexadecimal, of the bundle that a SuperLink would be handed; None where none can be made."""
    root = app_directory()
    if root is None:
        return None
    from flwr.cli.build import build_fab_from_disk

    return hashlib.sha256(build_fab_from_disk(root)).hexdigest()
