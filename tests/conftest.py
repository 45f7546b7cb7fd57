"""What several tests share: a small federation's tables, and the command line inside this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Flower and Ray must stay silent and offline, in this process and in those it starts.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

_RECURSION_LIMIT = sys.getrecursionlimit()


@pytest.fixture(autouse=True)
def _the_interpreters_own_recursion_limit() -> None:
    """A test library raises it, for the whole process, above what the stack can hold."""
    sys.setrecursionlimit(_RECURSION_LIMIT)


WITHOUT_PROTECTIONS = ("--privacy.enabled", "false", "--anchoring.enabled", "false")


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """Standard output as the one JSON object it must be."""
        parsed = json.loads(self.out)
        assert isinstance(parsed, dict)
        return parsed


@pytest.fixture
def djms(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the command line in this process: `djms("data", "import", "--raw", folder)`."""
    from common.cli import run
    from djms import build

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run(build(), [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def small_federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five offices' tables of synthetic people, 400 in all, 10 pairs each."""
    from common.settings_loading import load_settings
    from data.generator import generate, write_raw
    from data.partition import partition
    from data.preparation import prepare, raw_files_of

    root = tmp_path_factory.mktemp("federation")
    settings = load_settings(["data.pairs_per_candidate=10"], environment={})
    write_raw(generate(candidates=400, companies=100, seed=7), root / "raw")
    dataset = prepare(raw_files_of(settings, root / "raw"), settings)
    partition(dataset.table, dataset.info, settings.offices, root / "federated")
    return root / "federated"
