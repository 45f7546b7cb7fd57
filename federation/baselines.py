"""What the federated model is measured against, on the same people.

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
from common.metrics import METRICS, MINIMUM_PEOPLE, NEUTRAL_THRESHOLD, best_f1_threshold, evaluate
from common.model import MatchingModel, predict
from common.pair_data import PairData, by_person
from common.settings import Settings
from common.split import Part, split_people
from data.labels import REFERENCE_RULE

Scores = NDArray[np.float64]
NAMES = ("federated", "centralised", "local", "rule", "yes_to_everybody", "best_possible")


@dataclass(frozen=True)
class Scored:
    """One contestant's scores by part (validation, test) and office, and the threshold each office is judged by."""

    scores: dict[Part, dict[str, Scores]]
    thresholds: dict[str, float]
    probability: bool = True


def federated(model: MatchingModel, sites: dict[str, Site], threshold: float | None) -> Scored:
    """The federated model, with the threshold the federation chose on its validation people.

    Where it chose none, because sites kept their evaluations, one is chosen here on the same people.
    """
    scores = _by_part(lambda data, _name: predict(model, data.inputs), sites)
    if threshold is None:
        return _with_pooled_threshold(scores, sites)
    return Scored(scores, dict.fromkeys(sites, threshold))


def centralised(sites: dict[str, Site], settings: Settings, advance: Callable[[], None]) -> Scored:
    """One model trained on the pooled pairs; its threshold from the pooled validation people."""
    model = _train(PairData.pooled([site.train for site in sites.values()]), settings, advance)
    return _with_pooled_threshold(_by_part(lambda data, _name: predict(model, data.inputs), sites), sites)


def local(sites: dict[str, Site], settings: Settings, advance: Callable[[], None]) -> Scored:
    """Each office's own model on its own people; each with its own threshold."""
    models = {name: _train(site.train, settings, advance) for name, site in sites.items()}
    scores = _by_part(lambda data, name: predict(models[name], data.inputs), sites)
    thresholds = {name: _threshold(site.validation, scores[Part.VALIDATION][name]) for name, site in sites.items()}
    return Scored(scores, thresholds)


def rule(tables: dict[str, pd.DataFrame], settings: Settings) -> Scored:
    """The reference rule's own probability and threshold, on the people of each office's training table."""
    scores: dict[Part, dict[str, Scores]] = {Part.VALIDATION: {}, Part.TEST: {}}
    for name, table in tables.items():
        parts = split_people(
            table,
            seed=settings.seed,
            validation_share=settings.data.validation_share,
            test_share=settings.data.test_share,
        )
        for part, by_office in scores.items():
            rows = table.loc[parts == part]
            _, order = by_person(rows)
            by_office[name] = REFERENCE_RULE.probability(rows)[order]
    return Scored(scores, dict.fromkeys(tables, REFERENCE_RULE.threshold))


def yes_to_everybody(sites: dict[str, Site]) -> Scored:
    """A score of one for every pair; it claims no probability."""
    ones = _by_part(lambda data, _name: np.ones(len(data.outcome)), sites)
    return Scored(ones, dict.fromkeys(sites, 1.0), probability=False)


def best_possible(sites: dict[str, Site]) -> Scored | None:
    """The probabilities the labels were drawn with, or None where nobody knows them."""
    if any(site.test.probability is None or site.validation.probability is None for site in sites.values()):
        return None
    return _with_pooled_threshold(_by_part(lambda data, _name: np.asarray(data.probability), sites), sites)


def pooled_metrics(scored: Scored | None, sites: dict[str, Site], part: Part = Part.TEST) -> dict[str, float | None]:
    """Metrics over all offices' people of one part; each pair is judged by its office's threshold."""
    if scored is None:
        return dict.fromkeys(METRICS)
    pooled = PairData.pooled([site.of(part) for site in sites.values()])
    if pooled.people < MINIMUM_PEOPLE:
        return dict.fromkeys(METRICS)
    of_office = scored.scores[part]
    scores = np.concatenate([of_office[name] for name in sites])
    answers = np.concatenate([of_office[name] >= scored.thresholds[name] for name in sites]).astype(np.float64)
    metrics = evaluate(pooled.outcome, scores, pooled.person, threshold=0.5, probability=scored.probability)
    judged = evaluate(pooled.outcome, answers, pooled.person, threshold=0.5, probability=False)
    return metrics | {name: judged[name] for name in ("f1", "accuracy", "balanced_accuracy")}


def office_metrics(scored: Scored | None, site: Site) -> dict[str, float | None]:
    """Metrics over one office's test people."""
    if scored is None:
        return dict.fromkeys(METRICS)
    return evaluate(
        site.test.outcome,
        scored.scores[Part.TEST][site.name],
        site.test.person,
        threshold=scored.thresholds[site.name],
        probability=scored.probability,
    )


def _by_part(score: Callable[[PairData, str], Scores], sites: dict[str, Site]) -> dict[Part, dict[str, Scores]]:
    parts = (Part.VALIDATION, Part.TEST)
    return {part: {name: score(site.of(part), name) for name, site in sites.items()} for part in parts}


def _with_pooled_threshold(scores: dict[Part, dict[str, Scores]], sites: dict[str, Site]) -> Scored:
    validation = PairData.pooled([site.validation for site in sites.values()])
    pooled = np.concatenate([scores[Part.VALIDATION][name] for name in sites])
    threshold = _threshold(validation, pooled)
    return Scored(scores, dict.fromkeys(sites, threshold))


def _threshold(validation: PairData, scores: Scores) -> float:
    if not validation.outcome.any():  # a small office may have no success among its validation people
        return NEUTRAL_THRESHOLD
    return best_f1_threshold(validation.outcome, scores, validation.person)


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
