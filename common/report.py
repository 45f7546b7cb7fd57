"""What a command hands back: a value for programs (`--json`) and a text for people. Commands print nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType


@dataclass(frozen=True)
class Report:
    """The result of a command: `data` is JSON-able and complete, `text` is what a person reads."""

    data: Mapping[str, Any]
    text: RenderableType
