"""The federated model beside its baselines, pooled and per office, on people nobody trained on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.site import Site, load_site
from common.metrics import METRICS, MINIMUM_PEOPLE
from common.model import MatchingModel
from common.settings import Settings
from common.split import Part
from common.training_table import read_training_table
from data.describe import hidden_cells
from federation import baselines
from federation.baselines import Scored

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """`pooled[name][metric]` on test people, `validation[name][metric]` on validation people, and `by_office[office]`
    (`people`, and `name` to metrics, on test people); None where it does not apply."""

    pooled: dict[str, Metrics]
    validation: dict[str, Metrics]
    by_office: dict[str, dict[str, Any]]


def load_sites(tables: dict[str, Path], settings: Settings) -> dict[str, Site]:
    """Every office's site; raises InputError for too few of them or the first that cannot be trained on."""
    settings.require_quorum(len(tables))
    shares = {"validation_share": settings.data.validation_share, "test_share": settings.data.test_share}
    return {name: load_site(path, seed=settings.seed, **shares) for name, path in tables.items()}


def baseline_steps(settings: Settings, sites: int) -> int:
    """How many times `compare` will say that a part is done."""
    return settings.federated.rounds * (sites + 1)


def compare(
    model: MatchingModel,
    threshold: float | None,
    sites: dict[str, Site],
    tables: dict[str, Path],
    settings: Settings,
    advance: Callable[[], None],
) -> Comparison:
    """Train the baselines and score everybody's test people with each contestant."""
    with ThreadPoolExecutor(max_workers=2) as pool:  # one pooled model takes about as long as all offices' own
        pooled_model = pool.submit(baselines.centralised, sites, settings, advance)
        own_models = pool.submit(baselines.local, sites, settings, advance)
        contestants: dict[str, Scored | None] = {
            "federated": baselines.federated(model, sites, threshold),
            "centralised": pooled_model.result(),
            "local": own_models.result(),
            "rule": baselines.rule({name: read_training_table(path) for name, path in tables.items()}, settings),
            "yes_to_everybody": baselines.yes_to_everybody(sites),
            "best_possible": baselines.best_possible(sites),
        }
    pooled = {name: baselines.pooled_metrics(scored, sites) for name, scored in contestants.items()}
    validation = {
        name: baselines.pooled_metrics(scored, sites, Part.VALIDATION) for name, scored in contestants.items()
    }
    # Hidden offices must not follow from the pooled figures and the shown ones, so the next smallest hides with them.
    hidden = hidden_cells({name: site.test.people for name, site in sites.items()}, MINIMUM_PEOPLE)
    by_office = {
        name: hidden_office() if name in hidden else _of_office(contestants, site) for name, site in sites.items()
    }
    return Comparison(pooled, validation, by_office)


def evaluate_here(model: MatchingModel, sites: dict[str, Site]) -> tuple[int, Metrics]:
    """How many test people the sites have, and the model's metrics on them; for synthetic people only."""
    people = sum(site.test.people for site in sites.values())
    return people, baselines.pooled_metrics(baselines.federated(model, sites, None), sites)


def hidden_office() -> dict[str, Any]:
    """What is shown of an office whose test people are too few, or about whom nothing is known."""
    return {"people": None, **{name: dict.fromkeys(METRICS) for name in baselines.NAMES}}


def _of_office(contestants: dict[str, Scored | None], site: Site) -> dict[str, Any]:
    metrics = {name: baselines.office_metrics(scored, site) for name, scored in contestants.items()}
    return {"people": site.test.people, **metrics}
