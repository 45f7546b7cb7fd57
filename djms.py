"""The front door: the `djms` command. It hands each sub-command to the room that owns it and knows nothing else."""

from __future__ import annotations

import os
import signal
import sys

import typer

from common.cli import INTERRUPTED, new_group, run


def build() -> typer.Typer:
    """The whole command line, one group per room."""
    from client.cli import app as client_app
    from common.config_cli import app as config_app
    from common.health_cli import register as register_health
    from data.cli import app as data_app
    from federation.anchor_cli import app as anchor_app
    from federation.cli import register as register_federation
    from federation.exchange_cli import app as exchange_app
    from federation.privacy_cli import app as privacy_app
    from server.cli import app as server_app

    app = new_group("DJMS: employment offices train one matching model together without pooling their records.")
    register_federation(app)
    register_health(app)
    app.add_typer(anchor_app, name="anchor")
    app.add_typer(client_app, name="client")
    app.add_typer(config_app, name="config")
    app.add_typer(data_app, name="data")
    app.add_typer(exchange_app, name="exchange")
    app.add_typer(privacy_app, name="privacy")
    app.add_typer(server_app, name="server")
    return app


def _health_alone() -> typer.Typer:
    """The one command that is asked every half minute, without importing the others."""
    from common.health_cli import alone

    return alone()


def main() -> None:
    """Run the command line and leave with its exit code. Asked to end, it ends as if interrupted: in good order."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = run(_health_alone() if sys.argv[1:2] == ["health"] else build())
    if code == INTERRUPTED:  # libraries' threads may still wait for what will not come; everything of ours is closed
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
