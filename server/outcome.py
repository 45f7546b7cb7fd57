"""Names of the files a run leaves, and the writing of its result."""

from __future__ import annotations

import json
from typing import Any

from common.files import atomic_path
from server.job import Job

ROUNDS_FILE = "rounds.csv"
MODEL_FILE = "model.safetensors"
RESULT_FILE = "federation.json"
LEDGER_FILE = "privacy_ledger.json"


def write_result(job: Job, result: dict[str, Any]) -> None:
    """Write `federation.json`, the last file of a run at the coordinator."""
    with atomic_path(job.output / RESULT_FILE) as path:
        path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
