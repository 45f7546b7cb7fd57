"""Protections that settings may ask for and this version cannot give: refused by name, never left out in silence."""

from __future__ import annotations

from common.errors import InputError
from common.settings import Settings

OFF = ("privacy.enabled=false", "anchoring.enabled=false")
"""Overrides that say openly that a run has neither."""


def refuse_unavailable(settings: Settings) -> None:
    """Raise InputError when the settings ask for a protection that this version does not have."""
    if settings.privacy.enabled:
        raise InputError(
            "differential privacy and secure aggregation are not part of this version, so a run that asks for them is "
            "not started",
            where="settings key 'privacy.enabled'",
            remedy="train without them only where that is acceptable, and say so with --privacy.enabled false",
        )
    if settings.anchoring.enabled:
        raise InputError(
            "anchoring is not part of this version, so a run that asks for it is not started",
            where="settings key 'anchoring.enabled'",
            remedy="train without it by saying so with --anchoring.enabled false",
        )
