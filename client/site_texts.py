"""The files in a site's folder that its operator reads and edits, as they are written first."""

from __future__ import annotations

import yaml

from client.budget import BUDGET_FILE
from client.keys import SiteFile
from client.ledger import Budget

_LIMITS = {
    "minimum_cohort": "smallest number of sites in a sum that this site is in",
    "malicious_coordinator": "insist that all sites sign one list of survivors before anything is opened",
    "colluders": "least share of sites that a run must assume to work with the coordinator",
    "dropouts": "least share of sites that a run must assume to vanish",
    "groups": "allow sums over groups of sites instead of over everybody",
    "tolerated_colluders": "take part only where so many sites may work with the coordinator and learn nothing",
    "max_people": "bounds of what this site sends: people,",
    "value_bound": "and the size of a value",
    "max_run_epsilon": "the most that one run may cost this site's people, null for no more than the budget says",
    "models": "models that may be trained, e.g. [logistic, 32-16], null for any",
}


def site_text(name: str) -> str:
    """`site.yaml` with every limit at its default."""
    lines = [
        "# This site's name and its own limits, which hold whatever a run asks for.",
        f"# What its people may pay in all is in ledger/{BUDGET_FILE}.",
    ]
    for key, value in SiteFile(name=name).model_dump(mode="json").items():
        written = yaml.safe_dump({key: value}, sort_keys=False).rstrip("\n")
        lines.append(f"{written}  # {_LIMITS[key]}" if key in _LIMITS and "\n" not in written else written)
    return "\n".join(lines) + "\n"


def budget_text(budget: Budget) -> str:
    """`budget.yaml`."""
    until = "null" if budget.valid_until is None else budget.valid_until.isoformat()
    return (
        "# What this site lets its people pay in all, over all runs and models. Decide it with the data protection "
        "officer.\n"
        f"max_epsilon: {budget.max_epsilon!r}\ndelta: {budget.delta!r}\nvalid_until: {until}\n"
    )
