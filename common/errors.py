"""What DJMS says when it cannot go on.

Every error an operator may see tells three things: what happened, to what (file, row, key), and what to do next.
It never carries a person's data: for a candidate's table it names the row and the column, not the value.

Two families, one exit code each:

* `InputError` (exit 1): settings or input are wrong; nothing was started and nothing was written.
* `RunError` (exit 2): everything was in order and it failed while running.
"""

from __future__ import annotations

from pathlib import Path


class DjmsError(Exception):
    """An error with a remedy. `exit_code` is what the `djms` command returns for it."""

    exit_code = 2

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str) -> None:
        """`what` happened, `where` (a file, a row, a settings key), and the `remedy`: one sentence in all.

        Each part is written without a closing full stop; `where` stands before `what` and is closed by a colon.
        """
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        """One sentence: where, what, remedy."""
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}; {self.remedy}."

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling (worker processes hand exceptions back to their parent)."""
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(kind: type[DjmsError], what: str, where: str | None, remedy: str) -> DjmsError:
    return kind(what, where=where, remedy=remedy)


class InputError(DjmsError):
    """Settings, flags or input files are wrong (exit code 1)."""

    exit_code = 1


class RunError(DjmsError):
    """The run was well formed and failed while running (exit code 2)."""

    exit_code = 2


def row_place(path: Path, row: int | None = None, column: str | None = None) -> str:
    """`file, row 12, column 'X'`; `row` is the line of the file as a spreadsheet shows it (the header is row 1)."""
    parts = [str(path)]
    if row is not None:
        parts.append(f"row {row}")
    if column is not None:
        parts.append(f"column '{column}'")
    return ", ".join(parts)
