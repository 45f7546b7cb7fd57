"""Privacy ledgers and budgets of the offices of a federation on one machine: one folder per office, kept between runs.

A real office keeps its own; here whoever runs the federation sets every office's budget, with the settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from client.budget import BUDGET_FILE, LEDGER_FILE
from client.ledger import PrivacyLedger
from common.files import atomic_path
from common.settings import Settings


def ledger_folders(settings: Settings, sites: Sequence[str], directory: Path | None = None) -> list[Path] | None:
    """The sites' folders, in their order; None where the run has no differential privacy.

    They lie below `directory`, or below `paths.ledger_dir`.

    A ledger that is there goes on; its budget is that of the settings. Raises LedgerDamaged, and InputError.
    """
    if not settings.privacy.differential_privacy:
        return None
    root = (settings.paths.ledger_dir if directory is None else directory).absolute()
    return [_made(root / site, settings) for site in sites]


def _made(folder: Path, settings: Settings) -> Path:
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    PrivacyLedger.open(folder / LEDGER_FILE, create=True)
    with atomic_path(folder / BUDGET_FILE) as path:
        content = settings.privacy.budget.model_dump(mode="json")
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder
