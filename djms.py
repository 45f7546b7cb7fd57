"""The front door: the `djms` command. It hands each sub-command to the room that owns it and knows nothing else."""

from __future__ import annotations

import sys

import typer

from common.cli import new_group, run


def build() -> typer.Typer:
    """The whole command line, one group per room."""
    from common.config_cli import app as config_app

    app = new_group("DJMS: employment offices train one matching model together without pooling their records.")
    app.add_typer(config_app, name="config")
    return app


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(build()))


if __name__ == "__main__":
    main()
