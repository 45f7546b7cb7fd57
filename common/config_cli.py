"""`djms config`: what the settings are, and whether they are valid."""

from __future__ import annotations

import typer
import yaml

from common.cli import DjmsCommand, new_group, settings_of
from common.report import Report

app = new_group("Show and check the settings.")


@app.command(cls=DjmsCommand)
def show(context: typer.Context) -> Report:
    """Every setting in force: command line, then environment, then settings file, then default."""
    values = settings_of(context).model_dump(mode="json")
    return Report(values, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip())


@app.command(cls=DjmsCommand)
def check(context: typer.Context) -> Report:
    """Check the settings; exit code 1 and one sentence when something does not fit."""
    settings_of(context)
    return Report({"valid": True}, "The settings are valid.")
