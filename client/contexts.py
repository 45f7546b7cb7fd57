"""What a site remembers of a run between messages, kept on its own disk, so that a restart forgets nothing.

    runs/<run>.context     Flower's `context.state`, as bytes

The state holds which slots of secure aggregation were answered: a site that forgot it could be asked twice. It is
durable before the answer that goes with it leaves the site. What is secret in it is sealed by whoever puts it there
(`client.secure_aggregation`), and the file is its owner's alone.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from google.protobuf.message import DecodeError

from common.errors import InputError
from common.files import atomic_path

_FOLDER, _SUFFIX = "runs", ".context"
_KEPT_SECONDS = 365 * 86400.0


class Contexts:
    """The remembered states of a site's runs, by run; one process at a time uses them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FOLDER

    def state(self, run: str) -> RecordDict:
        """What was kept for the run, empty before the first. Raises InputError for a damaged file."""
        path = self._path(run)
        if not path.is_file():
            return RecordDict()
        try:
            return recorddict_from_proto(RecordDictProto.FromString(path.read_bytes()))
        except (DecodeError, ValueError):
            raise InputError(
                "what this site remembers of the run is damaged",
                where=path,
                remedy="remove the file only when that run is over: the site would forget what it answered",
            ) from None

    def keep(self, run: str, state: RecordDict) -> None:
        """Put the state of the run on disk, in place of what was there."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_path(self._path(run)) as path:
            path.write_bytes(recorddict_to_proto(state).SerializeToString())

    def forget_old(self) -> None:
        """Remove states that nothing was added to for a year."""
        oldest = time.time() - _KEPT_SECONDS
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def _path(self, run: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", run):
            raise InputError("the run's name is none", where="run", remedy="start the run with DJMS")
        return self._folder / f"{run}{_SUFFIX}"
