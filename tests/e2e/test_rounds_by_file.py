"""Whole runs by file, through the commands of the coordinator and of five sites: nothing but parcels goes between."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from conftest import Outcome
from flwr.app import ConfigRecord, Context, Message, RecordDict
from joined_federation import SITES, joined_sites, new_federation, revoked, steps_of

import federation.exchange_cli as exchange_cli
from anchoring.anchor_folder import AnchorFolder
from client.approvals import Approvals, Bundle
from client.ledger import PrivacyLedger
from client.site_folder import SiteFolder
from common import messages as names
from common.bundle import app_directory
from common.cli import run as run_command
from common.membership import djms_version
from common.model import ModelCard
from common.parcel import ANSWER, COORDINATOR, Header, Parcel, read_key
from common.parcel_content import packed, unpacked
from common.settings_loading import load_settings
from federation.simulation import run_simulation
from server.federation_folder import FederationFolder
from server.job import Job

pytestmark = pytest.mark.slow

RULE = ("--labels", "rule", "--synthetic")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The application as it is when the tests begin."""
    from flwr.cli.build import build_fab_from_disk

    root = app_directory()
    assert root is not None
    return Bundle.of(build_fab_from_disk(root), djms_version())


class Offices:
    """A coordinator and five sites, each of which is a folder and calls commands."""

    def __init__(self, root: Path, tables: Path, bundle: Bundle, call: Callable[..., Outcome]) -> None:
        self.root, self._tables, self._call = root, tables, call
        self.coordinator: FederationFolder = new_federation(root / "coordinator")
        self.sites: dict[str, SiteFolder] = joined_sites(self.coordinator, root / "sites")
        for site in self.sites.values():
            Approvals(site.folder).approve(bundle)

    def at_coordinator(self, command: str, *arguments: object, code: int = 0) -> dict[str, Any]:
        return self.call("exchange", command, *arguments, "--folder", self.coordinator.folder, code=code)

    def at_site(self, name: str, parcel: object, *, command: str = "contribute", code: int = 0) -> dict[str, Any]:
        where = ("--folder", self.sites[name].folder, "--table", self._tables / f"{name}.csv")
        return self.call("exchange", command, parcel, *where, code=code)

    def parcel_for(self, state: dict[str, Any], name: str) -> Path:
        return next(Path(path) for path in state["parcels"] if path.endswith(f"-to-{name}.parcel"))

    def carry(self, state: dict[str, Any], but: Iterable[str] = (), *, twice: bool = False) -> dict[str, Any]:
        """One carry there and back; those in `but` do not answer, and the step is closed without them."""
        back = []
        for name in sorted(set(state["missing"]) - set(but)):
            parcel = self.parcel_for(state, name)
            made = self.at_site(name, parcel, command=state["command"])
            back.append(Path(made["parcel"]))
            if twice:
                before = back[-1].read_bytes()
                back[-1].unlink()
                assert self.at_site(name, parcel, command=state["command"]) == made | {"again": True}
                assert back[-1].read_bytes() == before, "another answer to the same question"
        after = self.at_coordinator("collect", *back)
        if twice:
            again = self.at_coordinator("collect", *back)
            assert (again["taken"], again["again"]) == ([], after["taken"])
            assert what_is_open(again) == what_is_open(after)
        if but and not after["finished"]:
            assert after["missing"] == sorted(but)
            after = self.at_coordinator("close", "--step", after["step"])
            assert after["without"] == sorted(but)
            if twice:
                assert self.at_coordinator("close", "--step", state["step"])["without"] == []
                assert what_is_open(self.at_coordinator("collect", *back)) == what_is_open(after)
        return after

    def rounds(self, state: dict[str, Any]) -> list[dict[str, str]]:
        with (Path(state["directory"]) / "rounds.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def call(self, *arguments: object, code: int = 0) -> dict[str, Any]:
        done = self._call(*arguments, "--json")
        assert done.code == code, f"{arguments}: {done.err}"
        return done.data


def what_is_open(state: dict[str, Any]) -> tuple[Any, ...]:
    parcels = [Path(path).read_bytes() for path in state["parcels"]]
    return state["step"], state["asks"], state["missing"], state["result"], parcels


@pytest.fixture
def offices(
    tmp_path: Path,
    small_federation: Path,
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Offices:
    from djms import build

    app = build()
    if "exchange" not in {group.name for group in app.registered_groups}:
        app.add_typer(exchange_cli.app, name="exchange")
    monkeypatch.setattr(exchange_cli, "bundle_sha256", lambda: bundle.sha256)  # computed once: it takes seconds

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run_command(app, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return Offices(tmp_path, small_federation, bundle, call)


def events_of(site: SiteFolder, run: str) -> list[Any]:
    return [one["round"] for one in PrivacyLedger.open(site.ledger / "ledger.sqlite", create=False).export(run)]


def test_a_secure_private_anchored_run_by_file_survives_a_missing_site_and_agrees_with_ledgers_and_log(
    offices: Offices,
) -> None:
    state = offices.at_coordinator("open", *RULE, "--federated.rounds", 3)
    kinds: list[str] = []
    while not state["finished"]:
        kinds.append(state["asks"].removeprefix("query."))
        away = kinds[-1] == "train" and kinds.count("train") == 2
        state = offices.carry(state, ["CPI_Verona"] if away else [], twice=True)
    first, dropout, after = ["train", "unmask"], ["train", "attest", "unmask"], ["witness", "train", "unmask"]
    assert kinds == ["advertise", "share", "witness", *first, *dropout, *after, "witness"]
    assert [(row["status"], row["sites"]) for row in offices.rounds(state)] == [("finished", one) for one in "545"]
    run, result = state["run"], state["result"]
    assert 0 < result["differential_privacy"]["epsilon"] <= 1
    assert set(result["secure_aggregation"]["cohort"]) == set(SITES)
    for name, site in offices.sites.items():
        assert events_of(site, run) == ([1, 3] if name == "CPI_Verona" else [1, 2, 3])
    executed = json.loads((Path(state["directory"]) / "result/privacy_ledger.json").read_text(encoding="utf-8"))
    assert len(executed) == 14
    log = offices.coordinator.folder / "log"
    assert offices.call("anchor", "audit", "--anchor", log)["passed"]
    receipts = sorted((Path(state["directory"]) / "result/receipts").glob("*.tlog-proof"))
    assert len(receipts) == 5  # the model sent first, that of each round, the released one
    model = Path(state["directory"]) / "result/model.safetensors"
    signers, witnesses = log / "signers.json", log / "witnesses.json"
    for receipt in receipts:
        own = ("--model", model) if receipt.stem == "released" else ()
        offices.call("anchor", "verify", receipt, "--signers", signers, "--witnesses", witnesses, *own)
    assert result["anchoring"]["published"]
    assert offices.at_coordinator("status")["finished"]


def test_what_does_not_belong_is_refused_by_name(offices: Offices) -> None:
    state = offices.at_coordinator("open", *RULE, "--federated.rounds", 1)
    mine = offices.root / "mine.parcel"
    shutil.copy(offices.parcel_for(state, "CPI_Padova"), mine)

    def refused_at_site(content: bytes, what: str, name: str = "CPI_Padova", command: str = "contribute") -> None:
        path = offices.root / "carried.parcel"
        path.write_bytes(content)
        assert what in offices.at_site(name, path, command=command, code=1)["error"]

    def refused(content: bytes, what: str) -> None:
        path = offices.root / "carried.parcel"
        path.write_bytes(content)
        assert what in offices.at_coordinator("collect", path, code=1)["error"]

    question = mine.read_bytes()
    refused_at_site(question[:-1] + bytes([question[-1] ^ 1]), "it was altered")
    refused_at_site(question, "it is for CPI_Padova, and this is CPI_Treviso", name="CPI_Treviso")
    refused_at_site(question, "answered with `djms exchange contribute`", command="unmask")
    refused_at_site(with_header(question, step=7), "it was altered")
    refused_at_site(with_header(question, djms="9.9.9", protocol=999), "made by DJMS 9.9.9 (protocol 999), and here")
    refused_at_site(with_header(question, federation="ffff"), "another federation")
    refused(question, "it is a question for CPI_Padova")

    answer = Path(offices.at_site("CPI_Padova", mine)["parcel"]).read_bytes()
    refused_at_site(answer, "it is the answer of CPI_Padova")
    refused(answer[:-1] + bytes([answer[-1] ^ 1]), "it was altered")
    refused(with_header(answer, sender="CPI_Treviso"), "it was altered")
    refused(with_header(answer, sender="CPI_Rovigo"), "CPI_Rovigo is no site of this run, or was revoked")
    refused(with_header(answer, djms="9.9.9", protocol=999), "made by DJMS 9.9.9 (protocol 999), and here")

    refused(own_answer(offices, question, "CPI_Treviso"), "CPI_Padova answered in another's name")
    refused(own_answer(offices, question, None), "CPI_Padova answered in another's name, or not everything")

    other = offices.at_coordinator("open", *RULE, "--federated.rounds", 1)
    assert "several runs are going" in offices.at_coordinator("status", code=1)["error"]
    foreign = Path(offices.at_site("CPI_Padova", offices.parcel_for(other, "CPI_Padova"))["parcel"]).read_bytes()
    shutil.rmtree(other["directory"])
    refused(foreign, "has no run by file of this name")

    offices.root.joinpath("answer").write_bytes(answer)
    offices.at_coordinator("collect", offices.root / "answer")
    shutil.rmtree(offices.sites["CPI_Padova"].folder / "exchange")  # as if restored from a copy: it answers anew
    second = Path(offices.at_site("CPI_Padova", mine)["parcel"]).read_bytes()
    refused(second, "answered step 1 otherwise before")

    late = Path(offices.at_site("CPI_Vicenza", offices.parcel_for(state, "CPI_Vicenza"))["parcel"])
    kept = late.rename(offices.root / "late.parcel").read_bytes()
    assert "step 1 has 1 of the 3 answers it needs" in offices.at_coordinator("close", code=2)["error"]
    after = offices.carry(state | {"missing": ["CPI_Treviso", "CPI_Venezia"]})
    assert after["missing"] == ["CPI_Verona", "CPI_Vicenza"]
    after = offices.at_coordinator("close")
    refused(kept, "it answers step 1, which was closed without CPI_Vicenza; the run is at step 2")

    offices.at_site("CPI_Padova", offices.parcel_for(after, "CPI_Padova"))
    assert offices.at_site("CPI_Padova", mine)["again"]
    revoked(offices.coordinator, "CPI_Treviso")
    theirs = Path(offices.at_site("CPI_Treviso", offices.parcel_for(after, "CPI_Treviso"))["parcel"]).read_bytes()
    refused(theirs, "CPI_Treviso is no site of this run, or was revoked")

    given_up = offices.at_coordinator("close", "--abandon", code=2)["error"]
    assert "no round was finished" in given_up
    assert offices.at_coordinator("status")["error"] == given_up


def test_a_site_that_did_not_approve_the_application_answers_nothing(offices: Offices) -> None:
    site = offices.sites["CPI_Padova"]
    shutil.rmtree(site.folder / "approved")
    state = offices.at_coordinator("open", *RULE)
    refused = offices.at_site("CPI_Padova", offices.parcel_for(state, "CPI_Padova"), code=2)
    assert "is not approved at this site" in refused["error"]
    assert not list(site.folder.glob("exchange/*/*.done"))


def test_a_run_that_another_version_opened_is_left_alone_naming_both(offices: Offices) -> None:
    state = offices.at_coordinator("open", *RULE)
    path = Path(state["directory"]) / "open.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"djms": "0.0.1"}), encoding="utf-8")
    error = offices.at_coordinator("close", code=2)["error"]
    assert "3 answers it needs" in error
    back = offices.at_site("CPI_Padova", offices.parcel_for(state, "CPI_Padova"))["parcel"]
    error = offices.at_coordinator("collect", back, code=2)["error"]
    assert f"DJMS 0.0.1 opened the run, and here is DJMS {djms_version()}" in error


def test_commands_that_are_killed_and_given_again_train_once_charge_once_and_lose_nothing(offices: Offices) -> None:
    state = offices.at_coordinator("open", *RULE, "--federated.rounds", 1)
    interrupted: list[str] = []
    while not state["finished"]:
        back, command = [], state["command"]
        for place, name in enumerate(state["missing"]):
            parcel = offices.parcel_for(state, name)
            for at in range(1 + place, 60, 12) if place < 2 else ():
                steps_of(lambda: offices.at_site(name, parcel, command=command), kill_at=at)  # noqa: B023
            made = offices.at_site(name, parcel, command=command)
            back.append(made["parcel"])
            interrupted += [name for reason in made["refusals"] if "was interrupted while it trained" in reason]
        for at in range(1, 200, 40):
            steps_of(lambda: offices.at_coordinator("collect", *back), kill_at=at)  # noqa: B023
        state = offices.at_coordinator("collect", *back)
    assert set(interrupted) <= set(SITES[:2])
    (row,) = offices.rounds(state)
    assert (row["status"], int(row["sites"])) == ("finished", 5 - len(interrupted))
    assert offices.call("anchor", "audit", "--anchor", offices.coordinator.folder / "log")["passed"]
    for name, site in offices.sites.items():
        charged = len(events_of(site, state["run"]))
        assert charged == 1 or (charged == 0 and name in interrupted), name


def test_its_model_is_that_of_the_same_sites_and_seed_in_one_process_tree(
    offices: Offices, small_federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.app import LEDGER_KEY, create_app

    def without_ledger(message: Message, context: Context) -> Message:
        """The application of a site that allows training without noise, which no two runs have alike."""
        bare = {key: value for key, value in context.node_config.items() if key != LEDGER_KEY}
        context.node_config = bare
        return application(message, context)

    application = create_app()
    monkeypatch.setattr(exchange_cli, "_application", lambda: without_ledger)
    plain = ("--privacy.dp.enabled", "false", "--federated.rounds", 2, "--federated.local-epochs", 1)
    state = offices.at_coordinator("open", *RULE, *plain)
    while not state["finished"]:
        state = offices.carry(state)
    settings = load_settings(
        ["privacy.dp.enabled=false", "federated.rounds=2", "federated.local_epochs=1"], environment={}
    )
    AnchorFolder.create(tmp_path / "log", "test.example/log")
    card = ModelCard("rule", settings.hidden, synthetic=True)
    job = Job(settings, SITES, card, tmp_path / "simulated", anchor=tmp_path / "log")
    tables = {name: small_federation / f"{name}.csv" for name in SITES}
    run_simulation(job, tables, witnesses=tmp_path / "witnesses")
    expected = json.loads((job.output / "federation.json").read_text(encoding="utf-8"))
    assert state["result"]["model_sha256"] == expected["model_sha256"]
    assert state["result"]["test_metrics"] == expected["test_metrics"]


def own_answer(offices: Offices, question: bytes, name: str | None) -> bytes:
    """What CPI_Padova could make up itself: an answer that bears this name, or holds nothing."""
    asked, keys = Parcel.from_bytes(question), offices.sites["CPI_Padova"].keys()
    _, (message,) = unpacked(asked.open(keys.node))
    content = RecordDict({names.SITE: ConfigRecord({names.NAME_KEY: name or ""})})
    reply = Message(content, reply_to=message)
    header = Header(
        kind=ANSWER,
        federation=asked.header.federation,
        run=asked.header.run,
        step=1,
        sender="CPI_Padova",
        receiver=COORDINATOR,
        answers=asked.sha256,
    )
    plain = packed({}, [reply] if name else [])
    return Parcel.seal(header, plain, read_key(asked.header.reply_key), keys.identity.sign).content


def with_header(content: bytes, **changes: object) -> bytes:
    line, rest = content.split(b"\n", 1)
    return rfc8785.dumps(json.loads(line) | changes) + b"\n" + rest
