"""The end of a round that is not the end of the run."""

from __future__ import annotations

from common.errors import RunError


class RoundAbandoned(RunError):
    """A round that could not be finished: the model stays as it was, nothing of the round is used, the run goes on.

    `sites` is how many had replied with a result. `what` is kept on one line, with whatever words of sites it quotes:
    it stands in the run's history.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str, sites: int = 0) -> None:
        super().__init__(" ".join(what.split()), where=where, remedy=remedy)
        self.sites = sites
