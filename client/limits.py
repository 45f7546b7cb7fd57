"""A site's own limits on what a run may ask, from its `site.yaml`: they hold whatever the run's settings say.

Secure aggregation and differential privacy need no limit here: a site with keys answers only under masks, and one with
a privacy ledger only with noise. What its people may pay in all is the ledger's own (`client.ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.keys import SiteFile, model_name
from common import messages as names
from common.errors import RunError
from privacy.accounting import epsilon_rdp
from privacy.events import training_event


class LimitRefused(RunError):
    """A run that asks for more than this site's own limits allow."""


def require_within(limits: SiteFile, config: Mapping[str, Any], *, delta: float | None) -> None:
    """Raise LimitRefused where a message's settings ask for more than `limits` allow.

    `delta` is that of the site's budget, at which a run's ε is priced; None where the site has none.
    """
    wanted = model_name(config.get(names.HIDDEN_KEY) or ())
    if limits.models is not None and wanted not in limits.models:
        raise LimitRefused(
            f"the run trains the model '{wanted}', and this site allows {', '.join(limits.models) or 'none'}",
            where="site.yaml, key 'models'",
            remedy="choose another model for the run, or allow this one at the site",
        )
    if limits.max_run_epsilon is None or names.UNIT_KEY not in config or delta is None:
        return
    epsilon = run_epsilon(config, delta)
    if epsilon > limits.max_run_epsilon:
        raise LimitRefused(
            f"the run would cost ε {epsilon:.3g} at δ {delta:g}, and this site allows {limits.max_run_epsilon:g} a run",
            where="site.yaml, key 'max_run_epsilon'",
            remedy="plan the run with a smaller privacy.dp.epsilon",
        )


def run_epsilon(config: Mapping[str, Any], delta: float) -> float:
    """What all rounds of a run cost that asks for the noise in `config`, at δ."""
    rounds = int(config[names.ROUNDS_KEY])
    whole = config[names.UNIT_KEY] == "site"
    event = training_event(
        unit="site" if whole else "candidate",
        site="any",
        run="any",
        round=1,
        noise_multiplier=config[names.NOISE_KEY],
        sampling_rate=1.0 if whole else config[names.SAMPLING_RATE_KEY],
        steps=rounds if whole else rounds * int(config[names.STEPS_KEY]),
    )
    return epsilon_rdp([event], delta)
