"""Progress on standard error: a bar for what takes time, nothing when nobody is watching."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[], None]


class Steps:
    """The steps of a command, one bar each."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """A step with `total` parts (None: it only takes a while); yields the function that says one part is done."""
        task = self._progress.add_task(title, total=total)
        yield lambda: self._progress.advance(task)
        done = 1 if total is None else total
        self._progress.update(task, total=done, completed=done)


@contextmanager
def progress_bars() -> Iterator[Steps]:
    """Bars on standard error while the block runs; they stay on screen when it ends."""
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Steps(progress)
