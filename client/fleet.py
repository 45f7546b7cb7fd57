"""A site's connection to the coordinator's SuperLink: Flower's Fleet API over gRPC, TLS, and the site's own key.

What `flower-supernode` does on the wire, in the site's own process, with three things besides:

* every call has a deadline and the channel is kept alive, so that a cut line is noticed and heals by itself;
* a site that was killed says goodbye for its former self before it comes back, instead of being turned away until the
  SuperLink has missed its heartbeats for a minute;
* being turned away is an error with its reason, never an endless retry and never an exit that looks like success.

It uses Flower's internal protocol, which is why its version is pinned.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.serde import fab_from_proto, message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects, push_objects
from flwr.supercore.interceptors import RuntimeVersionClientInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import Run

from common.errors import RunError

HEARTBEAT_SECONDS = 10.0
"""The SuperLink takes a site for gone when it missed two."""

_CALL_SECONDS = 30.0
_LONGEST_PAUSE = 10.0
_LONGEST_MESSAGE = 512 * 2**20
_OPTIONS = (
    ("grpc.max_send_message_length", _LONGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LONGEST_MESSAGE),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),  # gRPC's own is two minutes
)
_RUN_OVER = (ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, ApiErrorCode.FLEET_GET_RUN_FAILED)
_UNKNOWN_NODE = (ApiErrorCode.FLEET_SUPERNODE_REGISTRATION_DISABLED, ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED)
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_LOG = logging.getLogger(__name__)
Response = TypeVar("Response")


class TurnedAway(RunError):
    """The coordinator's server does not let this site in."""


class RunOver(Exception):
    """The run of a message is over; there is nothing to answer."""


class Stopped(Exception):
    """The site is asked to end while it waits for the network."""


@dataclass(frozen=True)
class Received:
    """A message, and the id of the Flower run that it belongs to."""

    message: Message
    flower_run: int


class Fleet:
    """The connection of one site. One thread uses it, besides its own heartbeat; `close` says goodbye."""

    def __init__(
        self, address: str, ca: bytes, key: bytes, stop: threading.Event, on_line: Callable[[bool], None]
    ) -> None:
        """Connect to nothing yet. `key` is an OpenSSH private key; `on_line` hears when the network goes and comes."""
        private = load_ssh_private_key(key, None)
        if not isinstance(private, EllipticCurvePrivateKey):
            raise RunError("the site's network key is of the wrong kind", remedy="make new keys, see `client init`")
        self._public = public_key_to_bytes(private.public_key())
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options=_OPTIONS)
        self._channel = channel
        interceptors = (
            RuntimeVersionClientInterceptor(component_name="SuperNode"),
            NodeAuthClientInterceptor(private, private.public_key()),
        )
        self._stub: Any = FleetStub(grpc.intercept_channel(channel, *interceptors))
        self._address, self._stop, self._on_line = address, stop, on_line
        self._node: Any = None
        self._trouble: TurnedAway | None = None
        self._gone = threading.Event()

    def enter(self, former: int | None) -> int:
        """Come online and stay so; returns the node's id. `former` is the id of a self that may have been killed.

        Raises TurnedAway.
        """
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        try:
            response = self._call(self._stub.ActivateNode, request)
        except TurnedAway:
            if former is None:
                raise
            _LOG.info("the server has not noticed yet that this site was gone; saying so")
            self._leave(former)
            self._pause(1.0)  # a coordinator that waits for the former self learns that it is gone
            response = self._call(self._stub.ActivateNode, request)
        self._node = Node(node_id=response.node_id)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return int(response.node_id)

    def receive(self) -> Received | None:
        """The next message for this site; None where none waits. Raises TurnedAway."""
        if self._trouble is not None:
            raise self._trouble
        response = self._call(self._stub.PullMessages, PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        header, tree = message_from_proto(response.messages_list[0]), response.message_object_trees[0]
        run = header.metadata.run_id
        ids = [one.object_id for one in iterate_object_tree(tree)]
        pull = make_pull_object_fn_protobuf(partial(self._call, self._stub.PullObject), self._node, run)
        contents = pull_objects(ids, pull, initial_backoff=0.05, max_time=_CALL_SECONDS, max_concurrent_pulls=1)
        confirm = make_confirm_message_received_fn_protobuf(
            partial(self._call, self._stub.ConfirmMessageReceived), self._node, run
        )
        confirm(header.metadata.message_id)
        message = inflate_object_from_contents(tree.object_id, contents)
        message.metadata.__dict__["_message_id"] = tree.object_id
        return Received(message, run)

    def run(self, flower_run: int) -> Run:
        """What a run is: the hash of its bundle, its configuration. Raises RunOver."""
        return run_from_proto(self._call(self._stub.GetRun, GetRunRequest(node=self._node, run_id=flower_run)).run)

    def bundle(self, run: Run) -> bytes:
        """The run's bundle, as the server sends it: only to be looked at. Raises RunOver."""
        request = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run.run_id)
        return fab_from_proto(self._call(self._stub.GetFab, request).fab).content

    def send(self, reply: Message, flower_run: int, seconds: float) -> None:
        """Send a reply, over a cut line too once it heals. Raises RunOver."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        tree = get_object_tree(reply)
        objects = get_all_nested_objects(reply)
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[message_to_proto(remove_content_from_message(reply) if reply.has_content() else reply)],
            message_object_trees=[tree],
            clientapp_runtime_list=[seconds],
        )
        response = self._call(self._stub.PushMessages, request)
        push = make_push_object_fn_protobuf(
            partial(self._call, self._stub.PushObject), self._node, flower_run, response.session_id
        )
        wanted = set(response.objects_to_push)
        push_objects(objects, push, object_ids_to_push=wanted, max_concurrent_pushes=1)

    def close(self) -> None:
        """Say goodbye, so that nobody waits for this site, and end."""
        self._gone.set()
        if self._node is not None:
            self._leave(int(self._node.node_id))
        self._channel.close()

    def _leave(self, node: int) -> None:
        try:
            self._stub.DeactivateNode(DeactivateNodeRequest(node_id=node), timeout=5.0)
        except grpc.RpcError as error:
            _LOG.info("the server took no goodbye (%s)", error.code())

    def _call(self, call: Callable[..., Response], request: object) -> Response:
        """Call until the network lets it through. Raises TurnedAway, RunOver, and Stopped when asked to end."""
        pause = 0.5
        while True:
            try:
                response = call(request, timeout=_CALL_SECONDS)
            except grpc.RpcError as error:
                self._judge(error)
            else:
                self._on_line(True)
                return response
            self._on_line(False)
            self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _judge(self, error: grpc.RpcError) -> None:
        """Return where calling again may help; raise what it means otherwise."""
        code, details = error.code(), str(error.details() or "")
        flower = FlowerError.from_json(details)
        known = None if flower is None else flower.code
        if code == grpc.StatusCode.PERMISSION_DENIED or known in _RUN_OVER:
            raise RunOver
        if code == grpc.StatusCode.UNAVAILABLE and "handshake" in details.lower():
            raise TurnedAway(
                "the server's certificate is not one that this federation's CA made, or it has expired",
                where=self._address,
                remedy="ask the coordinator whether it was renewed, and take the newest welcome; else do not connect",
            ) from error
        if code == grpc.StatusCode.UNAUTHENTICATED and "timestamp" in details:
            raise TurnedAway(
                "the clocks of this site and of the server differ too much",
                where=self._address,
                remedy="set this computer's clock by the network (NTP), then start again",
            ) from error
        if code == grpc.StatusCode.UNAUTHENTICATED or known in _UNKNOWN_NODE:
            raise TurnedAway(
                "the server does not let this site in: it was revoked, its keys were replaced, or another computer "
                f"runs it now (the server says: {details[:200] if flower is None else flower.message})",
                where=self._address,
                remedy="ask the coordinator; after a change of keys, join with the newest welcome",
            ) from error
        if code not in _LOST:
            _LOG.warning("the server failed to answer (%s: %s)", code, details[:200])

    def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        while not self._gone.wait(HEARTBEAT_SECONDS * 0.8):
            try:
                self._stub.SendNodeHeartbeat(request, timeout=5.0)
            except grpc.RpcError as error:
                try:
                    self._judge(error)
                except TurnedAway as trouble:
                    self._trouble = trouble
                    return
                except RunOver:
                    _LOG.warning("the server refused a heartbeat")

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped
