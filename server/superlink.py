"""The SuperLink as the coordinator runs it: Flower's own, with a locked door and less work for its database.

    python -m server.superlink --database … --ssl-certfile …      the arguments of `flower-superlink`

* Flower's Control API lets in whoever reaches it. Here it wants the token in the file that CONTROL_TOKEN names.
* Every call of a site first tidied away old tasks and then counted bytes, each a write that all others wait for. The
  tidying is done once a second, the counting kept in memory for as long.
* Files are made for their owner only: the database holds messages until they are fetched.

It changes Flower's internals, which is why its version is pinned; what is changed is checked when it starts.
"""

from __future__ import annotations

import dataclasses
import hmac
import inspect
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.common.constant import ACCESS_TOKEN_KEY
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.corestate.sql_corestate import SqlCoreState
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import _parse_superlink_lifespan_config, _run_superlink_http_api

CONTROL_TOKEN = "DJMS_CONTROL_TOKEN_FILE"
"""Environment variable: the file of the token that whoever controls the server shows."""

_EVERY_SECONDS = 1.0


class TokenAuthn(NoOpControlAuthnPlugin):
    """Lets in who shows the token, and nobody else."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token.encode()

    def validate_tokens_in_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> tuple[bool, Any]:
        """Whether the token is among the request's headers."""
        given = dict(metadata).get(ACCESS_TOKEN_KEY, "")
        if not hmac.compare_digest(given if isinstance(given, bytes) else given.encode(), self._token):
            return False, None
        return super().validate_tokens_in_metadata(metadata)


class _Lighter:
    """The two pieces of database work, done once a second; one object for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tidied = self._counted = 0.0
        self._bytes: dict[int, list[int]] = {}
        self._tidy = SqlCoreState._cleanup_expired_task_tokens
        self._count = SqlLinkState.store_traffic

    def install(self) -> None:
        """Put them in the place of Flower's. Raises RuntimeError where these are not what they were."""
        expected = ["self", "run_id", "bytes_sent", "bytes_recv"]
        if list(inspect.signature(self._count).parameters) != expected:
            raise RuntimeError("this version of Flower counts bytes otherwise")
        lighter = self

        def tidy(state: SqlCoreState) -> None:
            lighter.tidy(state)

        def count(state: SqlLinkState, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
            lighter.count(state, run_id, bytes_sent, bytes_recv)

        SqlCoreState._cleanup_expired_task_tokens = tidy  # type: ignore[method-assign]
        SqlLinkState.store_traffic = count  # type: ignore[method-assign]

    def tidy(self, state: SqlCoreState) -> None:
        """Tidy old tasks away where it was not done within the last second."""
        with self._lock:
            if time.monotonic() - self._tidied < _EVERY_SECONDS:
                return
            self._tidied = time.monotonic()
        self._tidy(state)

    def count(self, state: SqlLinkState, run: int, sent: int, received: int) -> None:
        """Add a run's bytes up, and write all sums once a second."""
        with self._lock:
            sums = self._bytes.setdefault(run, [0, 0])
            sums[0] += sent
            sums[1] += received
            if time.monotonic() - self._counted < _EVERY_SECONDS:
                return
            self._counted, due, self._bytes = time.monotonic(), self._bytes, {}
        for one, (all_sent, all_received) in due.items():
            self._count(state, one, bytes_sent=all_sent, bytes_recv=all_received)


def _end_with(parent: int) -> None:
    """End at once when the process that started this one is gone: another would find the ports taken."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Run the SuperLink with the arguments of `flower-superlink`."""
    _end_with(os.getppid())
    os.umask(0o077)
    token = Path(os.environ[CONTROL_TOKEN]).read_text(encoding="ascii").strip()
    if not token:
        raise RuntimeError("the control token is empty")
    _Lighter().install()
    config = _parse_superlink_lifespan_config()
    _run_superlink_http_api(dataclasses.replace(config, authn_plugin=TokenAuthn(token)))


if __name__ == "__main__":
    main()
