"""Whole runs under secure aggregation, in simulation: sites that vanish, and the models that come of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Outcome
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

import server.rounds
from client.app import create_app
from client.learning import train
from client.site import load_site
from common import messages as names
from common.model import (
    MatchingModel,
    ModelCard,
    from_array_record,
    load_parameters,
    parameters_of,
    read_model,
    to_array_record,
)
from common.settings import Settings
from common.settings_loading import load_settings
from federation.identities import identities_for
from server.exchange import exchange
from server.job import Job
from server.outcome import MODEL_FILE, ROUNDS_FILE

SITES = ("CPI_Padova", "CPI_Treviso", "CPI_Venezia", "CPI_Verona", "CPI_Vicenza")
SECURE = ("privacy.dp.enabled=false", "anchoring.enabled=false", "federated.local_epochs=1")
CARD = ModelCard("rule", (32, 16), synthetic=True)


@dataclass
class Kept:
    """The model after each round, as it lay on disk."""

    output: Path
    models: dict[int, Path] = field(default_factory=dict)

    def __call__(self, number: int) -> None:
        if number not in self.models:
            self.models[number] = self.output.parent / f"{self.output.name}-{number}.safetensors"
            shutil.copy(self.output / MODEL_FILE, self.models[number])

    def parameters(self, number: int, settings: Settings) -> dict[str, np.ndarray]:
        """The parameters after a round; round 0 is the start."""
        if number == 0:
            return parameters_of(MatchingModel(settings.training.hidden, seed=settings.seed))
        return parameters_of(read_model(self.models[number])[0])


def settings_of(*more: str) -> Settings:
    return load_settings([*SECURE, *more], environment={})


def job_of(settings: Settings, output: Path, kept: Kept, sites: Sequence[str] = SITES) -> Job:
    return Job(settings, tuple(sites), CARD, output, on_round=lambda row: kept(row["round"]))


def simulate(job: Job, tables: Sequence[Path], app_of: Callable[[Sequence[Path], Sequence[Path]], ClientApp]) -> None:
    """The simulation, with a ClientApp of the test's own making around ours."""
    from flwr.simulation import run_simulation

    from federation.simulation import _start_ray
    from server.app import create_app as create_server_app

    with identities_for(job) as (secured, folders):
        assert folders is not None
        _start_ray(len(job.sites))
        run_simulation(
            server_app=create_server_app(secured),
            client_app=app_of(tables, folders),
            num_supernodes=len(job.sites),
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )


def app_that_vanishes(absent: dict[int, set[int]]) -> Callable[[Sequence[Path], Sequence[Path]], ClientApp]:
    """Our ClientApp, whose site at partition p fails in the rounds `absent[p]`, its process gone."""

    def app_of(tables: Sequence[Path], folders: Sequence[Path]) -> ClientApp:
        ours = create_app(tables, folders)

        def vanishing(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
            config = message.content.get(names.CONFIG)
            number = config.get(names.ROUND_KEY) if isinstance(config, ConfigRecord) else None
            if number in absent.get(int(context.node_config["partition-id"]), set()):
                raise ConnectionError("the office's machine is switched off")
            return ours(message, context)

        app = ClientApp(mods=[vanishing])
        app.train()(ours)
        app.evaluate()(ours)
        for step in (names.ADVERTISE, names.SHARE, names.ATTEST, names.UNMASK):
            app.query(step.partition(".")[2])(ours)
        return app

    return app_of


def plain_average(
    incoming: dict[str, np.ndarray], participants: Iterable[str], number: int, settings: Settings, data: Path
) -> tuple[dict[str, np.ndarray], int]:
    """What FedAvg over these sites makes of a model in one round, in float64; and how many people that is."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    config = ConfigRecord(
        {
            names.ROUND_KEY: number,
            names.ROUNDS_KEY: settings.federated.rounds,
            names.SEED_KEY: settings.seed,
            names.HIDDEN_KEY: list(settings.training.hidden),
            names.EPOCHS_KEY: settings.federated.local_epochs,
            names.BATCH_SIZE_KEY: settings.federated.batch_size,
            names.LEARNING_RATE_KEY: settings.federated.learning_rate,
        }
    )
    total: dict[str, np.ndarray] = {}
    people = 0
    for name in participants:
        site = load_site(
            data / f"{name}.csv",
            seed=settings.seed,
            validation_share=settings.data.validation_share,
            test_share=settings.data.test_share,
        )
        content = RecordDict({names.ARRAYS: to_array_record(incoming), names.CONFIG: config})
        reply = train(site, Message(content, message_type="train", dst_node_id=1))
        own = int(reply.metric_records[names.METRICS][names.PEOPLE_KEY])  # type: ignore[arg-type]
        people += own
        for key, values in from_array_record(reply.array_records[names.ARRAYS]).items():
            total[key] = total.get(key, 0.0) + own * values.astype(np.float64)
    return {key: values / people for key, values in total.items()}, people


def largest_rounding(settings: Settings, sites: int, people: int) -> float:
    """The most by which fixed-point sums may move the mean: half a step for each site, and float32 at the end."""
    secure = settings.privacy.secure_agg
    bound = secure.max_people * secure.value_bound
    exponent = int(np.floor(np.log2(((2**31 - 1) / len(SITES) - 1) / bound)))
    return sites * 2.0 ** -(exponent + 1) / people + 2.0**-22


def require_plain_averages(kept: Kept, settings: Settings, present: dict[int, Sequence[str]], data: Path) -> None:
    """Every round's model is the plain average of what its participants made of the model before."""
    for number, sites in present.items():
        expected, people = plain_average(kept.parameters(number - 1, settings), sites, number, settings, data)
        found = kept.parameters(number, settings)
        worst = max(float(np.abs(found[key] - expected[key]).max()) for key in expected)
        assert worst <= largest_rounding(settings, len(sites), people), f"round {number}"
        load_parameters(MatchingModel(settings.training.hidden, seed=0), found)


@pytest.mark.slow
def test_ten_rounds_with_a_site_gone_in_two_of_them_are_plain_averages_of_those_present(
    small_federation: Path, tmp_path: Path
) -> None:
    settings = settings_of("federated.rounds=10", "privacy.secure_agg.setup_rounds=4")
    kept = Kept(tmp_path / "run")
    tables = [small_federation / f"{site}.csv" for site in SITES]
    simulate(job_of(settings, tmp_path / "run", kept), tables, app_that_vanishes({1: {4, 5}}))
    rounds = pd.read_csv(tmp_path / "run" / ROUNDS_FILE)
    assert rounds["status"].tolist() == ["finished"] * 10
    assert rounds["sites"].tolist() == [5, 5, 5, 4, 4, 5, 5, 5, 5, 5]
    without = [site for site in SITES if site != SITES[1]]
    present = {number: without if number in {4, 5} else SITES for number in range(1, 11)}
    require_plain_averages(kept, settings, present, small_federation)


@pytest.mark.slow
def test_a_round_below_the_threshold_is_abandoned_and_the_next_one_counts(
    small_federation: Path, tmp_path: Path
) -> None:
    settings = settings_of("federated.rounds=3")
    kept = Kept(tmp_path / "run")
    tables = [small_federation / f"{site}.csv" for site in SITES]
    simulate(job_of(settings, tmp_path / "run", kept), tables, app_that_vanishes({0: {2}, 1: {2}, 2: {2}}))
    rounds = pd.read_csv(tmp_path / "run" / ROUNDS_FILE)
    assert rounds["status"].tolist() == ["finished", "abandoned", "finished"]
    assert rounds["sites"].tolist() == [5, 2, 5]
    assert "2 of 5 sites sent a vector" in rounds["reason"][1]
    assert "switched off" in rounds["reason"][1]
    assert rounds["model_sha256"][0] == rounds["model_sha256"][1] != rounds["model_sha256"][2]
    require_plain_averages(kept, settings, {3: SITES}, small_federation)


@pytest.mark.slow
def test_a_secure_round_is_two_exchanges_and_three_when_a_site_is_missing(
    small_federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, int]] = []

    def counting(grid: Grid, messages: Iterable[Message], **limits: Any) -> list[Message]:
        messages = list(messages)
        sent.append((messages[0].metadata.message_type.removeprefix("query."), len(messages)))
        return exchange(grid, messages, **limits)

    monkeypatch.setattr(server.rounds, "exchange", counting)
    settings = settings_of("federated.rounds=3", "privacy.secure_agg.setup_rounds=2")
    assert settings.privacy.secure_agg.malicious_coordinator
    kept = Kept(tmp_path / "run")
    tables = [small_federation / f"{site}.csv" for site in SITES]
    simulate(job_of(settings, tmp_path / "run", kept), tables, app_that_vanishes({0: {2}}))
    set_up, once = [("advertise", 5), ("share", 5)], [("train", 5), ("unmask", 5)]
    with_a_gap = [("train", 5), ("attest", 4), ("unmask", 4)]
    assert sent == [*set_up, *once, *with_a_gap, *set_up, *once, ("evaluate", 5), ("unmask", 5)]


@pytest.mark.slow
@pytest.mark.parametrize("aggregator", ["trimmed_mean", "coordinate_median"])
def test_robust_aggregators_run_over_groups_under_secure_aggregation(
    djms: Callable[..., Outcome], small_federation: Path, tmp_path: Path, aggregator: str
) -> None:
    nine = tmp_path / "nine"
    offices = nine_offices(small_federation, nine)
    done = djms(
        *("federate", "--data", nine, "--out", tmp_path / "run", "--set", f"offices={offices}"),
        *("--privacy.dp.enabled", "false", "--anchoring.enabled", "false", "--federated.rounds", "2"),
        *("--aggregator", aggregator, "--federated.trim", "0.34", "--privacy.secure_agg.groups", "3"),
        *("--secure_agg.threshold", "60%", "--json"),
    )
    assert done.code == 0, done.err
    assert done.data["secure_aggregation"]["groups"] == 3
    assert len(done.data["cohort"]) == 9


def nine_offices(source: Path, target: Path) -> str:
    """Tables of nine offices, each with a part of one of the five's people; returns the setting that names them."""
    from common.tables import CANDIDATE_ID, OFFICE
    from common.training_table import read_training_table, write_training_table

    target.mkdir()
    shutil.copy(source / "dataset.json", target / "dataset.json")
    parts = []
    for site in SITES:
        table = read_training_table(source / f"{site}.csv")
        people = table[CANDIDATE_ID].astype(str).unique()
        for half, wanted in enumerate((people[::2], people[1::2])):
            name = f"{site}_{half}"
            rows = table[table[CANDIDATE_ID].astype(str).isin(wanted)].copy()
            rows[OFFICE] = pd.Categorical([name] * len(rows))
            parts.append((name, rows))
    for name, rows in parts[:9]:
        write_training_table(rows, target / f"{name}.csv")
    return "{" + ", ".join(f"{name}: {{comuni: [Comune{index}]}}" for index, (name, _) in enumerate(parts[:9])) + "}"
