"""A checkpoint's root in the calldata of a transaction on an EVM chain, where the log's operator cannot change it.

    calldata    "djms/v1/checkpoint" ‖ SHA-256 of the log's origin ‖ size, 8 bytes, most significant first ‖ root

90 bytes, in a transaction of no value from an account to itself. No contract is needed to write it and none to read it:
whoever knows the log's name and has a checkpoint compares the bytes.

Rules:

* a transaction is signed here and on disk, as `<size>-evm.pending`, before it is sent. Whoever finds it there, after a
  kill, asks the node for its hash, and sends the same bytes again where the node does not know it. It has one nonce,
  so it stands in the chain once, however often it is sent;
* it is recorded when it is in a block, with as many on top as were asked for, and succeeded, and the calldata that the
  node gives back are the ones meant. When the chain drops its block, it is sent and waited for again;
* one that the node refuses, that failed, or whose nonce another one took, is forgotten, and the next call signs anew;
* what it may cost is limited before it is signed, for the node is who says what it costs.

What the node says of the chain is believed: it should be one's own, or the check be repeated with somebody else's.
web3 is an optional dependency and imported where it is needed.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from anchoring.errors import AnchoringError
from anchoring.evm_node import EvmNode, Included, to_hex
from anchoring.publications import (
    Outcome,
    PendingTransaction,
    PublicationInvalid,
    Publications,
    Record,
    ServiceRefused,
    Transaction,
)
from common.errors import InputError, RunError

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

TAG = b"djms/v1/checkpoint"
"""What calldata begin with: the form above, in its first version."""

_ANOTHER_NODE = "ask another node, as this one may be wrong"
_AGAIN = "to publish again, remove this file first"
_PRIVATE_KEY = re.compile(rb"(0x)?[0-9a-fA-F]{64}")


class TransactionWaiting(RunError):
    """The transaction was sent, and has not enough blocks yet."""


class TransactionReplaced(RunError):
    """Another transaction took the nonce, so this one will never be in the chain."""


class TransactionFailed(AnchoringError):
    """The transaction is in the chain and was reverted."""


class TransactionMissing(AnchoringError):
    """A transaction that was recorded is not in the node's chain."""


class ChainReorganised(AnchoringError):
    """A transaction that was recorded stands in another block than it did."""


class CalldataMismatch(PublicationInvalid):
    """The transaction carries something else than the log's root, or is not by the account that was recorded."""


@dataclass(frozen=True)
class Terms:
    """How to publish: who sends, to which chain (None: the node's), and what it may cost at most.

    `most` is in the chain's smallest unit (wei), `wait` and `poll` in seconds; `confirmations` counts the
    transaction's own block.
    """

    key_file: Path | None
    chain_id: int | None = None
    confirmations: int = 1
    most: int = 2 * 10**16
    wait: float = 300.0
    poll: float = 1.0


def calldata_of(record: Record) -> bytes:
    """The bytes that stand for a checkpoint in a transaction."""
    origin = hashlib.sha256(record.origin.encode()).digest()
    return TAG + origin + record.size.to_bytes(8) + bytes.fromhex(record.root)


def publish_transaction(
    publications: Publications, terms: Terms, connect: Callable[[], EvmNode]
) -> tuple[Transaction, Outcome]:
    """Put the newest published checkpoint into the chain, and finish what was begun before.

    A checkpoint that is recorded already is neither sent nor asked for.

    Raises:
        InputError: there is nothing to publish, or no account to send from; OtherChain is one.
        QuorumMissing: too few witnesses cosigned any checkpoint.
        FundsMissing, TooDear, TransactionWaiting, TransactionReplaced, TransactionFailed: as they are described.
        ServiceUnreachable, ServiceRefused, PublicationInvalid: as they are described.
    """
    with publications.working():
        begun = publications.sizes(PendingTransaction)
        for size in begun:
            _finish(publications, publications.read(PendingTransaction, size), terms, connect)
        _, checkpoint = publications.newest()
        if checkpoint.size in publications.sizes(Transaction):
            record = publications.read(Transaction, checkpoint.size)
            return record, "finished" if checkpoint.size in begun else "already"
        node = connect()
        pending = _signed(Record(checkpoint.origin, checkpoint.size, checkpoint.root.hex()), node, terms)
        publications.add(pending)
        return _confirmed(publications, pending, node, terms), "published"


def check_transaction(publications: Publications, size: int, node: EvmNode) -> Transaction:
    """Compare a record with the log and with what the node has in its place, and return it.

    Raises:
        PublicationInvalid, CalldataMismatch: it does not fit the log, or the transaction does not.
        OtherChain, TransactionMissing, ChainReorganised, TransactionFailed: as they are described.
        ServiceUnreachable, ServiceRefused: the node cannot be asked.
    """
    record = publications.read(Transaction, size)
    path = publications.path(size, Transaction.ENDING)
    node.require_chain(record.chain_id)
    found = node.included(record.transaction)
    if found is None:
        what = f"the chain has no transaction {record.transaction}"
        raise TransactionMissing(what, where=path, remedy=f"{_ANOTHER_NODE}; {_AGAIN}")
    _require_same(record, found, path)
    if (found.block_number, found.block_hash) != (record.block_number, record.block_hash):
        what = f"the transaction stands in block {found.block_number}, {found.block_hash}, and stood in another one"
        raise ChainReorganised(what, where=path, remedy=f"{_AGAIN}, with more anchoring.evm.confirmations")
    if found.block_time != record.block_time:
        raise PublicationInvalid("the block has another time than was recorded", where=path, remedy=_AGAIN)
    return record


def read_account(key_file: Path | None) -> LocalAccount:
    """The account of a private key, 64 hexadecimal digits in a file that nobody but its owner may read or change.

    Raises InputError, which never quotes the file.
    """
    from eth_account import Account
    from eth_utils.exceptions import ValidationError

    key = "settings key 'anchoring.evm.key_file'"
    if key_file is None:
        raise InputError("there is no account to send from", where=key, remedy="name a file with its private key")
    if not key_file.is_file():
        raise InputError("the file of the private key does not exist", where=key_file, remedy=f"correct the {key}")
    if key_file.stat().st_mode & 0o077:
        what = "others than its owner may read or change the private key"
        raise InputError(what, where=key_file, remedy=f"chmod 600 {key_file}, or use a new key if it may be known")
    text = key_file.read_bytes().strip()
    try:
        if _PRIVATE_KEY.fullmatch(text):
            return cast("LocalAccount", Account.from_key(text.decode()))
    except (ValueError, ValidationError):
        pass  # no number that a key can be
    raise InputError("this is no private key of 64 hexadecimal digits", where=key_file, remedy="name the right file")


def _signed(meant: Record, node: EvmNode, terms: Terms) -> PendingTransaction:
    account = read_account(terms.key_file)
    chain_id = node.require_chain(terms.chain_id)
    priced = node.priced(account.address, calldata_of(meant), terms.most)
    nonce = node.nonce(account.address, waiting=True)
    signed = account.sign_transaction(priced | {"chainId": chain_id, "nonce": nonce})
    return PendingTransaction(
        meant.origin,
        meant.size,
        meant.root,
        chain_id=chain_id,
        sender=account.address,
        nonce=nonce,
        transaction=to_hex(signed.hash),
        raw=to_hex(signed.raw_transaction),
    )


def _finish(
    publications: Publications, pending: PendingTransaction, terms: Terms, connect: Callable[[], EvmNode]
) -> None:
    """Bring a transaction to its end that an earlier process signed."""
    if pending.size in publications.sizes(Transaction):
        publications.remove(pending)  # that one was ended in between
        return
    node = connect()
    node.require_chain(pending.chain_id)
    _confirmed(publications, pending, node, terms)


def _confirmed(publications: Publications, pending: PendingTransaction, node: EvmNode, terms: Terms) -> Transaction:
    """Send the transaction where the node does not know it, wait for its blocks, and record it."""
    _send_where_unknown(publications, pending, node)
    ends = time.monotonic() + terms.wait
    while (found := node.included(pending.transaction)) is None or (
        node.head() - found.block_number + 1 < terms.confirmations
    ):
        if time.monotonic() > ends:
            blocks = "is in no block yet" if found is None else f"has not {terms.confirmations} blocks yet"
            raise TransactionWaiting(
                f"the transaction {pending.transaction} was sent and {blocks}",
                where=node.name,
                remedy=f"run this again to wait on; if it pays too little to be taken, send another one with the nonce "
                f"{pending.nonce} from {pending.sender} first",
            )
        time.sleep(terms.poll)
        if found is None:
            _send_where_unknown(publications, pending, node)
    record = Transaction(
        pending.origin,
        pending.size,
        pending.root,
        chain_id=pending.chain_id,
        transaction=pending.transaction,
        sender=pending.sender,
        block_number=found.block_number,
        block_hash=found.block_hash,
        block_time=found.block_time,
    )
    try:
        _require_same(record, found, publications.path(pending.size, PendingTransaction.ENDING))
    except TransactionFailed as error:
        publications.remove(pending)
        remedy = "look at what the account does when it is sent something, then run this again to send a new one"
        raise TransactionFailed(error.what, where=node.name, remedy=remedy) from error
    publications.add(record)
    publications.remove(pending)
    return record


def _send_where_unknown(publications: Publications, pending: PendingTransaction, node: EvmNode) -> None:
    """Send the transaction unless the node has it; where the chain will never take it, forget it and say so."""
    if node.knows(pending.transaction):
        return
    if node.nonce(pending.sender) > pending.nonce and node.included(pending.transaction) is None:
        publications.remove(pending)
        raise TransactionReplaced(
            f"another transaction of {pending.sender} took the nonce {pending.nonce}, so {pending.transaction} will "
            "never be in the chain",
            where=node.name,
            remedy="run this again to send a new one",
        )
    try:
        node.send(pending.raw)
    except ServiceRefused:
        if not node.knows(pending.transaction):
            publications.remove(pending)
            raise


def _require_same(record: Transaction, found: Included, path: Path) -> None:
    """Raise TransactionFailed or CalldataMismatch unless the chain has what the record says."""
    if not found.succeeded:
        what = f"the transaction {record.transaction} failed in block {found.block_number}"
        raise TransactionFailed(what, where=path, remedy=_AGAIN)
    if found.calldata != calldata_of(record):
        what = f"the transaction {record.transaction} does not carry the log's root"
        raise CalldataMismatch(what, where=path, remedy=f"{_ANOTHER_NODE}; {_AGAIN}")
    if found.sender != record.sender:
        what = f"the transaction {record.transaction} is by {found.sender} and not by {record.sender}"
        raise CalldataMismatch(what, where=path, remedy=f"{_ANOTHER_NODE}; {_AGAIN}")
