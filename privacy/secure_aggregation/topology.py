"""Who has to do with whom in a set-up, computed alike by every site and by the coordinator.

Holders keep shares of a site's secrets; partners have masks in common with it. In one sum over everybody both are the
site's neighbours in the graph; with groups, partners are the other members of the slot's group. The graph and the
groups follow from the digest over all adverts, so nobody chooses them alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import lru_cache

from common.settings_rules import SMALLEST_GROUP
from privacy.secure_aggregation.errors import CohortTooSmall
from privacy.secure_aggregation.keys import join
from privacy.secure_aggregation.messages import Names, members_digest
from privacy.secure_aggregation.neighbours import Graph, groups_of
from privacy.secure_aggregation.terms import Terms


class Topology:
    """The graph of one set-up. Raises CohortTooSmall or ThresholdTooLow when so many sites cannot make one."""

    def __init__(self, terms: Terms, members: dict[str, bytes]) -> None:
        if len(members) < terms.minimum_cohort:
            raise CohortTooSmall(
                f"{len(members)} sites advertised keys and at least {terms.minimum_cohort} must",
                remedy="wait for more sites",
            )
        self.terms = terms
        self.context = terms.digest()
        self.digest = members_digest(self.context, members)
        self.neighbourhood = terms.neighbourhood(len(members))
        self.threshold = self.neighbourhood.threshold
        self._graph = _graph(tuple(sorted(members)), self.neighbourhood.neighbours, self.digest)

    def neighbours_of(self, site: str) -> Names:
        """Those it exchanges shares with."""
        return self._graph.neighbours_of(site)

    def holders_of(self, site: str) -> Names:
        """Those who hold its shares, itself among them; the place in this list is the share's index, from 1."""
        return self._graph.holders_of(site)

    def acquaintances_of(self, site: str, members: Collection[str]) -> Names:
        """Whose keys it needs: its neighbours, and with groups everybody, since any may be a partner one day."""
        return tuple(sorted(set(members) - {site})) if self.terms.groups else self.neighbours_of(site)

    def peers_of(self, site: str, cohort: Names) -> Names:
        """Those about whom this site needs the word of enough holders before it reveals a share.

        Without groups, those whose shares it holds. With groups everybody: partners need not be neighbours, so lists
        that differ far from each other in the graph would split one group's masks (see `failure_bounds.divided`).
        """
        return cohort if self.terms.groups else self.holders_of(site)

    def goes_without_signatures(self, survivors: Sequence[str], cohort: Names) -> bool:
        """Whether a list may be answered on nobody's word: all of the cohort delivered, and everybody shares with all.

        Then a site reveals seeds only, of nobody's key a share, and it answers no other list. For what follows from
        that see `docs/secure-aggregation.md`, section 6.
        """
        everybody = self.neighbourhood.neighbours == self.neighbourhood.sites - 1
        return everybody and not self.terms.groups and tuple(survivors) == cohort

    def groups(self, cohort: Names, slot: int) -> tuple[Names, ...]:
        """The slot's groups; one of everybody where the terms have none. Raises GroupTooSmall."""
        if not self.terms.groups:
            return (cohort,)
        return groups_of(cohort, self.terms.groups, join(self.digest, slot))

    def partners_of(self, site: str, cohort: Names, slot: int) -> Names:
        """Those whose masks cancel against its own in this slot."""
        if self.terms.groups:
            own = next(group for group in self.groups(cohort, slot) if site in group)
            return tuple(name for name in own if name != site)
        present = set(cohort)
        return tuple(name for name in self.neighbours_of(site) if name in present)

    def require_recoverable(self, site: str, present: Collection[str]) -> None:
        """Raise CohortTooSmall when fewer than the threshold of a site's holders are there, or too few sites in all."""
        holders = len(set(self.holders_of(site)) & set(present))
        if holders < self.threshold or len(present) < self.terms.minimum_cohort:
            raise CohortTooSmall(
                f"{len(present)} sites are there, {holders} of them among {site}'s {len(self.holders_of(site))} "
                f"holders of shares; at least {self.terms.minimum_cohort} and {self.threshold} are needed",
                remedy="wait for more sites; this sum is given up and nothing is revealed",
            )

    @property
    def least_honest(self) -> int:
        """How many honest sites a sum over everybody has at least: the fewest survivors less the expected colluders.

        No site answers for fewer survivors than the threshold and the minimum cohort (`require_recoverable`).
        """
        plan = self.neighbourhood
        colluders = plan.tolerated_colluders
        if colluders is None:
            colluders = math.ceil(self.terms.colluders * plan.sites)
        return max(1, max(self.threshold, self.terms.minimum_cohort) - colluders)

    def revealed_survivors(self, cohort: Names, slot: int, survivors: Sequence[str]) -> frozenset[str]:
        """Survivors of groups that have enough of them for a sum that hides each."""
        there = set(survivors)
        enough = [
            there & set(group) for group in self.groups(cohort, slot) if len(there & set(group)) >= SMALLEST_GROUP
        ]
        return frozenset().union(*enough)


@lru_cache(maxsize=64)
def _graph(names: Names, neighbours: int, seed: bytes) -> Graph:
    return Graph(names, neighbours, seed)
