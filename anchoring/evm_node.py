"""An EVM node, asked through web3: whatever it answers ends in a value, or in an error that says which.

web3 is an optional dependency and imported where it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anchoring.publications import ServiceRefused, ServiceUnreachable, one_line, service_name
from common.errors import InputError, RunError

if TYPE_CHECKING:
    from web3 import Web3

REQUEST_LIMIT = 10.0
"""Seconds that a node has for one answer."""

_LEAST_GAS = 21_000
_NO_ANSWER = (ValueError, TypeError, LookupError, AttributeError)


class OtherChain(InputError):
    """The node is of another chain than the one meant."""


class FundsMissing(RunError):
    """The account has less than the transaction may cost."""


class TooDear(RunError):
    """The transaction may cost more than is allowed."""


@dataclass(frozen=True)
class Included:
    """A transaction in a block, as the node tells it."""

    succeeded: bool
    sender: str
    calldata: bytes
    block_number: int
    block_hash: str
    block_time: int


class EvmNode:
    """A node, asked through web3. Whatever it answers ends in a value or in an error that says which."""

    def __init__(self, web3: Web3, name: str) -> None:
        from web3.middleware import ExtraDataToPOAMiddleware

        web3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)  # blocks of proof-of-authority chains have more
        self._eth: Any = web3.eth
        self.name = name

    @classmethod
    def at(cls, url: str) -> EvmNode:
        """The node at an address. Raises InputError for what is none, and where web3 is not installed."""
        name = service_name(url, "anchoring.evm.rpc_url")
        require_web3()
        from web3 import HTTPProvider, Web3

        provider = HTTPProvider(url, request_kwargs={"timeout": REQUEST_LIMIT}, exception_retry_configuration=None)
        return cls(Web3(provider), name)

    def require_chain(self, chain_id: int | None) -> int:
        """The chain's id. Raises OtherChain when another one was meant."""
        with self._asking():
            found = _number(self._eth.chain_id)
        if chain_id is not None and found != chain_id:
            what, remedy = f"it is a node of the chain {found}, and {chain_id} is meant", "ask a node of that chain"
            raise OtherChain(what, where=self.name, remedy=f"{remedy}: set anchoring.evm.rpc_url")
        return found

    def head(self) -> int:
        """Number of the newest block."""
        with self._asking():
            return _number(self._eth.block_number)

    def nonce(self, sender: str, *, waiting: bool = False) -> int:
        """How many transactions the account has in the chain; with `waiting`, those that wait count too."""
        with self._asking():
            return _number(self._eth.get_transaction_count(sender, "pending" if waiting else "latest"))

    def priced(self, sender: str, calldata: bytes, most: int) -> dict[str, Any]:
        """The transaction that carries the calldata, with gas and fees. Raises TooDear and FundsMissing."""
        meant = {"from": sender, "to": sender, "value": 0, "data": calldata}
        with self._asking():
            base = self._eth.get_block("latest").get("baseFeePerGas")
            if base is None:
                price = _number(self._eth.gas_price)
                fees = {"gasPrice": price}
            else:
                tip = _number(self._eth.max_priority_fee)
                price = 2 * _number(base) + tip  # enough while the fee doubles, which takes at least six blocks
                fees = {"type": 2, "maxFeePerGas": price, "maxPriorityFeePerGas": tip}
        self._require_payable(sender, _LEAST_GAS * price, most)  # a node may not estimate for who cannot pay
        with self._asking():
            gas = _number(self._eth.estimate_gas(meant)) * 5 // 4  # not every node counts exactly
        self._require_payable(sender, gas * price, most)
        return meant | fees | {"gas": gas}

    def _require_payable(self, sender: str, cost: int, most: int) -> None:
        with self._asking():
            funds = _number(self._eth.get_balance(sender))
        what = f"the transaction may cost {_coins(cost)} of the chain's coin"
        if cost > most:
            what, remedy = f"{what}, and {_coins(most)} are allowed", "wait until the chain is cheaper, or allow more"
            raise TooDear(what, where=self.name, remedy=remedy)
        if cost > funds:
            what, remedy = f"{what}, and the account {sender} has {_coins(funds)}", "send it some"
            raise FundsMissing(what, where=self.name, remedy=remedy)

    def send(self, raw: str) -> None:
        """Hand over a signed transaction."""
        with self._asking():
            self._eth.send_raw_transaction(raw)

    def knows(self, transaction: str) -> bool:
        """Whether the node has the transaction, in a block or waiting."""
        from web3.exceptions import TransactionNotFound

        with self._asking():
            try:
                self._eth.get_transaction(transaction)
            except TransactionNotFound:
                return False
            return True

    def included(self, transaction: str) -> Included | None:
        """The transaction with its block; None where it is in no block of the node's chain."""
        from web3.exceptions import BlockNotFound, TransactionNotFound

        with self._asking():
            try:
                receipt = self._eth.get_transaction_receipt(transaction)
                found = self._eth.get_transaction(transaction)
                block = self._eth.get_block(receipt["blockNumber"])
            except (TransactionNotFound, BlockNotFound):
                return None
            if not receipt["blockHash"] == found.get("blockHash") == block["hash"]:
                return None  # the chain is changing just now
            return Included(
                succeeded=receipt["status"] == 1,
                sender=str(found["from"]),
                calldata=bytes(found["input"]),
                block_number=_number(block["number"]),
                block_hash=to_hex(block["hash"]),
                block_time=_number(block["timestamp"]),
            )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from eth_utils.exceptions import ValidationError
        from web3.exceptions import Web3Exception

        check = "check anchoring.evm.rpc_url and the node, then run this again"
        try:
            yield
        except OSError as error:  # those of requests too; their texts would tell the whole address
            status = getattr(getattr(error, "response", None), "status_code", None)
            what = "the node does not answer" if status is None else f"the node answers with the HTTP status {status}"
            raise ServiceUnreachable(what, where=self.name, remedy=check) from error
        except (Web3Exception, ValidationError) as error:
            what = f"the node refuses: {one_line(str(error))}"
            raise ServiceRefused(what, where=self.name, remedy="remove the cause, then run this again") from error
        except _NO_ANSWER as error:
            raise ServiceRefused("what the node says is no answer", where=self.name, remedy=check) from error


def require_web3() -> None:
    """Raise InputError where web3 is not installed."""
    try:
        importlib.import_module("web3")
    except ImportError as error:
        raise InputError(
            "publishing to an EVM chain needs web3, which is not installed",
            where="anchoring.publish evm",
            remedy="install DJMS with its extra 'evm'",
        ) from error


def _number(value: object) -> int:
    """A number that a node named. Raises ValueError for what is none."""
    if type(value) is not int or value < 0:
        raise ValueError("no number")
    return value


def to_hex(content: bytes) -> str:
    """Bytes as EVM tools write them: 0x and hexadecimal digits."""
    return f"0x{bytes(content).hex()}"


def _coins(amount: int) -> str:
    """An amount of the smallest unit, in coins."""
    return f"{amount / 10**18:.6g}"
