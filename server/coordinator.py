"""The coordinator's server at work: a SuperLink, the starter of runs beside it, and who may connect, kept up to date.

    superlink/state.db          Flower's own memory: sites, runs, messages until they are fetched
    superlink/control.token     lets this coordinator's commands in, and nobody else
    superlink/superexec.secret  lets the starter of runs in
    superlink/control.address   where the Control API is, on loopback
    superlink/logs/             what the processes say

`serve` starts what ends before its time anew, and lets sites in and puts them out as `djms server add-site` and
`revoke-site` change the federation's folder, so these commands need no word with it. Runs are processes of the starter,
so they outlive a SuperLink that is back within some seconds.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from anchoring.durable_files import DurableFiles
from common.errors import InputError, RunError
from common.files import lock_of
from common.processes import HOST, Processes, free_ports
from server.control import GONE, Control, ServerNotRunning, pem_of
from server.federation_folder import CA_FILE, SERVER_CERTIFICATE_FILE, SERVER_KEY_FILE, FederationFolder
from server.job import RUNS_VARIABLE
from server.superlink import CONTROL_TOKEN

SUPERLINK, RUNS = "superlink", "runs"
_TOKEN, _SECRET, _ADDRESS, _PROCESS = "control.token", "superexec.secret", "control.address", "process"
_LINK, _STARTER = "superlink", "starter"
_LOOK_SECONDS = 2.0
_LONGEST_PAUSE = 30.0
_TAKEN_SECONDS = 5.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """Where the server's own files lie below the federation's folder."""

    folder: Path

    @property
    def superlink(self) -> Path:
        """Everything of the SuperLink's."""
        return self.folder / SUPERLINK

    @property
    def runs(self) -> Path:
        """One folder a run: its description, and what comes of it."""
        return self.folder / RUNS


def control_of(federation: FederationFolder) -> Control:
    """A connection to the running server of the federation. Raises ServerNotRunning."""
    places = Places(federation.folder)
    try:
        address = (places.superlink / _ADDRESS).read_text(encoding="ascii").strip()
        token = (places.superlink / _TOKEN).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ServerNotRunning(
            "the server was never started here", where=federation.folder, remedy="start it with `djms server start`"
        ) from None
    return Control(address, (federation.folder / CA_FILE).read_bytes(), token)


def bind_address(federation: FederationFolder, bind: str | None) -> str:
    """Where sites reach the server: `bind`, else every interface, and loopback only where its address is on it.

    Raises InputError for what is no IP address.
    """
    port = federation.file.address.rpartition(":")[2]
    if bind is None:
        bind = HOST if _is_loopback(federation.host) else "0.0.0.0"
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        raise InputError("it is no IP address", where="--bind", remedy="write for example 0.0.0.0") from None
    return f"[{bind}]:{port}" if address.version == 6 else f"{bind}:{port}"


def stop_server(federation: FederationFolder) -> bool:
    """Ask the server of this folder to end; returns False where none runs."""
    places = Places(federation.folder)
    lock = lock_of(places.superlink) if places.superlink.is_dir() else None
    if lock is not None or not places.superlink.is_dir():
        if lock is not None:
            lock.release()
        return False
    os.kill(int((places.superlink / _PROCESS).read_text(encoding="ascii")), signal.SIGTERM)
    limit = time.monotonic() + _LONGEST_PAUSE
    while (lock := lock_of(places.superlink)) is None:
        if time.monotonic() > limit:
            raise RunError("the server does not end", where=places.superlink, remedy="see its log, or end it by hand")
        time.sleep(0.2)
    lock.release()
    return True


class Coordinator:
    """The server of one federation."""

    def __init__(self, federation: FederationFolder, bind: str, health: str | None) -> None:
        """Prepare. `bind` is the address for sites, `health` one on loopback for health checks."""
        self._federation = federation
        self._places = Places(federation.folder)
        self._bind, self._health = bind, health
        self._warned: set[str] = set()

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises RunError where one serves already, or Flower does not start."""
        folder = self._places.superlink
        for one in (folder, folder / "flower", folder / "logs", self._places.runs):
            one.mkdir(mode=0o700, exist_ok=True)
        lock = lock_of(folder)
        if lock is None:
            raise RunError("the server of this federation is running already", where=folder, remedy="use that one")
        try:
            self._prepare()
            with Processes(folder / "logs", folder / "flower", self._environment()) as processes:
                self._start_superlink(processes)
                self._start_starter(processes)
                _LOG.info("sites reach the server at %s", self._bind)
                self._look_after(processes)
        except KeyboardInterrupt:
            _LOG.info("asked to end; every process of the server has ended")
        finally:
            lock.release()

    def _prepare(self) -> None:
        """The secrets, made once, and a port for the Control API that is free, the last one where it still is."""
        files = DurableFiles()
        folder = self._places.superlink
        for name in (_TOKEN, _SECRET):
            if not (folder / name).is_file():
                files.write(folder / name, f"{secrets.token_hex(32)}\n".encode("ascii"))
        self._port = self._free_port()
        files.write(folder / _ADDRESS, f"{HOST}:{self._port}\n".encode("ascii"))
        files.write(folder / _PROCESS, f"{os.getpid()}\n".encode("ascii"))
        files.settle()

    def _free_port(self) -> int:
        """The Control API's last port where it is free: a run that survived looks for it there."""
        path = self._places.superlink / _ADDRESS
        if path.is_file():
            last = int(path.read_text(encoding="ascii").strip().rpartition(":")[2])
            limit = time.monotonic() + _TAKEN_SECONDS  # a server that was killed takes a moment to vanish
            while time.monotonic() < limit:
                with contextlib.suppress(OSError), socket.create_server((HOST, last)):
                    return last
                time.sleep(0.2)
        return free_ports(1)[0]

    def _environment(self) -> dict[str, str]:
        return {
            CONTROL_TOKEN: str((self._places.superlink / _TOKEN).absolute()),
            RUNS_VARIABLE: str(self._places.runs.absolute()),
        }

    def _start_superlink(self, processes: Processes) -> None:
        folder = self._federation.folder
        health = () if self._health is None else ("--health-server-address", self._health)
        processes.start(
            _LINK,
            "python",
            *("-m", "server.superlink"),
            *("--ssl-ca-certfile", str(folder / CA_FILE)),
            *("--ssl-certfile", str(folder / SERVER_CERTIFICATE_FILE)),
            *("--ssl-keyfile", str(folder / SERVER_KEY_FILE)),
            "--enable-supernode-auth",
            *("--database", str((self._places.superlink / "state.db").absolute())),
            *("--host", HOST, "--port", str(self._port)),
            *("--fleet-api-address", self._bind),
            "--disable-runtime-dependency-installation",
            *("--isolation", "process"),
            *("--superexec-auth-secret-file", str(self._places.superlink / _SECRET)),
            *health,
        )
        processes.wait_for_port(_LINK, self._port)

    def _start_starter(self, processes: Processes) -> None:
        processes.start(
            _STARTER,
            "flower-superexec",
            *("--runtime-api-address", f"{HOST}:{self._port}"),
            *("--root-certificates", str(self._federation.folder / CA_FILE)),
            *("--superexec-auth-secret-file", str(self._places.superlink / _SECRET)),
            *("--parent-pid", str(os.getpid())),
        )

    def _look_after(self, processes: Processes) -> None:
        """Start anew what ended, and let in who belongs; without end."""
        pauses = {_LINK: 0.0, _STARTER: 0.0}
        starts = {_LINK: self._start_superlink, _STARTER: self._start_starter}
        control = control_of(self._federation)
        healthy_since = time.monotonic()
        while True:
            for name, start in starts.items():
                if processes.has_ended(name):
                    _LOG.warning("the %s ended; starting it again", name)
                    time.sleep(pauses[name])
                    pauses[name] = min(_LONGEST_PAUSE, 2 * pauses[name] + 1.0)
                    healthy_since = time.monotonic()
                    try:
                        start(processes)
                    except RunError as error:
                        _LOG.error("%s", error)
            if time.monotonic() - healthy_since > _LONGEST_PAUSE:
                pauses = dict.fromkeys(pauses, 0.0)
            try:
                self._let_in(control)
            except RunError as error:  # the next look finds it again
                _LOG.warning("%s", error)
            time.sleep(_LOOK_SECONDS)

    def _let_in(self, control: Control) -> None:
        """Register the members of the newest edition, and put everybody else out."""
        members = {pem_of(one.keys.node): one for one in self._federation.members()}
        known = {node.key: node for node in control.nodes()}
        for key, site in members.items():
            if key not in known:
                control.register(site.name, site.keys.node)
                _LOG.info("%s may connect", site.name)
            elif known[key].status == GONE and site.name not in self._warned:
                self._warned.add(site.name)
                _LOG.warning("%s cannot connect: its key was revoked here before; it needs new keys", site.name)
        for key, node in known.items():
            if key not in members and node.status != GONE:
                control.unregister(node.id)
                _LOG.info("%s may connect no more with its former key", node.name)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
