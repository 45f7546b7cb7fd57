"""What must be known of a training table besides its rows: where its labels come from, and whether it is synthetic."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError
from common.files import atomic_path

FILE = "dataset.json"


@dataclass(frozen=True)
class DatasetInfo:
    """`labels`: recorded outcomes, or drawn by the label rule. `synthetic`: every row was generated."""

    labels: Literal["outcomes", "rule"]
    synthetic: bool

    @staticmethod
    def forget(directory: Path) -> None:
        """Remove the note before its tables change, so that an interrupted writer leaves no wrong one."""
        (directory / FILE).unlink(missing_ok=True)

    def write(self, directory: Path) -> None:
        """Write beside the tables it speaks of."""
        with atomic_path(directory / FILE) as path:
            path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> DatasetInfo:
        """Read what stands beside the tables. Raises InputError when it is missing or damaged."""
        path = directory / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            labels, synthetic = content["labels"], content["synthetic"]
            if labels not in ("outcomes", "rule") or not isinstance(synthetic, bool):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                "it is not known where the labels of these tables come from, the note on them is missing or damaged",
                where=path,
                remedy="build the tables anew with `djms data import`",
            ) from None
        return cls(labels, synthetic)
