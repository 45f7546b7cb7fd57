"""A site's own people, split into those it trains on and those it does not.

The split follows from each person's id (`common.split`), so it is the same in every round and every run of one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.pair_data import PairData
from common.split import Part, split_people
from common.tables import OFFICE
from common.training_table import read_training_table


@dataclass(frozen=True)
class Site:
    """One office's pairs by part; people of different parts are different people."""

    name: str
    train: PairData
    validation: PairData
    test: PairData

    def of(self, part: Part) -> PairData:
        """The pairs of the people of one part."""
        return (self.train, self.validation, self.test)[part]


def load_site(path: Path, *, seed: int, validation_share: float, test_share: float) -> Site:
    """Read a site's training table and split it.

    Raises InputError when the table is missing or damaged, holds more than one office, has nobody in one of the parts,
    or nobody to learn one of the two outcomes from.
    """
    table = read_training_table(path)
    offices = table[OFFICE].astype(str).unique()
    if len(offices) != 1:
        raise InputError(
            f"the table holds people of {len(offices)} offices, a site has its own only",
            where=path,
            remedy="split it with `djms data partition`",
        )
    part = split_people(table, seed=seed, validation_share=validation_share, test_share=test_share)
    site = Site(str(offices[0]), *(PairData.from_table(_rows(table, part == wanted)) for wanted in Part))
    for name, data in (("train on", site.train), ("choose a threshold with", site.validation), ("test on", site.test)):
        if data.people == 0:
            raise InputError(
                f"{site.name} has too few people: nobody is left to {name}",
                where=path,
                remedy="add people, or change data.validation_share and data.test_share",
            )
    if site.train.outcome.min() == site.train.outcome.max():
        only = "successes" if site.train.outcome[0] == 1 else "failures"
        raise InputError(
            f"{site.name} has {only} only among the pairs it trains on, so there is nothing to tell apart",
            where=path,
            remedy="add pairs with the other outcome, or leave this site out",
        )
    return site


def _rows(table: pd.DataFrame, chosen: object) -> pd.DataFrame:
    return table.loc[chosen]
