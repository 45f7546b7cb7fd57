"""What is in a parcel: Flower's messages in Flower's own form, and with a question the run's terms.

4 bytes    length of the head, big-endian
head       JSON: the terms of `common.run_terms`, or {} with an answer
messages   protobuf
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from common.exact_json import exact_json
from common.parcel import ParcelDamaged

_HEAD = 4


def packed(head: Mapping[str, str | int], messages: Iterable[Message]) -> bytes:
    """The bytes of both."""
    text = json.dumps(dict(head), ensure_ascii=False).encode()
    return len(text).to_bytes(_HEAD, "big") + text + messages_to_bytes(messages)


def unpacked(content: bytes) -> tuple[dict[str, Any], list[Message]]:
    """What `packed` packed. Raises ParcelDamaged for anything else."""
    ends = _HEAD + int.from_bytes(content[:_HEAD], "big")
    try:
        head = exact_json(content[_HEAD:ends].decode())
    except ValueError:
        head = None
    if not isinstance(head, dict) or ends > len(content):
        raise _unreadable()
    return head, messages_from_bytes(content[ends:])


def messages_to_bytes(messages: Iterable[Message]) -> bytes:
    """Messages alone."""
    return bytes(PullMessagesResponse(messages_list=[message_to_proto(one) for one in messages]).SerializeToString())


def messages_from_bytes(content: bytes) -> list[Message]:
    """What `messages_to_bytes` gave. Raises ParcelDamaged for anything else."""
    try:
        return [message_from_proto(one) for one in PullMessagesResponse.FromString(content).messages_list]
    except (DecodeError, ValueError, TypeError, KeyError):
        raise _unreadable() from None


def _unreadable() -> ParcelDamaged:
    return ParcelDamaged("the messages in it cannot be read", where="parcel", remedy="use the same version of DJMS")
