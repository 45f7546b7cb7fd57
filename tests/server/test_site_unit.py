"""The unit "site": whole rounds with real sites in this process, and a coordinator that adds noise itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import Strategy
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from site_tables import table_of

import privacy.distributed_noise
from client.app import create_app
from common import messages as names
from common import secure_vector as vector
from common.errors import RunError
from common.model import MatchingModel, parameters_of, to_array_record
from common.settings import Settings
from common.settings_loading import load_settings
from common.training_table import write_training_table
from federation.identities import make_identities
from federation.ledgers import ledger_folders
from privacy.chi_square import chi_square_bounds
from privacy.events import PrivacyEvent
from server.central_noise import CentralNoise
from server.closing import config_of
from server.job import Job
from server.strategies import build_strategy

OFFICES = ("CPI_Padova", "CPI_Treviso", "CPI_Venezia", "CPI_Verona", "CPI_Vicenza")
ROUNDS = 2


@pytest.fixture(autouse=True)
def _in_a_task() -> None:
    """Messages are made in one of Flower's processes."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


class Sites:
    """Five real sites in this process; `lost` ones do not answer, and `seen` is what the coordinator gets."""

    def __init__(self, folder: Path, *more: str) -> None:
        asked = ["anchoring.enabled=false", f"federated.rounds={ROUNDS}", "privacy.dp.unit=site", *more]
        self.settings: Settings = load_settings(asked, environment={})
        tables = []
        for number, office in enumerate(OFFICES):
            tables.append(folder / f"{office}.csv")
            write_training_table(table_of(60, 6, office=office, seed=number), tables[-1])
        identities = make_identities(OFFICES, self.settings, folder / "keys", federation="test")
        secure = self.settings.privacy.secure_aggregation
        keys = [identities.folders[office] for office in OFFICES] if secure else None
        ledgers = ledger_folders(self.settings, OFFICES, folder / "ledgers")
        self.roster = identities.roster if secure else None
        self.app = create_app(tables, keys, ledgers)
        self.contexts = [Context(1, 1, {"partition-id": index}, RecordDict(), {}) for index in range(5)]
        self.lost: set[int] = set()
        self.seen: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return [1, 2, 3, 4, 5]

    def ask(self, _grid: object, messages: Iterable[Message]) -> list[Message]:
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node not in self.lost:
                replies.append(self.app(message, self.contexts[node - 1]))
        self.seen += replies
        return replies

    def strategy(self) -> Any:
        return build_strategy(self.settings, OFFICES, self.roster, self.ask, "run-1")  # type: ignore[arg-type]

    def round(self, strategy: Strategy, number: int, arrays: ArrayRecord, lost: tuple[int, ...] = ()) -> ArrayRecord:
        config = config_of(Job(self.settings, OFFICES, None, Path()))  # type: ignore[arg-type]
        messages = list(strategy.configure_train(number, arrays, config, self))  # type: ignore[arg-type]
        for message in messages:
            message.content[names.CONFIG][names.ROUND_KEY] = number  # type: ignore[index]
        self.lost = set(lost)
        found, _ = strategy.aggregate_train(number, self.ask(None, messages))
        self.lost = set()
        assert found is not None
        return found


def start() -> ArrayRecord:
    return to_array_record(parameters_of(MatchingModel((), seed=1, from_zero=True)))


def moved(after: ArrayRecord, before: ArrayRecord) -> NDArray[np.float64]:
    return vector.flatten(after) - vector.flatten(before)


@pytest.mark.parametrize("lost", [(), (2,), (2, 5)])
def test_under_secure_aggregation_the_sum_has_the_noise_whoever_drops_out(
    tmp_path: Path, lost: tuple[int, ...]
) -> None:
    sites = Sites(tmp_path)
    strategy = sites.strategy()
    arrays = start()
    first = sites.round(strategy, 1, arrays, lost)
    noise = {event.noise_multiplier for event in strategy.events}
    assert {event.site for event in strategy.events} == {OFFICES[index] for index in range(5) if index + 1 not in lost}
    total = moved(first, arrays) * (5 - len(lost))
    # Three shares are relied on and all survivors added theirs; what they learned, at most 1 each, hardly shows.
    low, _ = chi_square_bounds(total.size, 1e-9)
    assert math.sqrt(total @ total) >= min(noise) * math.sqrt(low * (5 - len(lost)) / 3) - 5
    low, high = chi_square_bounds(total.size, 1e-9)
    assert math.sqrt(total @ total) <= min(noise) * math.sqrt(high * (5 - len(lost)) / 3) + 5


def test_nothing_a_site_sends_tells_how_many_people_it_has(tmp_path: Path) -> None:
    sites = Sites(tmp_path, "privacy.secure_agg.enabled=false")
    sites.round(sites.strategy(), 1, start())
    for reply in sites.seen:
        assert set(reply.content) == {names.ARRAYS, names.METRICS, names.SITE}
        assert dict(reply.content[names.METRICS]) == {names.WEIGHT_KEY: 1.0}


@pytest.mark.parametrize("secure", [True, False])
def test_a_run_whose_noise_is_skipped_ends(tmp_path: Path, secure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = Sites(tmp_path, f"privacy.secure_agg.enabled={str(secure).lower()}")
    strategy = sites.strategy()
    zeros = lambda size, _variance, _random: np.zeros(size, dtype=np.int64)  # noqa: E731
    monkeypatch.setattr(privacy.distributed_noise, "discrete_gaussian", zeros)
    with pytest.raises(RunError, match="not the noise that was promised"):
        sites.round(strategy, 1, start())


def test_a_coordinator_cannot_tell_a_site_to_add_a_smaller_share(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    strategy = sites.strategy()
    honest = sites.ask

    def cheating(grid: object, messages: Iterable[Message]) -> list[Message]:
        changed = list(messages)
        for message in changed:
            if message.metadata.message_type == "train":
                record = message.content[names.SECURE]
                record[names.SHARES_KEY] = 10_000  # type: ignore[index, assignment]
                record[names.STEPS_TO_UNIT_KEY] = 1e-3  # type: ignore[index, assignment]
        return honest(grid, changed)

    sites.ask = cheating  # type: ignore[method-assign]
    arrays = start()
    total = moved(sites.round(strategy, 1, arrays), arrays) * 5
    noise = min(event.noise_multiplier for event in strategy.events)
    low, _ = chi_square_bounds(total.size, 1e-9)
    assert math.sqrt(total @ total) >= noise * math.sqrt(low * 5 / 3) - 5


class Remembering(Strategy):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[Message] = []

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> Any:
        content = RecordDict({names.ARRAYS: arrays, names.CONFIG: config})
        return [Message(content, message_type="train", dst_node_id=node) for node in grid.get_node_ids()]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        self.given = list(replies)
        return None, None

    def configure_evaluate(self, *_: Any) -> Any:
        raise NotImplementedError

    aggregate_evaluate = configure_evaluate
    summary = configure_evaluate


class Nodes:
    """Four nodes."""

    def get_node_ids(self) -> list[int]:
        return [1, 2, 3, 4]


def test_one_site_moves_the_sum_by_no_more_than_the_norm_however_far_it_trained() -> None:
    inner = Remembering()
    noise, norm = 0.5, 2.0
    strategy = CentralNoise(inner, norm=norm, noise_multiplier=noise, run="run-1")
    arrays = start()
    questions = list(strategy.configure_train(1, arrays, ConfigRecord({}), Nodes()))  # type: ignore[arg-type]
    replies = []
    for index, question in enumerate(questions):
        far = vector.apply_update(arrays, np.full(vector.size_of(arrays), 1e6 if index == 0 else 0.0))
        record = ConfigRecord({names.NAME_KEY: OFFICES[index]})
        replies.append(Message(RecordDict({names.ARRAYS: far, names.SITE: record}), reply_to=question))
    strategy.aggregate_train(1, replies)
    assert len(inner.given) == 1, "the inner strategy sees one sum and no site"
    total = moved(inner.given[0].content.array_records[names.ARRAYS], arrays) * 4
    low, high = chi_square_bounds(total.size, 1e-9)
    length = math.sqrt(total @ total)
    assert noise * norm * math.sqrt(low) - norm <= length <= noise * norm * math.sqrt(high) + norm
    assert [event.site for event in strategy.events] == list(OFFICES[:4])
    assert all(event.noise_multiplier >= noise for event in strategy.events)


def test_what_the_coordinator_executed_counts_and_not_what_sites_were_told(tmp_path: Path) -> None:
    sites = Sites(tmp_path, "privacy.secure_agg.enabled=false")
    strategy = sites.strategy()
    sites.round(strategy, 1, start())
    told = [
        PrivacyEvent.from_json(json.loads(str(reply.content[names.SITE][names.EVENT_KEY])))  # type: ignore[index]
        for reply in sites.seen
    ]
    assert {event.purpose for event in (*told, *strategy.events)} == {"training-noised-by-coordinator"}
    executed = {event.noise_multiplier for event in strategy.events}
    assert len(strategy.events) == 5
    assert min(executed) >= max(event.noise_multiplier for event in told)
