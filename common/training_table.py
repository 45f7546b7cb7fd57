"""Reading and writing the training table: one row per candidate-company pair, as CSV.

It is the contract between the data room and a site. What does not keep it is refused by file, row and column; the
table is written to a temporary file first, so that a killed writer leaves the old table or the new one.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pyarrow.csv as arrow_csv

from common.errors import InputError, row_place
from common.files import atomic_path
from common.tables import (
    KEY_COLUMNS,
    MATCH_PROBABILITY,
    NUMERIC_COLUMNS,
    ONE_HOT_COLUMNS,
    OUTCOME,
    TRAINING_COLUMNS,
)

_RANGES = {
    "attitude_score": (0.0, 1.0),
    "years_experience": (0.0, 80.0),
    "unemployment_duration": (0.0, 80.0),
    "compatibility_score": (0.0, 1.0),
    "distance_km": (0.0, 2000.0),
    "company_size": (0.0, 2.0),
    "retention_rate": (0.0, float("inf")),
    "remote_work": (0.0, 1.0),
    "certification": (0.0, 1.0),
}
TRAINING_SCHEMA = pa.DataFrameSchema(
    {
        **{name: pa.Column("float32", pa.Check.in_range(*_RANGES[name]), nullable=True) for name in NUMERIC_COLUMNS},
        **{name: pa.Column("uint8", pa.Check.isin([0, 1])) for name in (OUTCOME, *ONE_HOT_COLUMNS)},
        MATCH_PROBABILITY: pa.Column("float32", pa.Check.in_range(0.0, 1.0), required=False),
    }
)


def write_training_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table atomically, readable by its owner only. Columns are put in the contract's order."""
    extra = [MATCH_PROBABILITY] if MATCH_PROBABILITY in table.columns else []
    columns = {}
    for name in (*TRAINING_COLUMNS, *extra):
        values = arrow.Array.from_pandas(table[name])
        columns[name] = values.cast(arrow.string()) if arrow.types.is_dictionary(values.type) else values
    with atomic_path(path) as temporary:
        arrow_csv.write_csv(arrow.table(columns), temporary)


def read_training_table(path: Path) -> pd.DataFrame:
    """Read and validate a training table.

    Key columns are categorical, numeric columns float32 (NaN: not known), one-hot columns and the outcome uint8.
    Raises InputError when the file is missing, empty, not CSV, or does not keep the contract.
    """
    if not path.is_file():
        raise InputError("the training table does not exist", where=path, remedy="build it with `djms data import`")
    numbers = {name: arrow.float32() for name in (*NUMERIC_COLUMNS, MATCH_PROBABILITY)}
    bits = {name: arrow.uint8() for name in (OUTCOME, *ONE_HOT_COLUMNS)}
    keys = {name: arrow.dictionary(arrow.int32(), arrow.string()) for name in KEY_COLUMNS}
    options = arrow_csv.ConvertOptions(column_types={**numbers, **bits, **keys}, strings_can_be_null=False)
    try:
        lines = arrow_csv.ParseOptions(newlines_in_values=True)  # a name from a quoted cell may hold a line break
        table = arrow_csv.read_csv(path, parse_options=lines, convert_options=options).to_pandas()
    except arrow.ArrowInvalid as error:
        # The library's message quotes the cell; only its position is safe to show.
        place = str(error).partition(":")[0] if str(error).startswith("In CSV column") else "the file"
        raise InputError(
            f"{place} does not keep the training table's format",
            where=path,
            remedy="build it anew with `djms data import`",
        ) from None
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        where = row_place(path, 1, twice if twice in TRAINING_COLUMNS else None)
        raise InputError("a column's name stands twice", where=where, remedy="remove or rename one of them")
    missing = [name for name in TRAINING_COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"column '{missing[0]}' is missing", where=path, remedy="build the table anew with `djms data import`"
        )
    if table.empty:
        raise InputError("the training table has no rows", where=path, remedy="import at least one pair")
    try:
        return TRAINING_SCHEMA.validate(table, lazy=False)
    except pa.errors.SchemaError as error:
        rows = error.failure_cases["index"] if error.failure_cases is not None else [None]
        first = next(iter(rows), None)
        row = int(first) + 2 if first is not None else None
        raise InputError(
            "a value is outside its range",
            where=row_place(path, row, str(error.schema.name)),
            remedy="correct the raw file and build the table anew with `djms data import`",
        ) from None
