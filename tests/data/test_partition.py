"""One table per office: nobody twice, nobody left out, and no office without anybody."""

import numpy as np
import pandas as pd
import pytest

from common.dataset_info import DatasetInfo
from common.errors import InputError
from common.settings import Settings
from common.tables import CANDIDATE_ID, COMPANY_ID, KEY_COLUMNS, OFFICE
from common.training_table import read_training_table
from data.generator import generate, write_raw
from data.partition import find_partition, partition
from data.preparation import prepare, raw_files_of

SETTINGS = Settings.model_validate({"data": {"pairs_per_candidate": 4}})
INFO = DatasetInfo("rule", True)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    directory = tmp_path_factory.mktemp("raw")
    write_raw(generate(candidates=80, companies=40, seed=5), directory)
    return prepare(raw_files_of(SETTINGS, directory), SETTINGS).table


def rows_of(frame):
    """The rows of a table as a sorted list of texts, one per row."""
    return sorted(frame.astype(str).agg("|".join, axis=1))


def test_the_offices_tables_hold_every_row_once(table, tmp_path):
    paths = partition(table, INFO, SETTINGS.offices, tmp_path)
    assert list(paths) == sorted(SETTINGS.offices)
    parts = {office: read_training_table(path) for office, path in paths.items()}
    for office, part in parts.items():
        assert set(part[OFFICE].astype(str)) == {office}
    assert rows_of(pd.concat([part.astype({key: str for key in KEY_COLUMNS}) for part in parts.values()])) == rows_of(
        table
    )


def test_nobody_is_in_two_offices(table, tmp_path):
    parts = [read_training_table(path) for path in partition(table, INFO, SETTINGS.offices, tmp_path).values()]
    people = [set(part[CANDIDATE_ID].astype(str)) for part in parts]
    assert sum(map(len, people)) == len(set().union(*people)) == 80


def test_an_offices_table_names_no_person_or_company_of_another(table, tmp_path):
    """Neither in its rows nor among the categories of its columns."""
    paths = partition(table, INFO, SETTINGS.offices, tmp_path)
    for office, path in paths.items():
        text = path.read_text(encoding="utf-8")
        own = table[table[OFFICE] == office]
        for key in (CANDIDATE_ID, COMPANY_ID):
            others = set(table[key].astype(str)) - set(own[key].astype(str))
            assert others
            assert not any(name in text for name in others)


def test_the_same_identifier_in_two_offices_stays_two_people(table, tmp_path):
    alike = table.copy()
    alike[CANDIDATE_ID] = pd.Categorical([f"P{number % 4}" for number in range(len(alike))])
    parts = [read_training_table(path) for path in partition(alike, INFO, SETTINGS.offices, tmp_path).values()]
    assert sum(map(len, parts)) == len(alike)
    assert all(set(part[CANDIDATE_ID].astype(str)) == {"P0", "P1", "P2", "P3"} for part in parts)


def test_partitioning_is_deterministic_and_leaves_the_table_as_it_was(table, tmp_path):
    before = table.copy(deep=True)
    one = partition(table, INFO, SETTINGS.offices, tmp_path / "one")
    other = partition(table, INFO, dict(reversed(SETTINGS.offices.items())), tmp_path / "other")
    pd.testing.assert_frame_equal(table, before)
    assert list(one) == list(other)
    for office, path in one.items():
        assert path.read_bytes() == other[office].read_bytes()


def test_an_office_without_people_is_refused_before_anything_is_written(table, tmp_path):
    offices = [*SETTINGS.offices, "CPI_Belluno"]
    with pytest.raises(InputError, match="CPI_Belluno") as caught:
        partition(table, INFO, offices, tmp_path / "out")
    assert caught.value.where == "settings key 'offices.CPI_Belluno'"
    assert not (tmp_path / "out").exists()


def test_people_of_an_office_that_the_settings_do_not_name_are_not_left_out_in_silence(table, tmp_path):
    with pytest.raises(InputError, match="CPI_Verona") as caught:
        partition(table, INFO, [office for office in SETTINGS.offices if office != "CPI_Verona"], tmp_path / "out")
    assert "offices" in caught.value.where
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("info", [INFO, DatasetInfo("outcomes", False)])
def test_where_the_labels_come_from_travels_with_the_tables(table, tmp_path, info):
    partition(table, info, SETTINGS.offices, tmp_path)
    assert DatasetInfo.read(tmp_path) == info


def test_a_partition_is_found_again_and_a_missing_table_is_named(table, tmp_path):
    paths = partition(table, INFO, SETTINGS.offices, tmp_path)
    assert find_partition(tmp_path, SETTINGS.offices) == paths
    paths["CPI_Padova"].unlink()
    paths["CPI_Venezia"].unlink()
    with pytest.raises(InputError, match="CPI_Padova and 1 others"):
        find_partition(tmp_path, SETTINGS.offices)
    with pytest.raises(InputError, match="CPI_Padova"):
        find_partition(tmp_path / "nowhere", SETTINGS.offices)


def test_tables_are_their_offices_only(table, tmp_path):
    for path in partition(table, INFO, SETTINGS.offices, tmp_path).values():
        assert path.stat().st_mode & 0o077 == 0
        assert np.isfinite(read_training_table(path)["attitude_score"]).all()
