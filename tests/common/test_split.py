"""The split: of people, by their id alone, near the shares that were asked for."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.split import Part, split_people
from common.tables import CANDIDATE_ID, OFFICE


def table_of(people, office="CPI_Padova", pairs=1):
    """A table with `pairs` rows of each of `people`."""
    ids = np.repeat(np.array(people, dtype=object), pairs)
    return pd.DataFrame({CANDIDATE_ID: ids, OFFICE: office})


def split(table, seed=42, validation_share=0.15, test_share=0.15):
    return split_people(table, seed=seed, validation_share=validation_share, test_share=test_share)


def parts_by_person(table, **options):
    part = split(table, **options)
    return {
        (office, person): {int(p) for p in part[rows]}
        for (office, person), rows in table.groupby([OFFICE, CANDIDATE_ID], observed=True).indices.items()
    }


PEOPLE = [f"C{number:06d}" for number in range(8_000)]


@pytest.mark.parametrize(("validation", "test"), [(0.15, 0.15), (0.3, 0.05), (0.0, 0.5), (0.6, 0.0), (0.0, 0.0)])
def test_shares_are_near_those_asked_for(validation, test):
    part = split(table_of(PEOPLE), validation_share=validation, test_share=test)
    for kind, share in ((Part.VALIDATION, validation), (Part.TEST, test), (Part.TRAIN, 1 - validation - test)):
        spread = np.sqrt(share * (1 - share) / len(PEOPLE))
        assert np.mean(part == kind) == pytest.approx(share, abs=4 * spread)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["CPI_Padova", "CPI_Verona"]), st.sampled_from(["007", "7", "NA", 'è, "x"', ""])),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
)
def test_rows_of_one_person_share_a_part_in_any_order_of_rows(pairs, seed, random):
    table = pd.DataFrame(pairs, columns=[OFFICE, CANDIDATE_ID])
    found = parts_by_person(table, seed=seed)
    assert all(len(parts) == 1 for parts in found.values())
    order = random.sample(range(len(table)), len(table))
    shuffled = table.iloc[order]
    assert np.array_equal(split(shuffled, seed=seed), split(table, seed=seed)[order])
    categorical = table.astype("category")
    assert np.array_equal(split(categorical, seed=seed), split(table, seed=seed))


def test_a_persons_part_does_not_change_when_other_people_come_and_go():
    everybody = parts_by_person(table_of(PEOPLE[:600]))
    some = parts_by_person(table_of(PEOPLE[100:300], pairs=3))
    alone = [parts_by_person(table_of([person])) for person in PEOPLE[100:110]]
    two_offices = pd.concat([table_of(PEOPLE[:600], "CPI_Verona"), table_of(PEOPLE[:600])])
    beside = parts_by_person(two_offices)
    for found in (some, *alone):
        assert found.items() <= everybody.items()
    assert everybody.items() <= beside.items()


def test_parts_differ_between_seeds():
    table = table_of(PEOPLE[:2_000])
    one, other = (split(table, seed=seed, test_share=0.5, validation_share=0.0) for seed in (1, 2))
    assert np.mean(one == other) == pytest.approx(0.5, abs=0.05)


def test_people_of_different_offices_with_equal_ids_are_split_independently():
    for other in ("CPI_Verona", "CPI_Padova1", "cpi_padova"):
        here = split(table_of(PEOPLE[:2_000]), test_share=0.5, validation_share=0.0)
        there = split(table_of(PEOPLE[:2_000], other), test_share=0.5, validation_share=0.0)
        assert np.mean(here == there) == pytest.approx(0.5, abs=0.05)


def test_an_office_and_an_id_are_not_run_together():
    """Office `A`, person `11` and office `A1`, person `1` are different people with different draws."""
    tails = [str(number) for number in range(10, 2_010)]
    joined = pd.DataFrame({OFFICE: ["A"] * len(tails), CANDIDATE_ID: [f"1{tail}" for tail in tails]})
    apart = pd.DataFrame({OFFICE: ["A1"] * len(tails), CANDIDATE_ID: tails})
    shares = {"test_share": 0.5, "validation_share": 0.0}
    assert np.mean(split(joined, **shares) == split(apart, **shares)) == pytest.approx(0.5, abs=0.05)


def test_a_larger_test_share_keeps_those_who_were_in_the_test_part():
    table = table_of(PEOPLE[:1_000])
    small = split(table, test_share=0.1) == Part.TEST
    large = split(table, test_share=0.4) == Part.TEST
    assert small.sum() > 0
    assert (large[small]).all()


def test_all_three_parts_are_one_number_per_row():
    part = split(table_of(PEOPLE[:500], pairs=4))
    assert part.shape == (2_000,)
    assert part.dtype == np.uint8
    assert set(part.tolist()) == {int(kind) for kind in Part}
