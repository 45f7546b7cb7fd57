"""Ranking: always the same answer, nothing too far, and no order but the one that was promised."""

import numpy as np
import pandas as pd
import pytest
import torch

from client.ranking import rank_companies
from common.encoding import encode
from common.model import MatchingModel, predict
from data.pairs import PairIndex, build_pairs

NAN = float("nan")
MODEL = MatchingModel((16, 8), seed=3)
COLUMNS = ["rank", "company_id", "probability", "distance_km", "compatibility_score", "sector", "openings"]


@pytest.fixture(autouse=True)
def _one_thread():
    """As at a site: sums in one order, and no threads waiting for each other over small matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def people():
    """Three people: of Padova, of Padova without a known home, of Verona."""
    return pd.DataFrame(
        {
            "candidate_id": ["a", "b", "c"],
            "office": ["CPI_Padova", "CPI_Padova", "CPI_Verona"],
            "latitude": [45.4, NAN, 45.44],
            "longitude": [11.88, NAN, 10.99],
            "attitude_score": [0.7, 0.4, 0.9],
            "exclusions": [("Lavoro in quota",), (), ("Uso di macchinari", "Ambiente rumoroso")],
            "disability": ["motoria", None, "dsa"],
            "education": ["diploma", "laurea", None],
            "years_experience": [3.0, NAN, 12.0],
            "unemployment_duration": [1.0, 2.0, NAN],
        }
    )


def firms(count=80, seed=1):
    """Companies around Padova and Verona, some of no office, some without a known place."""
    rng = np.random.default_rng(seed)
    lost = rng.random(count) < 0.15
    texts = ["Ambiente rumoroso.", "Lavoro in quota e uso di macchinari.", "Sede accessibile.", None]
    return pd.DataFrame(
        {
            "company_id": [f"Ditta {number:03d}" for number in rng.permutation(count)],
            "office": pd.Series(
                [("CPI_Padova", "CPI_Padova", "CPI_Verona", None)[number] for number in rng.integers(0, 4, count)],
                dtype=object,
            ),
            "latitude": np.where(lost, NAN, 45.4 + rng.normal(0, 0.3, count)),
            "longitude": np.where(lost, NAN, 11.88 + rng.normal(0, 0.3, count)),
            "sector": rng.choice(["it", "commercio", "sanita"], count),
            "openings": rng.integers(0, 9, count).astype(float),
            "company_size": rng.integers(0, 3, count).astype(float),
            "retention_rate": rng.random(count),
            "remote_work": rng.integers(0, 2, count).astype(float),
            "certification": rng.integers(0, 2, count).astype(float),
            "compatibility_text": [texts[number] for number in rng.integers(0, 4, count)],
        }
    )


def rank(person=0, companies=None, limit=30.0, candidates=None):
    candidates = people() if candidates is None else candidates
    return rank_companies(MODEL, candidates, firms() if companies is None else companies, person, distance_max_km=limit)


def test_twenty_calls_give_one_answer():
    first = rank()
    assert list(first.columns) == COLUMNS
    assert len(first) > 10
    for _ in range(19):
        pd.testing.assert_frame_equal(rank(), first, check_exact=True)


def test_the_answer_does_not_depend_on_the_order_of_the_companies():
    companies = firms()
    first = rank(companies=companies)
    for seed in range(5):
        shuffled = companies.sample(frac=1, random_state=seed)
        found = rank(companies=shuffled)
        assert found["company_id"].tolist() == first["company_id"].tolist()
        np.testing.assert_allclose(found["probability"], first["probability"], rtol=1e-6)
        pd.testing.assert_frame_equal(found.drop(columns="probability"), first.drop(columns="probability"))


def test_the_answer_does_not_depend_on_the_other_people():
    alone = people().iloc[[0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(rank(candidates=alone), rank(), check_exact=True)


@pytest.mark.parametrize("person", [0, 1, 2])
def test_only_companies_of_the_persons_labour_market_are_ranked(person):
    companies = firms()
    market = companies[companies["office"] == people()["office"].iloc[person]]
    assert sorted(rank(person, limit=1e6)["company_id"]) == sorted(market["company_id"])


@pytest.mark.parametrize("limit", [1.0, 10.0, 30.0, 45.0])
def test_nothing_is_farther_than_the_limit_and_nothing_nearer_is_missing(limit):
    everything = rank(limit=1e6)
    found = rank(limit=limit)
    assert not (found["distance_km"] > limit).any()
    kept = everything[(everything["distance_km"] <= limit) | everything["distance_km"].isna()]
    assert found["company_id"].tolist() == kept["company_id"].tolist()
    assert len(found) < len(everything)


def test_a_company_exactly_at_the_limit_stays():
    farthest = rank(limit=1e6)["distance_km"].max()
    assert rank(limit=farthest)["distance_km"].max() == farthest
    assert rank(limit=np.nextafter(farthest, 0))["distance_km"].max() < farthest


def test_companies_whose_distance_is_not_known_stay_with_their_distance_unknown():
    companies = firms()
    lost = companies[companies["latitude"].isna() & (companies["office"] == "CPI_Padova")]
    found = rank(companies=companies, limit=1.0)
    assert len(lost) > 0
    assert set(lost["company_id"]) <= set(found["company_id"])
    assert found.set_index("company_id")["distance_km"][lost["company_id"]].isna().all()
    assert rank(1, limit=1.0)["distance_km"].isna().all()
    assert len(rank(1, limit=1.0)) == (companies["office"] == "CPI_Padova").sum()


def test_companies_are_in_order_of_probability_and_numbered_from_one():
    found = rank(limit=1e6)
    assert (np.diff(found["probability"]) <= 0).all()
    assert found["rank"].tolist() == list(range(1, len(found) + 1))
    assert found.index.tolist() == list(range(len(found)))
    assert found["probability"].nunique() > 10


def test_every_row_tells_that_companys_own_values():
    candidates, companies = people(), firms()
    found = rank(limit=1e6).set_index("company_id")
    for position in np.flatnonzero(companies["office"] == "CPI_Padova"):
        pair = build_pairs(candidates, companies, PairIndex(np.array([0]), np.array([position])))
        row = found.loc[companies["company_id"].iloc[position]]
        assert row["probability"] == pytest.approx(predict(MODEL, encode(pair))[0], rel=1e-6)
        assert row["distance_km"] == pytest.approx(pair["distance_km"].iloc[0], nan_ok=True)
        assert row["compatibility_score"] == pytest.approx(pair["compatibility_score"].iloc[0], nan_ok=True)
        assert (row["sector"], row["openings"]) == tuple(companies[["sector", "openings"]].iloc[position])


@pytest.mark.parametrize("count", [2, 3, 5, 9, 17, 33, 70, 131])
@pytest.mark.parametrize("model", [MODEL, MatchingModel((32, 16), seed=4), MatchingModel((), seed=5)])
def test_companies_that_are_alike_are_in_order_of_their_names(count, model):
    """Twins share every attribute, so their probabilities are equal wherever they stand among the others."""
    others = firms(60, seed=count).assign(office="CPI_Padova")
    twins = pd.concat([others.iloc[[0]].assign(latitude=45.41, longitude=11.9)] * count, ignore_index=True)
    names = np.random.default_rng(count).permutation([f"Gemella {number:03d}" for number in range(count)])
    companies = pd.concat([others, twins.assign(company_id=names)], ignore_index=True)
    companies = companies.sample(frac=1, random_state=count).reset_index(drop=True)
    found = rank_companies(model, people(), companies, 0, distance_max_km=1e6)
    twin_rows = found[found["company_id"].str.startswith("Gemella")]
    assert twin_rows["probability"].nunique() == 1
    assert twin_rows["company_id"].tolist() == sorted(names)


def test_a_market_without_companies_gives_an_empty_ranking_with_every_column():
    elsewhere = firms().assign(office="CPI_Vicenza")
    found = rank(companies=elsewhere)
    assert list(found.columns) == COLUMNS
    assert len(found) == 0
    assert len(rank(companies=firms()[lambda frame: frame["latitude"].notna()], limit=1e-9)) == 0
