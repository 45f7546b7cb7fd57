"""What the federated model is measured against, on the same test people.

    centralised         the same network trained on everybody's pairs pooled, for as many passes
    local               each office's own network, trained alone for as many passes, on its own test people
    rule                the reference rule's probability, which nobody had to train
    yes_to_everybody    every company suits every person
    best_possible       the probability the labels were drawn with, where labels come from a rule

They need all offices' pairs in one place, so they exist on synthetic data and in comparisons, not in a deployment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from client.site import Site
from client.training import learning_rate_of_round, train_epochs
from common.metrics import METRICS, best_f1_threshold, evaluate
from common.model import MatchingModel, predict
from common.pair_data import PairData, by_person
from common.settings import Settings
from common.split import Part, split_people
from data.labels import REFERENCE_RULE

Scores = NDArray[np.float64]
NAMES = ("federated", "centralised", "local", "rule", "yes_to_everybody", "best_possible")


@dataclass(frozen=True)
class Scored:
    """One contestant's scores for every office's test people, and the threshold each office's are judged by."""

    scores: dict[str, Scores]
    thresholds: dict[str, float]
    probability: bool = True


def federated(model: MatchingModel, sites: dict[str, Site], threshold: float) -> Scored:
    """The federated model, with the threshold the federation chose on its validation people."""
    return Scored(_scores_of(model, sites), dict.fromkeys(sites, threshold))


def centralised(sites: dict[str, Site], settings: Settings, advance: Callable[[], None]) -> Scored:
    """One model trained on the pooled pairs; its threshold from the pooled validation people."""
    model = _train(PairData.pooled([site.train for site in sites.values()]), settings, advance)
    validation = PairData.pooled([site.validation for site in sites.values()])
    threshold = best_f1_threshold(validation.outcome, predict(model, validation.inputs), validation.person)
    return Scored(_scores_of(model, sites), dict.fromkeys(sites, threshold))


def local(sites: dict[str, Site], settings: Settings, advance: Callable[[], None]) -> Scored:
    """Each office's own model on its own test people; each with its own threshold."""
    scores, thresholds = {}, {}
    for name, site in sites.items():
        model = _train(site.train, settings, advance)
        scores[name] = predict(model, site.test.inputs)
        data = site.validation
        thresholds[name] = best_f1_threshold(data.outcome, predict(model, data.inputs), data.person)
    return Scored(scores, thresholds)


def rule(tables: dict[str, pd.DataFrame], settings: Settings) -> Scored:
    """The reference rule's own probability and threshold, on the test people of each office's training table."""
    scores: dict[str, Scores] = {}
    for name, table in tables.items():
        part = split_people(
            table,
            seed=settings.seed,
            validation_share=settings.data.validation_share,
            test_share=settings.data.test_share,
        )
        test = table.loc[part == Part.TEST]
        _, order = by_person(test)
        scores[name] = REFERENCE_RULE.probability(test)[order]
    return Scored(scores, dict.fromkeys(tables, REFERENCE_RULE.threshold))


def yes_to_everybody(sites: dict[str, Site]) -> Scored:
    """A score of one for every pair; it claims no probability."""
    return Scored(
        {name: np.ones(len(site.test.outcome)) for name, site in sites.items()}, dict.fromkeys(sites, 1.0), False
    )


def best_possible(sites: dict[str, Site]) -> Scored | None:
    """The probabilities the labels were drawn with, or None where nobody knows them."""
    validation = PairData.pooled([site.validation for site in sites.values()])
    scores = {name: site.test.probability for name, site in sites.items() if site.test.probability is not None}
    if len(scores) < len(sites) or validation.probability is None:
        return None
    threshold = best_f1_threshold(validation.outcome, validation.probability, validation.person)
    return Scored(scores, dict.fromkeys(sites, threshold))


def pooled_metrics(scored: Scored | None, sites: dict[str, Site]) -> dict[str, float | None]:
    """Metrics over all offices' test people; each pair is judged by its office's threshold."""
    if scored is None:
        return dict.fromkeys(METRICS)
    test = PairData.pooled([site.test for site in sites.values()])
    scores = np.concatenate([scored.scores[name] for name in sites])
    answers = np.concatenate([scored.scores[name] >= scored.thresholds[name] for name in sites]).astype(np.float64)
    metrics = evaluate(test.outcome, scores, test.person, threshold=0.5, probability=scored.probability)
    judged = evaluate(test.outcome, answers, test.person, threshold=0.5, probability=False)
    return metrics | {name: judged[name] for name in ("f1", "accuracy", "balanced_accuracy")}


def office_metrics(scored: Scored | None, site: Site) -> dict[str, float | None]:
    """Metrics over one office's test people."""
    if scored is None:
        return dict.fromkeys(METRICS)
    return evaluate(
        site.test.outcome,
        scored.scores[site.name],
        site.test.person,
        threshold=scored.thresholds[site.name],
        probability=scored.probability,
    )


def _train(data: PairData, settings: Settings, advance: Callable[[], None]) -> MatchingModel:
    federated_settings = settings.federated
    model = MatchingModel(settings.training.hidden, seed=settings.seed)
    torch.set_num_threads(1)
    for number in range(1, federated_settings.rounds + 1):
        train_epochs(
            model,
            data,
            epochs=federated_settings.local_epochs,
            batch_size=federated_settings.batch_size,
            learning_rate=learning_rate_of_round(federated_settings.learning_rate, number, federated_settings.rounds),
            rng=np.random.default_rng([settings.seed, number]),
        )
        advance()
    return model


def _scores_of(model: MatchingModel, sites: dict[str, Site]) -> dict[str, Scores]:
    return {name: predict(model, site.test.inputs) for name, site in sites.items()}
