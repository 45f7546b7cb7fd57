"""Which settings cannot stand together, each refusal with its reason.

Every message is "what; remedy", as `common.settings_loading` splits it. Rules about one key stand with that key.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.settings import Settings

SMALLEST_GROUP = 3
"""Sites in one secure sum: a sum of two shows each of them the other's update."""


def units_to_trim(trim: float) -> int:
    """How many updates a trimmed mean needs for its share `trim` at either end to be one of them or more."""
    return math.ceil(1 / trim)


def refuse_what_does_not_fit(settings: Settings) -> None:
    """Raise ValueError for the first combination that protections make impossible."""
    _refuse_robust_sites(settings)
    _refuse_publishing_nowhere(settings)
    if not settings.privacy.secure_aggregation:
        return
    _refuse_pairs(settings)
    _refuse_groups(settings)
    _refuse_coarse_sums(settings)


def _refuse_robust_sites(settings: Settings) -> None:
    privacy, aggregator = settings.privacy, settings.federated.aggregator
    if privacy.differential_privacy and privacy.dp.unit == "site" and aggregator != "fedavg":
        raise ValueError(
            f"privacy.dp.unit 'site' needs to know how much one site can change, and with {aggregator} nobody knows; "
            "set federated.aggregator to fedavg"
        )


def _refuse_publishing_nowhere(settings: Settings) -> None:
    anchoring = settings.anchoring
    if anchoring.publish == "evm" and anchoring.evm.key_file is None:
        raise ValueError("anchoring.publish evm needs an account to send from; set anchoring.evm.key_file")
    if anchoring.publish == "rfc3161" and not (anchoring.timestamp.url and anchoring.timestamp.certificates):
        raise ValueError(
            "anchoring.publish rfc3161 needs an authority and what its answers are verified with; set "
            "anchoring.timestamp.url and anchoring.timestamp.certificates"
        )


def _refuse_coarse_sums(settings: Settings) -> None:
    secure, offices = settings.privacy.secure_agg, len(settings.offices)
    if offices * (secure.max_people * secure.value_bound + 1) >= 2**31:
        raise ValueError(
            f"privacy.secure_agg.max_people {secure.max_people} times value_bound {secure.value_bound:g} times "
            f"{offices} offices is 2^31 or more, and a sum would be coarser than one person's change by 1; lower one "
            "of the two"
        )


def _refuse_pairs(settings: Settings) -> None:
    least = settings.federated.min_clients
    if least < SMALLEST_GROUP:
        raise ValueError(
            f"federated.min_clients {least} lets secure aggregation sum {least} sites, and a sum of two shows each of "
            f"them the other's update; set federated.min_clients to {SMALLEST_GROUP} or more"
        )


def _refuse_groups(settings: Settings) -> None:
    federated, groups, offices = settings.federated, settings.privacy.secure_agg.groups, len(settings.offices)
    if federated.aggregator == "fedavg":
        if groups:
            raise ValueError(
                "privacy.secure_agg.groups reveals each group's sum, and fedavg needs only the sum of all; set "
                "privacy.secure_agg.groups to 0"
            )
        return
    if not groups:
        raise ValueError(
            f"{federated.aggregator} needs each site's update; full secure aggregation hides them: set "
            "privacy.secure_agg.groups"
        )
    if offices < SMALLEST_GROUP * groups:
        raise ValueError(
            f"privacy.secure_agg.groups {groups} needs {SMALLEST_GROUP * groups} offices, at least {SMALLEST_GROUP} in "
            f"each group, and there are {offices}; add offices, lower privacy.secure_agg.groups, or choose fedavg"
        )
    if federated.aggregator == "trimmed_mean" and groups < (needed := units_to_trim(federated.trim)):
        raise ValueError(
            f"a trimmed mean with federated.trim {federated.trim:g} needs {needed} groups to cut one off at either "
            f"end, and privacy.secure_agg.groups is {groups}; raise one of the two"
        )


def threshold_trouble(settings: Settings, sites: int) -> str | None:
    """Why a threshold "t-of-n" does not do for a federation of so many sites, or None where it does.

    Asked when a run starts and not when settings load: whoever only prepares tables needs no threshold.
    """
    threshold, count = settings.privacy.secure_agg.threshold, settings.privacy.secure_agg.threshold_count
    if not settings.privacy.secure_aggregation or count is None or count[1] == sites:
        return None
    if count[0] > sites:
        return f"privacy.secure_agg.threshold {threshold!r} needs {count[0]} sites, and there are only {sites}"
    if 2 * count[0] <= sites:
        return (
            f"privacy.secure_agg.threshold {threshold!r} is not above half of {sites} sites, so two disjoint groups of "
            "them could each reveal a sum"
        )
    return None
