"""The round loop against sites that answer, refuse, fail or stay silent as a script says."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from common import messages as names
from common.errors import RunError
from common.evaluation_sums import EvaluationSums
from common.metrics import METRICS
from common.model import MatchingModel, ModelCard, parameters_of, read_model, sha256_of
from common.settings_loading import load_settings
from server.history import COLUMNS, History
from server.job import Job
from server.rounds import run

SITES = ("CPI_A", "CPI_B", "CPI_C", "CPI_D", "CPI_E")
CARD = ModelCard("rule", (4,), synthetic=True)
STEP = 0.25
PEOPLE = 40

Deed = Literal["takes part", "refuses", "fails", "is silent", "lies about its name", "diverges", "sends nonsense"]
Script = Callable[[str, str, int], Deed]
"""(site, message type, how many messages of that type the site has had, this one too) -> what the site does."""


@pytest.fixture(autouse=True)
def _inside_a_run() -> None:
    """Messages can be made only inside a run."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1


class ScriptedGrid(Grid):
    """Sites inside this process: node i is `SITES[i - 1]`, and answers at once or never."""

    def __init__(self, script: Script, there: Callable[[], int] = lambda: len(SITES)) -> None:
        self._script = script
        self._there = there
        self._replies: dict[str, Message] = {}
        self._had: dict[tuple[str, str], int] = {}
        self.sent: list[str] = []

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *_: Any, **__: Any) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return range(1, self._there() + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for number, message in enumerate(messages):
            if number == 0:
                self.sent.append(message.metadata.message_type)
            message.metadata.__dict__["_message_id"] = f"{len(self.sent)}-{number}"
            ids.append(message.metadata.message_id)
            reply = self._answer(message)
            if reply is not None:
                self._replies[message.metadata.message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(one) for one in list(message_ids) if one in self._replies]

    def _answer(self, message: Message) -> Message | None:
        site, kind = SITES[message.metadata.dst_node_id - 1], message.metadata.message_type
        if kind == names.IDENTIFY:
            return Message(RecordDict({names.SITE: ConfigRecord({names.NAME_KEY: site})}), reply_to=message)
        self._had[site, kind] = self._had.get((site, kind), 0) + 1
        deed = self._script(site, kind, self._had[site, kind])
        if deed == "is silent":
            return None
        if deed == "fails":
            return Message(Error(code=0, reason="lost"), reply_to=message)
        record = ConfigRecord({names.NAME_KEY: SITES[0] if deed == "lies about its name" else site})
        if deed == "refuses":
            record[names.REFUSAL_KEY] = "table: it is\nempty; fill it."
            return Message(RecordDict({names.SITE: record}), reply_to=message)
        content = content_of(message, record, np.nan if deed == "diverges" else STEP)
        if deed == "sends nonsense":
            metrics = content.metric_records[names.METRICS]
            for part in (names.VALIDATION, names.TEST):
                metrics[f"{part}{names.HISTOGRAM_KEY}"] = [-1000.0] * 2000
        return Message(content, reply_to=message)


def content_of(message: Message, record: ConfigRecord, step: float) -> RecordDict:
    """What a site that takes part replies: every parameter moved by `step`, and sums over forty people.

    The scores are so that the metrics tell how far the model that came in has been moved.
    """
    arrays = message.content.array_records[names.ARRAYS]
    moved = {name: array.numpy() + np.float32(step) for name, array in arrays.items()}
    bias = float(next(iter(arrays.values())).numpy().ravel()[0]) - START
    outcome = np.arange(PEOPLE) % 2
    score = np.clip(0.2 + 0.1 * bias + 0.3 * outcome * bias, 0, 1)
    sums = EvaluationSums.from_scores(outcome, score, np.arange(PEOPLE))
    metrics = {names.PEOPLE_KEY: PEOPLE, names.TRAIN_LOSS_KEY: 2.0 * PEOPLE, **sums.to_record(names.VALIDATION)}
    return RecordDict(
        {
            names.ARRAYS: ArrayRecord({name: Array(values) for name, values in moved.items()}),
            names.METRICS: MetricRecord({**metrics, **sums.to_record(names.TEST)}),
            names.SITE: record,
        }
    )


INITIAL = parameters_of(MatchingModel((4,), seed=42))
START = float(next(iter(INITIAL.values())).ravel()[0])


def job_of(folder: Path, *overrides: str, **more: Any) -> Job:
    quick = ("training.hidden=[4]", "federated.round_timeout=0.2", "federated.wait_timeout=0.2")
    settings = load_settings([*quick, "privacy.enabled=false", "anchoring.enabled=false", *overrides], environment={})
    return Job(settings, SITES, CARD, folder, **more)


def failing(kind: str, numbers: Iterable[int], deed: Deed = "is silent", sites: Iterable[str] = SITES[:3]) -> Script:
    """Some sites (three, so that two are left and the quorum is missed) do `deed` at these messages of one type."""
    chosen, when = set(sites), set(numbers)
    return lambda site, asked, number: deed if asked == kind and number in when and site in chosen else "takes part"


def rows_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "rounds.csv", keep_default_na=False)


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "federation.json").read_text(encoding="utf-8"))
    return result


@pytest.fixture(scope="module")
def hashes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The model's hash after so many finished rounds of a run without trouble; the first is the initial model's."""
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    folder = tmp_path_factory.mktemp("undisturbed")
    run(ScriptedGrid(failing("train", ())), job_of(folder, "federated.rounds=4"))
    found = [sha256_of(INITIAL, CARD), *rows_of(folder)["model_sha256"]]
    assert len(set(found)) == 5
    return found


def test_a_run_without_trouble_has_finished_rows_only(tmp_path: Path, hashes: list[str]) -> None:
    grid = ScriptedGrid(failing("train", ()))
    run(grid, job_of(tmp_path, "federated.rounds=3"))
    rows = rows_of(tmp_path)
    assert tuple(rows.columns) == COLUMNS
    assert rows["status"].tolist() == ["finished"] * 3
    assert rows["reason"].tolist() == [""] * 3
    assert rows["sites"].tolist() == [5] * 3
    assert rows["people"].tolist() == [5 * PEOPLE] * 3
    assert rows["train_loss"].tolist() == [2.0] * 3
    assert rows["model_sha256"].tolist() == hashes[1:4]
    model, _ = read_model(tmp_path / "model.safetensors")
    for name, values in parameters_of(model).items():
        np.testing.assert_allclose(values, INITIAL[name] + 3 * STEP, atol=1e-6)
    assert grid.sent == ["train", "train", "train", "evaluate"]
    result = result_of(tmp_path)
    assert result["abandoned"] == []
    assert result["cohort"] == list(SITES)


@pytest.mark.parametrize("deed", ["is silent", "refuses", "fails"])
def test_an_abandoned_round_leaves_the_model_as_it_was_and_the_run_goes_on(
    tmp_path: Path, hashes: list[str], deed: Deed
) -> None:
    told: list[dict[str, Any]] = []
    script = failing("train", [2, 3], deed)
    run(ScriptedGrid(script), job_of(tmp_path, "federated.rounds=5", on_round=told.append))
    rows = rows_of(tmp_path)
    assert rows["round"].tolist() == [1, 2, 3, 4, 5]
    assert rows["status"].tolist() == ["finished", "abandoned", "abandoned", "finished", "finished"]
    assert rows["sites"].tolist() == [5, 2, 2, 5, 5]
    assert rows["model_sha256"].tolist() == [hashes[number] for number in (1, 1, 1, 2, 3)]
    assert rows["people"].tolist() == ["200", "", "", "200", "200"], (
        "a whole number beside empty cells is written whole"
    )
    given_up = rows[rows["status"] == "abandoned"]
    assert (given_up[["train_loss", "threshold", *METRICS]] == "").all(axis=None)
    for reason in given_up["reason"]:
        assert reason.startswith("only 2 of 5 sites took part and at least 3 are needed; ")
        assert "CPI_A" in reason or deed == "fails"
        assert "\n" not in reason
    assert len((tmp_path / "rounds.csv").read_text(encoding="utf-8").splitlines()) == 6, "a row is a line"
    assert [row["status"] for row in told] == rows["status"].tolist(), "progress goes on in abandoned rounds too"
    assert result_of(tmp_path)["abandoned"] == [2, 3]
    assert result_of(tmp_path)["model_sha256"] == hashes[3]
    assert hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest() == hashes[3]
    assert read_model(tmp_path / "model.safetensors")[1] == CARD


def test_metrics_belong_to_the_last_finished_rounds_model_whatever_is_abandoned_after_it(tmp_path: Path) -> None:
    run(ScriptedGrid(failing("train", ())), job_of(tmp_path / "plain", "federated.rounds=3"))
    script = failing("train", [1, 3, 4, 6])
    run(ScriptedGrid(script), job_of(tmp_path / "gaps", "federated.rounds=6"))
    with_gaps = rows_of(tmp_path / "gaps")
    assert with_gaps.loc[with_gaps["status"] == "finished", "round"].tolist() == [2, 5]
    plain = rows_of(tmp_path / "plain").iloc[:2]
    finished = with_gaps[with_gaps["status"] == "finished"]
    shared = ["model_sha256", "threshold", *METRICS]
    assert finished[shared].astype(str).to_numpy().tolist() == plain[shared].astype(str).to_numpy().tolist()
    assert len(set(plain["brier"])) == 2, "these metrics do not tell models apart"


def test_a_site_that_is_missing_does_not_count_and_one_that_refuses_does_neither(tmp_path: Path) -> None:
    def script(site: str, kind: str, number: int) -> Deed:
        return {"CPI_D": "refuses", "CPI_E": "fails"}.get(site, "takes part")  # type: ignore[return-value]

    run(ScriptedGrid(script), job_of(tmp_path, "federated.rounds=2"))
    assert rows_of(tmp_path)["sites"].tolist() == [3, 3]
    assert result_of(tmp_path)["cohort"] == ["CPI_A", "CPI_B", "CPI_C"]


def test_the_cohort_holds_nobody_whose_rounds_were_all_abandoned(tmp_path: Path) -> None:
    def script(site: str, kind: str, number: int) -> Deed:
        if kind == "train" and number == 1:
            return "takes part" if site in ("CPI_D", "CPI_E") else "is silent"
        return "is silent" if site == "CPI_E" else "takes part"

    run(ScriptedGrid(script), job_of(tmp_path, "federated.rounds=2"))
    assert rows_of(tmp_path)["sites"].tolist() == [2, 4]
    assert result_of(tmp_path)["cohort"] == ["CPI_A", "CPI_B", "CPI_C", "CPI_D"]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_too_many_abandoned_rounds_in_a_row_stop_the_run_with_the_last_reason(
    tmp_path: Path, hashes: list[str], most: int
) -> None:
    script = failing("train", range(3, 99), "refuses")
    grid = ScriptedGrid(script)
    with pytest.raises(RunError) as caught:
        run(grid, job_of(tmp_path, "federated.rounds=9", f"federated.max_abandoned={most}"))
    rows = rows_of(tmp_path)
    assert rows["status"].tolist() == ["finished"] * 2 + ["abandoned"] * most
    assert ("a round was" if most == 1 else f"{most} rounds in a row were") in str(caught.value)
    assert f"round {2 + most}: " in str(caught.value)
    assert rows["reason"].iloc[-1] in str(caught.value)
    assert "CPI_A refused (table: it is empty; fill it)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "federation.json").exists(), "a run that stopped looks complete"
    assert hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest() == hashes[2]


def test_abandoned_rounds_that_are_not_in_a_row_do_not_stop_a_run(tmp_path: Path, hashes: list[str]) -> None:
    script = failing("train", [1, 2, 4, 5, 7, 8])
    run(ScriptedGrid(script), job_of(tmp_path, "federated.rounds=9"))
    assert result_of(tmp_path)["abandoned"] == [1, 2, 4, 5, 7, 8]
    assert result_of(tmp_path)["model_sha256"] == hashes[3]


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_run_without_one_finished_round_fails_and_leaves_no_model(
    tmp_path: Path, hashes: list[str], rounds: int
) -> None:
    grid = ScriptedGrid(failing("train", range(1, 99)))
    with pytest.raises(RunError, match=r"no round was finished.* only 2 of 5 sites took part") as caught:
        run(grid, job_of(tmp_path, f"federated.rounds={rounds}"))
    assert rows_of(tmp_path)["reason"].iloc[-1] in str(caught.value)
    assert rows_of(tmp_path)["model_sha256"].tolist() == [hashes[0]] * rounds
    assert grid.sent == ["train"] * rounds
    assert {path.name for path in tmp_path.iterdir()} == {"rounds.csv", "run_state.jsonl", ".lock"}


def test_a_closing_evaluation_that_is_abandoned_is_tried_once_more(tmp_path: Path) -> None:
    grid = ScriptedGrid(failing("evaluate", [1]))
    run(grid, job_of(tmp_path, "federated.rounds=1"))
    assert grid.sent == ["train", "evaluate", "evaluate"]
    assert rows_of(tmp_path)["brier"].iloc[0] != ""
    assert result_of(tmp_path)["abandoned"] == []


def test_a_closing_evaluation_that_is_abandoned_twice_ends_the_run(tmp_path: Path) -> None:
    grid = ScriptedGrid(failing("evaluate", range(1, 99), "refuses"))
    with pytest.raises(RunError, match=r"closing evaluation was abandoned twice.*CPI_A refused"):
        run(grid, job_of(tmp_path, "federated.rounds=1"))
    assert grid.sent == ["train", "evaluate", "evaluate"]
    assert not (tmp_path / "federation.json").exists()


def test_two_sites_of_one_name_and_training_that_diverges_end_the_run_at_once(tmp_path: Path) -> None:
    for deed, said in (("lies about its name", "two nodes call themselves CPI_A"), ("diverges", "training diverged")):
        grid = ScriptedGrid(failing("train", [2], deed, SITES[1:2]))  # type: ignore[arg-type]
        with pytest.raises(RunError, match=said):
            run(grid, job_of(tmp_path / deed, "federated.rounds=5"))
        assert grid.sent == ["train", "train"]
        assert rows_of(tmp_path / deed)["status"].tolist() == ["finished"]


def test_a_round_begins_only_when_enough_sites_are_there_and_is_else_abandoned_after_the_wait(
    tmp_path: Path, hashes: list[str]
) -> None:
    there = {0: 5, 1: 2}  # after round 1 only two sites are there, and after round 2 all are back
    done: list[dict[str, Any]] = []
    grid = ScriptedGrid(failing("train", ()), lambda: there.get(len(done), 5))
    run(grid, job_of(tmp_path, "federated.rounds=3", on_round=done.append))
    rows = rows_of(tmp_path)
    assert rows["status"].tolist() == ["finished", "abandoned", "finished"]
    assert rows["sites"].tolist() == [5, 0, 5]
    assert "only 2 of 5 sites are there" in rows["reason"][1]
    assert "missing: CPI_C, CPI_D, CPI_E" in rows["reason"][1]
    assert rows["model_sha256"].tolist() == [hashes[1], hashes[1], hashes[2]]
    assert grid.sent == ["train", names.IDENTIFY, "train", "evaluate"], "nothing was asked of too few sites"


def test_sites_that_never_come_back_end_the_run_though_flower_would_wait_for_ever(tmp_path: Path) -> None:
    done: list[dict[str, Any]] = []
    grid = ScriptedGrid(failing("train", ()), lambda: 0 if done else 5)
    with pytest.raises(RunError, match=r"3 rounds in a row were abandoned.*only 0 of 5 sites are there"):
        run(grid, job_of(tmp_path, on_round=done.append))
    done.clear()
    with pytest.raises(RunError, match=r"evaluation was abandoned twice.*only 0 of 5 sites are there"):
        run(grid, job_of(tmp_path / "again", "federated.rounds=1", on_round=done.append))


def test_an_interrupted_run_is_not_an_abandoned_round(tmp_path: Path) -> None:
    cancelled = threading.Event()

    def script(site: str, kind: str, number: int) -> Deed:
        cancelled.set()
        return "is silent"

    with pytest.raises(RunError, match="interrupted"):
        run(ScriptedGrid(script), job_of(tmp_path, "federated.round_timeout=60", cancelled=cancelled))
    assert not (tmp_path / "rounds.csv").exists()


def test_an_evaluation_before_any_finished_round_is_nobodys() -> None:
    history = History()
    history.abandon(1, seconds=0.1, sites=2, model_sha256="00", reason="too few")
    sums = EvaluationSums.from_scores(np.arange(PEOPLE) % 2, np.linspace(0, 1, PEOPLE), np.arange(PEOPLE))
    assert history.evaluated(sums) == sums.best_f1_threshold()
    assert all(history.rows[0][name] is None for name in ("people", "threshold", *METRICS))
    assert history.abandoned_in_a_row == 1
    assert history.cohort == []


def test_sums_that_nobody_can_have_give_the_round_up_and_not_the_run(tmp_path: Path) -> None:
    run(ScriptedGrid(failing("train", [2], "sends nonsense", SITES[:1])), job_of(tmp_path, "federated.rounds=3"))
    rows = rows_of(tmp_path)
    assert rows["status"].tolist() == ["finished", "abandoned", "finished"]
    assert "none that honest answers add up to" in rows["reason"][1]
