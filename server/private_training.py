"""Private training as a strategy: asks sites for training with noise, and keeps the account of what they executed.

    PrivateTraining(SecureAggregation(FixedOrder(FedAvg(...))))

The noise is added at the sites, to the sum of single people's gradients, so the guarantee holds against the coordinator
too; here it is only asked for. The noise multiplier is solved from the run's ε before the first round. Rules kept here:

* a round whose events would take a site past the run's ε is not started;
* every site in a round's sum has said which event it executed, and one that costs more than was asked, or none, ends
  the run: what was not executed is not claimed;
* a site whose answer came and did not enter the sum counts as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from common import messages as names
from common.errors import RunError
from common.settings import DifferentialPrivacySettings
from privacy.accounting import epsilon_rdp
from privacy.events import EventRefused, PrivacyEvent, training_event
from privacy.planning import solve_noise_multiplier
from server.exchange import site_of, sort_replies
from server.wrapper import Wrapper


class PrivateTraining(Wrapper):
    """Gives the inner strategy privately trained models; see the module's docstring. Raises RunError."""

    def __init__(
        self, inner: Strategy, settings: DifferentialPrivacySettings, *, run: str, rounds: int, sites: int
    ) -> None:
        """Solve the noise for so many rounds of the run named `run`. Raises PlanRefused where no noise keeps ε."""
        super().__init__(inner)
        self._settings = settings
        self._run = run
        self._sites = sites
        self._noise = solve_noise_multiplier(
            settings.epsilon, settings.delta, settings.sampling_rate, rounds * settings.local_steps
        )
        self._events: list[PrivacyEvent] = []
        self._people = 0

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """What sites said they executed, in the order it came in."""
        return tuple(self._events)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Add what private training needs to the round's settings, then hand on."""
        self._require_budget(server_round)
        settings = self._settings
        config = ConfigRecord(
            {
                **config,
                names.UNIT_KEY: settings.unit,
                names.RUN_KEY: self._run,
                names.NOISE_KEY: self._noise,
                names.CLIP_KEY: settings.max_grad_norm,
                names.STEPS_KEY: settings.local_steps,
                names.SAMPLING_RATE_KEY: settings.sampling_rate,
                names.MOMENTUM_KEY: settings.momentum,
                names.SITES_KEY: self._sites,
                names.TOTAL_PEOPLE_KEY: self._people,
            }
        )
        return self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the events out of the replies, hand on, and check that every participant executed what was asked."""
        received = list(replies)
        executed = _events_in(received, server_round)
        self._events += executed.values()
        arrays, metrics = self.inner.aggregate_train(server_round, received)
        for site in self.participants:
            self._require_kept(site, executed.get(site), server_round)
        if metrics is not None:
            self._people = int(cast(int, metrics[names.PEOPLE_KEY]))
        return arrays, metrics

    def _require_budget(self, server_round: int) -> None:
        following = self._promised("any", server_round)
        sites = {event.site for event in self._events}
        before = [[event for event in self._events if event.site == site] for site in sites] or [[]]
        cost = max(epsilon_rdp([*events, following], self._settings.delta) for events in before)
        if cost > self._settings.epsilon:
            raise RunError(
                f"the round would take the run to ε {cost:.4g}, and privacy.dp.epsilon is {self._settings.epsilon:g}",
                where=f"round {server_round}",
                remedy="the round was not started; plan with more noise or fewer rounds",
            )

    def _promised(self, site: str, server_round: int) -> PrivacyEvent:
        return training_event(
            site=site,
            run=self._run,
            round=server_round,
            noise_multiplier=self._noise,
            sampling_rate=self._settings.sampling_rate,
            steps=self._settings.local_steps,
        )

    def _require_kept(self, site: str, executed: PrivacyEvent | None, server_round: int) -> None:
        promised = self._promised(site, server_round)
        if executed is None:
            what = "did not say what noise it added"
        elif (executed.site, executed.run, executed.round) != (site, self._run, server_round):
            what = "sent another round's privacy event"
        elif executed.unit != promised.unit or not executed.costs_at_most(promised):
            what = "added less noise than was asked for"
        else:
            return
        raise RunError(
            f"{site} {what}, so the run cannot be called private",
            where=f"round {server_round}",
            remedy="find out which version of DJMS that site runs; the model was not written",
        )


def _events_in(replies: Sequence[Message], server_round: int) -> dict[str, PrivacyEvent]:
    """By site, of the replies that hold a result."""
    found: dict[str, PrivacyEvent] = {}
    results, _ = sort_replies(replies)
    for reply in results:
        record = cast(ConfigRecord, reply.content[names.SITE])
        if names.EVENT_KEY not in record:
            continue
        try:
            event = PrivacyEvent.from_json(json.loads(str(record[names.EVENT_KEY])))
        except (ValueError, EventRefused) as error:
            raise RunError(
                f"{site_of(reply)} sent a privacy event that is none",
                where=f"round {server_round}",
                remedy="find out which version of DJMS that site runs",
            ) from error
        found[site_of(reply)] = event
    return found
