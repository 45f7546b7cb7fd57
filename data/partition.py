"""One training table per office: what a federation on one machine trains on.

A person belongs to one office, so the tables are disjoint in people. An office of the settings without anybody is an
error, not an empty site; so is an office with people that the settings do not name.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from common.dataset_info import DatasetInfo
from common.errors import InputError
from common.tables import CANDIDATE_ID, COMPANY_ID, OFFICE
from common.training_table import write_training_table


def partition(table: pd.DataFrame, info: DatasetInfo, offices: Collection[str], directory: Path) -> dict[str, Path]:
    """Write `<office>.csv` for each office of the settings; returns their paths by office, in order of name."""
    present = table[OFFICE].astype(str)
    for office in sorted(offices):
        if not (present == office).any():
            raise InputError(
                f"{office} has no people in the tables",
                where=f"settings key 'offices.{office}'",
                remedy="deliver its files, or remove it from the settings",
            )
    others = sorted(set(present) - set(offices))
    if others:
        raise InputError(
            f"the tables hold people of {others[0]}, which the settings do not name, so they would be left out",
            where="settings key 'offices'",
            remedy="add the office, or import anew without its files",
        )
    directory.mkdir(parents=True, exist_ok=True)
    DatasetInfo.forget(directory)
    paths = {office: directory / f"{office}.csv" for office in sorted(offices)}
    for office, path in paths.items():
        own = table.loc[present == office].copy()
        for key in (CANDIDATE_ID, COMPANY_ID, OFFICE):
            own[key] = own[key].cat.remove_unused_categories()
        write_training_table(own, path)
    info.write(directory)
    return paths


def find_partition(directory: Path, offices: Collection[str]) -> dict[str, Path]:
    """The tables of the settings' offices in `directory`. Raises InputError where one is missing."""
    paths = {office: directory / f"{office}.csv" for office in sorted(offices)}
    missing = [office for office, path in paths.items() if not path.is_file()]
    if missing:
        raise InputError(
            f"there is no training table of {missing[0]}" + (f" and {len(missing) - 1} others" if missing[1:] else ""),
            where=directory,
            remedy="run `djms data partition` first",
        )
    return paths
