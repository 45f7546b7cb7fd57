"""What privacy costs in quality: ROC-AUC and log-loss of a private federation against ε, on synthetic people.

    python tests/benchmarks/privacy_utility.py                      all of it, about a quarter of an hour
    python tests/benchmarks/privacy_utility.py 1000 10000           only federations of so many people

Writes `privacy/utility.json`, which `djms privacy plan` reads, and the plot `docs/privacy-utility.png`. Each size and ε
is the mean over three seeds, each with data of its own (and several draws of noise where people are few); figures are
on test people pooled over the five offices. They stand beside the same training without noise worth naming, the
federation without privacy (the network and settings that `djms demo --privacy.enabled false` trains), and the best
possible. Sites train in this process as they do in a run, the exchange of messages left out.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from client.private_recipe import learning_rate
from client.private_training import train_privately
from client.site import Site
from client.training import learning_rate_of_round, train_epochs
from common.metrics import evaluate
from common.model import MatchingModel, Parameters, load_parameters, parameters_of, predict
from common.pair_data import PairData
from common.settings import Settings
from common.settings_loading import load_settings
from data.generator import generate, write_raw
from data.partition import partition
from data.preparation import prepare, raw_files_of
from federation.comparison import load_sites
from privacy.planning import solve_noise_multiplier

ROOT = Path(__file__).parents[2]
SIZES = (1_000, 10_000, 50_000)
SEEDS = (42, 1, 2)
EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, None)
NO_NOISE = 1e-4
"""A noise multiplier whose noise is below the last digit of what is trained."""

Figures = dict[str, float]


def sites_of(people: int, seed: int) -> tuple[Settings, dict[str, Site]]:
    """Five offices of the reference scenario."""
    settings = load_settings([f"seed={seed}"], environment={})
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_raw(generate(candidates=people, companies=1_000, seed=seed, scenario="reference"), folder / "raw")
        dataset = prepare(raw_files_of(settings, folder / "raw"), settings)
        tables = partition(dataset.table, dataset.info, settings.offices, folder / "federated")
        return settings, load_sites(tables, settings)


def private(settings: Settings, sites: dict[str, Site], epsilon: float | None) -> MatchingModel:
    """A private federation's final model; None: no noise worth naming."""
    dp, rounds = settings.privacy.dp, settings.federated.rounds
    steps = rounds * dp.local_steps
    noise = NO_NOISE if epsilon is None else solve_noise_multiplier(epsilon, dp.delta, dp.sampling_rate, steps)
    people = sum(site.train.people for site in sites.values())
    rate = learning_rate(
        people,
        len(sites),
        noise_multiplier=noise,
        max_grad_norm=dp.max_grad_norm,
        momentum=dp.momentum,
        steps=steps,
    )
    model = MatchingModel(dp.hidden, seed=settings.seed, from_zero=True)
    released: list[Parameters] = []
    for _ in range(rounds):
        trained = []
        for site in sites.values():
            own = MatchingModel(dp.hidden, seed=0)
            load_parameters(own, parameters_of(model))
            train_privately(
                own,
                site.train,
                steps=dp.local_steps,
                sampling_rate=dp.sampling_rate,
                learning_rate=rate,
                max_grad_norm=dp.max_grad_norm,
                noise_multiplier=noise,
                momentum=dp.momentum,
            )
            trained.append(parameters_of(own))
        load_parameters(model, _mean(trained, [site.train.people for site in sites.values()]))
        released.append(parameters_of(model))
    last = released[-dp.averaged_rounds :]
    load_parameters(model, _mean(last, [1] * len(last)))
    return model


def without_privacy(settings: Settings, sites: dict[str, Site]) -> MatchingModel:
    """The federation's final model where no privacy is asked for."""
    chosen = settings.federated
    model = MatchingModel(settings.training.hidden, seed=settings.seed)
    for number in range(1, chosen.rounds + 1):
        trained = []
        for index, site in enumerate(sites.values()):
            own = MatchingModel(settings.training.hidden, seed=0)
            load_parameters(own, parameters_of(model))
            train_epochs(
                own,
                site.train,
                epochs=chosen.local_epochs,
                batch_size=chosen.batch_size,
                learning_rate=learning_rate_of_round(chosen.learning_rate, number, chosen.rounds),
                rng=np.random.default_rng([settings.seed, number, index]),
            )
            trained.append(parameters_of(own))
        load_parameters(model, _mean(trained, [site.train.people for site in sites.values()]))
    return model


def measure(people: int) -> dict[str, list[dict[str, Any]]]:
    """Every figure of federations of so many people."""
    found: dict[float | str | None, list[Figures]] = {}
    draws = max(1, min(5, 5_000 // people))
    for seed in SEEDS:
        settings, sites = sites_of(people, seed)
        test = PairData.pooled([site.test for site in sites.values()])
        for epsilon in EPSILONS:
            for _ in range(1 if epsilon is None else draws):
                found.setdefault(epsilon, []).append(_figures(private(settings, sites, epsilon), test))
        found.setdefault("without privacy", []).append(_figures(without_privacy(settings, sites), test))
        assert test.probability is not None
        found.setdefault("best possible", []).append(_scored(test, test.probability.astype(np.float64)))
        print(people, seed, {name: _summary(figures)["roc_auc"] for name, figures in found.items()}, file=sys.stderr)
    rows = [
        {"people": people, "epsilon": epsilon, **_summary(found[epsilon]), "draws": len(found[epsilon])}
        for epsilon in EPSILONS
    ]
    beside = {
        name: [{"people": people, **_summary(found[name.replace("_", " ")])}]
        for name in ("without_privacy", "best_possible")
    }
    return {"rows": rows, **beside}


def _mean(models: list[Parameters], weights: list[int]) -> Parameters:
    return {
        name: np.average([model[name] for model in models], axis=0, weights=weights).astype(np.float32)
        for name in models[0]
    }


def _figures(model: MatchingModel, test: PairData) -> Figures:
    return _scored(test, predict(model, test.inputs))


def _scored(test: PairData, scores: np.ndarray) -> Figures:
    metrics = evaluate(test.outcome, scores, test.person, threshold=0.5)
    return {name: float(metrics[name] or 0.0) for name in ("roc_auc", "log_loss")}


def _summary(figures: list[Figures]) -> Figures:
    result: Figures = {}
    for name in ("roc_auc", "log_loss"):
        values = [each[name] for each in figures]
        result[name] = round(statistics.mean(values), 5)
        result[f"{name}_sd"] = round(statistics.stdev(values), 5) if len(values) > 1 else 0.0
    return result


def plot(table: dict[str, Any], path: Path) -> None:
    """Both figures against ε, one line a size, beside the federation without privacy and the best possible."""
    figure = Figure(figsize=(11, 5), dpi=150, layout="constrained")
    places = range(len(EPSILONS))
    colours = dict(zip(SIZES, ("#D55E00", "#0072B2", "#009E73"), strict=True))
    for axis, (metric, title) in zip(
        figure.subplots(1, 2), (("roc_auc", "ROC-AUC"), ("log_loss", "log-loss")), strict=True
    ):
        for people in sorted({row["people"] for row in table["rows"]}):
            rows = [row for row in table["rows"] if row["people"] == people]
            mean = np.array([row[metric] for row in rows])
            spread = np.array([row[f"{metric}_sd"] for row in rows])
            axis.plot(places, mean, "o-", color=colours[people], label=f"{people:,} people, private")
            axis.fill_between(places, mean - spread, mean + spread, color=colours[people], alpha=0.15, linewidth=0)
            for name, style in (("without_privacy", "--"), ("best_possible", ":")):
                level = next(row[metric] for row in table[name] if row["people"] == people)
                said = f"{people:,} people, {name.replace('_', ' ')}"
                axis.axhline(level, color=colours[people], linestyle=style, linewidth=1, label=said)
        axis.set_xticks(places, ["∞" if epsilon is None else f"{epsilon:g}" for epsilon in EPSILONS])
        axis.set_xlabel("ε  (smaller: more private; ∞: no noise)")
        axis.set_title(title, loc="left")
        axis.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=7, loc="lower right")
    figure.suptitle(
        "What privacy costs · synthetic people, labels from a rule, five offices, δ = 1e-6 · mean ± 1 SD of runs",
        fontsize=10,
    )
    figure.savefig(path)


def main() -> None:
    """Measure, write, draw, and print what the table says of its targets."""
    torch.set_num_threads(1)
    sizes = [int(text) for text in sys.argv[1:]] or list(SIZES)
    settings = load_settings([], environment={})
    table: dict[str, Any] = {
        "scenario": "reference",
        "sites": len(settings.offices),
        "delta": settings.privacy.dp.delta,
        "rounds": settings.federated.rounds,
        "local_steps": settings.privacy.dp.local_steps,
        "labels": "rule",
        "synthetic": True,
        **{"rows": [], "without_privacy": [], "best_possible": []},
    }
    for people in sizes:
        for name, rows in measure(people).items():
            table[name] += rows
        (ROOT / "privacy" / "utility.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        plot(table, ROOT / "docs" / "privacy-utility.png")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
