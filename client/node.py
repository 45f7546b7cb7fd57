"""A site at work: one process that takes the coordinator's messages, decides, answers, and outlives what happens.

A message is answered when its run's bundle is approved here (`client.approvals`), both sides have one version, and the
federation's edition that came with the run is to be believed; it is answered by the *installed* application. What the
application remembers of the run is on disk before the answer leaves. Everything else is a refusal that the coordinator
can read.

    node/node.json     the id at the server, to say goodbye for a self that was killed
    node/status.json   what `djms client status` shows
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError
from flwr.supercore.run import Run

from client.app import LEDGER_KEY, TABLE_KEY
from client.approvals import Approvals, Bundle, BundleRefused
from client.contexts import Contexts
from client.fleet import Fleet, Received, RunOver, Stopped
from client.replies import refusal
from client.secure_aggregation import KEYS_KEY
from client.site_folder import SiteFolder
from client.witness import WITNESS_KEY
from common import messages as names
from common.errors import DjmsError, InputError, RunError
from common.files import atomic_path, lock_of
from common.run_terms import RunTerms

POLL_SECONDS = 0.5
"""Faster polling makes the server slower: it writes to its database at each."""

NODE, _NODE_FILE, _STATUS_FILE = "node", "node.json", "status.json"
_HEAVY = "client.learning"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeStatus:
    """What a site at work says of itself; times are ISO 8601, UTC."""

    since: str
    process: int
    connected: bool = False
    changed: str = ""
    last_run: str = ""
    last_message: str = ""
    last_answered: str = ""
    last_refusal: str = ""

    @classmethod
    def read(cls, folder: Path) -> NodeStatus | None:
        """What the site in `folder` said last; None where it never ran. Raises InputError for a damaged file."""
        path = folder / NODE / _STATUS_FILE
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
        except (ValueError, TypeError):
            raise InputError("it is no site's status", where=path, remedy="remove it") from None


class SiteNode:
    """One site's process. `serve` works until asked to end."""

    def __init__(
        self, site: SiteFolder, table: Path, app: ClientApp, *, on_line: Callable[[bool], None] = lambda _: None
    ) -> None:
        """Prepare; `on_line` hears whether the site is connected, when that changes. Raises InputError."""
        self._site = site
        self._app = app
        self._folder = site.folder / NODE
        self._approvals = Approvals(site.folder)
        self._contexts = Contexts(site.folder)
        self._config: dict[str, str] = {
            TABLE_KEY: str(table.absolute()),
            KEYS_KEY: str(site.folder),
            LEDGER_KEY: str(site.ledger),
            WITNESS_KEY: str(site.witness),
        }
        self._runs: dict[int, Run] = {}
        self._told = on_line
        self._stop = threading.Event()
        self._status = NodeStatus(_now(), os.getpid())
        self._rotated = False

    def serve(self) -> None:
        """Answer the coordinator until SIGTERM or SIGINT. Raises TurnedAway, and RunError where one serves already."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        lock = lock_of(self._folder)
        if lock is None:
            raise RunError("this site is running already", where=self._site.folder, remedy="see `djms client status`")
        try:
            self._contexts.forget_old()
            import_module(_HEAVY)  # seconds that the first round would wait for
            while self._connected():
                _LOG.info("new keys are in use; connecting with them")
        except (KeyboardInterrupt, Stopped):
            _LOG.info("asked to end")
        finally:
            self._say(connected=False)
            lock.release()

    def _connected(self) -> bool:
        """Serve over one connection; returns whether to connect again, with new keys."""
        site = self._site
        self._rotated = False
        fleet = Fleet(
            site.membership().address, site.ca.read_bytes(), site.node_key.read_bytes(), self._stop, self._on_line
        )
        _LOG.info("connecting to %s", site.membership().address)
        try:
            node = fleet.enter(self._former())
            with atomic_path(self._folder / _NODE_FILE) as path:
                path.write_text(json.dumps({"node": node, "key": self._key_name()}) + "\n", encoding="utf-8")
            while not self._rotated:
                received = self._next(fleet)
                if received is None:
                    time.sleep(POLL_SECONDS)
                else:
                    self._serve_one(fleet, received, node)
        finally:
            fleet.close()
        return True

    def _next(self, fleet: Fleet) -> Received | None:
        try:
            return fleet.receive()
        except RunOver:
            return None
        except ObjectPullError as error:
            _LOG.warning("a message could not be fetched (%s); the coordinator will miss its answer", error)
            return None

    def _serve_one(self, fleet: Fleet, received: Received, node: int) -> None:
        started = time.monotonic()
        message = received.message
        try:
            run = self._run(fleet, received.flower_run)
            reply = self._answer(fleet, run, message, node)
            fleet.send(reply, received.flower_run, time.monotonic() - started)
        except RunOver:
            _LOG.info("a run is over; its last message needs no answer")
            return
        except ObjectPushError as error:
            _LOG.warning("an answer did not reach the coordinator (%s)", error)
            return
        self._status = replace(
            self._status,
            last_run=RunTerms.from_config(run.override_config).run,
            last_message=message.metadata.message_type,
            last_answered=_now(),
            last_refusal=_refusal_in(reply),
        )
        self._write_status()

    def _run(self, fleet: Fleet, flower_run: int) -> Run:
        if flower_run not in self._runs:
            self._runs = {flower_run: fleet.run(flower_run)}
        return self._runs[flower_run]

    def _answer(self, fleet: Fleet, run: Run, message: Message, node: int) -> Message:
        """The application's answer, or a refusal."""
        try:
            self._admit(fleet, run)
            key = str(run.run_id)
            context = Context(
                run.run_id, node, dict(self._config), self._contexts.state(key), dict(run.override_config)
            )
        except DjmsError as error:
            _LOG.warning("refused: %s", error)
            return refusal(message, self._site.name, error)
        try:
            reply = self._app(message, context)
        except Exception as error:  # noqa: BLE001 - its text may quote a record, and must stay at the site
            _LOG.exception("the site's application failed")
            reason = f"{self._site.name}'s application failed with {type(error).__name__}; see its own log"
            return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)
        self._contexts.keep(key, context.state)
        return reply

    def _admit(self, fleet: Fleet, run: Run) -> None:
        """Raise a DjmsError unless this site takes part in the run."""
        terms = RunTerms.from_config(run.override_config)
        terms.require_version()
        try:
            self._approvals.require(run.fab_hash)
        except BundleRefused:
            bundle = Bundle.of(fleet.bundle(run), terms.djms)
            if bundle.sha256 == run.fab_hash:
                self._approvals.note_offered(bundle)
            raise
        if self._site.accept(terms.edition).rotated:
            self._rotated = True

    def _former(self) -> int | None:
        """The id that this site had at the server with the same key, where it ran before."""
        path = self._folder / _NODE_FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return int(content["node"]) if content["key"] == self._key_name() else None
        except (ValueError, KeyError, TypeError):
            raise InputError("it is no note of a node's id", where=path, remedy="remove it") from None

    def _key_name(self) -> str:
        return self._site.keys().public.fingerprint(self._site.name)

    def _on_line(self, connected: bool) -> None:
        if connected != self._status.connected:
            _LOG.info("connected to the coordinator" if connected else "the coordinator cannot be reached; trying on")
            self._say(connected=connected)

    def _say(self, *, connected: bool) -> None:
        self._status = replace(self._status, connected=connected, changed=_now())
        self._write_status()
        self._told(connected)

    def _write_status(self) -> None:
        with atomic_path(self._folder / _STATUS_FILE) as path:
            path.write_text(json.dumps(asdict(self._status), indent=2) + "\n", encoding="utf-8")


def is_running(folder: Path) -> bool:
    """Whether a process serves the site in `folder` now."""
    if not (folder / NODE).is_dir():
        return False
    lock = lock_of(folder / NODE)
    if lock is not None:
        lock.release()
    return lock is None


def _refusal_in(reply: Message) -> str:
    if reply.has_error():
        return str(reply.error.reason or "")
    record = reply.content.config_records.get(names.SITE)
    return "" if record is None else str(record.get(names.REFUSAL_KEY, ""))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
