"""Private training from the coordinator's side: what it asks for, what it counts, and which run it ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from common import messages as names
from common.errors import RunError
from common.model import MatchingModel, ModelCard, parameters_of, read_model, to_array_record
from common.settings import FederatedSettings, PrivacySettings, Settings
from privacy.accounting import epsilon_rdp
from privacy.events import PrivacyEvent
from privacy.planning import PlanRefused
from server.differential_privacy import DifferentiallyPrivate
from server.history import History
from server.job import Job
from server.private_outcome import close_private_run
from server.strategies import build_strategy

TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1  # as Flower sets it in its processes
SITES = ("CPI_Padova", "CPI_Verona", "CPI_Vicenza")
ROUNDS = 3


class Nodes:
    """A grid of three nodes that nobody asks anything."""

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2, 3]


NOBODY: Any = Nodes()
"""The grid of a run that is not anchored, where nobody is asked anything in the end."""


def settings_with(**private: Any) -> Settings:
    privacy = PrivacySettings.model_validate({"secure_agg": {"enabled": False}, "dp": private})
    return Settings(federated=FederatedSettings(rounds=ROUNDS), privacy=privacy)


def strategy_of(**private: Any) -> DifferentiallyPrivate:
    found = build_strategy(settings_with(**private), SITES, None, lambda _grid, _asked: [], "run-1")
    assert isinstance(found, DifferentiallyPrivate)
    return found


def arrays_of(value: float) -> Any:
    model = parameters_of(MatchingModel((), seed=0))
    return to_array_record({name: np.full_like(values, value) for name, values in model.items()})


def asked(strategy: DifferentiallyPrivate, number: int) -> dict[str, Any]:
    messages = list(strategy.configure_train(number, arrays_of(0), ConfigRecord({}), Nodes()))  # type: ignore[arg-type]
    return dict(messages[0].content[names.CONFIG])


def event_for(config: dict[str, Any], site: str, number: int) -> PrivacyEvent:
    return PrivacyEvent(
        mechanism="poisson-sampled-gaussian",
        unit="candidate",
        site=site,
        noise_multiplier=config[names.NOISE_KEY],
        sampling_rate=config[names.SAMPLING_RATE_KEY],
        steps=config[names.STEPS_KEY],
        neighbouring_relation="add-or-remove-one",
        purpose="training",
        run=config[names.RUN_KEY],
        round=number,
    )


def reply_of(site: str, event: PrivacyEvent | None, value: float = 1.0, people: int = 10) -> Message:
    record = ConfigRecord({names.NAME_KEY: site})
    if event is not None:
        record[names.EVENT_KEY] = json.dumps(event.to_json())
    content = RecordDict({names.SITE: record, names.METRICS: MetricRecord({names.PEOPLE_KEY: people})})
    content[names.ARRAYS] = arrays_of(value)
    return Message(content, reply_to=Message(content=RecordDict(), message_type="train", dst_node_id=1))


def one_round(strategy: DifferentiallyPrivate, number: int, **odd: Any) -> dict[str, Any]:
    """All sites train; `odd` replaces the event of the last one."""
    config = asked(strategy, number)
    events = {site: event_for(config, site, number) for site in SITES}
    changed = odd.get("event", lambda event: event)(events[SITES[-1]])
    replies = [reply_of(site, changed if site == SITES[-1] else events[site]) for site in SITES]
    strategy.aggregate_train(number, replies)
    return config


def test_the_noise_is_solved_so_that_all_rounds_together_keep_epsilon() -> None:
    strategy = strategy_of(epsilon=1.0)
    for number in range(1, ROUNDS + 1):
        config = one_round(strategy, number)
        assert config[names.UNIT_KEY] == "candidate"
        assert config[names.SITES_KEY] == 3
        assert config[names.TOTAL_PEOPLE_KEY] == (0 if number == 1 else 30)
    own = [event for event in strategy.events if event.site == SITES[0]]
    assert len(own) == ROUNDS
    assert 0.999 < epsilon_rdp(own, 1e-6) <= 1.0


def test_a_round_beyond_the_plan_is_not_started() -> None:
    strategy = strategy_of()
    for number in range(1, ROUNDS + 1):
        one_round(strategy, number)
    with pytest.raises(RunError, match=r"would take the run to ε 1\.\d+, and privacy\.dp\.epsilon is 1"):
        asked(strategy, ROUNDS + 1)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (lambda _event: None, "did not say what noise it added"),
        (lambda event: replace(event, noise_multiplier=event.noise_multiplier * 0.999), "less noise"),
        (lambda event: replace(event, steps=event.steps + 1), "less noise"),
        (lambda event: replace(event, unit="site"), "otherwise than it was asked"),
        (lambda event: replace(event, round=2), "another round's"),
        (lambda event: replace(event, run="another"), "another round's"),
        (lambda event: replace(event, site="CPI_Treviso"), "another round's"),
    ],
)
def test_a_site_that_executed_something_else_ends_the_run(odd: Any, words: str) -> None:
    with pytest.raises(RunError, match=f"{SITES[-1]} .*{words}"):
        one_round(strategy_of(), 1, event=odd)


def test_more_noise_than_asked_for_is_welcome_and_counted_as_it_was() -> None:
    strategy = strategy_of()
    one_round(strategy, 1, event=lambda event: replace(event, noise_multiplier=event.noise_multiplier * 2))
    by_site = {event.site: event.noise_multiplier for event in strategy.events}
    assert by_site[SITES[-1]] == 2 * by_site[SITES[0]]


def test_a_privacy_event_that_is_none_is_an_error_that_names_the_site() -> None:
    strategy = strategy_of()
    asked(strategy, 1)
    reply = reply_of(SITES[0], None)
    reply.content[names.SITE][names.EVENT_KEY] = '{"noise": 1}'
    with pytest.raises(RunError, match=r"CPI_Padova sent a privacy event that is none"):
        strategy.aggregate_train(1, [reply])


@pytest.mark.parametrize("private", [{"epsilon": 1e-4, "delta": 1e-10}, {"epsilon": 0.01, "local_steps": 100_000}])
def test_noise_that_cannot_reach_epsilon_is_refused_before_anybody_is_asked(private: dict[str, Any]) -> None:
    with pytest.raises(PlanRefused):
        strategy_of(**private)


def job_in(folder: Path, **private: Any) -> Job:
    return Job(settings_with(**private), SITES, ModelCard("rule", (), synthetic=True), folder, run="run-1")


def test_the_result_says_what_the_executed_events_cost_and_ten_lines_recompute_it(tmp_path: Path) -> None:
    strategy = strategy_of()
    for number in range(1, ROUNDS + 1):
        one_round(strategy, number)
    close_private_run(NOBODY, job_in(tmp_path), strategy, [arrays_of(1), arrays_of(2)], History())
    model, card = read_model(tmp_path / "model.safetensors")
    assert (card.unit, card.delta) == ("candidate", 1e-6)
    assert all((values == 1.5).all() for values in parameters_of(model).values())
    result = json.loads((tmp_path / "federation.json").read_text(encoding="utf-8"))
    assert card.epsilon == result["differential_privacy"]["epsilon"]
    costs = {}
    for event in json.loads((tmp_path / "privacy_ledger.json").read_text(encoding="utf-8")):
        gaussian = dp_accounting.GaussianDpEvent(event["noise_multiplier"])
        sampled = dp_accounting.PoissonSampledDpEvent(event["sampling_rate"], gaussian)
        costs.setdefault(event["site"], RdpAccountant()).compose(sampled, event["steps"])
    assert max(accountant.get_epsilon(1e-6) for accountant in costs.values()) == pytest.approx(card.epsilon, rel=1e-9)


def test_a_run_whose_sites_executed_nothing_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the model is not released"):
        close_private_run(NOBODY, job_in(tmp_path), strategy_of(), [arrays_of(1)], History())
    assert not list(tmp_path.iterdir())


def test_a_run_that_cost_more_than_its_settings_say_has_no_result(tmp_path: Path) -> None:
    strategy = strategy_of(epsilon=2.0)
    for number in range(1, ROUNDS + 1):
        one_round(strategy, number)
    with pytest.raises(RunError, match=r"costs ε 2, and privacy\.dp\.epsilon is 1"):
        close_private_run(NOBODY, job_in(tmp_path, epsilon=1.0), strategy, [arrays_of(1)], History())
    assert not list(tmp_path.iterdir())
