"""`djms health`: whether a server or a site that was started with `--health` is well, for containers and monitoring."""

from __future__ import annotations

from typing import Annotated

import typer

from common.cli import DjmsCommand, new_group
from common.report import Report


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("health", cls=DjmsCommand)(health)


def alone() -> typer.Typer:
    """A command line of this command only: containers ask every half minute, and the others take seconds to import."""
    app = new_group("DJMS.")
    app.callback()(lambda: None)  # so that the command keeps its name
    register(app)
    return app


def health(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="What was given to --health.")],
    timeout: Annotated[float, typer.Option(min=0.1, max=600.0, help="Seconds to wait for an answer.")] = 5.0,
) -> Report:
    """Ask a server or a site on this machine whether it is well; exit code 1 and one sentence when it is not."""
    from common.health import check

    check(address, timeout)
    return Report({"address": address, "serving": True}, f"{address} is serving.")
