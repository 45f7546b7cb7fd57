"""The health check as a container meets it: a process that is well, one that is not yet, one that is not there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.cli import run
from common.errors import InputError
from common.health import HealthServer, NotServing, check, serve
from common.health_cli import alone

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server() -> Iterator[HealthServer]:
    made = serve("127.0.0.1:0")
    yield made
    made.stop()


@pytest.fixture
def free_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def one_sentence(text: str) -> str:
    assert text.endswith(".\n")
    assert text.count("\n") == 1
    return text


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(alone(), ["health", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_process_is_not_well_until_it_says_so_and_no_longer_when_it_takes_it_back(server: HealthServer) -> None:
    with pytest.raises(NotServing, match="answers NOT_SERVING"):
        check(server.address)
    server.set(True)
    check(server.address)
    server.set(False)
    with pytest.raises(NotServing, match="answers NOT_SERVING"):
        check(server.address)


def test_anybodys_client_of_the_standard_protocol_gets_the_same_answer(server: HealthServer) -> None:
    server.set(True)
    with grpc.insecure_channel(server.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_stopped_server_answers_nobody_and_gives_its_port_back() -> None:
    first = serve("127.0.0.1:0")
    first.set(True)
    first.stop()
    with pytest.raises(NotServing, match="nobody answers"):
        check(first.address)
    second = serve(first.address)
    second.stop()


def test_a_port_in_use_is_refused_and_not_shared(server: HealthServer) -> None:
    with pytest.raises(InputError, match="nothing can listen"):
        serve(server.address)


def test_a_process_that_takes_the_connection_and_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        accepted: list[socket.socket] = []
        thread = threading.Thread(target=lambda: accepted.append(silent.accept()[0]), daemon=True)
        thread.start()
        start = time.monotonic()
        with pytest.raises(NotServing, match="nobody answers"):
            check(f"127.0.0.1:{silent.getsockname()[1]}", timeout=1)
        assert time.monotonic() - start < 5
        thread.join(5)
        for one in accepted:
            one.close()


def test_what_speaks_another_protocol_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(NotServing):
            check(f"127.0.0.1:{other.getsockname()[1]}", timeout=2)
        thread.join(5)


@pytest.mark.parametrize("address", ["0.0.0.0:9099", "10.0.0.1:9099", "fl.example.org:9092", "[::]:9099", "127.1:9099"])
def test_neither_end_of_a_health_check_leaves_the_machine(address: str) -> None:
    for end in (serve, check):
        with pytest.raises(InputError, match="on loopback only"):
            end(address)


@pytest.mark.parametrize("address", ["", "9099", "127.0.0.1", "127.0.0.1:", ":9099", "127.0.0.1:x", "127.0.0.1:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    for end in (serve, check):
        with pytest.raises(InputError, match="this is no address"):
            end(address)


def test_a_proxy_in_the_environment_is_not_asked(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    server.set(True)
    check(server.address)


def test_the_command_says_it_in_one_line_and_by_its_exit_code(
    server: HealthServer, free_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(True)
    assert call(capsys, server.address) == (0, f"{server.address} is serving.\n", "")
    code, out, _ = call(capsys, server.address, "--json")
    assert (code, json.loads(out)) == (0, {"address": server.address, "serving": True})
    server.set(False)
    code, out, error = call(capsys, server.address)
    assert (code, out) == (1, "")
    assert "NOT_SERVING" in one_sentence(error)
    code, out, error = call(capsys, free_address, "--timeout", "1")
    assert (code, out) == (1, "")
    assert "nobody answers" in one_sentence(error)
    assert call(capsys, "fl.example.org:9092")[0] == 1


def test_a_health_check_imports_neither_torch_nor_flower() -> None:
    heavy = "{'torch', 'flwr', 'numpy', 'pandas'}"
    asked = f"import sys, common.health, common.health_cli; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
