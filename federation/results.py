"""The folder of a run: what was used, what came out, how good it is.

summary.json        the run in one object
settings.yaml       every setting in force, the seed among them
versions.json       versions of DJMS, Python and the libraries that numbers depend on
rounds.csv, model.safetensors, federation.json   written by the coordinator
*.png               training progress, comparison with the baselines, offices
ranking.csv         companies for one person (no word about the person)
"""

from __future__ import annotations

import json
import platform
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from common.errors import InputError
from common.files import atomic_path
from common.settings import Settings
from server.rounds import RESULT_FILE

SUMMARY_FILE = "summary.json"
_LIBRARIES = ("djms", "flwr", "torch", "numpy", "pandas", "scikit-learn", "safetensors", "ray")


def new_run_directory(settings: Settings, kind: str, out: Path | None) -> Path:
    """The folder of a new run: `out`, or one named after the moment under `paths.results_dir`.

    Raises InputError when `out` holds something that is not an earlier run: nothing of the user's is overwritten.
    """
    if out is None:
        directory = settings.paths.results_dir / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
    else:
        directory = out
        if directory.exists() and not directory.is_dir():
            raise InputError("this is a file, not a folder", where=directory, remedy="choose another folder with --out")
        if directory.is_dir() and any(directory.iterdir()) and not (directory / "settings.yaml").is_file():
            raise InputError(
                "the folder holds files that are not an earlier run's",
                where=directory,
                remedy="choose an empty or new folder with --out",
            )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SUMMARY_FILE).unlink(missing_ok=True)
    write_text(directory / "settings.yaml", settings_text(settings))
    versions = {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
    write_text(directory / "versions.json", json.dumps(versions, indent=2) + "\n")
    return directory


def read_result(directory: Path) -> dict[str, Any]:
    """What the coordinator wrote at the end of a run."""
    content: dict[str, Any] = json.loads((directory / RESULT_FILE).read_text(encoding="utf-8"))
    return content


def note_of(labels: str, synthetic: bool) -> str:
    """What stands under every plot of a run."""
    return f"labels: {labels}" + (" · synthetic data" if synthetic else "")


def settings_text(settings: Settings) -> str:
    """Settings as YAML."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_summary(directory: Path, summary: dict[str, Any]) -> None:
    """Write `summary.json`; it is written last, so a run that has one is complete."""
    write_text(directory / SUMMARY_FILE, json.dumps(summary, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
