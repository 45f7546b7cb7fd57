"""`djms anchor publish` where there is nothing to publish to, nothing to publish, or something missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from anchored_log import POLICY

from anchoring.anchor_folder import AnchorFolder
from anchoring.publications import PendingTransaction, Publications, Record, Timestamp, Transaction, service_name
from anchoring.publish_cli import publish
from common.cli import DjmsCommand, new_group, run
from common.errors import InputError

ORIGIN = "test.example/log"
APP = new_group("What is published.")
APP.callback()(lambda: None)
APP.command("publish", cls=DjmsCommand)(publish)


@pytest.fixture
def log(tmp_path: Path) -> AnchorFolder:
    made = AnchorFolder.create(tmp_path / "log", ORIGIN)
    made.append([b"one", b"two", b"three"])
    return made


@pytest.fixture
def evm(tmp_path: Path) -> list[str]:
    """Settings of a node that is not there."""
    key = tmp_path / "account.key"
    key.write_text("12" * 32)
    key.chmod(0o600)
    return settings(publish="evm", evm__rpc_url="http://127.0.0.1:9", evm__key_file=str(key))


def settings(**values: str) -> list[str]:
    pairs = [f"anchoring.{key.replace('__', '.')}={value}" for key, value in values.items()]
    return [flag for pair in pairs for flag in ("--set", pair)]


def refused(capsys: pytest.CaptureFixture[str], log: Path, *arguments: str) -> tuple[int, str]:
    code = run(APP, ["publish", "--anchor", str(log), *arguments])
    return code, capsys.readouterr().err


def a_transaction(log: AnchorFolder) -> Transaction:
    """A record that fits the log; what it points at is not there."""
    sender, block = "0x" + "22" * 20, "0x" + "33" * 32
    where = {"sender": sender, "block_number": 7, "block_hash": block, "block_time": 1_700_000_000}
    root = log.log.root().hex()
    return Transaction(ORIGIN, log.log.size, root, chain_id=1, transaction="0x" + "11" * 32, **where)  # type: ignore[arg-type]


def test_nothing_is_published_where_the_settings_say_nowhere(
    log: AnchorFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(capsys, log.folder)
    assert (code, said) == (
        1,
        "settings key 'anchoring.publish': it is not said where to publish; write evm or rfc3161.\n",
    )


def test_a_folder_without_a_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], evm: list[str]) -> None:
    code, said = refused(capsys, tmp_path / "nowhere", *evm)
    assert (code, "there is no log in this folder" in said) == (1, True)
    assert not (tmp_path / "nowhere").exists()


def test_a_publisher_without_its_settings_is_refused(log: AnchorFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, log.folder, *settings(publish="evm"))[0] == 1
    assert refused(capsys, log.folder, *settings(publish="rfc3161"))[0] == 1
    code, said = refused(capsys, log.folder, *settings(enabled="false", publish="rfc3161"))
    assert (code, "anchoring.timestamp.certificates" in said) == (1, True)


def test_without_web3_one_sentence_says_what_to_install(
    log: AnchorFolder, capsys: pytest.CaptureFixture[str], evm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "web3", None)
    code, said = refused(capsys, log.folder, *evm)
    assert (code, said.count("\n")) == (1, 1)
    assert said == (
        "anchoring.publish evm: publishing to an EVM chain needs web3, which is not installed; "
        "install DJMS with its extra 'evm'.\n"
    )
    Publications(log).add(a_transaction(log))
    code, said = refused(capsys, log.folder, *evm, "--check")
    assert (code, "extra 'evm'" in said) == (1, True)


def test_a_check_without_publications_says_so_and_makes_nothing(
    log: AnchorFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(APP, ["publish", "--anchor", str(log.folder), "--check"]) == 0
    assert capsys.readouterr().out.strip() == "Nothing was published yet."
    assert run(APP, ["publish", "--anchor", str(log.folder), "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "checked": [], "pending": []}
    assert not (log.folder / "publications").exists()


def test_a_check_tells_of_a_transaction_that_is_not_confirmed(
    log: AnchorFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    root = log.log.root().hex()
    pending = PendingTransaction(ORIGIN, 3, root, chain_id=1, sender="0x", nonce=0, transaction="0x", raw="0x")
    Publications(log).add(pending)
    assert run(APP, ["publish", "--anchor", str(log.folder), "--check"]) == 0
    assert "Not confirmed: the checkpoint of 3 entries" in capsys.readouterr().out


def test_a_check_of_a_transaction_needs_its_node_and_never_passes_without(
    log: AnchorFolder, capsys: pytest.CaptureFixture[str], evm: list[str]
) -> None:
    pytest.importorskip("web3")
    Publications(log).add(a_transaction(log))
    code, said = refused(capsys, log.folder, *evm, "--check")
    assert (code, said.startswith("http://127.0.0.1:9: the node does not answer")) == (2, True)


def test_a_log_without_entries_or_without_a_quorum_is_not_published(
    tmp_path: Path, log: AnchorFolder, capsys: pytest.CaptureFixture[str], evm: list[str]
) -> None:
    pytest.importorskip("web3")
    empty = AnchorFolder.create(tmp_path / "empty", ORIGIN)
    code, said = refused(capsys, empty.folder, *evm)
    assert (code, "the log has no entries" in said) == (1, True)
    log.set_policy(POLICY)
    code, said = refused(capsys, log.folder, *evm)
    assert (code, "cosigned by the 3 witnesses that it needs" in said) == (2, True)


def test_records_are_found_by_their_exact_names(log: AnchorFolder) -> None:
    publications = Publications(log)
    publications.write(3, {ending: b"" for ending in ("-evm.json", "-rfc3161.json", "-rfc3161.tsr", "-evm.json.bak")})
    for name in (".4-evm.json.part", "05-evm.json", "-evm.json", "x-evm.json", "0-evm.json", "6-evmXjson"):
        (publications.folder / name).write_bytes(b"")
    assert publications.sizes(Transaction) == [3]
    assert publications.sizes(Timestamp) == [3]
    assert publications.sizes(PendingTransaction) == []


@pytest.mark.parametrize(
    "change",
    [
        {"size": "3"},
        {"size": True},
        {"size": 3.0},
        {"chain_id": None},
        {"type": "djms.publication.evm/v2"},
        {"more": 1},
        {"root": ["a"]},
    ],
)
def test_a_record_of_another_form_is_none(log: AnchorFolder, change: dict[str, object]) -> None:
    record = a_transaction(log)
    assert Transaction.from_bytes(record.to_bytes()) == record
    content = json.dumps(record.to_json() | change, ensure_ascii=False, indent=2) + "\n"
    with pytest.raises(ValueError):  # noqa: PT011 - whoever reads a file says which
        Transaction.from_bytes(content.encode())


def test_a_record_of_one_kind_is_not_read_as_another(log: AnchorFolder) -> None:
    for kind in (PendingTransaction, Timestamp):
        other: type[Record] = kind
        with pytest.raises(ValueError):  # noqa: PT011 - whoever reads a file says which
            other.from_bytes(a_transaction(log).to_bytes())


def test_passwords_and_tokens_of_an_address_are_not_told() -> None:
    assert service_name("https://me:word@node.example:8545/v3/token?key=1#x", "key") == "https://node.example:8545"
    assert service_name("http://[::1]:80/", "key") == "http://[::1]:80"
    for url in ("", "node.example", "ftp://node.example", "https://", "http://node.example:port/", "http://[::1"):
        with pytest.raises(InputError, match=r"settings key 'a\.b'"):
            service_name(url, "a.b")
