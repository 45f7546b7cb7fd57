"""What hiding whole offices costs in quality: ROC-AUC at ε = 1 by the number of offices, on synthetic people.

    python tests/benchmarks/site_unit_utility.py

The reference scenario's people are dealt out to so many offices; each trains as a run's sites do and clips its update,
and the sum gets the noise that all of them together add under secure aggregation with a threshold of 60 % (no one drops
out, so it is more than what is relied on). Prints a table; figures are means over three seeds.
"""

from __future__ import annotations

import math
import os
import statistics

import numpy as np
import torch
from privacy_utility import SEEDS, sites_of

from client.training import learning_rate_of_round, train_epochs
from common.metrics import evaluate
from common.model import MatchingModel, Parameters, load_parameters, parameters_of, predict
from common.pair_data import PairData
from common.settings import Settings
from privacy.distributed_noise import NoiseShare
from privacy.planning import solve_noise_multiplier

OFFICES = ((5, 10_000), (50, 10_000), (500, 50_000))
ROUNDS = (3, 10)
NORMS = (0.3, 1.0, 3.0)
STEPS = 2.0**24


def dealt(data: PairData, parts: int, seed: int) -> list[PairData]:
    """The people in so many random parts, each with all its pairs."""
    part = np.random.default_rng(seed).integers(0, parts, data.people)[data.person]
    return [_of(data, part == number) for number in range(parts)]


def trained(
    settings: Settings, offices: list[PairData], rounds: int, norm: float, epsilon: float | None
) -> MatchingModel:
    """The final model of a federation of these offices; None: clipped and not noised."""
    relied_on = math.ceil(0.6 * len(offices))
    noise = 1.0 if epsilon is None else solve_noise_multiplier(epsilon, 1e-6, 1.0, rounds, unit="site")
    share = NoiseShare(noise * math.sqrt(len(offices) / relied_on), norm, STEPS, shares=1)
    model = MatchingModel(settings.privacy.dp.hidden, seed=settings.seed, from_zero=True)
    finished: list[np.ndarray] = []
    for number in range(1, rounds + 1):
        start = _flat(parameters_of(model))
        total = np.zeros(start.size, dtype=np.int64)
        for index, office in enumerate(offices):
            own = MatchingModel(settings.privacy.dp.hidden, seed=0)
            load_parameters(own, parameters_of(model))
            train_epochs(
                own,
                office,
                epochs=settings.federated.local_epochs,
                batch_size=settings.federated.batch_size,
                learning_rate=learning_rate_of_round(settings.federated.learning_rate, number, rounds),
                rng=np.random.default_rng([settings.seed, number, index]),
            )
            total += share.on_grid(_flat(parameters_of(own)) - start)
        shown = total / STEPS if epsilon is None else share.noised(total, os.urandom)
        load_parameters(model, _shaped(start + shown / len(offices), parameters_of(model)))
        finished.append(_flat(parameters_of(model)))
    last = finished[-settings.privacy.dp.averaged_rounds :]
    load_parameters(model, _shaped(np.mean(last, axis=0), parameters_of(model)))
    return model


def main() -> None:
    torch.set_num_threads(1)
    print("offices people rounds norm   ε = 1  no noise")
    for count, people in OFFICES:
        drawn = [sites_of(people, seed) for seed in SEEDS]
        for rounds in ROUNDS:
            for norm in NORMS:
                found: dict[float | None, list[float]] = {1.0: [], None: []}
                for (settings, sites), seed in zip(drawn, SEEDS, strict=True):
                    offices = [part for site in sites.values() for part in dealt(site.train, count // 5, seed)]
                    test = PairData.pooled([site.test for site in sites.values()])
                    for epsilon, figures in found.items():
                        model = trained(settings, offices, rounds, norm, epsilon)
                        scores = predict(model, test.inputs)
                        metrics = evaluate(test.outcome, scores, test.person, threshold=0.5)
                        figures.append(float(metrics["roc_auc"] or 0.0))
                means = [statistics.mean(figures) for figures in found.values()]
                print(f"{count:7} {people:6} {rounds:6} {norm:4g} {means[0]:7.4f} {means[1]:9.4f}", flush=True)


def _of(data: PairData, rows: np.ndarray) -> PairData:
    _, person = np.unique(data.person[rows], return_inverse=True)
    return PairData(data.inputs[rows], data.outcome[rows], person.astype(np.int64), None)


def _flat(parameters: Parameters) -> np.ndarray:
    return np.concatenate([values.astype(np.float64).ravel() for values in parameters.values()])


def _shaped(flat: np.ndarray, like: Parameters) -> Parameters:
    shaped, start = {}, 0
    for name, values in like.items():
        shaped[name] = flat[start : start + values.size].reshape(values.shape).astype(np.float32)
        start += values.size
    return shaped


if __name__ == "__main__":
    main()
