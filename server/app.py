"""The coordinator's Flower ServerApp.

In a deployment the run's configuration has a name, and the coordinator's disk what to do; a simulation hands its job to
`create_app`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import DjmsError, InputError
from common.files import atomic_path
from server.job import RUNS_VARIABLE, Job
from server.rounds import run

ERROR_FILE = "error.json"
"""In the output folder of a run that failed: the one sentence that says why."""


def create_app(job: Job | None = None) -> ServerApp:
    """The ServerApp that runs `job`, or the one that the run's configuration describes."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        todo = job if job is not None else replace(_written(context), bundle_sha256=grid.run.fab_hash or None)
        try:
            run(grid, todo)
        except DjmsError as error:
            _write_error(todo, str(error))
            raise
        except Exception as error:
            _write_error(todo, f"the coordinator's application failed with {type(error).__name__}; see the run's log.")
            raise

    return app


def _written(context: Context) -> Job:
    """The job that the run's configuration names, from the coordinator's own disk. Raises InputError."""
    runs, run = os.environ.get(RUNS_VARIABLE), str(context.run_config.get("run", ""))
    if runs is None or not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", run):
        raise InputError(
            "the run's configuration does not name a run of this coordinator",
            where="run configuration",
            remedy="start the run with `djms server submit`",
        )
    return Job.read(Path(runs), run)


def _write_error(job: Job, sentence: str) -> None:
    with atomic_path(job.output / ERROR_FILE) as path:
        path.write_text(json.dumps({"error": sentence}) + "\n", encoding="utf-8")


app = create_app()
