"""The site's budget file, `budget.yaml` beside its privacy ledger: what its people may pay in all.

    max_epsilon: 3.0
    delta: 1e-6
    valid_until: 2027-12-31   # or null

It is the site's own: nothing that a run sends changes it.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from client.ledger import Budget
from common.errors import InputError

BUDGET_FILE = "budget.yaml"
LEDGER_FILE = "ledger.sqlite"


class _BudgetFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    max_epsilon: float
    delta: float
    valid_until: date | None = None


def read_budget(path: Path) -> Budget:
    """Read a budget file. Raises InputError when it is missing, damaged, or promises nothing."""
    if not path.is_file():
        raise InputError("the site's budget file is missing", where=path, remedy="write max_epsilon and delta in it")
    try:
        content = _BudgetFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "its content"
        raise InputError(f"{key}: {first['msg'].lower()}", where=path, remedy="correct that key") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError("this is not YAML", where=path, remedy="write it as key: value lines") from None
    return Budget(content.max_epsilon, content.delta, content.valid_until)
