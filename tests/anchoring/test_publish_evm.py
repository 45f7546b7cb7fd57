"""A checkpoint's root on a chain: real transactions on py-evm, in process and behind JSON-RPC over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason="needs the extra 'evm'")
pytest.importorskip("eth_tester", reason="needs eth-tester with py-evm")

from anchored_log import POLICY, WITNESSES
from eth_account import Account
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed as RevertedError
from eth_utils.exceptions import ValidationError as EthUtilsError
from web3 import EthereumTesterProvider, Web3
from web3.exceptions import Web3Exception

from anchoring.anchor_folder import AnchorFolder
from anchoring.cosignature import cosign
from anchoring.durable_files import LogLocked
from anchoring.errors import QuorumMissing
from anchoring.evm_node import EvmNode, FundsMissing, OtherChain, TooDear
from anchoring.publications import (
    PendingTransaction,
    PublicationInvalid,
    Publications,
    Record,
    ServiceRefused,
    ServiceUnreachable,
    Transaction,
)
from anchoring.publish_cli import publish
from anchoring.publish_evm import (
    CalldataMismatch,
    ChainReorganised,
    Terms,
    TransactionFailed,
    TransactionMissing,
    TransactionReplaced,
    TransactionWaiting,
    calldata_of,
    check_transaction,
    publish_transaction,
    read_account,
)
from common.cli import DjmsCommand, new_group, run
from common.errors import InputError

ORIGIN = "test.example/log"
REVERTING = bytes.fromhex("6005600c60003960056000f360006000fd")
"""Code that makes a contract of `PUSH1 0 PUSH1 0 REVERT`."""


class Chain:
    """A chain of py-evm in this process, with funded accounts."""

    def __init__(self) -> None:
        backend = PyEVMBackend()
        self.keys = [key.to_hex() for key in backend.account_keys]
        self.tester = EthereumTester(backend)
        self.web3 = Web3(EthereumTesterProvider(self.tester))
        self.node = EvmNode(self.web3, "test chain")

    @property
    def sender(self) -> str:
        return str(Account.from_key(self.keys[0]).address)

    def sent(self) -> int:
        return int(self.web3.eth.get_transaction_count(self.sender, "latest"))

    def signed(self, **fields: Any) -> Any:
        """A transaction by the first account, signed; nothing of it is checked."""
        meant = {"to": self.sender, "value": 0, "data": b"", "gas": 60_000, "gasPrice": 3 * 10**9, "nonce": self.sent()}
        return Account.from_key(self.keys[0]).sign_transaction(meant | {"chainId": self.web3.eth.chain_id} | fields)

    def reverting_contract(self) -> str:
        self.web3.eth.send_raw_transaction(made := self.signed(to=b"", data=REVERTING, gas=200_000).raw_transaction)
        return str(self.web3.eth.get_transaction_receipt(Web3.keccak(made))["contractAddress"])


class RpcServer(HTTPServer):
    """The chain behind JSON-RPC on this machine. `before` and `after` a method a test may do what nodes do."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(("127.0.0.1", 0), _Rpc)
        self.chain = chain
        self.provider = EthereumTesterProvider(chain.tester)
        self.ask = self.provider.request_func(Web3(self.provider), Web3(self.provider).middleware_onion)
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[Any], Any]] = {}
        self.raw: bytes | None = None
        self.status = 200
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v3/hidden-token"

    def answer(self, method: str, params: Any) -> dict[str, Any]:
        self.asked.append(method)
        self.before.get(method, lambda: None)()
        try:
            reply = self.ask(method, params)
        except (EthUtilsError, Web3Exception, RevertedError) as error:
            return {"error": {"code": -32000, "message": str(error)}}
        if "error" in reply:
            return {"error": {"code": -32000, "message": str(reply["error"])}}
        return {"result": self.after.get(method, lambda result: result)(_as_json(reply["result"]))}


class _Rpc(BaseHTTPRequestHandler):
    server: RpcServer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = {"jsonrpc": "2.0", "id": asked["id"], **self.server.answer(asked["method"], asked["params"])}
        content = json.dumps(reply).encode() if self.server.raw is None else self.server.raw
        try:
            self.send_response(self.server.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # whoever asked was killed

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return hex(value) if type(value) is int else value


@pytest.fixture
def server(chain: Chain) -> Iterator[RpcServer]:
    with RpcServer(chain) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def log(tmp_path: Path) -> AnchorFolder:
    made = AnchorFolder.create(tmp_path / "log", ORIGIN)
    made.append([b"one", b"two", b"three"])
    return made


@pytest.fixture
def publications(log: AnchorFolder) -> Publications:
    return Publications(log)


@pytest.fixture
def terms(tmp_path: Path, chain: Chain) -> Terms:
    return Terms(key_file(tmp_path, chain.keys[0]), wait=20.0, poll=0.01)


def key_file(folder: Path, key: str, mode: int = 0o600) -> Path:
    path = folder / "account.key"
    path.write_text(f"{key}\n")
    path.chmod(mode)
    return path


def published(publications: Publications, terms: Terms, chain: Chain) -> Transaction:
    record, outcome = publish_transaction(publications, terms, lambda: chain.node)
    assert outcome == "published"
    return record


def pending_of(publications: Publications, chain: Chain, **fields: Any) -> PendingTransaction:
    """A record of a transaction that is signed and not sent, as a killed process leaves it."""
    _, checkpoint = publications.newest()
    meant = Record(checkpoint.origin, checkpoint.size, checkpoint.root.hex())
    signed = chain.signed(**{"data": calldata_of(meant), **fields})
    nonce = fields.get("nonce", chain.sent())
    pending = PendingTransaction(
        *(meant.origin, meant.size, meant.root, chain.web3.eth.chain_id, chain.sender, nonce),
        *(f"0x{bytes(content).hex()}" for content in (signed.hash, signed.raw_transaction)),
    )
    publications.add(pending)
    return pending


def names(publications: Publications) -> set[str]:
    return {path.name for path in publications.folder.iterdir() if not path.name.startswith(".")}


def test_calldata_are_the_documented_bytes() -> None:
    origin = hashlib.sha256(b"test.example/log").hexdigest()
    root = "ab" * 32
    data = calldata_of(Record("test.example/log", 258, root))
    assert data.hex() == "646a6d732f76312f636865636b706f696e74" + origin + "0000000000000102" + root
    assert len(data) == 90


def test_the_root_stands_in_the_chain_and_can_be_read_there(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    record = published(publications, terms, chain)
    found = chain.web3.eth.get_transaction(record.transaction)
    root = publications.anchor.log.root()
    assert bytes(found["input"]) == (
        b"djms/v1/checkpoint" + hashlib.sha256(ORIGIN.encode()).digest() + (3).to_bytes(8) + root
    )
    assert (found["from"], found["to"], found["value"]) == (chain.sender, chain.sender, 0)
    block = chain.web3.eth.get_block(record.block_number)
    assert (record.block_hash, record.block_time) == (f"0x{bytes(block['hash']).hex()}", block["timestamp"])
    assert (record.sender, record.chain_id, record.size) == (chain.sender, chain.web3.eth.chain_id, 3)
    assert names(publications) == {"3-evm.json"}
    assert check_transaction(publications, 3, chain.node) == record


def test_a_transaction_tells_neither_the_logs_name_nor_an_entry(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    raw = bytes.fromhex(pending_of(publications, chain).raw[2:])
    for told in (b"test.example", b"one", b"two", b"three"):
        assert told not in raw


def test_what_is_published_already_is_not_sent_again(publications: Publications, terms: Terms, chain: Chain) -> None:
    first = published(publications, terms, chain)

    def nobody() -> EvmNode:
        raise AssertionError("the node was asked")

    assert publish_transaction(publications, terms, nobody) == (first, "already")
    assert chain.sent() == 1


def test_a_log_that_grew_is_published_again(publications: Publications, terms: Terms, chain: Chain) -> None:
    published(publications, terms, chain)
    publications.anchor.append([b"four"])
    second = published(publications, terms, chain)
    assert (second.size, chain.sent()) == (4, 2)
    assert [check_transaction(publications, size, chain.node).size for size in (3, 4)] == [3, 4]


def test_only_a_checkpoint_with_its_quorum_is_published(publications: Publications, terms: Terms, chain: Chain) -> None:
    log = publications.anchor
    log.set_policy(POLICY)
    text = log.checkpoint()
    for witness in WITNESSES[:2]:
        text = cosign(text, witness, 1_700_000_000)
    log.add_cosignatures(text)
    with pytest.raises(QuorumMissing, match="3 witnesses"):
        publish_transaction(publications, terms, lambda: chain.node)
    assert chain.sent() == 0
    log.add_cosignatures(cosign(text, WITNESSES[2], 1_700_000_000))
    log.append([b"four"])
    assert published(publications, terms, chain).size == 3


def test_an_empty_log_has_nothing_to_publish(tmp_path: Path, terms: Terms, chain: Chain) -> None:
    publications = Publications(AnchorFolder.create(tmp_path / "empty", ORIGIN))
    with pytest.raises(InputError, match="no entries"):
        publish_transaction(publications, terms, lambda: chain.node)


def test_another_chain_is_refused_before_anything_is_signed(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    with pytest.raises(OtherChain, match=f"chain {chain.web3.eth.chain_id}, and 1 is meant"):
        publish_transaction(publications, replace(terms, chain_id=1), lambda: chain.node)
    assert (chain.sent(), names(publications)) == (0, set())
    assert published(publications, replace(terms, chain_id=chain.web3.eth.chain_id), chain).size == 3


def test_an_account_without_funds_is_refused_before_anything_is_signed(
    publications: Publications, terms: Terms, chain: Chain, tmp_path: Path
) -> None:
    poor = replace(terms, key_file=key_file(tmp_path, "0x" + "17" * 32))
    with pytest.raises(FundsMissing, match="has 0"):
        publish_transaction(publications, poor, lambda: chain.node)
    assert names(publications) == set()


def test_a_transaction_that_costs_too_much_is_not_signed(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    with pytest.raises(TooDear, match="and 1e-05 are allowed"):
        publish_transaction(publications, replace(terms, most=10**13), lambda: chain.node)
    assert (chain.sent(), names(publications)) == (0, set())
    cost = chain.web3.eth.get_balance(chain.sender)
    published(publications, terms, chain)
    assert 0 < cost - chain.web3.eth.get_balance(chain.sender) < terms.most


def test_a_record_waits_for_as_many_blocks_as_were_asked_for(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    hurried = replace(terms, confirmations=3, wait=0.05)
    with pytest.raises(TransactionWaiting, match="has not 3 blocks yet"):
        publish_transaction(publications, hurried, lambda: chain.node)
    assert names(publications) == {"3-evm.pending"}
    chain.tester.mine_block()
    with pytest.raises(TransactionWaiting):
        publish_transaction(publications, hurried, lambda: chain.node)
    chain.tester.mine_block()
    record, outcome = publish_transaction(publications, hurried, lambda: chain.node)
    assert (outcome, record.block_number, chain.sent()) == ("finished", 1, 1)
    assert names(publications) == {"3-evm.json"}


def test_a_transaction_that_no_block_takes_is_waited_for_and_not_sent_twice(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    chain.tester.disable_auto_mine_transactions()
    with pytest.raises(TransactionWaiting, match="in no block yet"):
        publish_transaction(publications, replace(terms, wait=0.05), lambda: chain.node)
    chain.tester.mine_block()
    record, outcome = publish_transaction(publications, terms, lambda: chain.node)
    assert (outcome, chain.sent(), record.size) == ("finished", 1, 3)


def test_a_process_killed_before_it_sent_is_finished_by_sending_the_same_bytes(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    pending = pending_of(publications, chain)
    record, outcome = publish_transaction(publications, terms, lambda: chain.node)
    assert (outcome, record.transaction, chain.sent()) == ("finished", pending.transaction, 1)


def test_a_process_killed_after_it_sent_is_finished_without_sending(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    pending = pending_of(publications, chain)
    chain.web3.eth.send_raw_transaction(pending.raw)
    keyless = replace(terms, key_file=None)
    record, outcome = publish_transaction(publications, keyless, lambda: chain.node)
    assert (outcome, record.transaction, chain.sent()) == ("finished", pending.transaction, 1)


def test_a_process_killed_after_it_recorded_leaves_nothing_to_send(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    pending = pending_of(publications, chain)
    record, _ = publish_transaction(publications, terms, lambda: chain.node)
    publications.add(pending)
    assert publish_transaction(publications, terms, lambda: chain.node)[0] == record
    assert (names(publications), chain.sent()) == ({"3-evm.json"}, 1)


def test_an_older_checkpoint_that_was_begun_is_finished_before_the_newest(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    pending_of(publications, chain)
    publications.anchor.append([b"four"])
    assert published(publications, terms, chain).size == 4
    assert names(publications) == {"3-evm.json", "4-evm.json"}


def test_a_transaction_whose_nonce_was_taken_is_forgotten_and_a_new_one_sent(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    pending = pending_of(publications, chain)
    chain.web3.eth.send_raw_transaction(chain.signed(value=1).raw_transaction)
    with pytest.raises(TransactionReplaced, match=pending.transaction):
        publish_transaction(publications, terms, lambda: chain.node)
    assert names(publications) == set()
    assert published(publications, terms, chain).transaction != pending.transaction


def test_a_transaction_that_the_node_refuses_is_forgotten(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    pending_of(publications, chain, gas=21_000)
    with pytest.raises(ServiceRefused, match="the node refuses: "):
        publish_transaction(publications, terms, lambda: chain.node)
    assert names(publications) == set()
    assert published(publications, terms, chain).size == 3


def test_a_transaction_that_failed_is_refused_by_name(publications: Publications, terms: Terms, chain: Chain) -> None:
    contract = chain.reverting_contract()
    pending = pending_of(publications, chain, to=contract)
    with pytest.raises(TransactionFailed, match=f"{pending.transaction} failed in block 2"):
        publish_transaction(publications, terms, lambda: chain.node)
    assert names(publications) == set()


def test_other_calldata_are_not_recorded(publications: Publications, terms: Terms, chain: Chain) -> None:
    _, checkpoint = publications.newest()
    other = calldata_of(Record(ORIGIN, 3, bytes(32).hex()))
    assert checkpoint.root != bytes(32)
    pending_of(publications, chain, data=other)
    with pytest.raises(CalldataMismatch, match="does not carry the log's root"):
        publish_transaction(publications, terms, lambda: chain.node)
    assert names(publications) == {"3-evm.pending"}


def test_a_damaged_begun_transaction_is_named_and_nothing_sent(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    path = publications.path(3, PendingTransaction.ENDING)
    pending_of(publications, chain)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PublicationInvalid, match=r"3-evm\.pending: the record is damaged"):
        publish_transaction(publications, terms, lambda: chain.node)
    assert chain.sent() == 0


def test_a_begun_transaction_is_not_sent_to_another_chain(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    publications.add(replace(pending_of(publications, chain), chain_id=1))
    with pytest.raises(OtherChain, match="and 1 is meant"):
        publish_transaction(publications, terms, lambda: chain.node)
    assert (chain.sent(), names(publications)) == (0, {"3-evm.pending"})


def test_two_processes_do_not_publish_at_once(publications: Publications, terms: Terms, chain: Chain) -> None:
    with publications.working(), pytest.raises(LogLocked, match="another process is publishing"):
        publish_transaction(publications, terms, lambda: chain.node)
    assert published(publications, terms, chain).size == 3


# What is checked later


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("transaction", "0x" + "11" * 32, TransactionMissing),
        ("sender", "0x" + "22" * 20, CalldataMismatch),
        ("block_number", 7, ChainReorganised),
        ("block_hash", "0x" + "33" * 32, ChainReorganised),
        ("block_time", 1, PublicationInvalid),
        ("chain_id", 1, OtherChain),
        ("root", "44" * 32, PublicationInvalid),
        ("origin", "another.example/log", PublicationInvalid),
        ("size", 2, PublicationInvalid),
    ],
)
def test_a_record_that_says_something_else_is_refused_by_name(
    publications: Publications, terms: Terms, chain: Chain, field: str, value: Any, error: type[Exception]
) -> None:
    record = published(publications, terms, chain)
    path = publications.path(3, Transaction.ENDING)
    path.write_bytes(replace(record, **{field: value}).to_bytes())
    with pytest.raises(error) as raised:
        check_transaction(publications, 3, chain.node)
    assert type(raised.value) is error


def test_any_altered_byte_of_a_record_is_noticed(publications: Publications, terms: Terms, chain: Chain) -> None:
    published(publications, terms, chain)
    path = publications.path(3, Transaction.ENDING)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises((PublicationInvalid, TransactionMissing, ChainReorganised, OtherChain, ServiceRefused)):
            check_transaction(publications, 3, chain.node)
    path.write_bytes(content)
    assert check_transaction(publications, 3, chain.node).size == 3


def test_a_transaction_with_another_root_does_not_pass_for_ours(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    record = published(publications, terms, chain)
    other = chain.signed(data=calldata_of(Record(ORIGIN, 3, "55" * 32)))
    chain.web3.eth.send_raw_transaction(other.raw_transaction)
    block = chain.web3.eth.get_block("latest")
    forged = replace(
        record,
        transaction=f"0x{bytes(other.hash).hex()}",
        block_number=block["number"],
        block_hash=f"0x{bytes(block['hash']).hex()}",
        block_time=block["timestamp"],
    )
    publications.add(forged)
    with pytest.raises(CalldataMismatch, match=r"3-evm\.json"):
        check_transaction(publications, 3, chain.node)


def test_a_failed_transaction_with_the_right_root_does_not_pass(
    publications: Publications, terms: Terms, chain: Chain
) -> None:
    record = published(publications, terms, chain)
    failed = chain.signed(to=chain.reverting_contract(), nonce=chain.sent(), data=calldata_of(record))
    chain.web3.eth.send_raw_transaction(failed.raw_transaction)
    publications.add(replace(record, transaction=f"0x{bytes(failed.hash).hex()}"))
    with pytest.raises(TransactionFailed):
        check_transaction(publications, 3, chain.node)


def test_a_chain_that_lost_the_transaction_is_noticed(publications: Publications, terms: Terms, chain: Chain) -> None:
    before = chain.tester.take_snapshot()
    record = published(publications, terms, chain)
    chain.tester.revert_to_snapshot(before)
    chain.tester.mine_blocks(3)
    with pytest.raises(TransactionMissing, match=record.transaction):
        check_transaction(publications, 3, chain.node)


def test_a_chain_that_moved_the_transaction_is_noticed(publications: Publications, terms: Terms, chain: Chain) -> None:
    before = chain.tester.take_snapshot()
    pending = pending_of(publications, chain)
    published_as, _ = publish_transaction(publications, terms, lambda: chain.node)
    chain.tester.revert_to_snapshot(before)
    chain.tester.mine_blocks(3)
    chain.web3.eth.send_raw_transaction(pending.raw)
    with pytest.raises(ChainReorganised, match=f"block {published_as.block_number + 3}, "):
        check_transaction(publications, 3, chain.node)


def test_a_log_that_was_rewritten_after_it_was_published_is_found_out(
    publications: Publications, terms: Terms, chain: Chain, tmp_path: Path
) -> None:
    record = published(publications, terms, chain)
    rewritten = AnchorFolder.create(tmp_path / "other", ORIGIN)
    rewritten.append([b"one", b"two", b"THREE"])
    forged = Publications(rewritten)
    forged.add(record)
    with pytest.raises(PublicationInvalid, match="not the tree that the log had"):
        check_transaction(forged, 3, chain.node)
    with pytest.raises(PublicationInvalid):
        publish_transaction(forged, terms, lambda: chain.node)


def test_a_log_that_was_rolled_back_after_it_was_published_is_found_out(
    publications: Publications, terms: Terms, chain: Chain, tmp_path: Path
) -> None:
    record = published(publications, terms, chain)
    shorter = AnchorFolder.create(tmp_path / "other", ORIGIN)
    shorter.append([b"one", b"two"])
    forged = Publications(shorter)
    forged.add(record)
    with pytest.raises(PublicationInvalid, match="not the tree that the log had"):
        check_transaction(forged, 3, chain.node)


# The account


def test_a_key_that_others_may_read_is_refused(tmp_path: Path, chain: Chain) -> None:
    for mode in (0o640, 0o604, 0o620, 0o601, 0o666):
        with pytest.raises(InputError, match="others than its owner"):
            read_account(key_file(tmp_path, chain.keys[0], mode))
    for mode in (0o600, 0o400):
        assert read_account(key_file(tmp_path, chain.keys[0].removeprefix("0x"), mode)).address == chain.sender
        (tmp_path / "account.key").unlink()


@pytest.mark.parametrize("text", ["", "0x", "12" * 31, "12" * 33, "zz" * 32, "00" * 32, "ff" * 32, "a b", "\u20ac"])
def test_what_is_no_private_key_is_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="no private key of 64 hexadecimal digits") as raised:
        read_account(key_file(tmp_path, text))
    assert not text or text not in str(raised.value)


def test_no_key_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no account to send from"):
        read_account(None)
    with pytest.raises(InputError, match="does not exist"):
        read_account(tmp_path / "nowhere")


# Over JSON-RPC and HTTP


def connected(publications: Publications, terms: Terms, server: RpcServer) -> tuple[Transaction, str]:
    return publish_transaction(publications, terms, lambda: EvmNode.at(server.url))


def test_a_node_is_reached_over_http(publications: Publications, terms: Terms, server: RpcServer) -> None:
    record, outcome = connected(publications, terms, server)
    assert (outcome, server.chain.sent()) == ("published", 1)
    assert check_transaction(publications, 3, EvmNode.at(server.url)) == record
    assert check_transaction(publications, 3, server.chain.node) == record


def test_a_block_that_is_reorganised_away_while_waiting_is_not_recorded(
    publications: Publications, terms: Terms, server: RpcServer
) -> None:
    tester, before = server.chain.tester, server.chain.tester.take_snapshot()
    heads = iter(range(100))

    def reorganise() -> None:
        if next(heads) == 1:
            tester.revert_to_snapshot(before)
            tester.mine_blocks(2)
        else:
            tester.mine_block()

    server.before["eth_blockNumber"] = reorganise
    record, outcome = connected(publications, replace(terms, confirmations=3), server)
    assert server.asked.count("eth_sendRawTransaction") == 2
    assert (outcome, record.block_number, server.chain.sent()) == ("published", 3, 1)
    assert check_transaction(publications, 3, server.chain.node) == record


def test_an_account_whose_code_reverts_is_refused_before_anything_is_signed(
    publications: Publications, terms: Terms, server: RpcServer
) -> None:
    chain = server.chain
    contract, account, nonce = chain.reverting_contract(), Account.from_key(chain.keys[0]), chain.sent()
    chain_id = chain.web3.eth.chain_id
    grant = account.sign_authorization({"chainId": chain_id, "address": contract, "nonce": nonce + 1})
    fees = {"maxFeePerGas": 3 * 10**9, "maxPriorityFeePerGas": 10**9, "type": 4}
    other = Account.from_key(chain.keys[1]).address
    meant = {"to": other, "value": 0, "gas": 200_000, "nonce": nonce, "chainId": chain_id, "data": b""}
    signed = account.sign_transaction(meant | fees | {"authorizationList": [grant]})
    chain.web3.eth.send_raw_transaction(signed.raw_transaction)
    before = chain.sent()
    with pytest.raises(ServiceRefused, match="reverted"):
        connected(publications, terms, server)
    assert (chain.sent(), names(publications)) == (before, set())


def test_a_node_that_gives_back_other_calldata_is_found_out(
    publications: Publications, terms: Terms, server: RpcServer
) -> None:
    server.after["eth_getTransactionByHash"] = lambda found: found and found | {"input": found["input"][:-2] + "00"}
    with pytest.raises(CalldataMismatch):
        connected(publications, terms, server)
    assert names(publications) == {"3-evm.pending"}
    server.after.clear()
    assert connected(publications, terms, server)[1] == "finished"


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("eth_getTransactionReceipt", "blockHash"),
        ("eth_getTransactionByHash", "blockHash"),
        ("eth_getBlockByNumber", "hash"),
    ],
)
def test_a_node_that_names_two_blocks_for_a_transaction_is_waited_for(
    publications: Publications, terms: Terms, server: RpcServer, method: str, field: str
) -> None:
    server.after[method] = lambda found: found and found | {field: "0x" + "66" * 32}
    with pytest.raises(TransactionWaiting, match="in no block yet"):
        connected(publications, replace(terms, wait=0.05), server)
    server.after.clear()
    assert connected(publications, terms, server)[1] == "finished"
    assert server.chain.sent() == 1


def test_blocks_of_a_proof_of_authority_chain_are_read(
    publications: Publications, terms: Terms, server: RpcServer
) -> None:
    server.after["eth_getBlockByNumber"] = lambda block: block | {"extraData": "0x" + "77" * 97}
    assert connected(publications, terms, server)[1] == "published"


def test_a_chain_without_base_fees_gets_a_transaction_of_the_old_kind(
    publications: Publications, terms: Terms, server: RpcServer
) -> None:
    server.after["eth_getBlockByNumber"] = lambda block: {k: v for k, v in block.items() if k != "baseFeePerGas"}
    record, _ = connected(publications, terms, server)
    assert server.chain.web3.eth.get_transaction(record.transaction)["type"] == 0


def test_a_node_that_names_an_absurd_fee_gets_no_signature(
    publications: Publications, terms: Terms, server: RpcServer
) -> None:
    server.after["eth_getBlockByNumber"] = lambda block: block | {"baseFeePerGas": hex(10**18)}
    with pytest.raises(TooDear):
        connected(publications, terms, server)
    assert (server.chain.sent(), names(publications)) == (0, set())


def test_a_node_that_talks_nonsense_is_refused(publications: Publications, terms: Terms, server: RpcServer) -> None:
    for raw in (b"", b"no JSON", b"[]", b"{}", b"null", b'{"jsonrpc": "2.0", "id": 0}', b"\xff"):
        server.raw = raw
        with pytest.raises((ServiceRefused, ServiceUnreachable), match=r"127\.0\.0\.1"):
            connected(publications, terms, server)
        assert names(publications) == set()


@pytest.mark.parametrize(
    "method", ["eth_chainId", "eth_getBlockByNumber", "eth_estimateGas", "eth_getBalance", "eth_getTransactionReceipt"]
)
def test_a_node_whose_values_cannot_be_meant_is_refused(
    publications: Publications, terms: Terms, server: RpcServer, method: str
) -> None:
    named = (ServiceRefused, OtherChain, FundsMissing, TransactionWaiting)
    terms = replace(terms, wait=0.05, chain_id=server.chain.web3.eth.chain_id)
    for result in ("zz", "0x", None, [], {}, "-1", True, "-0x1"):
        server.after[method] = lambda _, result=result: result
        with pytest.raises(named):
            connected(publications, terms, server)
        assert "3-evm.json" not in names(publications)


def test_a_node_that_answers_with_an_error_is_named_without_its_token(
    publications: Publications, terms: Terms, server: RpcServer
) -> None:
    for server.status in (401, 429, 500, 503):
        with pytest.raises(ServiceUnreachable, match=f"HTTP status {server.status}") as raised:
            connected(publications, terms, server)
        assert "hidden-token" not in str(raised.value)


def test_a_node_that_is_down_is_named_without_its_token(publications: Publications, terms: Terms) -> None:
    with pytest.raises(ServiceUnreachable, match=r"http://127.0.0.1:9: the node does not answer") as raised:
        publish_transaction(publications, terms, lambda: EvmNode.at("http://me:word@127.0.0.1:9/v3/hidden-token"))
    assert not {"hidden-token", "me", "word"} & set(str(raised.value).replace("/", " ").replace(":", " ").split())


def test_a_node_that_is_too_slow_is_given_up(
    publications: Publications, terms: Terms, server: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anchoring.evm_node.REQUEST_LIMIT", 0.2)
    server.before["eth_chainId"] = lambda: time.sleep(0.6)
    with pytest.raises(ServiceUnreachable, match="does not answer"):
        connected(publications, terms, server)


@pytest.mark.parametrize("url", ["", "node", "ftp://127.0.0.1/", "http://", "file:///etc/passwd", "http://[::1"])
def test_what_is_no_address_of_a_node_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"anchoring\.evm\.rpc_url"):
        EvmNode.at(url)


# The command


APP = new_group("What is published.")
APP.callback()(lambda: None)
APP.command("publish", cls=DjmsCommand)(publish)
COMMAND = """
import sys
from common.cli import DjmsCommand, new_group, run
from anchoring.publish_cli import publish
app = new_group("What is published.")
app.callback()(lambda: None)
app.command("publish", cls=DjmsCommand)(publish)
sys.exit(run(app))
"""


def arguments(log: AnchorFolder, terms: Terms, server: RpcServer, *more: str) -> list[str]:
    settings = {"publish": "evm", "evm.rpc_url": server.url, "evm.key_file": str(terms.key_file)}
    flags = [flag for key, value in settings.items() for flag in ("--set", f"anchoring.{key}={value}")]
    return ["publish", "--anchor", str(log.folder), *flags, *more]


def test_the_command_publishes_checks_and_says_when_it_was_done_before(
    log: AnchorFolder, terms: Terms, server: RpcServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(APP, arguments(log, terms, server, "--json")) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["outcome"], data["size"], data["root"]) == ("published", 3, log.log.root().hex())
    assert run(APP, arguments(log, terms, server)) == 0
    assert "published already; nothing was sent" in capsys.readouterr().out
    assert run(APP, arguments(log, terms, server, "--check")) == 0
    text = capsys.readouterr().out
    assert data["transaction"] in text
    assert "hidden-token" not in text
    assert server.chain.sent() == 1


def test_the_check_names_the_first_record_that_does_not_fit(
    log: AnchorFolder, terms: Terms, server: RpcServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in (b"four", b"five", b"six"):
        assert run(APP, arguments(log, terms, server)) == 0
        log.append([entry])
    publications = Publications(log)
    assert publications.sizes(Transaction) == [3, 4, 5]
    for size in (4, 5):
        publications.add(replace(publications.read(Transaction, size), block_number=99))
    capsys.readouterr()
    assert run(APP, arguments(log, terms, server, "--check")) == 2
    assert capsys.readouterr().err.startswith(str(publications.path(4, Transaction.ENDING)))


def test_the_limit_of_the_cost_is_the_commands(
    log: AnchorFolder, terms: Terms, server: RpcServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(APP, arguments(log, terms, server, "--max-cost", "0.00001")) == 2
    assert "and 1e-05 are allowed" in capsys.readouterr().err
    assert server.chain.sent() == 0


@pytest.mark.parametrize("reached", [False, True])
def test_a_killed_command_is_finished_by_the_next_one(
    log: AnchorFolder, terms: Terms, server: RpcServer, reached: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed when its transaction is on the way: the node got it, or it did not."""
    process: list[subprocess.Popen[bytes]] = []

    def kill(result: Any = None) -> Any:
        os.kill(process[0].pid, signal.SIGKILL)
        process[0].wait()
        if not reached:
            raise Web3Exception("lost on the way")
        return result

    if reached:
        server.after["eth_sendRawTransaction"] = kill
    else:
        server.before["eth_sendRawTransaction"] = kill
    process.append(subprocess.Popen([sys.executable, "-c", COMMAND, *arguments(log, terms, server)]))
    assert process[0].wait(60) == -signal.SIGKILL
    publications = Publications(log)
    assert (names(publications), server.chain.sent()) == ({"3-evm.pending"}, int(reached))
    pending = publications.read(PendingTransaction, 3)
    server.before.clear()
    server.after.clear()
    assert run(APP, arguments(log, terms, server, "--json")) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["outcome"], data["transaction"], server.chain.sent()) == ("finished", pending.transaction, 1)
    assert names(publications) == {"3-evm.json"}
