"""The Go program that verifies what we write with Go's own packages, built without network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# Where Debian's golang-golang-*-dev packages put their sources.
GOCODE = Path(os.environ.get("DJMS_GOPATH", "/usr/share/gocode"))
NOTE_PACKAGE = GOCODE / "src/golang.org/x/mod/sumdb/note"

needs_go = pytest.mark.skipif(
    shutil.which("go") is None or not NOTE_PACKAGE.is_dir(), reason="Go or its module golang.org/x/mod is not installed"
)


def built_verifier(folder: Path) -> Path:
    """Build it in a folder; returns the program."""
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": str(GOCODE),
        "GOFLAGS": "",
        "GOCACHE": str(folder / "cache"),
        "CGO_ENABLED": "0",
    }
    source = Path(__file__).parent / "anchoring" / "go" / "main.go"
    built = subprocess.run(
        ["go", "build", "-o", str(folder / "verifier"), str(source)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder / "verifier"
