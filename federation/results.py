"""The folder of a run: what was used, what came out, how good it is.

summary.json        the run in one object
settings.yaml       every setting in force, the seed among them
versions.json       versions of DJMS, Python and the libraries that numbers depend on
rounds.csv, model.safetensors, federation.json   written by the coordinator
models/             the model after each finished round; run_state.jsonl, what an interrupted run goes on from
privacy_ledger.json   with differential privacy, the events the sites executed: any accountant can price them
receipts/           with anchoring, one file for each model in the log: `djms anchor verify` checks it offline
pseudonyms.json     with anchoring, which site is which in these receipts
demo-log/           the log of a demo, which has one of its own
*.png               training progress, comparison with the baselines, offices
ranking.csv         companies for one person (no word about the person)
"""

from __future__ import annotations

import json
import platform
import shutil
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from common.errors import InputError
from common.files import atomic_path
from common.settings import Settings
from common.tables import SYNTHETIC_MARK_FILE
from server.anchored import PSEUDONYMS_FILE, RECEIPTS_FOLDER
from server.app import ERROR_FILE
from server.outcome import LEDGER_FILE, MODEL_FILE, RESULT_FILE, ROUNDS_FILE
from server.run_state import MODELS_FOLDER, STATE_FILE

DEMO_LOG = "demo-log"
SUMMARY_FILE = "summary.json"
VERSIONS_FILE = "versions.json"
_RUN_FILES = (
    *(
        SUMMARY_FILE,
        RESULT_FILE,
        ROUNDS_FILE,
        MODEL_FILE,
        LEDGER_FILE,
        ERROR_FILE,
        PSEUDONYMS_FILE,
        STATE_FILE,
        "settings.yaml",
        "ranking.csv",
        "flower.log",
    ),
    *("progress.png", "comparison.png", "offices.png"),
)
_LIBRARIES = ("djms", "flwr", "torch", "numpy", "pandas", "scikit-learn", "safetensors", "ray")


def check_out(out: Path | None) -> None:
    """Raise InputError when `out` is a file, or holds something that is not an earlier run of ours."""
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise InputError("this is a file, not a folder", where=out, remedy="choose another folder with --out")
    if any(out.iterdir()) and not _is_run(out):
        raise InputError(
            "the folder holds files that are not an earlier run's",
            where=out,
            remedy="choose an empty or new folder with --out",
        )


def new_run_directory(settings: Settings, kind: str, out: Path | None) -> Path:
    """The folder of a new run: `out`, or one named after the moment under `paths.results_dir`; its owner's alone.

    An earlier run in `out` makes place for this one. Raises InputError like `check_out`.
    """
    check_out(out)
    if out is None:
        name = f"{kind}-{datetime.now():%Y%m%d-%H%M%S-%f}"
        directory = settings.paths.results_dir / name
        directory.mkdir(parents=True, mode=0o700)
    else:
        directory = out
        directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        _clear(directory)
    versions = {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
    write_text(directory / VERSIONS_FILE, json.dumps(versions, indent=2) + "\n")
    write_text(directory / "settings.yaml", settings_text(settings))
    return directory


def _is_run(directory: Path) -> bool:
    try:
        return "djms" in json.loads((directory / VERSIONS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _clear(directory: Path) -> None:
    """Remove what an earlier run left in `directory`, and nothing else."""
    for name in _RUN_FILES:
        (directory / name).unlink(missing_ok=True)
    for name in ("logs", RECEIPTS_FOLDER, MODELS_FOLDER, DEMO_LOG):
        shutil.rmtree(directory / name, ignore_errors=True)
    if (directory / "data" / "raw" / SYNTHETIC_MARK_FILE).is_file():
        shutil.rmtree(directory / "data")


def read_result(directory: Path) -> dict[str, Any]:
    """What the coordinator wrote at the end of a run."""
    content: dict[str, Any] = json.loads((directory / RESULT_FILE).read_text(encoding="utf-8"))
    return content


def protections_of(result: dict[str, Any]) -> dict[str, Any]:
    """What protected a run, as the coordinator recorded that it was done, and which rounds were given up."""
    secure, private = result["secure_aggregation"], result["differential_privacy"]
    done = {
        "differential_privacy": private is not None,
        "secure_aggregation": secure is not None,
        "anchoring": result["anchoring"] is not None,
    }
    return {
        "protections": done,
        "secure_aggregation": secure,
        "differential_privacy": private,
        "anchoring": result["anchoring"],
        "abandoned": result["abandoned"],
    }


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
