"""The coordinator's Flower ServerApp.

In a deployment the run's configuration says what to do; a simulation hands its job to `create_app`.
"""

from __future__ import annotations

import json
from dataclasses import replace

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import DjmsError
from common.files import atomic_path
from server.job import Job
from server.rounds import run

ERROR_FILE = "error.json"
"""In the output folder of a run that failed: the one sentence that says why."""


def create_app(job: Job | None = None) -> ServerApp:
    """The ServerApp that runs `job`, or the one that the run's configuration describes."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        todo = job if job is not None else replace(Job.from_context(context), bundle_sha256=grid.run.fab_hash or None)
        try:
            run(grid, todo)
        except DjmsError as error:
            _write_error(todo, str(error))
            raise
        except Exception as error:
            _write_error(todo, f"the coordinator's application failed with {type(error).__name__}; see the run's log.")
            raise

    return app


def _write_error(job: Job, sentence: str) -> None:
    with atomic_path(job.output / ERROR_FILE) as path:
        path.write_text(json.dumps({"error": sentence}) + "\n", encoding="utf-8")


app = create_app()
