"""The training table's file: what comes back is what was written, and what is refused is named without its content."""

import os
import re
import stat
import traceback

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.files import atomic_path
from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    FEATURE_COLUMNS,
    KEY_COLUMNS,
    MATCH_PROBABILITY,
    NUMERIC_COLUMNS,
    OFFICE,
    ONE_HOT_COLUMNS,
    OUTCOME,
    TRAINING_COLUMNS,
)
from common.training_table import read_training_table, write_training_table

SECRET = "INVENTED-PERSON-17"
AWKWARD = [
    "007",
    "7",
    "NA",
    "null",
    "nan",
    "",
    "1e5",
    "-0",
    "True",
    "è, «ù»",
    'Bar "Da Ugo", S.r.l.',
    "'",
    "=1+1",
    "  x ",
]


def table_of(people, companies=None, *, seed=1, probability=False):
    """A table with one row per person, random values and some of them missing."""
    rows = len(people)
    rng = np.random.default_rng(seed)
    columns = {
        CANDIDATE_ID: pd.Categorical(people),
        COMPANY_ID: pd.Categorical(companies or [f"Ditta {row}" for row in range(rows)]),
        OFFICE: pd.Categorical(["CPI_Padova"] * rows),
        OUTCOME: rng.integers(0, 2, rows).astype(np.uint8),
    }
    for name in NUMERIC_COLUMNS:
        values = rng.random(rows, dtype=np.float32)
        columns[name] = np.where(rng.random(rows) < 0.3, np.float32("nan"), values)
    for name in ONE_HOT_COLUMNS:
        columns[name] = rng.integers(0, 2, rows).astype(np.uint8)
    table = pd.DataFrame(columns)
    return table.assign(**{MATCH_PROBABILITY: rng.random(rows, dtype=np.float32)}) if probability else table


def same(found, written):
    assert list(found.columns) == list(written.columns)
    for name in written.columns:
        if name in KEY_COLUMNS:
            assert isinstance(found[name].dtype, pd.CategoricalDtype)
            assert found[name].astype(str).tolist() == written[name].astype(str).tolist()
        else:
            assert found[name].dtype == written[name].dtype
            np.testing.assert_array_equal(found[name].to_numpy(), written[name].to_numpy())


@pytest.mark.parametrize("probability", [False, True])
def test_a_table_comes_back_bit_for_bit_with_its_types(tmp_path, probability):
    table = table_of([f"C{row}" for row in range(200)], probability=probability)
    path = tmp_path / "table.csv"
    write_training_table(table, path)
    found = read_training_table(path)
    same(found, table)
    assert {found[name].dtype.name for name in NUMERIC_COLUMNS} == {"float32"}
    assert {found[name].dtype.name for name in (OUTCOME, *ONE_HOT_COLUMNS)} == {"uint8"}


def test_awkward_names_come_back_as_the_text_they_are(tmp_path):
    table = table_of(AWKWARD, list(reversed(AWKWARD)))
    write_training_table(table, tmp_path / "table.csv")
    same(read_training_table(tmp_path / "table.csv"), table)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), min_size=1, max_size=6))
def test_any_text_is_a_name(tmp_path_factory, names):
    """A name may hold line breaks: a quoted cell of an office's export may."""
    path = tmp_path_factory.mktemp("names") / "table.csv"
    table = table_of(names, list(reversed(names)))
    write_training_table(table, path)
    same(read_training_table(path), table)


def test_line_breaks_in_names_survive_in_a_file_that_is_read_in_several_blocks(tmp_path):
    table = table_of([f"C{row}" for row in range(12_000)], [f"Ditta\n{row}" for row in range(12_000)])
    write_training_table(table, tmp_path / "table.csv")
    assert (tmp_path / "table.csv").stat().st_size > 1.5 * 2**20
    same(read_training_table(tmp_path / "table.csv"), table)


def test_columns_are_written_in_the_contracts_order_and_others_left_out(tmp_path):
    table = table_of(["a", "b"], probability=True)
    shuffled = table[list(reversed(table.columns))].assign(note="private")
    write_training_table(shuffled, tmp_path / "table.csv")
    header = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.replace('"', "").split(",") == [*TRAINING_COLUMNS, MATCH_PROBABILITY]


def test_the_file_is_csv_that_pandas_reads_alike(tmp_path):
    table = table_of(["007", 'a "b", c', "è"])
    write_training_table(table, tmp_path / "table.csv")
    found = pd.read_csv(tmp_path / "table.csv", dtype=dict.fromkeys(KEY_COLUMNS, str), keep_default_na=True)
    assert found[CANDIDATE_ID].tolist() == ["007", 'a "b", c', "è"]
    np.testing.assert_allclose(found[list(FEATURE_COLUMNS)], table[list(FEATURE_COLUMNS)], rtol=1e-6)


def test_the_file_is_its_owners_only_whatever_stood_there_before(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o666)
    before = os.umask(0)
    try:
        write_training_table(table_of(["a"]), path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def write_half(path, error):
    """A writer that is stopped by `error` half-way; until then whatever stood at `path` stands there still."""
    before = path.read_bytes() if path.exists() else None
    with atomic_path(path) as temporary:
        temporary.write_text("half of a ta", encoding="utf-8")
        assert (path.read_bytes() if path.exists() else None) == before
        raise error


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "table.csv"
    write_training_table(table_of(["old"]), path)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_half(path, ZeroDivisionError())
    with pytest.raises(KeyError):
        write_training_table(table_of(["new"]).drop(columns="distance_km"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_first_writing_leaves_no_file(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    with pytest.raises(KeyboardInterrupt):
        write_half(path, KeyboardInterrupt())
    assert list(path.parent.iterdir()) == []


def test_the_temporary_file_is_private_and_beside_the_target_from_the_start(tmp_path):
    with atomic_path(tmp_path / "table.csv") as temporary:
        assert temporary.parent == tmp_path
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        assert temporary.name.startswith(".")


@pytest.fixture
def lines(tmp_path):
    """A good table's lines, as lists of cells, and a function that writes them and gives the refusal."""
    path = tmp_path / "table.csv"
    write_training_table(table_of(["a", SECRET, "c"], ["Ditta 1", "Ditta 2", "Ditta 3"], probability=True), path)
    cells = [[cell.strip('"') for cell in line.split(",")] for line in path.read_text(encoding="utf-8").splitlines()]

    def refuse():
        path.write_text("\n".join(",".join(row) for row in cells) + "\n", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            read_training_table(path)
        shown = "".join(traceback.format_exception(caught.value))
        assert str(path) in caught.value.where
        assert SECRET not in shown
        return str(caught.value), shown

    return cells, refuse


def test_the_lines_these_tests_change_make_a_good_table(lines, tmp_path):
    cells, _ = lines
    (tmp_path / "again.csv").write_text("\n".join(",".join(row) for row in cells), encoding="utf-8")
    assert read_training_table(tmp_path / "again.csv")[CANDIDATE_ID].astype(str).tolist() == ["a", SECRET, "c"]


@pytest.mark.parametrize("name", TRAINING_COLUMNS)
def test_a_missing_column_is_refused_by_name(lines, name):
    cells, refuse = lines
    position = cells[0].index(name)
    for row in cells:
        del row[position]
    assert f"'{name}'" in refuse()[0]


OUT_OF_RANGE = {
    **{name: ["-0.515625", "2001.5"] for name in NUMERIC_COLUMNS if name != "retention_rate"},
    "retention_rate": ["-0.515625"],
    OUTCOME: ["2", "17"],
    "edu_diploma": ["2"],
    "dis_altro": ["255"],
    MATCH_PROBABILITY: ["1.0625", "-0.515625"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_value_out_of_range_is_refused_by_row_and_column_and_not_shown(lines, name, value):
    cells, refuse = lines
    cells[2][cells[0].index(name)] = value
    sentence, shown = refuse()
    assert f"'{name}'" in sentence
    assert "row 3" in sentence
    if len(value) > 2:
        assert value not in shown


@pytest.mark.parametrize("name", [*NUMERIC_COLUMNS, OUTCOME, "edu_diploma", MATCH_PROBABILITY])
@pytest.mark.parametrize("value", ["sconosciuto", "0;5", "12:30", "1.234.567"])
def test_text_in_a_column_of_numbers_is_refused_and_not_shown(lines, name, value):
    cells, refuse = lines
    cells[2][cells[0].index(name)] = value
    sentence, shown = refuse()
    assert value not in shown
    assert re.search(r"column|format", sentence)


@pytest.mark.parametrize("name", [OUTCOME, "edu_diploma", "sector_it"])
@pytest.mark.parametrize("value", ["", "0.5", "-1", "256", "NA"])
def test_a_column_of_zeros_and_ones_takes_nothing_else(lines, name, value):
    cells, refuse = lines
    cells[2][cells[0].index(name)] = value
    refuse()


@pytest.mark.parametrize("name", NUMERIC_COLUMNS)
def test_a_blank_number_is_a_missing_value(lines, name, tmp_path):
    cells, _ = lines
    cells[2][cells[0].index(name)] = ""
    (tmp_path / "again.csv").write_text("\n".join(",".join(row) for row in cells), encoding="utf-8")
    assert np.isnan(read_training_table(tmp_path / "again.csv")[name].iloc[1])


def test_a_row_with_a_cell_too_many_is_refused(lines):
    cells, refuse = lines
    cells[2].append("more")
    refuse()


def test_a_column_that_stands_twice_is_refused(lines):
    cells, refuse = lines
    for row in cells:
        row.append(row[cells[0].index("distance_km")])
    refuse()


def test_a_table_without_rows_is_refused(lines):
    cells, refuse = lines
    del cells[1:]
    assert "no rows" in refuse()[0]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00\x01", bytes(100), f"{SECRET}".encode()])
def test_a_file_that_is_no_table_is_refused_and_not_shown(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_training_table(path)
    assert str(path) in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_name_that_is_not_utf8_is_refused(lines, tmp_path):
    cells, _ = lines
    path = tmp_path / "latin.csv"
    cells[2][1] = "città"
    path.write_bytes("\n".join(",".join(row) for row in cells).encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read_training_table(path)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_table_that_is_not_there_is_refused_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError, match="djms data import"):
        read_training_table(tmp_path / "table.csv")
    with pytest.raises(InputError):
        read_training_table(tmp_path)
