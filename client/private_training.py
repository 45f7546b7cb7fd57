"""Training with differential privacy for people: DP-SGD in which one sample is one person with all their pairs.

A step (Abadi et al. 2016, "Deep Learning with Differential Privacy", algorithm 1; clipping and sum by Opacus):

    1. draws each person independently with probability `sampling_rate` (Poisson sampling; nobody may be drawn),
    2. takes the gradient of each drawn person's loss, the mean over that person's pairs,
    3. scales it down to a norm of at most `max_grad_norm`, so adding a person moves the sum by no more than that,
    4. adds N(0, (noise_multiplier * max_grad_norm)^2) to every coordinate of the sum, also when nobody was drawn,
    5. divides by the *expected* number of drawn people, and lets plain SGD with momentum make its step.

Rules it keeps:

* Who is drawn and what is added come from the operating system's cryptographic source. A `torch.Generator` would not
  do: on the CPU it keeps 32 bits of its seed, so whoever holds the model could try every noise there is.
* A person's gradient that is not finite counts as zero. Parameters come from outside, and some could be made so that
  one person's overflow, and nobody else's, would show in the sum.
* What each step really added is measured before the step is made (`NoiseCheck`), and a step that was not as promised
  ends the training with an error and leaves the model as it was.
* Only the model is protected. The mean loss, who was drawn, and the measured size of the noise (which would tell two
  neighbouring sums apart) say something about single people: they must not leave the site.

Not covered: the gaps between floating-point numbers and reals (Mironov 2012); Opacus's `secure_mode`, which narrows
them, needs torchcsprng. The number of people is taken as public: the expected batch depends on it.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from client.private_noise import NoiseCheck, PoissonSampler, PrivateOptimiser
from common.encoding import INPUT_NAMES
from common.errors import InputError
from common.pair_data import PairData
from privacy.discrete_gaussian import RandomBytes

CENTRE: Final = np.array([0.5 if name.endswith("]") and "[unknown]" not in name else 0.0 for name in INPUT_NAMES])
"""What is taken off the inputs while training: the middle of every segment's range, which is public.

It makes people's gradients shorter and more alike in all directions, so less of them is clipped and the same noise
costs less. The model itself keeps its inputs: what was taken off goes into the first layer's biases (`_shift`).
"""

_ROWS_AT_ONCE = 65_536
_PEOPLE_AT_ONCE = 4_096


@dataclass(frozen=True)
class PrivateTraining:
    """What was executed, as the optimiser and the sampler have it, for the ledger; and what must stay at the site.

    `loss` is the mean over drawn people and steps, before each step; None where nobody was ever drawn. It is not
    protected by the noise.
    """

    steps_taken: int
    noise_multiplier: float
    sampling_rate: float
    max_grad_norm: float
    loss: float | None


def train_privately(
    model: nn.Module,
    data: PairData,
    *,
    steps: int,
    sampling_rate: float,
    learning_rate: float,
    max_grad_norm: float,
    noise_multiplier: float,
    momentum: float = 0.0,
    random_bytes: RandomBytes = os.urandom,
) -> PrivateTraining:
    """Train in place for `steps` steps; returns what was executed, which is what an accountant has to be told.

    The released model is the output of `steps` sampled Gaussian mechanisms of sampling rate `sampling_rate` and noise
    multiplier `noise_multiplier`; neighbours differ in one person with all their pairs. Momentum, and whatever is done
    with the model afterwards, costs nothing (post-processing). Another `random_bytes` is for tests only.

    Raises InputError for arguments out of range, RunError where a step was not as promised; the model is then as it
    was.
    """
    _check_arguments(data, steps, sampling_rate, learning_rate, max_grad_norm, noise_multiplier, momentum)
    trained = copy.deepcopy(model).train()
    _shift(trained, CENTRE)
    sampler = PoissonSampler(data.people, sampling_rate, random_bytes)
    optimiser = PrivateOptimiser(
        torch.optim.SGD(trained.parameters(), lr=learning_rate, momentum=momentum),
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        expected_batch_size=sampling_rate * data.people,
        random_bytes=random_bytes,
    )
    check = NoiseCheck(
        steps=steps,
        noise_multiplier=noise_multiplier,
        max_grad_norm=max_grad_norm,
        expected_batch_size=sampling_rate * data.people,
    )
    optimiser.attach_step_hook(check)
    people = _People(GradSampleModule(trained, loss_reduction="sum"), data, keep=sampling_rate == 1)
    loss = 0.0
    with warnings.catch_warnings():  # that the inputs need no gradient is meant
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        for _ in range(steps):
            loss += _step(people, sampler.draw(), optimiser)
    check.finish(steps)
    sampler.check(steps, sampling_rate)
    _shift(trained, -CENTRE)
    model.load_state_dict(trained.state_dict())
    return PrivateTraining(
        steps_taken=check.steps_seen,
        noise_multiplier=float(optimiser.noise_multiplier),
        sampling_rate=sampler.rate,
        max_grad_norm=float(optimiser.max_grad_norm),
        loss=loss / sampler.drawn if sampler.drawn else None,
    )


def _shift(model: nn.Module, by: NDArray[np.float64]) -> None:
    """Change the first layer's biases so that inputs less `by` give what the inputs gave."""
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        first.bias.add_((first.weight.double() @ torch.from_numpy(by)).to(first.bias.dtype))


def _step(people: _People, drawn: NDArray[np.int64], optimiser: DPOptimizer) -> float:
    """One step on the drawn people, in portions that fit into memory; returns the sum of their losses."""
    portions = people.portions(drawn)
    loss = 0.0
    for left, portion in zip(range(len(portions) - 1, -1, -1), portions, strict=True):
        optimiser.zero_grad(set_to_none=True)
        loss += people.backward(portion)
        optimiser.signal_skip_step(left > 0)  # clip and add up; noise and the step come with the last portion
        optimiser.step()
    return loss


class _People:
    """Gradients of people's losses; a sample of the model is a person, padded to the portion's longest."""

    def __init__(self, model: GradSampleModule, data: PairData, *, keep: bool = False) -> None:
        """`keep` what was padded: worth its memory where the same people come in every step."""
        self._model = model
        self._keep = keep
        self._kept: dict[bytes, tuple[torch.Tensor, ...]] = {}
        self._inputs = torch.from_numpy(data.inputs - CENTRE.astype(np.float32))
        self._outcome = torch.from_numpy(data.outcome)
        self._counts = data.pairs_per_person
        self._starts = np.cumsum(self._counts) - self._counts

    def portions(self, people: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """`people` by number of pairs, cut so that a padded portion fits into memory; one empty portion for nobody."""
        ordered = people[np.argsort(self._counts[people], kind="stable")]
        portions, end = [], len(ordered)
        while end > 0:
            longest = int(self._counts[ordered[end - 1]])
            begin = max(0, end - min(_PEOPLE_AT_ONCE, max(1, _ROWS_AT_ONCE // longest)))
            portions.append(ordered[begin:end])
            end = begin
        return portions or [ordered]

    def backward(self, people: NDArray[np.int64]) -> float:
        """Leave each person's own gradient in `p.grad_sample`; returns the sum of their losses."""
        if len(people) == 0:
            for p in self._model.parameters():
                p.grad_sample = p.new_zeros((0, *p.shape))
            return 0.0
        inputs, outcome, weight = self._padded(people)
        logits = self._model(inputs).squeeze(2)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, outcome, weight=weight, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        self._drop_what_is_not_finite()
        return float(loss.detach())

    def _padded(self, people: NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
        """Inputs (people, longest, INPUT_SIZE), outcomes and weights (people, longest); padding weighs nothing."""
        key = people.tobytes()
        if key in self._kept:
            return self._kept[key]
        counts = self._counts[people]
        place = np.arange(counts.max())
        there = place < counts[:, None]
        rows = torch.from_numpy(self._starts[people][:, None] + np.where(there, place, 0))
        weight = torch.from_numpy((there / counts[:, None]).astype(np.float32))
        padded = (self._inputs[rows], self._outcome[rows], weight)
        if self._keep:
            self._kept[key] = padded
        return padded

    def _drop_what_is_not_finite(self) -> None:
        parameters = list(self._model.parameters())
        for p in parameters:
            p.grad = torch.full_like(p, math.nan)  # the plain sum, unclipped: it must never pass for a noised one
        finite = torch.stack([p.grad_sample.flatten(1).isfinite().all(1) for p in parameters]).all(0)
        if not bool(finite.all()):
            for p in parameters:
                p.grad_sample[~finite] = 0.0


def _check_arguments(
    data: PairData,
    steps: int,
    sampling_rate: float,
    learning_rate: float,
    max_grad_norm: float,
    noise_multiplier: float,
    momentum: float,
) -> None:
    rules = (
        (data.people >= 1, "there is nobody to train on", "add people"),
        (steps >= 1, f"{steps} steps are no training", "ask for at least one"),
        (0 < sampling_rate <= 1, f"a sampling rate of {sampling_rate:g} is not above 0 and at most 1", "change it"),
        (0 < learning_rate < math.inf, f"a learning rate of {learning_rate:g} is not above 0", "raise it"),
        (0 < max_grad_norm < math.inf, f"a clipping norm of {max_grad_norm:g} is not above 0", "raise it"),
        (
            0 < noise_multiplier < math.inf,
            f"a noise multiplier of {noise_multiplier:g} gives no privacy",
            "raise it, or train without differential privacy by name",
        ),
        (0 <= momentum < 1, f"a momentum of {momentum:g} is not in [0, 1)", "change it"),
    )
    for holds, what, remedy in rules:
        if not holds:
            raise InputError(what, where="private training", remedy=remedy)
