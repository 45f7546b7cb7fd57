"""An audit of private training by attack: does the training that is installed here keep the ε it claims?

Canaries are invented people, each with one pair whose inputs stand out in one direction of the model; a fair coin
decides for each whether it is trained on. The whole schedule of a run is executed by `train_privately`, and the
auditor, who sees every round's model as the coordinator and the other sites do, guesses each coin from how far the
model moved in the canary's direction (`privacy.one_run_audit` turns right guesses into a lower bound on ε). One
direction serves one canary, so a model has as many canaries as inputs; several runs, each with coins of its own, make
the bound sharper. Without noise every guess is right, and eight runs then refute every claim below ε = 4.9.

A bound above what the executed events cost refutes the training. One below proves nothing about other attacks, but an
implementation that adds too little noise, or none, does not pass.

The second attack takes the finished model alone and tells people trained on from people not by their loss. It is weak
on models this small, and passing it says little; failing it would say much.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.private_recipe import learning_rate
from client.private_training import CENTRE, train_privately
from client.site import Site
from common.encoding import INPUT_SIZE
from common.errors import RunError
from common.model import MatchingModel, predict
from common.pair_data import PairData
from common.settings import DifferentialPrivacySettings
from privacy.accounting import epsilon_rdp
from privacy.discrete_gaussian import RandomBytes
from privacy.events import PrivacyEvent, training_event
from privacy.one_run_audit import epsilon_lower_bound
from privacy.planning import solve_noise_multiplier

_MOVED_ALONE = 0.004
"""How far one canary moves the model in its direction: so little that its gradient stays as long as the clipping norm.

The learning rate that gives it is not a run's; what is released costs the same under any.
"""
_STANDING_OUT = 100.0
"""A canary's input in its own direction: its clipped gradient then has no other to speak of."""


@dataclass(frozen=True)
class CanaryAudit:
    """What the canaries showed. `claimed` is the ε of the executed events, `observed` the lower bound on it."""

    claimed: float
    observed: float
    delta: float
    confidence: float
    canaries: int
    right: int

    @property
    def passed(self) -> bool:
        """Whether the claim was not refuted."""
        return self.observed <= self.claimed

    def require(self) -> None:
        """Raise RunError where the claim was refuted."""
        if not self.passed:
            raise RunError(
                f"the training claims ε {self.claimed:.4g}, and {self.right} of {self.canaries} canaries were told, "
                f"which at {self.confidence:.0%} confidence means an ε above {self.observed:.4g}",
                where="privacy audit",
                remedy="train nothing with this installation: it adds less noise than it says",
            )


@dataclass(frozen=True)
class MembershipAttack:
    """People trained on and people not, told apart by their mean loss under the finished model.

    `advantage` is the largest difference between the shares of both that a threshold calls members, `margin` what
    chance alone reaches in it with 95 % (Dvoretzky, Kiefer and Wolfowitz, both samples), `allowed` what (ε, δ) allows.
    """

    members: int
    others: int
    roc_auc: float
    advantage: float
    margin: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the advantage is one that the claim allows, chance reckoned with."""
        return self.advantage - self.margin <= self.allowed


def audit_with_canaries(
    settings: DifferentialPrivacySettings,
    *,
    rounds: int,
    runs: int,
    confidence: float,
    random_bytes: RandomBytes = os.urandom,
    advance: Callable[[], None] = lambda: None,
) -> CanaryAudit:
    """Train `runs` times on canaries with the noise that the settings' ε needs, and guess who was in.

    Raises PlanRefused, and RunError where a training ended by its own check.
    """
    noise = solve_noise_multiplier(
        settings.epsilon, settings.delta, settings.sampling_rate, rounds * settings.local_steps
    )
    right, events = 0, list[PrivacyEvent]()
    for _ in range(runs):
        coins = np.frombuffer(random_bytes(INPUT_SIZE), dtype=np.uint8) & 1
        guessed, events = _guessed(coins.astype(bool), settings, rounds, noise, random_bytes)
        right += int((guessed == coins.astype(bool)).sum())
        advance()
    claimed = epsilon_rdp(events, settings.delta)
    canaries = runs * INPUT_SIZE
    observed = epsilon_lower_bound(right, canaries, canaries, settings.delta, confidence=confidence)
    return CanaryAudit(claimed, observed, settings.delta, confidence, canaries, right)


def attack_membership(
    site: Site, settings: DifferentialPrivacySettings, *, rounds: int, random_bytes: RandomBytes = os.urandom
) -> MembershipAttack:
    """Train on a site's people as in a run, then tell them from its test people. Raises as `audit_with_canaries`."""
    steps = rounds * settings.local_steps
    noise = solve_noise_multiplier(settings.epsilon, settings.delta, settings.sampling_rate, steps)
    model = MatchingModel((), seed=0, from_zero=True)
    train_privately(
        model,
        site.train,
        steps=steps,
        sampling_rate=settings.sampling_rate,
        learning_rate=_rate_for(site.train.people, settings, noise, steps),
        max_grad_norm=settings.max_grad_norm,
        noise_multiplier=noise,
        momentum=settings.momentum,
        random_bytes=random_bytes,
    )
    epsilon, delta = settings.epsilon, settings.delta
    members, others = _losses(model, site.train), _losses(model, site.test)
    cuts = np.sort(np.concatenate([members, others]))
    below_members = np.searchsorted(np.sort(members), cuts, side="right") / len(members)
    below_others = np.searchsorted(np.sort(others), cuts, side="right") / len(others)
    # Where losses are alike, either order is a guess: half.
    auc = float(np.mean((others[:, None] > members) + 0.5 * (others[:, None] == members)))
    margin = sum(math.sqrt(math.log(2 / 0.025) / (2 * len(group))) for group in (members, others))
    allowed = (math.exp(epsilon) - 1 + 2 * delta) / (math.exp(epsilon) + 1)
    advantage = float(np.max(below_members - below_others))
    return MembershipAttack(len(members), len(others), auc, advantage, margin, allowed)


def _guessed(
    included: NDArray[np.bool_],
    settings: DifferentialPrivacySettings,
    rounds: int,
    noise: float,
    random_bytes: RandomBytes,
) -> tuple[NDArray[np.bool_], list[PrivacyEvent]]:
    """Train on the included canaries, guess who they were, and the events that were executed."""
    data = _canaries(np.flatnonzero(included))
    model = MatchingModel((), seed=0, from_zero=True)
    keep = settings.momentum
    pushes = rounds * sum((1 - keep**step) / (1 - keep) for step in range(1, settings.local_steps + 1))
    rate = _MOVED_ALONE * data.people / (pushes * settings.max_grad_norm)
    events = []
    for number in range(1, rounds + 1):
        done = train_privately(
            model,
            data,
            steps=settings.local_steps,
            sampling_rate=settings.sampling_rate,
            learning_rate=rate,
            max_grad_norm=settings.max_grad_norm,
            noise_multiplier=noise,
            momentum=settings.momentum,
            random_bytes=random_bytes,
        )
        events.append(
            training_event(
                site="audit",
                run="audit",
                round=number,
                noise_multiplier=done.noise_multiplier,
                sampling_rate=done.sampling_rate,
                steps=done.steps_taken,
            )
        )
    before = MatchingModel((), seed=0, from_zero=True)
    moved = (_weights(model) - _weights(before)).astype(np.float64)
    return moved > _MOVED_ALONE / 2, events


def _rate_for(people: int, settings: DifferentialPrivacySettings, noise: float, steps: int) -> float:
    return learning_rate(
        people,
        1,
        noise_multiplier=noise,
        max_grad_norm=settings.max_grad_norm,
        momentum=settings.momentum,
        steps=steps,
    )


def _canaries(directions: NDArray[np.int64]) -> PairData:
    """Invented people with one success each, one for each of the model's inputs named."""
    inputs = np.tile(CENTRE, (len(directions), 1))
    inputs[np.arange(len(directions)), directions] += _STANDING_OUT
    people = np.arange(len(directions))
    return PairData(inputs.astype(np.float32), np.ones(len(directions), np.float32), people, None)


def _weights(model: MatchingModel) -> NDArray[np.float32]:
    return next(iter(model.parameters())).detach().numpy().ravel().copy()


def _losses(model: MatchingModel, data: PairData) -> NDArray[np.float64]:
    """Each person's mean loss over their pairs."""
    scores = np.clip(predict(model, data.inputs), 1e-12, 1 - 1e-12)
    losses = -np.where(data.outcome == 1, np.log(scores), np.log1p(-scores))
    return np.bincount(data.person, weights=losses) / data.pairs_per_person
