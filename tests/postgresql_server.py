"""A PostgreSQL of one's own on loopback, for tests that must not take SQLite's word for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "a secret of this test"
USER = "postgres"


def binaries() -> Path | None:
    """Where Debian puts initdb and pg_ctl; None where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class PostgresqlServer:
    """One server in a folder of its own; `start` and `stop` it as often as needed."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self._folder, self._bin = folder, bin_folder
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port: int = one.getsockname()[1]
        self._as_user = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
        if self._as_user:
            shutil.chown(folder, USER)
        password = folder / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        self._run("initdb", "-D", str(folder / "data"), "-U", USER, "-A", "scram-sha-256", f"--pwfile={password}", "-N")

    @property
    def url(self) -> str:
        """With the password in it, spelled as a URL wants it."""
        return f"postgresql://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._folder} -c fsync=off"
        self._control("start", "-w", "-l", str(self._folder / "log"), "-o", options)

    def stop(self) -> None:
        """End it, whoever is connected."""
        self._control("stop", "-w", "-m", "immediate")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), *arguments)

    def _run(self, name: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._bin / name), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=60)


@contextmanager
def postgresql(bin_folder: Path) -> Iterator[PostgresqlServer]:
    """A server that runs while the block does; its folder is outside of pytest's, which only root may enter."""
    with tempfile.TemporaryDirectory(prefix="djms-pg-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = PostgresqlServer(Path(folder), bin_folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
