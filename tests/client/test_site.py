"""A site: its own people by part, and the tables from which nothing can be learned."""

import numpy as np
import pandas as pd
import pytest
from site_tables import table_of

from client.site import load_site
from common.encoding import encode
from common.errors import InputError
from common.split import Part, split_people
from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    MATCH_PROBABILITY,
    OFFICE,
    OUTCOME,
)
from common.training_table import read_training_table, write_training_table

SHARES = {"seed": 42, "validation_share": 0.25, "test_share": 0.25}


@pytest.fixture
def saved(tmp_path):
    def save(table):
        write_training_table(table, tmp_path / "own.csv")
        return tmp_path / "own.csv"

    return save


def refused(path, **changes):
    with pytest.raises(InputError) as caught:
        load_site(path, **{**SHARES, **changes})
    assert str(path) in str(caught.value)
    assert "INVENTED" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("probability", [True, False])
def test_a_site_holds_each_pair_once_in_the_part_of_its_person(saved, probability):
    path = saved(table_of(probability=probability))
    table = read_training_table(path)
    site = load_site(path, **SHARES)
    part = split_people(table, **SHARES)
    assert site.name == "CPI_Padova"
    for kind, data in ((Part.TRAIN, site.train), (Part.VALIDATION, site.validation), (Part.TEST, site.test)):
        own = table[part == kind]
        assert data.people == own[CANDIDATE_ID].astype(str).nunique() > 0
        # rows are in order of person, and of the file within a person
        ordered = own.iloc[np.argsort(own[CANDIDATE_ID].astype(str).to_numpy(), kind="stable")]
        assert np.array_equal(data.inputs, encode(ordered))
        assert np.array_equal(data.outcome, ordered[OUTCOME].to_numpy(np.float32))
        assert np.array_equal(data.pairs_per_person, [3] * data.people)
        assert (data.probability is None) != probability
        if probability:
            np.testing.assert_array_equal(data.probability, ordered[MATCH_PROBABILITY].to_numpy(np.float64))
    assert len(site.train.outcome) + len(site.validation.outcome) + len(site.test.outcome) == len(table)


def test_a_site_is_the_same_whatever_the_order_of_the_files_rows_of_different_people(saved):
    table = table_of()
    one = load_site(saved(table), **SHARES)
    order = np.argsort(np.random.default_rng(3).random(40)[table[CANDIDATE_ID].cat.codes], kind="stable")
    other = load_site(saved(table.iloc[order]), **SHARES)
    for name in ("train", "validation", "test"):
        assert np.array_equal(getattr(one, name).inputs, getattr(other, name).inputs)
        assert np.array_equal(getattr(one, name).person, getattr(other, name).person)


def test_another_seed_splits_otherwise(saved):
    path = saved(table_of())
    assert not np.array_equal(
        load_site(path, **SHARES).test.inputs, load_site(path, **{**SHARES, "seed": 7}).test.inputs
    )


def test_a_table_of_two_offices_is_refused(saved):
    table = pd.concat([table_of(), table_of(office="CPI_Verona", seed=2)], ignore_index=True)
    for key in (CANDIDATE_ID, COMPANY_ID, OFFICE):
        table[key] = table[key].astype("category")
    error = refused(saved(table))
    assert "2 offices" in error.what
    assert "djms data partition" in error.remedy


@pytest.mark.parametrize(("outcome", "word"), [(0, "failures"), (1, "successes")])
def test_a_site_with_one_kind_of_outcome_among_those_it_trains_on_is_refused(saved, outcome, word):
    table = table_of()
    only = table.assign(**{OUTCOME: np.uint8(outcome)})
    assert word in refused(saved(only)).what
    training = split_people(table, **SHARES) == Part.TRAIN
    mixed = table.assign(**{OUTCOME: np.where(training, outcome, table[OUTCOME]).astype(np.uint8)})
    assert mixed[OUTCOME].nunique() == 2
    assert word in refused(saved(mixed)).what


@pytest.mark.parametrize(
    ("people", "changes", "missing"),
    [
        (40, {"test_share": 0.0}, "test on"),
        (40, {"validation_share": 0.0}, "choose a threshold with"),
        (40, {"validation_share": 0.5, "test_share": 0.5}, "train on"),
    ],
)
def test_a_site_with_nobody_in_one_of_the_parts_is_refused_with_what_is_missing(saved, people, changes, missing):
    error = refused(saved(table_of(people)), **changes)
    assert "too few people" in error.what
    assert missing in error.what


@pytest.mark.parametrize("people", [1, 2])
def test_a_site_with_one_or_two_people_is_refused(saved, people):
    assert "too few people" in refused(saved(table_of(people))).what


def test_a_table_without_rows_or_without_a_file_is_refused(saved, tmp_path):
    path = saved(table_of(2))
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    assert "no rows" in refused(path).what
    assert "does not exist" in refused(tmp_path / "nothing.csv").what
