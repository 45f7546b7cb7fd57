"""Pairs: who is paired with whom, and every attribute against a slow look-up of its two rows."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from geopy.distance import great_circle
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    DISABILITIES,
    EDUCATION,
    EXCLUSIONS,
    FEATURE_COLUMNS,
    KEY_COLUMNS,
    NUMERIC_COLUMNS,
    OFFICE,
    ONE_HOT_COLUMNS,
    SECTORS,
)
from data.compatibility import compatibility_matrix
from data.distance import haversine_km
from data.pairs import PairIndex, build_pairs, choose_pairs, locate_pairs

OFFICES = ("CPI_Padova", "CPI_Verona", "CPI_Vicenza")


def maybe(rng, values, missing, chance=0.2):
    return [missing if rng.random() < chance else value for value in values]


def candidates_of(count, *, seed=1, offices=OFFICES):
    rng = np.random.default_rng(seed)
    nan = float("nan")
    unplaced = rng.random(count) < 0.2
    exclusions = [tuple(rng.choice(EXCLUSIONS, rng.integers(0, 4), replace=False).tolist()) for _ in range(count)]
    return pd.DataFrame(
        {
            CANDIDATE_ID: [f"C{number:03d}" for number in range(count)],
            OFFICE: rng.choice(offices, count),
            "latitude": np.where(unplaced, nan, rng.uniform(44.9, 46.2, count)),
            "longitude": np.where(unplaced, nan, rng.uniform(10.6, 13.0, count)),
            "attitude_score": maybe(rng, rng.random(count), nan),
            "exclusions": exclusions,
            "disability": pd.Series(maybe(rng, rng.choice(list(DISABILITIES), count), None), dtype=object),
            "education": pd.Series(maybe(rng, rng.choice(list(EDUCATION), count), None), dtype=object),
            "years_experience": maybe(rng, rng.uniform(0, 40, count), nan),
            "unemployment_duration": maybe(rng, rng.uniform(0, 20, count), nan),
        }
    )


def companies_of(count, *, seed=2, offices=(*OFFICES, None)):
    rng = np.random.default_rng(seed)
    nan = float("nan")
    texts = [
        "Ambiente rumoroso.",
        "Sede accessibile. Lavoro in quota.",
        "Uso di macchinari e mansioni pesanti.",
        None,
        "",
    ]
    unplaced = rng.random(count) < 0.2
    return pd.DataFrame(
        {
            COMPANY_ID: [f"Ditta {number:03d}" for number in range(count)],
            OFFICE: pd.Series([offices[number] for number in rng.integers(0, len(offices), count)], dtype=object),
            "latitude": np.where(unplaced, nan, rng.uniform(44.9, 46.2, count)),
            "longitude": np.where(unplaced, nan, rng.uniform(10.6, 13.0, count)),
            "sector": pd.Series(maybe(rng, rng.choice(list(SECTORS), count), None), dtype=object),
            "company_size": maybe(rng, rng.integers(0, 3, count).astype(float), nan),
            "retention_rate": maybe(rng, rng.uniform(0, 2, count), nan),
            "remote_work": maybe(rng, rng.integers(0, 2, count).astype(float), nan),
            "certification": maybe(rng, rng.integers(0, 2, count).astype(float), nan),
            "compatibility_text": pd.Series([texts[number] for number in rng.integers(0, 5, count)], dtype=object),
        }
    )


def choose(candidates, companies, k, seed=3):
    return choose_pairs(candidates, companies, k, rng=np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(12, 60), st.integers(1, 15), st.integers(0, 2**32))
def test_each_person_gets_distinct_companies_of_the_own_market_as_many_as_asked_or_all(people, firms, k, seed):
    candidates = candidates_of(people, seed=seed)
    companies = companies_of(firms, seed=seed + 1)
    companies.loc[: len(OFFICES) - 1, OFFICE] = list(OFFICES)  # no market is empty
    index = choose(candidates, companies, k, seed)
    assert (np.diff(index.candidate) >= 0).all()
    for person in range(people):
        chosen = index.company[index.candidate == person]
        market = np.flatnonzero(companies[OFFICE] == candidates[OFFICE].iloc[person])
        assert len(set(chosen.tolist())) == len(chosen) == min(k, len(market))
        assert set(chosen.tolist()) <= set(market.tolist())
        if k >= len(market):
            assert sorted(chosen.tolist()) == market.tolist()


def test_every_company_of_a_market_is_drawn_equally_often():
    candidates = candidates_of(6_000, offices=("CPI_Padova",))
    companies = companies_of(12, offices=("CPI_Padova",))
    index = choose(candidates, companies, 3)
    counts = np.bincount(index.company, minlength=12)
    expected = 6_000 * 3 / 12
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(expected * (1 - 3 / 12))


def test_pairs_of_companies_are_drawn_independently_of_each_other():
    candidates = candidates_of(6_000, offices=("CPI_Padova",))
    index = choose(candidates, companies_of(6, offices=("CPI_Padova",)), 2)
    together = index.company.reshape(-1, 2)
    counts = np.bincount(together[:, 0] * 6 + together[:, 1], minlength=36).reshape(6, 6)
    counts = (counts + counts.T)[np.triu_indices(6, 1)]
    assert np.abs(counts - 400).max() < 4.5 * np.sqrt(400)


def test_large_markets_are_drawn_in_blocks_like_small_ones(monkeypatch):
    monkeypatch.setattr("data.pairs._BLOCK", 100)
    candidates = candidates_of(40, offices=("CPI_Padova",))
    index = choose(candidates, companies_of(30, offices=("CPI_Padova",)), 7)
    rows = index.company.reshape(40, 7)
    assert np.array_equal(index.candidate, np.repeat(np.arange(40), 7))
    assert all(len(set(row.tolist())) == 7 for row in rows)
    assert len({tuple(row.tolist()) for row in rows}) > 30


def test_a_seed_draws_the_same_pairs_and_another_draws_others():
    candidates, companies = candidates_of(30), companies_of(60)
    one, same, other = (choose(candidates, companies, 5, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.company, same.company)
    assert not np.array_equal(one.company, other.company)


def test_all_gives_every_combination_once():
    candidates, companies = candidates_of(7), companies_of(9)
    index = choose(candidates, companies, "all")
    found = list(zip(index.candidate.tolist(), index.company.tolist(), strict=True))
    assert found == [(person, company) for person in range(7) for company in range(9)]


def test_people_without_a_labour_market_are_refused_by_office_and_number():
    candidates = candidates_of(10, offices=("CPI_Padova",))
    companies = companies_of(10, offices=("CPI_Verona", None))
    with pytest.raises(InputError) as caught:
        choose(candidates, companies, 5)
    assert "CPI_Padova" in caught.value.what
    assert "10 people" in caught.value.what
    assert "data.pairs_per_candidate=all" in caught.value.remedy
    assert len(choose(candidates, companies, "all").company) == 100


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 11)), min_size=1, max_size=20))
def test_listed_pairs_are_found_where_they_stand(wanted):
    candidates, companies = candidates_of(10), companies_of(12)
    listed = pd.DataFrame(
        {
            CANDIDATE_ID: [candidates[CANDIDATE_ID].iloc[person] for person, _ in wanted],
            COMPANY_ID: [companies[COMPANY_ID].iloc[company] for _, company in wanted],
        }
    )
    index = locate_pairs(candidates, companies, listed, Path("esiti.csv"))
    assert list(zip(index.candidate.tolist(), index.company.tolist(), strict=True)) == wanted


def test_a_listed_person_or_company_that_is_not_there_is_refused_and_no_person_named():
    candidates, companies = candidates_of(3), companies_of(3)
    unknown = "INVENTED-PERSON"

    def refused(people, firms):
        with pytest.raises(InputError) as caught:
            locate_pairs(
                candidates, companies, pd.DataFrame({CANDIDATE_ID: people, COMPANY_ID: firms}), Path("esiti.csv")
            )
        assert caught.value.where == "esiti.csv"
        assert unknown not in str(caught.value)
        assert not re.search(r"C\d{3}", str(caught.value))
        return caught.value.what

    assert "2 of 3 recorded pairs" in refused(["C000", unknown, unknown], ["Ditta 000"] * 3)
    what = refused(["C000"] * 3, ["Ditta 000", "Altra", "Terza"])
    assert "2 of 3 recorded pairs" in what
    assert "'Altra'" in what
    refused([unknown], ["Altra"])
    refused(["c000"], ["Ditta 000"])  # another case is another person


def looked_up(candidates, companies, person, company):
    """The attributes of one pair, one at a time."""
    who, firm = candidates.iloc[person], companies.iloc[company]
    places = [who["latitude"], who["longitude"], firm["latitude"], firm["longitude"]]
    result = {
        CANDIDATE_ID: who[CANDIDATE_ID],
        COMPANY_ID: firm[COMPANY_ID],
        OFFICE: who[OFFICE],
        "attitude_score": who["attitude_score"],
        "years_experience": who["years_experience"],
        "unemployment_duration": who["unemployment_duration"],
        "compatibility_score": compatibility_matrix([who["exclusions"]], [firm["compatibility_text"]])[0, 0],
        "distance_km": float("nan")
        if any(np.isnan(places))
        else great_circle(places[:2], places[2:], radius=6371.0088).km,
        **{name: firm[name] for name in ("company_size", "retention_rate", "remote_work", "certification")},
    }
    for prefix, vocabulary, word in (
        ("edu", EDUCATION, who["education"]),
        ("dis", DISABILITIES, who["disability"]),
        ("sector", SECTORS, firm["sector"]),
    ):
        result |= {f"{prefix}_{slug}": int(slug == word) for slug in vocabulary}
    return result


def test_every_attribute_of_every_pair_is_that_of_its_two_rows():
    candidates, companies = candidates_of(12), companies_of(15)
    rng = np.random.default_rng(5)
    index = PairIndex(rng.integers(0, 12, 80), rng.integers(0, 15, 80))
    pairs = build_pairs(candidates, companies, index)
    assert list(pairs.columns) == [*KEY_COLUMNS, *FEATURE_COLUMNS]
    slow = pd.DataFrame(
        [looked_up(candidates, companies, *pair) for pair in zip(index.candidate, index.company, strict=True)]
    )
    for name in KEY_COLUMNS:
        assert isinstance(pairs[name].dtype, pd.CategoricalDtype)
        assert pairs[name].astype(str).tolist() == slow[name].tolist()
    for name in NUMERIC_COLUMNS:
        assert pairs[name].dtype == np.float32
        np.testing.assert_allclose(pairs[name], slow[name].astype(float), rtol=1e-6, atol=1e-6, err_msg=name)
        assert 0 < pairs[name].notna().sum() < 80, name
    for name in ONE_HOT_COLUMNS:
        assert pairs[name].dtype == np.uint8
        assert pairs[name].tolist() == slow[name].tolist(), name


def test_a_word_that_is_not_stated_gives_all_zeros():
    candidates, companies = candidates_of(4), companies_of(4)
    nothing = pd.Series([None] * 4, dtype=object)
    silent = build_pairs(
        candidates.assign(disability=nothing, education=nothing),
        companies.assign(sector=nothing),
        PairIndex(np.arange(4), np.arange(4)),
    )
    assert (silent[list(ONE_HOT_COLUMNS)] == 0).all(axis=None)


def test_no_pairs_give_an_empty_table_with_every_column():
    nothing = np.zeros(0, dtype=np.int64)
    pairs = build_pairs(candidates_of(3), companies_of(3), PairIndex(nothing, nothing))
    assert pairs.shape == (0, len(KEY_COLUMNS) + len(FEATURE_COLUMNS))


PLACE = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@settings(max_examples=300, deadline=None)
@given(PLACE, PLACE)
def test_distances_are_great_circles_on_the_mean_earth(one, other):
    found = haversine_km(*(np.array([value]) for value in (*one, *other)))[0]
    expected = great_circle(one, other, radius=6371.0088).km
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert haversine_km(*(np.array([value]) for value in (*other, *one)))[0] == pytest.approx(found, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.floats(35, 48), st.floats(6, 19)), st.tuples(st.floats(35, 48), st.floats(6, 19)))
def test_distances_in_italy_agree_to_a_metre(one, other):
    found = haversine_km(*(np.array([value]) for value in (*one, *other)))[0]
    assert found == pytest.approx(great_circle(one, other, radius=6371.0088).km, abs=1e-3)


def test_a_distance_is_not_known_where_a_coordinate_is_not():
    known = [45.4, 11.0, 45.5, 11.9]
    for position in range(4):
        values = [np.array([float("nan") if n == position else value]) for n, value in enumerate(known)]
        assert np.isnan(haversine_km(*values)[0])
    assert haversine_km(*(np.array([value]) for value in known[:2] * 2))[0] == 0.0
