"""The coordinator's hold on its running SuperLink: who may connect, which runs there are, start and stop them.

Flower's Control API over TLS on loopback, with the token that only the coordinator's own user can read. What
`flwr supernode register` and `flwr run` do takes seconds a call; here it is a tenth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from common.errors import RunError

GONE = "unregistered"
FINISHED = "finished"


class ServerNotRunning(RunError):
    """The coordinator's server does not answer."""


@dataclass(frozen=True)
class Node:
    """A site as the SuperLink has it: `status` is registered, online, offline or unregistered."""

    id: int
    name: str
    status: str
    key: bytes


@dataclass(frozen=True)
class FlowerRun:
    """A run as the SuperLink has it; `name` is ours, `outcome` how it ended: completed, failed or stopped."""

    id: int
    name: str
    status: str
    outcome: str
    details: str
    bundle_sha256: str


class Control:
    """A connection to the Control API. All methods raise ServerNotRunning, and RunError for what it refuses."""

    def __init__(self, address: str, ca: bytes, token: str) -> None:
        self._address = address
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=ca,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _Bearer(token)],
        )

    def nodes(self) -> list[Node]:
        """Every site that was ever registered."""
        with self._said():
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [Node(one.node_id, one.name, one.status, bytes(one.public_key)) for one in found]

    def register(self, name: str, public_key: str) -> None:
        """Let a site connect by its OpenSSH public key."""
        with self._said():
            self._client.RegisterNode(RegisterNodeRequest(public_key=pem_of(public_key), name=name))

    def unregister(self, node: int) -> None:
        """Let a site connect no more; where it is connected it is put out. Its key is never taken again."""
        with self._said():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def runs(self) -> list[FlowerRun]:
        """Every run, the newest first."""
        with self._said():
            found = self._client.ListRuns(ListRunsRequest()).run_dict.values()
        runs = [
            FlowerRun(
                one.run_id,
                one.override_config["run"].string if "run" in one.override_config else "",
                one.status.status,
                one.status.sub_status,
                one.status.details,
                one.fab_hash,
            )
            for one in sorted(found, key=lambda one: one.pending_at, reverse=True)
        ]
        return runs

    def start(self, bundle: bytes, config: Mapping[str, str | int]) -> int:
        """Start a run; returns its number at the SuperLink."""
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)))
        with self._said():
            return int(self._client.StartRun(request).run_id)

    def stop(self, run: int) -> None:
        """Stop a run: sites answer it no more."""
        with self._said():
            self._client.StopRun(StopRunRequest(run_id=run))

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            raise RunError(
                f"the server refused ({error.response.status_code}: {error.response.text[:300]})",
                where=self._address,
                remedy="see its log",
            ) from error
        except httpx.HTTPError as error:
            raise ServerNotRunning(
                f"the server does not answer ({type(error).__name__})",
                where=self._address,
                remedy="start it with `djms server start`",
            ) from error


class _Bearer:
    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["authorization"] = f"Bearer {self._token}"
        return call_next(context)


def pem_of(public_key: str) -> bytes:
    """An OpenSSH public key as the SuperLink keeps it."""
    key = load_ssh_public_key(public_key.encode())
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
