"""The wrapper and the sites' mod together: real sessions and real ClientApps, messages handed over in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedMedian, FedYogi, Strategy
from flwr.supercore.task_identity import TaskIdentity

from client.keys import read_site_keys
from client.secure_aggregation import SecureSite
from common import messages as names
from common import secure_vector as vector
from common.errors import InputError
from common.settings import Settings
from common.settings_loading import load_settings
from federation.identities import Identities, make_identities
from privacy.secure_aggregation.site import SiteSession
from server.abandoned import RoundAbandoned
from server.secure_aggregation import SecureAggregation
from server.secure_set_up import SetUps
from server.strategies import FixedOrder, build_strategy, sum_metrics

SITES = ("CPI_A", "CPI_B", "CPI_C", "CPI_D", "CPI_E")
PEOPLE = dict(zip(SITES, (10, 20, 30, 40, 50), strict=True))
CONFIG = {names.VERSION_KEY: names.PROTOCOL_VERSION, names.SEED_KEY: 3}
COMMON: dict[str, Any] = {
    "fraction_train": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
    "weighted_by_key": names.PEOPLE_KEY,
    "arrayrecord_key": names.ARRAYS,
    "configrecord_key": names.CONFIG,
    "train_metrics_aggr_fn": sum_metrics,
    "evaluate_metrics_aggr_fn": sum_metrics,
}
# A model step of half a grain, five sites, 150 people: half of 2^-13 for each, by people; and float32 itself.
ROUNDING = 5 * 2.0**-14 / 150 + 2.0**-22


@pytest.fixture(autouse=True)
def _inside_a_run() -> None:
    """Messages can be made only inside a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


def settings_of(*more: str) -> Settings:
    return load_settings(["privacy.dp.enabled=false", "anchoring.enabled=false", *more], environment={})


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return make_identities(SITES, settings_of(), tmp_path / "keys", federation="test")


SWOLLEN: set[str] = set()
"""Sites whose update is beyond every bound just now."""


def moved_by(site: str, number: int, size: int) -> np.ndarray:
    """What training changes at a site in a round."""
    if site in SWOLLEN:
        return np.full(size, 1e9, dtype=np.float32)
    return np.random.default_rng([ord(site[-1]), number]).normal(0, 0.1, size).astype(np.float32)


def train(site: str, message: Message) -> Message:
    arrays = message.content.array_records[names.ARRAYS]
    number = int(message.content[names.CONFIG][names.ROUND_KEY])  # type: ignore[index, arg-type]
    trained = {
        key: Array(array.numpy() + moved_by(site, number, array.numpy().size).reshape(array.numpy().shape))
        for key, array in arrays.items()
    }
    metrics = {
        **vector.metrics_template(vector.TRAIN),
        names.PEOPLE_KEY: PEOPLE.get(site, 10),
        names.TRAIN_LOSS_KEY: 0.5,
    }
    content = {names.ARRAYS: ArrayRecord(trained), names.METRICS: MetricRecord(metrics)}
    return Message(RecordDict({**content, names.SITE: ConfigRecord({names.NAME_KEY: site})}), reply_to=message)


def evaluate(site: str, message: Message) -> Message:
    metrics = {**vector.metrics_template(vector.EVALUATE), names.PEOPLE_KEY: PEOPLE[site]}
    metrics[f"{names.TEST}{names.HISTOGRAM_KEY}"][7] = 0.25
    content = {names.METRICS: MetricRecord(metrics), names.SITE: ConfigRecord({names.NAME_KEY: site})}
    return Message(RecordDict(content), reply_to=message)


class InProcess(Grid):
    """Sites in this process, node i + 1 is `sites[i]`; `absent(site, message type)` says who does not answer."""

    def __init__(
        self,
        keys: dict[str, Path] | None,
        absent: Callable[[str, str], bool] = lambda *_: False,
        sites: tuple[str, ...] = SITES,
    ) -> None:
        self.keys_of = {} if keys is None else {site: read_site_keys(keys[site]) for site in sites}
        self.absent = absent
        self.asked: list[str] = []
        self.seen: list[Message] = []
        self.nodes = {index: site for index, site in enumerate(sites, start=1)}
        self.contexts = {site: Context(1, 1, {"site": site}, RecordDict(), {}) for site in sites}
        self._apps = {site: app_of(site, None if keys is None else keys[site]) for site in sites}

    def forget(self, site: str) -> None:
        """The site's process is started anew."""
        self.contexts[site].state = RecordDict()

    def ask(self, _grid: Grid, messages: Iterable[Message]) -> list[Message]:
        replies = []
        for number, message in enumerate(messages):
            kind, site = message.metadata.message_type, self.nodes[message.metadata.dst_node_id]
            if number == 0:
                self.asked.append(kind.removeprefix("query."))
            if not self.absent(site, kind):
                try:
                    replies.append(self._apps[site](message, self.contexts[site]))
                except ConnectionError as error:
                    replies.append(Message(Error(code=0, reason=str(error)), reply_to=message))
        self.seen += replies
        return replies

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, *_: Any, **__: Any) -> Iterable[Message]:
        raise NotImplementedError


def app_of(site: str, keys: Path | None) -> ClientApp:
    secure = SecureSite(lambda _context: None if keys is None else read_site_keys(keys), lambda _context: site)
    app = ClientApp()
    secure.register(app)
    app.train(mods=[secure.mod])(lambda message, _context: train(site, message))
    app.evaluate(mods=[secure.mod])(lambda message, _context: evaluate(site, message))
    return app


def start() -> ArrayRecord:
    return ArrayRecord({"w": Array(np.zeros((3, 4), np.float32)), "b": Array(np.ones(5, np.float32))})


def secured(inner: Strategy, grid: InProcess, identities: Identities, *more: str) -> SecureAggregation:
    return SecureAggregation(FixedOrder(inner), SetUps(settings_of(*more), identities.roster), grid.ask)


def one_round(
    strategy: Strategy, grid: InProcess, number: int, arrays: ArrayRecord
) -> tuple[ArrayRecord, MetricRecord]:
    messages = strategy.configure_train(number, arrays, ConfigRecord(dict(CONFIG)), grid)
    found, metrics = strategy.aggregate_train(number, grid.ask(grid, messages))
    assert found is not None
    assert metrics is not None
    return found, metrics


@pytest.mark.parametrize("inner", [FedAvg, FedAvgM, FedAdam, FedAdagrad, FedYogi])
def test_whatever_averages_gives_the_same_under_secure_aggregation_to_quantisation(
    inner: type[FedAvg], identities: Identities
) -> None:
    # An adaptive step divides by the size of the update: with a larger tau the rounding is not blown up with it.
    options = COMMON if inner in (FedAvg, FedAvgM) else {**COMMON, "eta": 0.1, "tau": 0.1}
    plain_grid, secure_grid = InProcess(None), InProcess(identities.folders)
    plain, secure = inner(**options), secured(inner(**options), secure_grid, identities)
    plain_arrays, secure_arrays = start(), start()
    for number in (1, 2, 3):
        plain_arrays, expected = one_round(plain, plain_grid, number, plain_arrays)
        secure_arrays, found = one_round(secure, secure_grid, number, secure_arrays)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=1e-6)  # type: ignore[arg-type]
        for key in plain_arrays:
            np.testing.assert_allclose(
                secure_arrays[key].numpy(), plain_arrays[key].numpy(), rtol=0, atol=4 * number * ROUNDING
            )
    assert secure.participants == SITES


class SumPlusOne(FedAvg):
    """An odd inner strategy: if its oddity comes out, it was really asked, and with sums only."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        (reply,) = replies
        arrays = reply.content.array_records[names.ARRAYS]
        return ArrayRecord({key: Array(array.numpy() + 1) for key, array in arrays.items()}), MetricRecord({"odd": 1})


def test_the_inner_strategy_is_asked_and_gets_one_reply_that_is_the_mean(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    found, metrics = one_round(secured(SumPlusOne(**COMMON), grid, identities), grid, 1, start())
    mean = sum(PEOPLE[site] * moved_by(site, 1, 5).astype(float) for site in SITES) / 150
    np.testing.assert_allclose(found["b"].numpy(), 2 + mean, atol=ROUNDING)
    assert dict(metrics) == {"odd": 1}


def test_no_reply_of_a_site_holds_more_than_its_name_and_bytes_under_masks(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    one_round(secured(FedAvg(**COMMON), grid, identities), grid, 1, start())
    assert len(grid.seen) == 4 * 5
    for reply in grid.seen:
        assert set(reply.content) == {names.SITE, names.SECURE}
        assert set(reply.content[names.SITE]) == {names.NAME_KEY}  # type: ignore[arg-type]
        assert set(reply.content[names.SECURE]) == {names.PAYLOAD_KEY}  # type: ignore[arg-type]


def test_a_set_up_lasts_for_its_rounds_and_is_renewed_when_a_site_lost_its_own(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    strategy = secured(FedAvg(**COMMON), grid, identities, "privacy.secure_agg.setup_rounds=3")
    arrays = start()
    arrays, _ = one_round(strategy, grid, 1, arrays)
    arrays, _ = one_round(strategy, grid, 2, arrays)
    once, set_up = ["train", "unmask"], ["advertise", "share"]
    with_a_gap = ["train", "attest", "unmask"]
    assert grid.asked == [*set_up, *once, *once]
    grid.forget("CPI_B")
    arrays, metrics = one_round(strategy, grid, 3, arrays)
    assert metrics[names.PEOPLE_KEY] == 150 - PEOPLE["CPI_B"]
    assert strategy.participants == tuple(site for site in SITES if site != "CPI_B")
    arrays, metrics = one_round(strategy, grid, 4, arrays)
    assert metrics[names.PEOPLE_KEY] == 150
    assert grid.asked == [*set_up, *once, *once, *with_a_gap, *set_up, *once]
    assert strategy.protection is not None
    assert (strategy.protection["sums"], strategy.protection["set_ups"]) == (4, 2)


@pytest.mark.parametrize("step", [names.ADVERTISE, names.SHARE, "train", names.ATTEST, names.UNMASK])
def test_two_sites_may_vanish_at_any_step_and_three_give_the_round_up(identities: Identities, step: str) -> None:
    def vanish(site: str, kind: str, sites: int) -> bool:
        if step == names.ATTEST:  # signatures are asked for where somebody is missing already
            return (kind == "train" and site == SITES[4]) or (kind == step and site in SITES[: sites - 1])
        return kind == step and site in SITES[:sites]

    grid = InProcess(identities.folders, lambda site, kind: vanish(site, kind, 2))
    strategy = secured(FedAvg(**COMMON), grid, identities)
    found, metrics = one_round(strategy, grid, 1, start())
    delivered = {names.ATTEST: SITES[:4], names.UNMASK: SITES}.get(step, SITES[2:])
    people = sum(PEOPLE[site] for site in delivered)
    assert metrics[names.PEOPLE_KEY] == people
    mean = sum(PEOPLE[site] * moved_by(site, 1, 5).astype(float) for site in delivered) / people
    np.testing.assert_allclose(found["b"].numpy(), 1 + mean, atol=2 * ROUNDING)
    grid.absent = lambda site, kind: vanish(site, kind, 3)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    for site in SITES:
        grid.forget(site)
    with pytest.raises(RoundAbandoned) as caught:
        one_round(strategy, grid, 1, start())
    assert "round 1" in str(caught.value)


def test_sites_with_keys_answer_nothing_unmasked_and_sites_without_none_of_the_protocol(identities: Identities) -> None:
    plain = FedAvg(**COMMON)
    grid = InProcess(identities.folders)
    for reply in grid.ask(grid, plain.configure_train(1, start(), ConfigRecord(dict(CONFIG)), grid)):
        assert set(reply.content) == {names.SITE}
        assert "without secure aggregation" in str(reply.content[names.SITE][names.REFUSAL_KEY])  # type: ignore[index]
    bare = InProcess(None)
    with pytest.raises(RoundAbandoned, match="this site has no keys"):
        one_round(secured(FedAvg(**COMMON), bare, identities), bare, 1, start())


def test_a_round_that_was_trained_is_not_trained_again_in_another_slot(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    arrays, _ = one_round(strategy, grid, 1, start())
    messages = list(strategy.configure_train(2, arrays, ConfigRecord(dict(CONFIG)), grid))
    for message in messages:
        message.content[names.CONFIG][names.ROUND_KEY] = 1  # type: ignore[index, assignment]
    for reply in grid.ask(grid, messages):
        assert reply.content[names.SITE][names.REFUSAL_KIND_KEY] == "PastRound"  # type: ignore[index]


def test_another_model_for_one_site_takes_its_vector_out_of_the_sum_and_it_is_named(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    messages = list(strategy.configure_train(1, start(), ConfigRecord(dict(CONFIG)), grid))
    other = ArrayRecord({"w": Array(np.ones((3, 4), np.float32)), "b": Array(np.ones(5, np.float32))})
    messages[0].content[names.ARRAYS] = other
    _, metrics = strategy.aggregate_train(1, grid.ask(grid, messages))
    assert metrics is not None
    odd = grid.nodes[messages[0].metadata.dst_node_id]
    assert metrics[names.PEOPLE_KEY] == 150 - PEOPLE[odd], "the odd one is left out, not added to garbage"
    assert strategy.participants == tuple(site for site in SITES if site != odd)


def test_too_large_a_change_is_refused_at_the_site(tmp_path: Path) -> None:
    narrow = make_identities(SITES, settings_of("privacy.secure_agg.max_people=1"), tmp_path / "keys", federation="one")
    grid = InProcess(narrow.folders)
    strategy = secured(FedAvg(**COMMON), grid, narrow, "privacy.secure_agg.max_people=1")
    with pytest.raises(RoundAbandoned, match=r"CPI_E refused .*beyond"):
        one_round(strategy, grid, 1, start())


def test_bounds_by_which_refusals_would_measure_a_site_are_refused(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    with pytest.raises(RoundAbandoned, match="a tighter bound on sums, update"):
        one_round(
            secured(
                FedAvg(**COMMON),
                grid,
                identities,
                "privacy.secure_agg.value_bound=0.5",
                "privacy.secure_agg.max_people=64",
            ),
            grid,
            1,
            start(),
        )


def test_a_site_unknown_to_the_roster_is_left_out_and_named(tmp_path: Path, identities: Identities) -> None:
    strangers = make_identities(SITES, settings_of(), tmp_path / "strangers", federation="others")
    grid = InProcess({**identities.folders, "CPI_E": strangers.folders["CPI_E"]})
    strategy = secured(FedAvg(**COMMON), grid, identities)
    one_round(strategy, grid, 1, start())
    assert strategy.participants == SITES[:4]
    grid = InProcess({**identities.folders, **{site: strangers.folders[site] for site in SITES[2:]}})
    with pytest.raises(RoundAbandoned, match="CPI_E was left out \\(KeyNotSigned"):
        one_round(secured(FedAvg(**COMMON), grid, identities), grid, 1, start())


def test_without_a_roster_the_settings_are_refused() -> None:
    with pytest.raises(InputError, match="no roster"):
        build_strategy(settings_of(), SITES, None, InProcess(None).ask, "run")


def test_evaluation_is_summed_under_masks_and_an_abandoned_one_can_be_tried_again(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    arrays, _ = one_round(strategy, grid, 1, start())

    def evaluated() -> dict[str, Any]:
        messages = strategy.configure_evaluate(1, arrays, ConfigRecord(dict(CONFIG)), grid)
        return dict(strategy.aggregate_evaluate(1, grid.ask(grid, messages)) or {})

    grid.absent = lambda site, kind: kind == "evaluate" and site in SITES[:3]
    with pytest.raises(RoundAbandoned):
        evaluated()
    grid.absent = lambda *_: False
    found = evaluated()
    assert found[names.PEOPLE_KEY] == 150
    histogram = np.asarray(found[f"{names.TEST}{names.HISTOGRAM_KEY}"])
    assert histogram[7] == pytest.approx(5 * 0.25, abs=1e-6)
    assert np.count_nonzero(histogram) == 1, "empty bins stay exactly empty"


def test_nothing_secret_is_logged_or_shown(identities: Identities, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    grid = InProcess(identities.folders)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    one_round(strategy, grid, 1, start())
    shown = caplog.text + repr(strategy) + repr(vars(strategy)) + "".join(map(repr, grid.keys_of.values()))
    for folder in identities.folders.values():
        secret = (folder / "identity.pem").read_text(encoding="utf-8").splitlines()[1]
        assert secret not in shown


def test_groups_give_the_inner_strategy_one_reply_for_each_and_survive_dropouts(tmp_path: Path) -> None:
    sites = tuple(f"CPI_{letter}" for letter in "ABCDEFGHIJKL")
    offices = "offices={" + ", ".join(f"{site}: {{provinces: [AA]}}" for site in sites) + "}"
    flags = (offices, "aggregator=coordinate_median", "privacy.secure_agg.groups=3", "secure_agg.threshold=60%")
    keys = make_identities(sites, settings_of(*flags), tmp_path / "keys", federation="twelve")
    grid = InProcess(keys.folders, lambda site, kind: kind == "train" and site == "CPI_C", sites)
    seen: list[list[float]] = []

    class Watching(FedMedian):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            replies = list(replies)
            seen.append([float(reply.content[names.METRICS][names.PEOPLE_KEY]) for reply in replies])  # type: ignore
            return super().aggregate_train(server_round, replies)

    strategy = SecureAggregation(FixedOrder(Watching(**COMMON)), SetUps(settings_of(*flags), keys.roster), grid.ask)
    _, metrics = one_round(strategy, grid, 1, start())
    assert [len(groups) for groups in seen] == [3]
    assert sum(seen[0]) == metrics[names.PEOPLE_KEY] == sum(PEOPLE.get(site, 10) for site in sites if site != "CPI_C")


class Swollen(InProcess):
    """Sites whose update is beyond every bound in the rounds of `when`."""

    when: tuple[int, ...] = ()

    def ask(self, grid: Grid, messages: Iterable[Message]) -> list[Message]:
        messages = list(messages)
        numbers = [
            message.content[names.CONFIG][names.ROUND_KEY] for message in messages if names.CONFIG in message.content
        ]  # type: ignore[index]
        SWOLLEN.update({"CPI_B"} if any(number in self.when for number in numbers) else set())
        try:
            return super().ask(grid, messages)
        finally:
            SWOLLEN.clear()


def test_a_site_whose_values_leave_their_bounds_leaves_the_run_so_that_refusals_measure_nothing(
    identities: Identities,
) -> None:
    grid = Swollen(identities.folders)
    grid.when = (1,)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    arrays, _ = one_round(strategy, grid, 1, start())
    assert strategy.participants == tuple(site for site in SITES if site != "CPI_B")
    assert any("CPI_B refused" in reason and "beyond" in reason for reason in strategy.left_out)
    one_round(strategy, grid, 2, arrays)
    assert any("CPI_B left the run" in reason for reason in strategy.left_out)
    fresh = secured(FedAvg(**COMMON), grid, identities)  # a new set-up does not bring it back
    one_round(fresh, grid, 3, arrays)
    assert "CPI_B" not in fresh.participants
    assert any("CPI_B left the run" in reason for reason in fresh.left_out)


def test_what_the_app_answers_in_another_form_is_not_sent_unmasked(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    message = next(iter(strategy.configure_train(1, start(), ConfigRecord(dict(CONFIG)), grid)))
    site = grid.nodes[message.metadata.dst_node_id]
    secure = SecureSite(lambda _context: grid.keys_of[site], lambda _context: site)

    def other_form(asked: Message, _context: Context) -> Message:
        content = RecordDict(dict(train(site, asked).content))
        content["my-metrics"] = content.pop(names.METRICS)
        return Message(content, reply_to=asked)

    reply = secure.mod(message, grid.contexts[site], other_form)
    assert set(reply.content) == {names.SITE}
    assert names.REFUSAL_KEY in reply.content[names.SITE]


def test_the_context_shows_no_secret_of_the_session(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    one_round(secured(FedAvg(**COMMON), grid, identities), grid, 1, start())
    for site, context in grid.contexts.items():
        sealed = context.state["secure-aggregation"]["session"]  # type: ignore[index]
        state = grid.keys_of[site].identity.unseal(sealed)  # type: ignore[arg-type]
        session = SiteSession.from_bytes(state)
        secrets = [secret for secret in session._state.mask_keys + session._state.seeds if secret]
        assert secrets
        kept = repr(context).encode("unicode_escape") + sealed  # type: ignore[operator]
        assert not any(secret in kept or repr(secret)[2:-1].encode() in kept for secret in secrets)
        other = next(keys for name, keys in grid.keys_of.items() if name != site)
        with pytest.raises(InputError, match="another identity's"):
            other.identity.unseal(sealed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop(names.SLOT_KEY),
        lambda record: record.update({names.SLOT_KEY: 1.9}),
        lambda record: record.update({names.SLOT_KEY: "1"}),
        lambda record: record.update({names.BEGIN_KEY: "text"}),
        lambda record: record.update({names.BEGIN_KEY: b"garbage"}),
    ],
)
def test_odd_messages_are_refused_by_name(identities: Identities, change: Callable[[ConfigRecord], object]) -> None:
    grid = InProcess(identities.folders)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    messages = list(strategy.configure_train(1, start(), ConfigRecord(dict(CONFIG)), grid))
    for message in messages:
        change(message.content[names.SECURE])  # type: ignore[arg-type]
    for reply in grid.ask(grid, messages):
        assert reply.content[names.SITE][names.REFUSAL_KIND_KEY] == "MalformedMessage"  # type: ignore[index]


def test_a_missing_begin_is_refused_as_a_set_up_that_did_not_begin(identities: Identities) -> None:
    grid = InProcess(identities.folders)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    messages = list(strategy.configure_train(1, start(), ConfigRecord(dict(CONFIG)), grid))
    for message in messages:
        message.content[names.SECURE].pop(names.BEGIN_KEY)  # type: ignore[union-attr]
    for reply in grid.ask(grid, messages):
        assert reply.content[names.SITE][names.REFUSAL_KIND_KEY] == "UnknownSetUp"  # type: ignore[index]


@pytest.mark.parametrize(
    "site",
    [
        None,
        ConfigRecord({}),
        ConfigRecord({names.NAME_KEY: 7}),
        ConfigRecord({names.NAME_KEY: "\x1b[31mred"}),
        ArrayRecord({"w": Array(np.zeros(2))}),
        ConfigRecord({names.NAME_KEY: "CPI_A", names.REFUSAL_KEY: "\x1b[31m" + "a" * 10**6 + "\nb"}),
        ConfigRecord({names.NAME_KEY: "CPI_A"}),
    ],
)
@pytest.mark.parametrize("step", ["advertise", "share", "train", "attest", "unmask"])
def test_no_reply_of_one_site_stops_the_others(identities: Identities, site: object, step: str) -> None:
    class Odd(InProcess):
        def ask(self, grid: Grid, messages: Iterable[Message]) -> list[Message]:
            replies = super().ask(grid, messages)
            for reply in replies if self.asked[-1] == step else []:
                if reply.metadata.src_node_id == 1:
                    reply.content = RecordDict({} if site is None else {names.SITE: site})
            return replies

    gap = SITES[4:] if step == "attest" else ()  # signatures are asked for where somebody is missing
    grid = Odd(identities.folders, lambda site, kind: kind == "train" and site in gap)
    strategy = secured(FedAvg(**COMMON), grid, identities)
    one_round(strategy, grid, 1, start())
    assert set(strategy.participants) >= set(SITES[1:]) - set(gap)
    assert strategy.left_out
    said = "; ".join(strategy.left_out)
    assert said.isprintable()
    assert len(said) < 1000


def test_a_trimmed_mean_that_lost_a_group_is_abandoned_not_weakened(tmp_path: Path) -> None:
    sites = tuple(f"CPI_{letter}" for letter in "ABCDEFGHI")
    offices = "offices={" + ", ".join(f"{site}: {{provinces: [AA]}}" for site in sites) + "}"
    flags = (
        *(offices, "aggregator=trimmed_mean", "federated.trim=0.34", "privacy.secure_agg.groups=3"),
        *("secure_agg.threshold=60%", "federated.min_clients=3"),
    )
    keys = make_identities(sites, settings_of(*flags), tmp_path / "keys", federation="nine")
    grid = InProcess(keys.folders, lambda _site, _kind: False, sites)
    strategy = build_strategy(settings_of(*flags), sites, keys.roster, grid.ask, "run")
    arrays, _ = one_round(strategy, grid, 1, start())
    grid.absent = lambda site, kind: kind == "train" and site == "CPI_C"
    with pytest.raises(RoundAbandoned, match="2 groups kept enough sites and the aggregator needs 3"):
        one_round(strategy, grid, 2, arrays)


def test_a_site_may_ask_for_more_colluders_to_be_withstood_than_the_threshold_does(identities: Identities) -> None:
    for folder in identities.folders.values():
        text = (folder / "site.yaml").read_text(encoding="utf-8") + "tolerated_colluders: 2\n"
        (folder / "site.yaml").write_text(text, encoding="utf-8")
    grid = InProcess(identities.folders)
    with pytest.raises(RoundAbandoned, match="withstands 0 colluding sites, and this site asks for 2"):
        one_round(secured(FedAvg(**COMMON), grid, identities), grid, 1, start())
    for site in SITES:
        grid.forget(site)
    one_round(secured(FedAvg(**COMMON), grid, identities, "secure_agg.threshold=4-of-5"), grid, 1, start())


def test_a_silent_site_is_named_in_what_is_recorded_of_the_round(identities: Identities) -> None:
    grid = InProcess(identities.folders, lambda site, kind: kind == "train" and site == "CPI_D")
    strategy = secured(FedAvg(**COMMON), grid, identities)
    one_round(strategy, grid, 1, start())
    assert strategy.left_out == ("CPI_D did not answer",)


def test_people_that_add_up_to_none_give_the_round_up_instead_of_dividing_by_them(
    identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.PEOPLE", dict(zip(SITES, (10, 20, 30, 40, -100), strict=True)))
    grid = InProcess(identities.folders)
    with pytest.raises(RoundAbandoned, match="no honest answers add up to"):
        one_round(secured(FedAvg(**COMMON), grid, identities), grid, 1, start())
