"""Training on one's own people.

The person is the unit: a step draws `batch_size` people with all their pairs, a person's loss is the mean over their
pairs, a step's loss is the mean over people. So a person with many recorded pairs weighs as much as one with few.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.pair_data import PairData


def train_epochs(
    model: nn.Module,
    data: PairData,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    rng: np.random.Generator,
) -> float:
    """Train in place with Adam for `epochs` passes over the people; returns the last pass's mean loss per person."""
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    inputs, outcome = torch.from_numpy(data.inputs), torch.from_numpy(data.outcome)
    counts = data.pairs_per_person
    starts = np.cumsum(counts) - counts
    weights = torch.from_numpy((1.0 / counts).astype(np.float32)[data.person])
    loss_of = nn.BCEWithLogitsLoss(reduction="none")
    model.train()
    total = 0.0
    for _ in range(epochs):
        order = rng.permutation(data.people)
        total = 0.0
        for first in range(0, data.people, batch_size):
            people = order[first : first + batch_size]
            rows = torch.from_numpy(_rows_of(people, starts, counts))
            losses = loss_of(model(inputs[rows]).squeeze(1), outcome[rows])
            loss = (losses * weights[rows]).sum() / len(people)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach()) * len(people)
    return total / data.people


def _rows_of(people: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of `people`, person by person: a run of `counts[p]` rows from `starts[p]` on for each."""
    lengths = counts[people]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts[people] - before, lengths) + np.arange(lengths.sum())


def learning_rate_of_round(first: float, round_number: int, rounds: int) -> float:
    """Cosine decay over the rounds, from `first` in round 1 towards a fiftieth of it in the last."""
    progress = (round_number - 1) / max(1, rounds - 1)
    return first * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
