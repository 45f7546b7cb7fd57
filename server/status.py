"""What `djms server status` shows: who is connected, which run is going, whom it waits for, and what is to be done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.control import FINISHED, FlowerRun, Node, ServerNotRunning
from server.coordinator import control_of
from server.federation_folder import FederationFolder

ONLINE = "online"


@dataclass(frozen=True)
class SiteState:
    """One member: whether it is connected."""

    name: str
    connected: bool


@dataclass(frozen=True)
class Status:
    """One look at the coordinator."""

    federation: str
    address: str
    running: bool
    sites: tuple[SiteState, ...]
    runs: tuple[dict[str, Any], ...]
    todo: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return asdict(self)


def status_of(federation: FederationFolder, now: datetime) -> Status:
    """Look at the server, if it runs, and at the runs on disk."""
    todo = list(federation.warnings(now))
    nodes: list[Node] = []
    runs: list[FlowerRun] = []
    running = True
    try:
        control = control_of(federation)
        nodes, runs = control.nodes(), control.runs()
    except ServerNotRunning as error:
        running = False
        todo.insert(0, f"{error.what.capitalize()}: {error.remedy}")
    online = {node.name for node in nodes if node.status == ONLINE}
    sites = tuple(SiteState(one.name, one.name in online) for one in federation.members())
    return Status(
        federation.file.name,
        federation.file.address,
        running,
        sites,
        tuple(_run(one) for one in runs),
        tuple(todo),
    )


def _run(run: FlowerRun) -> dict[str, Any]:
    return {
        "run": run.name,
        "status": run.outcome if run.status == FINISHED else run.status,
        "details": run.details,
    }


def status_text(status: Status) -> RenderableType:
    """One screen."""
    head = Text.assemble((f"{status.federation}", "bold"), f", {status.address}\n")
    head.append("The server runs.\n" if status.running else "The server does not run.\n")
    table = Table(box=None, pad_edge=False)
    table.add_column("site")
    table.add_column("state")
    for site in status.sites:
        table.add_row(site.name, "connected" if site.connected else "not connected")
    parts: list[RenderableType] = [head, table]
    if status.runs:
        runs = Table(box=None, pad_edge=False)
        for column in ("run", "state"):
            runs.add_column(column)
        for run in status.runs[:5]:
            runs.add_row(run["run"], run["status"])
        parts += [Text(""), runs]
    if status.todo:
        parts.append(Text("".join(f"\n! {one}." for one in status.todo)))
    return Group(*parts)
