"""Protections that settings may ask for and this version cannot give: refused by name, never left out in silence."""

from __future__ import annotations

from typing import NoReturn

from common.errors import InputError
from common.settings import Settings

OFF = ("anchoring.enabled=false",)
"""Settings that say openly that a run has none of them."""

UNAVAILABLE = {"anchoring": "anchoring"}
"""Sections of the settings whose protection is not there, and its name."""


def refuse_unavailable(settings: Settings) -> None:
    """Raise InputError when the settings ask for a protection that this version does not have."""
    if settings.anchoring.enabled:
        refuse("anchoring")


def refuse(section: str) -> NoReturn:
    """Raise InputError: the protection of this section of the settings is not there."""
    raise InputError(
        f"{UNAVAILABLE[section]} is not part of this version, so a run that asks for it is not started",
        where=f"settings key '{section}'",
        remedy=f"train without it only where that is acceptable, and say so with --{section}.enabled false",
    )
