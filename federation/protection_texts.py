"""What a run was protected by, as it was done, in words for an official; and what it was not protected by."""

from __future__ import annotations

import math
from typing import Any


def protections_text(summary: dict[str, Any]) -> str:
    """Rounds given up, secure aggregation, differential privacy, anchoring, and what was missing, line by line."""
    return "".join(
        (
            _given_up(summary),
            _secure_aggregation(summary["secure_aggregation"]),
            _differential_privacy(summary["differential_privacy"]),
            _anchoring(summary["anchoring"]),
        )
    )


def _secure_aggregation(secure: dict[str, Any] | None) -> str:
    if secure is None:
        return "Sites' answers were seen by the coordinator one by one.\n"
    holders = f"{secure['threshold']} of {secure['holders']}"
    return f"Secure aggregation: only sums over sites were seen; {holders} sites unmask a sum.{_withstands(secure)}\n"


def _differential_privacy(private: dict[str, Any] | None) -> str:
    if private is None:
        return "There was no differential privacy: the model may remember single people.\n"
    article, one = {"candidate": ("a", "person"), "site": ("an", "office")}[private["unit"]]
    factor = math.exp(private["epsilon"])
    checked = " and ".join(_ACCOUNTANTS[name] for name in ("pld", "opacus") if name in private["by_accountant"])
    return (
        f"Differential privacy: ε {private['epsilon']:.3g} for each {one}, δ {private['delta']:g}, computed from the "
        f"noise that was added{f', checked by {checked}' if checked else ''}.\n"
        f"  It means: whatever anybody finds out from this model about {article} {one}, a model trained without that\n"
        f"  {one} would have told as well, at most {factor:.1f} times less or more likely. What holds for people in\n"
        "  general, the model does tell: that is what it is for.\n" + _whom_it_binds(private)
    )


def _anchoring(log: dict[str, Any] | None) -> str:
    if log is None:
        return "There was no anchoring: nobody can check later which models were trained.\n"
    return (
        f"Anchoring: {len(log['entries'])} models of this run are in the log {log['origin']}.\n"
        f"  {log['cosigned']} of {log['witnesses']} offices cosigned its last checkpoint, {log['quorum']} are needed: "
        f"it is {'' if log['published'] else 'NOT '}published.\n" + _without_majority(log)
    )


def _without_majority(log: dict[str, Any]) -> str:
    """What a small quorum cannot do; nothing where it is above half of the witnesses."""
    if 2 * log["quorum"] > log["witnesses"]:
        return ""
    return "  That is half of them or fewer: two different logs could each find so many.\n"


def _whom_it_binds(private: dict[str, Any]) -> str:
    """Against whom it does not hold; nothing where it holds against everybody outside of a site."""
    if private["noise_added_by"] == "sites":
        return ""
    return "  It does not hold against the coordinator, who added the noise and saw each office's update before.\n"


_ACCOUNTANTS = {"pld": "privacy loss distributions", "opacus": "Opacus"}


def _given_up(summary: dict[str, Any]) -> str:
    """Which rounds were abandoned; nothing where none was."""
    if not summary["abandoned"]:
        return ""
    rounds = ", ".join(str(number) for number in summary["abandoned"])
    return f"Rounds given up for want of sites, the model left as it was: {rounds} (why: rounds.csv).\n"


def _withstands(secure: dict[str, Any]) -> str:
    """Who may work against the sites and still see no site's vector; nothing where it is a matter of chance."""
    colluders = secure["tolerated_colluders"]
    if colluders is None:
        return ""
    together = f" together with {colluders} of them" if colluders else " alone"
    how = "cheats" if secure["malicious_coordinator"] else "is curious"
    return f" It withstands a coordinator that {how}{together}."
