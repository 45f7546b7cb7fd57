"""`djms anchor`: the log of what was trained, as its operator, a site and an auditor use it."""

from __future__ import annotations

from common.cli import new_group

app = new_group("The append-only log of what was trained: make it, prove from it, check it.")


@app.callback()
def group() -> None:
    """The append-only log of what was trained: make it, prove from it, check it."""
