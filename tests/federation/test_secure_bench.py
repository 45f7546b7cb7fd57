"""`djms privacy bench` measures what it says, and over sums that are right."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from common.errors import RunError
from common.settings import Settings
from common.settings_loading import load_settings
from federation import secure_bench, secure_bench_scale
from federation.secure_bench_costs import Costs, _Turn, measure_costs, peak_bytes
from federation.secure_bench_exchanges import count_exchanges, exchanges_per_round
from federation.secure_bench_site import SyntheticSites, make_sites, numbers_of, people_of, plain_mean
from privacy.secure_aggregation import coordinator
from privacy.secure_aggregation.coordinator import GroupSum, SecureSum
from privacy.secure_aggregation.terms import Limits

SLOTS = 4


def settings_of(*more: str) -> Settings:
    return load_settings(
        ["privacy.secure_agg.threshold=70%", "privacy.dp.enabled=false", "anchoring.enabled=false", *more],
        environment={},
    )


@pytest.fixture(scope="module")
def large() -> Costs:
    return measure_costs(1_000_000, 20, 2)


def test_a_site_works_and_the_server_unmasks_in_well_under_half_of_flowers_time(large: Costs) -> None:
    found = secure_bench.ratios(large, 1_000_000, 20)
    assert 0.02 < found["client_ratio"] < 0.5  # the limit is 0.2; tests may run on a busy machine
    assert found["client_ratio"] < found["client_ratio_with_setup"] < found["client_ratio_with_question"] < 0.6
    assert 0.01 < found["server_ratio"] < 0.5


def test_memory_and_bytes_keep_their_limits(large: Costs) -> None:
    found = secure_bench.ratios(large, 1_000_000, 20)
    assert 1 < found["peak_memory_ratio"] <= secure_bench.LIMITS["peak_memory_ratio"]
    assert 1 < found["bytes_ratio"] <= secure_bench.LIMITS["bytes_ratio"]


def test_peak_memory_grows_with_the_vector_and_holds_the_message_at_least() -> None:
    assert peak_bytes(400_000, SLOTS) - peak_bytes(200_000, SLOTS) >= 2 * 4 * 200_000


def test_all_that_a_site_sends_is_counted() -> None:
    turn = _Turn(1_000, SLOTS)
    turn.run()
    assert [site.sent_bytes > 4 * 1_000 for site in turn.sites] == [False, True, True, True, True]
    keys_and_shares = SLOTS * 64 + 4 * SLOTS * 64
    assert all(site.setup_bytes > keys_and_shares for site in turn.sites)


def test_a_wrong_sum_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SecureSum.result

    def wrong(self: SecureSum) -> list[GroupSum]:
        (group,) = right(self)
        values = {name: value.copy() for name, value in group.values.items()}
        values["update"][7] += 1.0
        return [replace(group, values=values)]

    monkeypatch.setattr(coordinator.SecureSum, "result", wrong)
    with pytest.raises(RunError, match="not the plain sum"):
        _Turn(100, SLOTS).run()


def test_a_round_takes_two_exchanges_and_three_with_a_site_missing() -> None:
    assert count_exchanges(settings_of()) == {"complete": 2, "with_a_gap": 3}


def test_an_exchange_more_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from server import rounds

    once = rounds.exchange

    def twice(grid: Any, messages: Any, **more: Any) -> Any:
        asked = list(messages)
        if asked and asked[0].metadata.message_type == "train":
            grid.push_messages([])
        return once(grid, asked, **more)

    monkeypatch.setattr(rounds, "exchange", twice)
    assert exchanges_per_round(settings_of(), missing=0) == 3


def test_the_plain_mean_weighs_sites_by_their_people() -> None:
    one, two = (numbers_of(site, 50).astype(np.float64) for site in (3, 8))
    expected = (people_of(3) * one + people_of(8) * two) / (people_of(3) + people_of(8))
    np.testing.assert_array_equal(plain_mean([3, 8], 50), expected.astype(np.float32))


def test_the_sites_app_travels_as_a_few_bytes_however_many_sites_there_are(tmp_path: Path) -> None:
    make_sites(50, tmp_path)
    app = SyntheticSites(str(tmp_path), Limits(), dropouts=2)
    travelled = pickle.dumps(app)
    assert len(travelled) < 1_000
    assert pickle.loads(travelled) is pickle.loads(travelled)


def test_the_sites_refuse_to_answer_without_masks(tmp_path: Path) -> None:
    make_sites(3, tmp_path)
    app = SyntheticSites(str(tmp_path), Limits(), dropouts=0)
    context = Context(1, 1, {"partition-id": 0}, RecordDict(), {})
    from federation.secagg_reference import _as_server

    with _as_server():
        reply = app(Message(RecordDict(), message_type="train", dst_node_id=1), context)
    assert "without secure aggregation" in str(reply.content["site"]["refusal"])  # type: ignore[index]


@pytest.mark.slow
def test_a_wrong_mean_from_the_simulation_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure_bench_scale, "plain_mean", lambda sites, length: plain_mean(sites, length) + 1e-3)
    with pytest.raises(RunError, match="not the plain sum"):
        secure_bench_scale.measure_round(4, 50, settings_of())


@pytest.mark.slow
def test_the_command_prints_every_figure_with_its_limit(djms: Callable[..., Any]) -> None:
    outcome = djms("privacy", "bench", "--json", "--sites", "5,20", "--parameters", "20000", "--repeats", "1")
    assert outcome.code == 0, outcome.err
    found = outcome.data
    assert {"client_ratio", "server_ratio", "peak_memory_ratio", "bytes_ratio"} <= found.keys()
    assert (found["exchanges_per_round"], found["exchanges_per_round_with_a_gap"]) == (2, 3)
    assert found["limits"] == {
        "client_ratio": 0.2,
        "server_ratio": 0.2,
        "peak_memory_ratio": 4,
        "bytes_ratio": 1.05,
        "seconds_550": 120,
    }
    assert found["within_limits"].keys() == found["limits"].keys()
    assert found["within_limits"]["seconds_550"] is None  # not measured, so not claimed
    assert found["measured"]["reference"]["version"].startswith("1.")
    small, larger = found["scale"]
    assert (small["n"], small["neighbours"], small["threshold"], small["dropouts"]) == (5, 4, 4, 1)
    assert (larger["n"], larger["neighbours"], larger["threshold"], larger["dropouts"]) == (20, 19, 14, 1)
    for row in found["scale"]:
        assert 0 < row["seconds_round"] < row["seconds"]
        assert row["seconds_setup"] > 0
        assert row["bytes"] > 4 * 5_000


@pytest.mark.parametrize("sites", ["3", "5,x", "", "5;20", "9999999"])
def test_the_command_says_which_numbers_of_sites_it_takes(djms: Callable[..., Any], sites: str) -> None:
    outcome = djms("privacy", "bench", f"--sites={sites},", "--parameters", "1000")
    assert outcome.code == 1
    assert "numbers of sites" in outcome.err
