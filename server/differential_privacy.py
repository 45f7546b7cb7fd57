"""Differential privacy as a strategy: asks sites for private training, and keeps the account of what was executed.

    DifferentiallyPrivate(SecureAggregation(FixedOrder(FedAvg(...))))
    DifferentiallyPrivate(Quorum(CentralNoise(FixedOrder(FedAvg(...)))))     unit "site" without secure aggregation

With the unit "candidate", noise is added at the sites to the sum of single people's gradients; with the unit "site", to
each site's whole update, under secure aggregation as shares at the sites. Either way the guarantee holds against the
coordinator too, and the noise is only asked for here. Without secure aggregation a site's update is noised by
`server.central_noise`, and the coordinator is trusted.

The noise multiplier is solved from the run's ε before the first round. Rules kept here:

* a round whose events would take a site past the run's ε is not started;
* every site in a round's sum has said which event it executed, and one that costs more than was asked, or none, ends
  the run: what was not executed is not claimed; where the coordinator adds the noise, its own events count instead;
* a site whose answer came and did not enter the sum counts as well;
* where the coordinator was killed during a round, every site counts for it with all that was asked: nobody knows what
  was executed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common import messages as names
from common.errors import RunError
from common.exact_json import exact_json
from common.settings import PrivacySettings
from privacy.accounting import epsilon_rdp
from privacy.distributed_noise import TAIL
from privacy.events import NOISED_BY_COORDINATOR, EventRefused, PrivacyEvent, training_event
from privacy.planning import solve_noise_multiplier
from server.exchange import site_of, sort_replies
from server.wrapper import Past, Wrapper

INTERRUPTED_TRAINING = "interrupted-training"
"""Purpose of the events of a round whose coordinator was killed: the most that can have been executed."""


class NotPrivate(RunError):
    """A site executed other noise than was asked for: whatever follows, the run cannot be called private."""


class DifferentiallyPrivate(Wrapper):
    """Gives the inner strategy privately trained models; see the module's docstring. Raises RunError."""

    def __init__(self, inner: Strategy, settings: PrivacySettings, *, run: str, rounds: int, sites: int) -> None:
        """Account for so many rounds of the run named `run`. Raises PlanRefused where no noise keeps ε."""
        super().__init__(inner)
        self._privacy = settings
        self._settings = settings.dp
        self._run = run
        self._sites = sites
        self._noise = noise_multiplier(settings, rounds)
        self._events: dict[int, dict[str, PrivacyEvent]] = {}
        self._people = 0

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """What was executed, by sites' word or by the coordinator's own, in the order of rounds."""
        return tuple(event for executed in self._events.values() for event in executed.values())

    def memory(self) -> dict[str, Any]:
        """The number of people, of the last finished round."""
        return {**super().memory(), "differential_privacy": {"people": self._people}}

    def resume(self, past: Past) -> None:
        """Count what was executed before."""
        super().resume(past)
        for event in past.events:
            self._events.setdefault(event.round, {})[event.site] = event
        self._people = int(past.memory.get("differential_privacy", {}).get("people", 0))

    def interrupted(self, server_round: int, sites: Collection[str]) -> None:
        """Count the round as executed at all these sites, and at those that ever executed something."""
        super().interrupted(server_round, sites)
        asked = sorted({*sites, *(event.site for event in self.events)})
        promised = (self._promised(site, server_round) for site in asked)
        self._events[server_round] = {one.site: replace(one, purpose=INTERRUPTED_TRAINING) for one in promised}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Add what private training needs to the round's settings, then hand on."""
        self._require_budget(server_round)
        asked: dict[str, Any] = {
            names.UNIT_KEY: self._settings.unit,
            names.RUN_KEY: self._run,
            names.NOISE_KEY: self._noise,
            **(self._asked_of_sites() if self._settings.unit == "site" else self._asked_of_people()),
        }
        return self.inner.configure_train(server_round, arrays, ConfigRecord({**config, **asked}), grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the events out of the replies, hand on, and check that every participant executed what was asked."""
        received = list(replies)
        executed = self._events[server_round] = _events_in(received, server_round)
        arrays, metrics = self.inner.aggregate_train(server_round, received)
        executed |= {event.site: event for event in super().events if event.round == server_round}
        for site in self.participants:
            self._require_kept(site, executed.get(site), server_round)
        if metrics is not None and names.PEOPLE_KEY in metrics:
            self._people = int(cast(int, metrics[names.PEOPLE_KEY]))
        return arrays, metrics

    def _asked_of_people(self) -> dict[str, Any]:
        return {
            names.CLIP_KEY: self._settings.max_grad_norm,
            names.STEPS_KEY: self._settings.local_steps,
            names.SAMPLING_RATE_KEY: self._settings.sampling_rate,
            names.MOMENTUM_KEY: self._settings.momentum,
            names.SITES_KEY: self._sites,
            names.TOTAL_PEOPLE_KEY: self._people,
        }

    def _asked_of_sites(self) -> dict[str, Any]:
        weight = site_weight(self._privacy, self._noise) if self._privacy.secure_aggregation else 1.0
        return {names.UPDATE_NORM_KEY: self._settings.update_norm, names.SITE_WEIGHT_KEY: weight}

    def _require_budget(self, server_round: int) -> None:
        following = self._promised("any", server_round)
        sites = {event.site for event in self.events}
        before = [[event for event in self.events if event.site == site] for site in sites] or [[]]
        cost = max(epsilon_rdp([*events, following], self._settings.delta) for events in before)
        if cost > self._settings.epsilon:
            raise RunError(
                f"the round would take the run to ε {cost:.4g}, and privacy.dp.epsilon is {self._settings.epsilon:g}",
                where=f"round {server_round}",
                remedy="the round was not started; plan with more noise or fewer rounds",
            )

    def _promised(self, site: str, server_round: int) -> PrivacyEvent:
        dp, whole = self._settings, self._settings.unit == "site"
        return training_event(
            unit=dp.unit,
            site=site,
            run=self._run,
            round=server_round,
            noise_multiplier=self._noise,
            sampling_rate=1.0 if whole else dp.sampling_rate,
            steps=1 if whole else dp.local_steps,
            purpose=NOISED_BY_COORDINATOR if whole and not self._privacy.secure_aggregation else "training",
        )

    def _require_kept(self, site: str, executed: PrivacyEvent | None, server_round: int) -> None:
        promised = self._promised(site, server_round)
        if executed is None:
            what = "did not say what noise it added"
        elif (executed.site, executed.run, executed.round) != (site, self._run, server_round):
            what = "sent another round's privacy event"
        elif (executed.unit, executed.purpose) != (promised.unit, promised.purpose):
            what = "trained otherwise than it was asked to"
        elif not executed.costs_at_most(promised):
            what = "added less noise than was asked for"
        else:
            return
        raise NotPrivate(
            f"{site} {what}, so the run cannot be called private",
            where=f"round {server_round}",
            remedy="find out which version of DJMS that site runs; the model was not written",
        )


def noise_multiplier(settings: PrivacySettings, rounds: int) -> float:
    """Solved from the run's ε for so many rounds. Raises PlanRefused where no noise keeps it."""
    dp = settings.dp
    rate, steps = (1.0, rounds) if dp.unit == "site" else (dp.sampling_rate, rounds * dp.local_steps)
    return solve_noise_multiplier(dp.epsilon, dp.delta, rate, steps, unit=dp.unit)


def site_weight(settings: PrivacySettings, noise: float) -> float:
    """A power of two that every site weighs its update with, so that the words of a secure sum are put to use.

    As large as the bound on updates allows for one site's whole noise, and at most `max_people`.
    """
    secure = settings.secure_agg
    room = secure.max_people * secure.value_bound / (settings.dp.update_norm * (1 + TAIL * noise))
    return 2.0 ** math.floor(math.log2(min(room, secure.max_people)))


def _events_in(replies: Sequence[Message], server_round: int) -> dict[str, PrivacyEvent]:
    """By site, of the replies that hold a result."""
    found: dict[str, PrivacyEvent] = {}
    results, _ = sort_replies(replies)
    for reply in results:
        record = cast(ConfigRecord, reply.content[names.SITE])
        if names.EVENT_KEY not in record:
            continue
        try:
            event = PrivacyEvent.from_json(exact_json(str(record[names.EVENT_KEY])))
        except (ValueError, EventRefused) as error:
            raise NotPrivate(
                f"{site_of(reply)} sent a privacy event that is none",
                where=f"round {server_round}",
                remedy="find out which version of DJMS that site runs",
            ) from error
        found[site_of(reply)] = event
    return found
