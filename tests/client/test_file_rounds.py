"""A site answers a parcel once: the same bytes whenever it is asked again, killed or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from joined_federation import SITES, joined_sites, new_federation, newest, steps_of

from client.approvals import Approvals, Bundle
from client.contexts import Contexts
from client.file_rounds import FileSite
from client.site_folder import SiteFolder
from common import messages as names
from common.errors import DjmsError
from common.parcel import (
    CONTRIBUTE,
    COORDINATOR,
    UNMASK,
    Header,
    Parcel,
    ParcelDamaged,
    ParcelForAnother,
    ParcelOfOtherFederation,
    ParcelOfOtherKind,
    ParcelOfOtherStep,
    SecondAnswer,
    key_text,
)
from common.parcel_content import packed, unpacked
from common.run_terms import RunTerms
from privacy.roster import Identity
from server import pki
from server.federation_folder import FederationFolder

BUNDLE = "ab" * 32
RUN_KEY = generate_private_key(SECP256R1())


class Office:
    """One site, its coordinator, and an application that counts how often it is asked."""

    def __init__(self, root: Path) -> None:
        self.federation: FederationFolder = new_federation(root / "coordinator")
        self.sites = joined_sites(self.federation, root / "sites", SITES[:3])
        self.site: SiteFolder = self.sites[SITES[0]]
        self.table, self.counter = root / "table.csv", root / "asked"
        self.table.touch()
        bundle = Bundle(sha256=BUNDLE, djms="1", files={}, since="2026-01-01T00:00:00Z")  # type: ignore[arg-type]
        Approvals(self.site.folder).approve(bundle)

    def app(self, message: Message, context: Context) -> Message:
        """Counts on disk, as a ledger does, and remembers in its context."""
        self.counter.write_bytes(self.counter.read_bytes() + b"." if self.counter.exists() else b".")
        before = int(str(context.state.config_records.get("seen", ConfigRecord({"n": 0}))["n"]))
        context.state["seen"] = ConfigRecord({"n": before + 1})
        record = ConfigRecord({names.NAME_KEY: self.site.name, "n": before + 1})
        return Message(RecordDict({names.SITE: record}), reply_to=message)

    def question(self, step: int = 1, message_type: str = "query.share", **changes: object) -> bytes:
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        config = ConfigRecord({names.UNIT_KEY: "candidate"} if message_type == "train" else {})
        message = Message(RecordDict({names.CONFIG: config}), dst_node_id=1, message_type=message_type)
        folder = self.federation.folder
        key = pki.read_key((folder / "server.key").read_bytes(), "server.key")
        content = {
            "kind": CONTRIBUTE,
            "federation": self.federation.fingerprint,
            "run": "run-1",
            "step": step,
            "sender": COORDINATOR,
            "receiver": self.site.name,
            "bundle": BUNDLE,
            "certificate": (folder / "server.pem").read_text(),
            "reply_key": key_text(RUN_KEY.public_key()),
        }
        record = self.federation.record(self.site.name)
        assert record is not None
        receiver = load_ssh_public_key(record.keys.node.encode())
        assert isinstance(receiver, EllipticCurvePublicKey)
        plain = packed(RunTerms.of("run-1", newest(self.federation)).to_config(), [message])
        header = Header.model_validate(content | changes)
        return Parcel.seal(header, plain, receiver, lambda text: key.sign(text, ECDSA(SHA256()))).content

    def answer(self, content: bytes, kind: str = CONTRIBUTE, site: SiteFolder | None = None) -> bytes:
        made = FileSite(site or self.site, self.table, lambda: self.app).answer(content, kind)
        return made.path.read_bytes()

    @property
    def asked(self) -> int:
        return len(self.counter.read_bytes()) if self.counter.exists() else 0


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def said(answer: bytes) -> tuple[int, str]:
    """What the application remembered when it answered, or why it refused."""
    _, (message,) = unpacked(Parcel.from_bytes(answer).open(RUN_KEY))
    record = message.content.config_records[names.SITE]
    return int(str(record.get("n", 0))), str(record.get(names.REFUSAL_KIND_KEY, ""))


def test_the_same_parcel_gives_the_same_bytes_and_asks_the_application_once(office: Office) -> None:
    content = office.question()
    first = office.answer(content)
    assert said(first) == (1, "")
    shutil.rmtree(office.site.folder / "exchange" / "outbox")
    assert office.answer(content) == first
    assert office.asked == 1
    Parcel.from_bytes(first).require_site(office.site.keys().identity.public_key)


def test_what_the_site_remembers_goes_from_step_to_step(office: Office) -> None:
    assert [said(office.answer(office.question(step)))[0] for step in (1, 2, 5)] == [1, 2, 3]


@pytest.mark.parametrize("message_type", ["query.share", "train"])
def test_a_command_killed_at_any_step_and_given_again_gives_one_answer(office: Office, message_type: str) -> None:
    office.answer(office.question(1))
    count = steps_of(lambda: office.answer(office.question(2, message_type)))
    assert count > 5
    for at in range(1, count + 1):
        step, before = at + 2, office.asked
        content = office.question(step, message_type)
        assert steps_of(lambda: office.answer(content), kill_at=at) == 0  # noqa: B023
        answer = office.answer(content)
        assert office.answer(content) == answer
        assert said(answer)[1] in ("", "Interrupted") if message_type == "train" else said(answer)[1] == ""
        if message_type == "train":
            assert office.asked - before <= 1, "it was trained twice"
        state = Contexts(office.site.folder).state("run-1")
        if said(answer)[1] == "":
            assert int(str(state.config_records["seen"]["n"])) == said(answer)[0]


def test_a_training_that_was_killed_is_not_begun_again_and_the_next_round_is(office: Office) -> None:
    begun = office.site.folder / "exchange/run-1/0001.begun"
    begun.parent.mkdir(parents=True)
    begun.touch()
    assert said(office.answer(office.question(1, "train"))) == (0, "Interrupted")
    assert office.asked == 0
    assert said(office.answer(office.question(2, "train"))) == (1, "")


REFUSED: list[tuple[type[DjmsError], Callable[[Office], object]]] = [
    (ParcelForAnother, lambda office: office.answer(office.question(), site=office.sites[SITES[1]])),
    (ParcelForAnother, lambda office: office.answer(office.question(receiver=SITES[1]))),
    (ParcelOfOtherKind, lambda office: office.answer(office.question(), UNMASK)),
    (ParcelOfOtherKind, lambda office: office.answer(office.question(kind=UNMASK))),
    (ParcelOfOtherFederation, lambda office: office.answer(office.question(federation="ffff"))),
    (ParcelDamaged, lambda office: office.answer(office.question()[:-1])),
    (ParcelOfOtherStep, lambda office: (office.answer(office.question(4)), office.answer(office.question(3)))),
    (SecondAnswer, lambda office: (office.answer(office.question(4)), office.answer(office.question(4)))),
]


@pytest.mark.parametrize(("error", "attempt"), REFUSED)
def test_what_is_not_for_this_site_and_step_is_refused_by_name(
    office: Office, error: type[DjmsError], attempt: Callable[[Office], object]
) -> None:
    with pytest.raises(error):
        attempt(office)
    assert office.asked <= 1


def test_an_answer_that_was_damaged_on_disk_is_named(office: Office) -> None:
    content = office.question()
    office.answer(content)
    path = office.site.folder / "exchange/run-1/0001.done"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DjmsError, match="is damaged"):
        office.answer(content)


def test_nobody_but_the_coordinator_reads_the_answer(office: Office) -> None:
    answer = Parcel.from_bytes(office.answer(office.question()))
    with pytest.raises(ParcelDamaged):
        answer.open(office.site.keys().node)
    with pytest.raises(ParcelDamaged):
        answer.require_site(Identity.generate(office.site.name).public_key)
