"""What a site remembers of a run outlives its process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, RecordDict

from client.contexts import Contexts
from common.errors import InputError


def remembered(value: bytes) -> RecordDict:
    return RecordDict({"session": ConfigRecord({"sealed": value, "slot": 7})})


def test_what_is_kept_is_there_for_another_process_and_for_that_run_only(tmp_path: Path) -> None:
    Contexts(tmp_path).keep("1", remembered(b"\x00\xff"))
    again = Contexts(tmp_path)
    assert again.state("1") == remembered(b"\x00\xff")
    assert not again.state("2")


def test_the_last_state_stands_and_is_its_owners_alone(tmp_path: Path) -> None:
    contexts = Contexts(tmp_path)
    for value in (b"a", b"b"):
        contexts.keep("1", remembered(value))
    assert contexts.state("1") == remembered(b"b")
    (path,) = (tmp_path / "runs").iterdir()
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_damaged_state_is_never_taken_for_an_empty_one(tmp_path: Path) -> None:
    Contexts(tmp_path).keep("1", remembered(b"a"))
    (path,) = (tmp_path / "runs").iterdir()
    path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(InputError, match="damaged"):
        Contexts(tmp_path).state("1")


@pytest.mark.parametrize("run", ["", "../x", "a/b", "a" * 101])
def test_a_name_that_is_none_leads_nowhere(tmp_path: Path, run: str) -> None:
    with pytest.raises(InputError):
        Contexts(tmp_path).keep(run, remembered(b"a"))


def test_states_that_nobody_touched_for_a_year_are_removed(tmp_path: Path) -> None:
    contexts = Contexts(tmp_path)
    for run in ("old", "new"):
        contexts.keep(run, remembered(b"a"))
    past = time.time() - 366 * 86400
    os.utime(tmp_path / "runs" / "old.context", (past, past))
    contexts.forget_old()
    assert not contexts.state("old")
    assert contexts.state("new")
