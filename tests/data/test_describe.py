"""The description of a training table: its numbers are right, and no small group of people can be read from it."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from PIL import Image

from common.errors import InputError
from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    DISABILITY_COLUMNS,
    EDUCATION_COLUMNS,
    MATCH_PROBABILITY,
    OFFICE,
    OUTCOME,
    SECTOR_COLUMNS,
    TRAINING_COLUMNS,
)
from data.describe import describe, hidden_cells, plot_distributions


def training_table(offices, education=None, pairs=4, seed=0):
    """An artificial table: `offices` maps a name to how many people it has, `education` tells each person's index."""
    rng = np.random.default_rng(seed)
    place = np.repeat(list(offices), list(offices.values()))
    people, companies = place.size, 30
    person = np.repeat(np.arange(people), pairs)
    company = rng.integers(0, companies, person.size)
    levels = np.arange(people) % 5 if education is None else np.asarray(education)
    one_hot = {
        **dict(zip(EDUCATION_COLUMNS, np.eye(6, dtype=np.uint8)[levels].T[:5][:, person], strict=True)),
        **dict(zip(DISABILITY_COLUMNS, np.eye(7, dtype=np.uint8)[np.arange(people) % 7].T[:, person], strict=True)),
        **dict(zip(SECTOR_COLUMNS, np.eye(10, dtype=np.uint8)[company % 10].T, strict=True)),
    }
    columns = {
        CANDIDATE_ID: [f"c{one}" for one in person],
        COMPANY_ID: [f"k{one}" for one in company],
        OFFICE: place[person],
        OUTCOME: (rng.random(person.size) < 0.78).astype(np.uint8),
        "attitude_score": rng.random(people)[person],
        "years_experience": rng.gamma(2, 4, people)[person],
        "unemployment_duration": rng.gamma(2, 2, people)[person],
        "compatibility_score": rng.random(person.size),
        "distance_km": rng.gamma(3, 7, person.size),
        "company_size": (company % 3).astype(float),
        "retention_rate": (company % 11) / 11,
        "remote_work": (company % 2).astype(float),
        "certification": (company % 2).astype(float),
        **one_hot,
    }
    table = pd.DataFrame(columns)[list(TRAINING_COLUMNS)]
    return table.astype({name: "category" for name in (CANDIDATE_ID, COMPANY_ID, OFFICE)})


def test_the_summary_counts_people_once_and_pairs_each():
    table = training_table({"CPI_A": 60, "CPI_B": 90})
    found = describe(table)
    people = table.drop_duplicates([OFFICE, CANDIDATE_ID])
    assert (found["people"], found["pairs"], found["offices"]) == (150, 600, 2)
    assert found["companies"] == table[COMPANY_ID].nunique()
    assert found["match_rate"] == pytest.approx(table[OUTCOME].mean())
    assert found["mean_distance_km"] == pytest.approx(table["distance_km"].mean())
    assert found["mean_attitude"] == pytest.approx(people["attitude_score"].mean())
    assert found["groups"]["edu"]["diploma"] == {"people": 30, "pairs": 120}
    assert found["groups"]["edu"]["not_stated"] == {"people": 0, "pairs": 0}
    by_sector = found["groups"]["sector"]["it"]
    assert by_sector["pairs"] == table["sector_it"].sum()
    assert by_sector["people"] == table.loc[table["sector_it"] == 1, CANDIDATE_ID].nunique()
    assert found["by_office"]["CPI_B"]["people"] == 90
    in_b = table[table[OFFICE] == "CPI_B"]
    assert found["by_office"]["CPI_B"]["match_rate"] == pytest.approx(in_b[OUTCOME].mean())
    assert found["suppressed"] == []
    json.dumps(found, allow_nan=False)


def test_a_person_with_more_pairs_counts_no_more_than_another():
    table = training_table({"CPI_A": 100})
    many = pd.concat([table, *[table[table[CANDIDATE_ID] == "c7"]] * 50], ignore_index=True)
    column = {name: describe(data)["numeric"]["years_experience"] for name, data in (("once", table), ("many", many))}
    assert column["once"] == column["many"]
    values = table.drop_duplicates(CANDIDATE_ID)["years_experience"]
    assert column["once"]["std"] == pytest.approx(values.std())
    assert column["once"]["quantiles"]["95"] == pytest.approx(values.quantile(0.95))


def test_the_same_number_at_two_offices_is_two_people():
    one = training_table({"CPI_A": 20})
    other = one.assign(office=pd.Categorical(["CPI_B"] * len(one)))
    assert describe(pd.concat([one, other], ignore_index=True))["people"] == 40


def test_labels_drawn_from_a_rule_are_named():
    table = training_table({"CPI_A": 20})
    assert describe(table)["labels"] == "outcomes"
    assert describe(table.assign(**{MATCH_PROBABILITY: 0.5}))["labels"] == "rule"


def test_one_small_cell_takes_the_next_smallest_with_it():
    education = [0] * 3 + [1] * 40 + [2] * 30 + [3] * 20 + [4] * 12
    found = describe(training_table({"CPI_A": 105}, education))
    cells = found["groups"]["edu"]
    assert [slug for slug, cell in cells.items() if cell["people"] is None] == ["nessuno", "master"]
    assert all(cells[slug] == {"people": None, "pairs": None} for slug in ("nessuno", "master"))
    assert "groups.edu.nessuno.people" in found["suppressed"]
    assert "groups.edu.master.pairs" in found["suppressed"]


def test_people_whose_education_is_not_stated_are_a_cell_like_the_others():
    found = describe(training_table({"CPI_A": 100}, [5] * 2 + [1] * 50 + [2] * 48))["groups"]["edu"]
    assert [slug for slug, cell in found.items() if cell["people"] is None] == ["diploma", "not_stated"]


def test_a_small_office_shows_neither_people_nor_pairs_nor_rate_and_is_not_the_only_one():
    found = describe(training_table({"CPI_A": 4, "CPI_B": 20, "CPI_C": 50}))
    nothing = {"people": None, "pairs": None, "match_rate": None}
    assert found["by_office"]["CPI_A"] == found["by_office"]["CPI_B"] == nothing
    assert found["by_office"]["CPI_C"]["people"] == 50
    assert found["people"] == 74


def test_a_table_of_too_few_people_tells_nothing_about_them():
    found = describe(training_table({"CPI_A": 4}))
    assert found["people"] is found["pairs"] is found["match_rate"] is found["mean_attitude"] is None
    cells = [cell for group in found["groups"].values() for cell in group.values()]
    assert all(cell == {"people": None, "pairs": None} for cell in cells)
    assert all(column["mean"] is None for column in found["numeric"].values())
    assert {"people", "pairs", "by_office.CPI_A.people"} <= set(found["suppressed"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 30)), st.integers(1, 8))
def test_no_total_gives_a_hidden_cell_away(people, minimum):
    hidden = hidden_cells(people, minimum)
    assert {name for name, count in people.items() if 0 < count < minimum} <= hidden
    assert all(people[name] > 0 for name in hidden)
    filled = {name for name, count in people.items() if count}
    if hidden and hidden != filled:
        assert len(hidden) >= 2
        assert sum(people[name] for name in hidden) >= minimum
    largest_needed = max((people[name] for name in hidden), default=0)
    assert all(people[name] >= largest_needed for name in filled - hidden)


def test_a_missing_share_that_tells_of_a_few_people_is_not_shown():
    table = training_table({"CPI_A": 100})
    number = table[CANDIDATE_ID].astype(str).str.removeprefix("c").astype(int)
    for absent, shown in ((0, 0.0), (3, None), (5, 0.05), (97, None), (100, 1.0)):
        column = table["years_experience"].where(number >= absent)
        found = describe(table.assign(years_experience=column))
        assert found["numeric"]["years_experience"]["missing_share"] == shown
    assert found["numeric"]["years_experience"]["mean"] is None
    assert not [place for place in found["suppressed"] if "years_experience" in place]  # not hidden: nobody stated it


def test_a_quantile_is_not_the_value_of_a_few():
    def shown(people):
        quantiles = describe(training_table({"CPI_A": people}))["numeric"]["attitude_score"]["quantiles"]
        return [name for name, value in quantiles.items() if value is not None]

    assert shown(100) == ["5", "25", "50", "75", "95"]
    assert shown(99) == ["25", "50", "75"]
    assert shown(10) == ["50"]
    assert shown(9) == []


def test_a_table_without_a_column_is_refused_by_name():
    with pytest.raises(InputError, match="'distance_km' is missing"):
        describe(training_table({"CPI_A": 9}).drop(columns="distance_km"))
    with pytest.raises(ValueError, match="minimum_cell"):
        describe(training_table({"CPI_A": 9}), minimum_cell=0)


@pytest.mark.parametrize(
    "offices", [{"CPI_A": 3}, {"CPI_A": 200}, {f"CPI_{n}": 1 + n for n in range(30)}], ids=["few", "one", "thirty"]
)
def test_the_picture_is_drawn_whatever_is_hidden(tmp_path, offices):
    path = tmp_path / "pictures" / "table.png"
    table = training_table(offices)
    plot_distributions(table.assign(unemployment_duration=np.nan), path, "Synthetic data.")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 1650
        assert 1300 < image.height < 2500
    assert [file.name for file in path.parent.iterdir()] == ["table.png"]


def test_no_bar_of_the_picture_stands_for_fewer_than_five(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "bar", lambda self, x, height, **more: drawn.append(np.asarray(height)))
    monkeypatch.setattr(Axes, "barh", lambda self, y, width, **more: drawn.append(np.array([width or 5])))
    table = training_table({"CPI_A": 40}, [0] * 3 + [1] * 37, pairs=1).assign(outcome=np.uint8(1))
    monkeypatch.setattr("data.describe.by_office", lambda *arguments: {})
    plot_distributions(table, tmp_path / "table.png", "")
    assert drawn
    assert min(heights.min() for heights in drawn) >= 5
