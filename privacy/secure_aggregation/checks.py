"""What sites and the coordinator check alike before they go on; each check is one rule with one error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from privacy.roster import Roster
from privacy.secure_aggregation.errors import (
    DuplicateSite,
    KeyNotSigned,
    MalformedMessage,
    ShapeChanged,
    SurvivorAndDropped,
    TermsRefused,
    TooFewSignatures,
    WrongSurvivors,
)
from privacy.secure_aggregation.keys import has_small_order
from privacy.secure_aggregation.messages import Advert, Names, Survivors
from privacy.secure_aggregation.terms import Terms
from privacy.secure_aggregation.topology import Topology


def require_unique(names: Sequence[str]) -> None:
    """Raise DuplicateSite when a name stands twice."""
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DuplicateSite(f"{twice[0]} stands twice in a list", remedy="give every site its own name and identity")


def require_sorted(names: Names, what: str) -> None:
    """Raise DuplicateSite or MalformedMessage unless names are in order, each once."""
    require_unique(names)
    if list(names) != sorted(names):
        raise MalformedMessage(f"the {what} is not in the order of names", remedy="use the same version of DJMS")


def require_known(names: Iterable[str], roster: Roster) -> None:
    """Raise KeyNotSigned when a name is not in the roster: invented sites would make a cohort look large."""
    unknown = sorted(set(names) - set(roster.members))
    if unknown:
        raise KeyNotSigned(
            f"{unknown[0]} is not in this site's roster", remedy="get the federation's newest roster, or leave it out"
        )


def require_withstanding(topology: Topology, colluders: int) -> None:
    """Raise TermsRefused when the cohort that came withstands fewer colluding sites than a site asks for."""
    plan = topology.neighbourhood
    withstood = plan.tolerated_colluders
    if withstood is None:  # a sparse graph, made to withstand the share of sites that the terms name
        withstood = math.floor(topology.terms.colluders * plan.sites)
    if withstood < colluders:
        raise TermsRefused(
            f"with {plan.threshold} of {plan.neighbours + 1} holders this cohort withstands {withstood} colluding "
            f"sites, and this site asks for {colluders}",
            remedy="raise privacy.secure_agg.threshold, for example to '4-of-5', or change the site's limit",
        )


def require_signed(advert: Advert, terms: Terms, context: bytes, roster: Roster) -> None:
    """Raise KeyNotSigned or MalformedMessage unless the advert fits the terms and bears its site's signature."""
    if len(advert.mask_keys) != terms.slots or len(advert.seed_commitments) != terms.slots:
        raise MalformedMessage(
            f"the advert of {advert.site} has keys for another number of rounds", remedy="make a new set-up"
        )
    if any(has_small_order(key) for key in advert.public_keys()):
        raise MalformedMessage(
            f"{advert.site} advertises a point of small order, with which no secret can be agreed",
            remedy=f"leave {advert.site} out until it is mended",
        )
    roster.verify(advert.site, advert.signed_part(context), advert.signature)


def require_shapes(terms: Terms, shapes: str) -> None:
    """Raise ShapeChanged when the model is not of the shapes the set-up was made for."""
    if shapes != terms.shapes:
        raise ShapeChanged("the model has other shapes than the set-up was made for", remedy="make a new set-up")


def require_partition(message: Survivors, cohort: Names, site: str) -> None:
    """Raise unless survivors and dropped make up the cohort, apart, with this site among the survivors."""
    require_sorted(message.survivors, "list of survivors")
    require_sorted(message.dropped, "list of dropped sites")
    both = sorted(set(message.survivors) & set(message.dropped))
    if both:
        raise SurvivorAndDropped(
            f"{both[0]} is named as survivor and as dropped", remedy="name every site in one of the two lists"
        )
    if set(message.survivors) | set(message.dropped) != set(cohort):
        raise WrongSurvivors("survivors and dropped sites are not the cohort", remedy="name the cohort's sites only")
    if site not in message.survivors:
        raise WrongSurvivors(
            f"{site} sent its vector and is named as dropped",
            remedy="do not go on with a coordinator that loses vectors",
        )


def require_recovery_allowed(terms: Terms, message: Survivors) -> None:
    """Raise TermsRefused when somebody dropped out and the terms do without recovery."""
    if message.dropped and not terms.dropout_recovery:
        raise TermsRefused(
            f"{len(message.dropped)} sites dropped out and the terms allow no recovery",
            remedy="the next round follows; privacy.secure_agg.dropout_recovery lets sites drop out",
        )


def require_signatures(
    topology: Topology,
    message: Survivors,
    signatures: Mapping[str, bytes],
    signed: bytes,
    peers: Sequence[str],
    roster: Roster,
) -> None:
    """Raise TooFewSignatures unless, for every peer whose share is asked for, enough of its holders signed this list.

    Bonawitz et al. 2017, section 6.2: enough is the threshold. Each peer needs its own count: in a sparse graph a
    site's own holders may all agree while those of one peer were shown something else (see `failure_bounds.divided`).
    A signature that does not verify is none; those that no count needs any more are not looked at.
    """
    missing = dict.fromkeys(peers, topology.threshold)
    for name in sorted(set(message.survivors) & set(signatures)):
        served = [peer for peer in topology.holders_of(name) if missing.get(peer, 0) > 0]
        if served and _is_valid(roster, name, signed, signatures[name]):
            for peer in served:
                missing[peer] -= 1
    for peer in peers:
        if missing[peer] > 0:
            raise TooFewSignatures(
                f"{topology.threshold - missing[peer]} of those who hold shares of {peer} signed this list of "
                f"survivors, and {topology.threshold} must",
                remedy="nothing is revealed in this round; find out whether the coordinator shows different lists",
            )


def _is_valid(roster: Roster, name: str, signed: bytes, signature: bytes) -> bool:
    try:
        roster.verify(name, signed, signature)
    except KeyNotSigned:
        return False
    return True
