"""What `djms server status` shows: who is connected, how runs stand, whom one waits for, and what is to be done.

Whether a run is going is the SuperLink's word; how far it came and whom it waits for stand in the coordinator's
database, and where that does not answer, the rest is shown without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.control import FINISHED, FlowerRun, Node, ServerNotRunning
from server.coordinator import control_of
from server.federation_folder import FederationFolder
from server.run_store import RunRecord, RunStore, StoreUnavailable, Waiting

ONLINE = "online"
_MOST_ROUNDS = 5
_LONGEST_REASON = 60


@dataclass(frozen=True)
class SiteState:
    """One member: whether it is connected, and whether the run waits for it now."""

    name: str
    connected: bool
    awaited: bool


@dataclass(frozen=True)
class RunState:
    """One run: `status` is submitted, running, interrupted, stopped, failed or finished."""

    name: str
    status: str
    rounds: int
    done: int
    outcome: str | None
    waiting: Waiting | None
    last: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Status:
    """One look at the coordinator; `run` is the newest one."""

    federation: str
    address: str
    running: bool
    sites: tuple[SiteState, ...]
    run: RunState | None
    todo: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As one JSON object, times in ISO 8601."""
        content = asdict(self)
        if self.run is not None and self.run.waiting is not None:
            content["run"]["waiting"] = {
                **asdict(self.run.waiting),
                "until": self.run.waiting.until.isoformat(timespec="seconds"),
                "missing": self.run.waiting.missing,
            }
        return content


def status_of(federation: FederationFolder, now: datetime) -> Status:
    """Look at the server, if it runs, and at the newest run."""
    todo = list(federation.warnings(now))
    nodes: list[Node] = []
    flower: list[FlowerRun] | None = None
    try:
        control = control_of(federation)
        nodes, flower = control.nodes(), control.runs()
    except ServerNotRunning as error:
        todo.insert(0, f"The server is not running: {error.remedy}")
    run = None
    try:
        with RunStore.open(federation.folder) as store:
            run = _newest(store, flower)
    except StoreUnavailable as error:
        todo.append(f"{error.what[:1].upper()}{error.what[1:]}: {error.remedy}")
    online = {node.name for node in nodes if node.status == ONLINE}
    awaited = set() if run is None or run.waiting is None else set(run.waiting.missing)
    sites = tuple(SiteState(one.name, one.name in online, one.name in awaited) for one in federation.members())
    return Status(
        federation=federation.file.name,
        address=federation.file.address,
        running=flower is not None,
        sites=sites,
        run=run,
        todo=(*_todo(sites, run, now, running=flower is not None), *todo),
    )


def _newest(store: RunStore, flower: Sequence[FlowerRun] | None) -> RunState | None:
    record = next(iter(store.runs()), None)
    if record is None:
        return None
    rows = [{**row, "started": None, "ended": None} for row in store.rounds(record.name)]
    going = flower is not None and any(one.name == record.name and one.status != FINISHED for one in flower)
    return RunState(
        name=record.name,
        status=_status(record, going=going),
        rounds=int(record.settings["federated"]["rounds"]),
        done=len(rows),
        outcome=record.outcome,
        waiting=store.waiting(record.name) if going else None,
        last=tuple(rows[-_MOST_ROUNDS:]),
    )


def _status(record: RunRecord, *, going: bool) -> str:
    """What is written down, unless the run is no more: then nobody could write that it was interrupted."""
    return "interrupted" if record.status in ("submitted", "running") and not going else record.status


def _todo(sites: Sequence[SiteState], run: RunState | None, now: datetime, *, running: bool) -> list[str]:
    """What an operator can do about it now."""
    found = []
    gone = {site.name for site in sites if not site.connected} if running else set()
    waiting = None if run is None else run.waiting
    if waiting is not None:
        left = max(0, round((waiting.until - now).total_seconds()))
        if missed := [name for name in waiting.missing if name in gone]:
            names = ", ".join(missed)
            found.append(f"Ring up {names}: not connected; in {left} s the round goes on without, if enough are there")
            gone -= set(missed)
        if slow := [name for name in waiting.missing if name not in missed]:
            found.append(f"Nothing to do for {left} s: {', '.join(slow)} still at work")
    if gone:
        found.append(f"Not connected: {', '.join(sorted(gone))}; `djms client status` there says why")
    if run is not None and run.status in ("interrupted", "failed", "stopped"):
        found.append(f"The run {run.name} is not finished: `djms server submit --resume {run.name}` goes on with it")
    return found


def status_text(status: Status, now: datetime) -> RenderableType:
    """One screen."""
    state = "The server runs." if status.running else "The server does not run."
    parts: list[RenderableType] = [
        Text.assemble((status.federation, "bold"), f", {status.address}. {state}\n"),
        _sites_table(status),
    ]
    if status.run is not None:
        parts += [Text(""), *_run_parts(status.run, now)]
    if status.todo:
        parts.append(Text("".join(f"\n! {one}." for one in status.todo)))
    return Group(*parts)


def _sites_table(status: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("site", "state", "this round"):
        table.add_column(column)
    waiting = None if status.run is None else status.run.waiting
    for site in status.sites:
        asked = waiting is not None and site.name in waiting.asked
        this = "awaited" if site.awaited else "answered" if asked else "–"
        table.add_row(site.name, "connected" if site.connected else "not connected", this)
    return table


def _run_parts(run: RunState, now: datetime) -> list[RenderableType]:
    head = Text.assemble((f"Run {run.name}", "bold"), f": {run.status}, {run.done} of {run.rounds} rounds done.")
    if run.outcome:
        head.append(f" {run.outcome}")
    if run.waiting is not None:
        where = "after the last round" if run.waiting.round is None else f"round {run.waiting.round}"
        missing = ", ".join(run.waiting.missing) or "nobody any more"
        left = round((run.waiting.until - now).total_seconds())
        head.append(
            f"\nNow {where}, step '{run.waiting.step}': waiting for {missing}, until "
            f"{run.waiting.until.astimezone():%H:%M:%S} ({max(0, left)} s)."
        )
    if not run.last:
        return [head]
    table = Table(box=None, pad_edge=False)
    for column in ("round", "state", "sites", "seconds", "why sites were missing"):
        table.add_column(column, justify="right" if column in ("round", "sites", "seconds") else "left")
    for row in run.last:
        reason = row["reason"] if len(row["reason"]) <= _LONGEST_REASON else f"{row['reason'][:_LONGEST_REASON]}…"
        table.add_row(str(row["round"]), row["status"], str(row["sites"]), f"{row['seconds']:.1f}", reason)
    return [head, Text(""), table]
