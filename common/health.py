"""Whether a process is well: asked and answered by gRPC's standard health protocol (grpc.health.v1), in plain text.

    health = serve("127.0.0.1:9099")  # a process that wants to be asked; not well until it says so
    health.set(True)
    check("127.0.0.1:9099")           # whoever asks; returns when it is well, and raises `NotServing` when it is not

Rules: both ends are on loopback, because nothing here is encrypted and nobody is asked who they are; the answer is one
word about the process as a whole. Little is imported, because a container asks every half minute.
"""

from __future__ import annotations

import ipaddress
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from common.errors import DjmsError, InputError

TIMEOUT = 5.0
"""Seconds that an answer may take."""
_WHOLE_PROCESS = ""  # the protocol's name for it
_NO_PROXY = ("grpc.enable_http_proxy", 0)
_ONE_SERVER = ("grpc.so_reuseport", 0)  # a taken port is an error, not shared


class NotServing(DjmsError):
    """The process is not well, or is not there (exit code 1, the only one that a container's health check knows)."""

    exit_code = 1


def check(address: str, timeout: float = TIMEOUT) -> None:
    """Return when the process that answers at `HOST:PORT` says within `timeout` seconds that it is serving.

    Raises NotServing when it does not, and InputError when the address is not one of loopback.
    """
    with grpc.insecure_channel(require_loopback(address), options=[_NO_PROXY]) as channel:
        question = health_pb2.HealthCheckRequest(service=_WHOLE_PROCESS)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(question, timeout=timeout, wait_for_ready=False)
        except grpc.RpcError as error:
            raise NotServing(
                f"nobody answers to the health check ({error.code().name.lower().replace('_', ' ')})",
                where=address,
                remedy="see whether the process runs, and was started with --health and this address",
            ) from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise NotServing(
            f"the process answers {status}", where=address, remedy="wait until it has started, or see what it logged"
        )


class HealthServer:
    """Answers for this process until `stop`; `address` is where, with the port in use."""

    def __init__(self, address: str) -> None:
        """Listen on `HOST:PORT`; port 0 takes a free one. Raises InputError; the first answer is NOT_SERVING."""
        host = require_loopback(address).rpartition(":")[0]
        self._servicer = health.HealthServicer(experimental_non_blocking=False)
        self._server = grpc.server(ThreadPoolExecutor(2, "health"), options=[_ONE_SERVER])
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise InputError("nothing can listen at this address", where=address, remedy="choose a free port")
        self.address = f"{host}:{port}"
        self.set(False)
        self._server.start()

    def set(self, serving: bool) -> None:
        """Say from now on that the process is well, or that it is not."""
        status = health_pb2.HealthCheckResponse
        self._servicer.set(_WHOLE_PROCESS, status.SERVING if serving else status.NOT_SERVING)

    def stop(self) -> None:
        """Answer nobody any more, and give the port back."""
        self._servicer.enter_graceful_shutdown()
        self._server.stop(grace=None).wait()


def serve(address: str) -> HealthServer:
    """Answer health checks at this loopback address. Raises InputError when it cannot."""
    return HealthServer(address)


def require_loopback(address: str) -> str:
    """The address `HOST:PORT` as it is; raises InputError unless it is one of this machine alone."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError("this is no address", where=address[:64], remedy="write HOST:PORT, as in 127.0.0.1:9099")
    if not _is_loopback(host):
        raise InputError(
            "health is told in plain text, and on loopback only", where=address[:64], remedy=f"use 127.0.0.1:{port}"
        )
    return address


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
