"""Work measured in turns: whatever else the machine does meets all that is compared.

Of each work the least seconds count. Other processes can make a turn longer than the work takes, and nothing can make
it shorter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TypeAlias

Timed: TypeAlias = Callable[[], float]
"""Does a piece of work and gives the seconds that count."""


def least(turns: int, *works: Timed) -> list[float]:
    """The least seconds of each work; in each turn they are done one after the other."""
    taken = [[work() for work in works] for _ in range(turns)]
    return [min(seconds) for seconds in zip(*taken, strict=True)]


def on_processor(work: Callable[[], object]) -> Timed:
    """The work, of which this process's processor time counts."""

    def timed() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return timed


def in_steps(steps: Iterable[Sequence[Callable[[], object]]]) -> list[float]:
    """The processor time of several works that are cut into steps: of each step, one work comes after the other."""
    taken = [[on_processor(work)() for work in works] for works in steps]
    return [sum(seconds) for seconds in zip(*taken, strict=True)]


def in_kept_folder(folder: Path, work: Callable[[Path], float]) -> Timed:
    """The work in a folder of its own below `folder`, which is left there.

    Where thousands of files were removed just before, some file systems make new ones ten times more slowly.
    """
    return lambda: work(Path(mkdtemp(dir=folder)))


def in_new_folder(folder: Path, work: Callable[[Path], float]) -> Timed:
    """The work in a folder of its own below `folder`, which is removed when the seconds are counted."""

    def timed() -> float:
        with TemporaryDirectory(dir=folder, prefix="djms-bench-") as made:
            return work(Path(made))

    return timed


def clock_seconds(work: Callable[[], object]) -> float:
    """The time that the work takes, waiting for a disk included."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
