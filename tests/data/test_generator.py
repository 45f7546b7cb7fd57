"""Synthetic tables: reproducible, marked, in their offices' territory, and with the published statistics."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.settings import Settings
from common.tables import (
    DISABILITIES,
    EDUCATION,
    OFFICE,
    OUTCOME,
    RAW_CANDIDATES_FILE,
    RAW_COMPANIES_FILE,
    SECTORS,
    SYNTHETIC_MARK_FILE,
    RawCandidate,
    RawCompany,
)
from data.gazetteer import Gazetteer
from data.generator import DISABILITY_SHARES, EDUCATION_SHARES, generate, read_rules, write_raw
from data.labels import REFERENCE_RULE
from data.offices import assign_office
from data.preparation import Dataset, prepare, raw_files_of

SCENARIOS = ("reference", "heterogeneous")
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The labelled pairs of a scenario and seed, each made once: 2,000 people, 500 companies, 50 pairs a person."""

    @cache
    def make(scenario, seed) -> Dataset:
        directory = tmp_path_factory.mktemp("raw")
        write_raw(generate(candidates=2_000, companies=500, seed=seed, scenario=scenario), directory)
        settings = Settings.model_validate({"seed": seed})
        return prepare(raw_files_of(settings, directory), settings)

    return make


def best_possible(probability):
    """Expected F1 and accuracy of the best answers of somebody who knows each pair's probability."""
    p = np.sort(np.asarray(probability, dtype=np.float64))[::-1]
    answered = np.arange(1, len(p) + 1)
    f1 = 2 * np.cumsum(p) / (answered + p.sum())
    return f1.max(), np.maximum(p, 1 - p).mean()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_seed_gives_the_same_tables_and_another_gives_others(scenario):
    one, same, other = (generate(candidates=60, companies=30, seed=seed, scenario=scenario) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one.candidates, same.candidates)
    pd.testing.assert_frame_equal(one.companies, same.companies)
    assert one.manifest == same.manifest
    for column in (RawCandidate.ATTITUDE, RawCandidate.LATITUDE, RawCandidate.EXCLUSIONS):
        assert not one.candidates[column].equals(other.candidates[column])
    for column in (RawCompany.EMPLOYEES, RawCompany.LATITUDE, RawCompany.COMPATIBILITY):
        assert not one.companies[column].equals(other.companies[column])


def test_the_draw_does_not_depend_on_numpys_global_generator():
    np.random.seed(1)
    one = generate(candidates=30, companies=10, seed=5)
    np.random.seed(2)
    pd.testing.assert_frame_equal(one.candidates, generate(candidates=30, companies=10, seed=5).candidates)


@pytest.mark.parametrize(("candidates", "companies"), [(5, 5), (6, 9), (1_001, 97)])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_as_many_people_and_companies_come_as_were_asked_for_and_every_office_has_some(candidates, companies, scenario):
    drawn = generate(candidates=candidates, companies=companies, seed=1, scenario=scenario)
    assert (len(drawn.candidates), len(drawn.companies)) == (candidates, companies)
    assert drawn.candidates[RawCandidate.ID].is_unique
    assert drawn.companies[RawCompany.NAME].is_unique
    offices = Settings().offices
    gazetteer = Gazetteer.load()
    for column in (drawn.candidates[RawCandidate.RESIDENCE], drawn.companies[RawCompany.SEAT]):
        found = [gazetteer.find(text) for text in column]
        assert {assign_office(place.province, place.name, offices) for place in found} == set(offices)


@pytest.mark.parametrize(("candidates", "companies"), [(4, 100), (100, 4), (1, 1)])
def test_too_few_for_five_offices_are_refused(candidates, companies):
    with pytest.raises(InputError, match="at least 5"):
        generate(candidates=candidates, companies=companies, seed=1)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_residence_and_seat_lies_in_its_offices_province_by_the_gazetteer(prepared, scenario):
    dataset = prepared(scenario, SEEDS[0])
    territory = {name: office.provinces for name, office in Settings().offices.items()}
    for frame in (dataset.candidates, dataset.companies):
        assert set(frame[OFFICE]) == set(territory)
        for office, rows in frame.groupby(OFFICE):
            assert set(rows["province"]) == set(territory[office])


def test_what_was_drawn_for_an_office_is_assigned_to_it():
    """The rows stand office by office, so each office's people must be one run of rows, of the profile's size."""
    drawn = generate(candidates=1_000, companies=100, seed=4)
    gazetteer = Gazetteer.load()
    offices = Settings().offices
    found = [
        assign_office(place.province, place.name, offices)
        for place in (gazetteer.find(text) for text in drawn.candidates[RawCandidate.RESIDENCE])
    ]
    runs = [office for number, office in enumerate(found) if number == 0 or found[number - 1] != office]
    assert runs == list(drawn.manifest["rules"])
    assert [found.count(office) for office in runs] == [240, 200, 220, 180, 160]


def test_names_and_manifest_say_that_nothing_is_real(tmp_path):
    drawn = generate(candidates=20, companies=10, seed=1)
    write_raw(drawn, tmp_path)
    manifest = json.loads((tmp_path / SYNTHETIC_MARK_FILE).read_text(encoding="utf-8"))
    assert manifest["synthetic"] is True
    assert (manifest["seed"], manifest["scenario"]) == (1, "reference")
    assert drawn.companies[RawCompany.NAME].str.startswith("Sintetica ").all()
    assert {path.name for path in tmp_path.iterdir()} == {SYNTHETIC_MARK_FILE, RAW_CANDIDATES_FILE, RAW_COMPANIES_FILE}


def test_a_writer_that_is_stopped_never_leaves_an_unmarked_table(tmp_path, monkeypatch):
    drawn = generate(candidates=20, companies=10, seed=1)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", stop)
    with pytest.raises(KeyboardInterrupt):
        write_raw(drawn, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [SYNTHETIC_MARK_FILE]


@pytest.mark.parametrize("name", [RAW_CANDIDATES_FILE, RAW_COMPANIES_FILE])
def test_an_offices_own_export_is_never_overwritten_by_synthetic_tables(tmp_path, name):
    (tmp_path / name).write_text("a real export", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        write_raw(generate(candidates=20, companies=10, seed=1), tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {name: "a real export"}


def test_synthetic_tables_may_be_drawn_anew_over_synthetic_ones(tmp_path):
    write_raw(generate(candidates=20, companies=10, seed=1), tmp_path)
    write_raw(generate(candidates=30, companies=10, seed=2), tmp_path)
    assert len(pd.read_csv(tmp_path / RAW_CANDIDATES_FILE)) == 30


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_rules_in_the_manifest_are_those_the_labels_follow(tmp_path, scenario, prepared):
    write_raw(generate(candidates=20, companies=10, seed=1, scenario=scenario), tmp_path)
    rules = read_rules(tmp_path)
    assert set(rules) == set(Settings().offices)
    table = prepared(scenario, SEEDS[0]).table
    for office, rule in rules.items():
        rows = table[table[OFFICE].astype(str) == office]
        np.testing.assert_allclose(rows["match_probability"], rule.success_probability(rows), atol=1e-6)


def test_no_manifest_means_no_rules_and_a_broken_one_is_refused(tmp_path):
    assert read_rules(tmp_path) == {}
    for text in ("{", "[]", '{"rules": {"CPI_Verona": {"attitud": 1}}}', '{"rules": 3}'):
        (tmp_path / SYNTHETIC_MARK_FILE).write_text(text, encoding="utf-8")
        with pytest.raises(InputError) as caught:
            read_rules(tmp_path)
        assert SYNTHETIC_MARK_FILE in caught.value.where


def test_the_reference_scenario_has_the_published_statistics(prepared):
    datasets = [prepared("reference", seed) for seed in SEEDS]
    tables = [dataset.table for dataset in datasets]
    assert all(len(table) == 2_000 * 50 for table in tables)
    rate, distance, attitude = (
        np.mean([table[name].mean() for table in tables]) for name in (OUTCOME, "distance_km", "attitude_score")
    )
    assert 0.775 <= rate <= 0.787
    assert 20.4 <= distance <= 21.5
    assert 0.550 <= attitude <= 0.562
    best = np.mean([best_possible(table["match_probability"]) for table in tables], axis=0)
    assert best[0] == pytest.approx(0.8998, abs=0.01)
    assert best[1] == pytest.approx(0.826, abs=0.01)


def test_the_reference_scenario_has_the_vocabularies_shares(prepared):
    people = pd.concat([prepared("reference", seed).candidates for seed in SEEDS])
    for column, words, shares in (
        ("disability", DISABILITIES, DISABILITY_SHARES),
        ("education", EDUCATION, EDUCATION_SHARES),
    ):
        found = people[column].value_counts(normalize=True)
        for slug, share in zip(words, shares, strict=True):
            assert found[slug] == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / len(people)))


def test_companies_owe_what_the_law_says():
    firms = generate(candidates=5, companies=2_000, seed=3).companies
    employees, quota = firms[RawCompany.EMPLOYEES], firms[RawCompany.QUOTA]
    assert (employees >= 15).all()
    assert (quota[employees <= 35] == 1).all()
    assert (quota[(employees > 35) & (employees <= 50)] == 2).all()
    assert (quota[employees > 50] == np.floor(employees[employees > 50] * 0.07)).all()
    assert (firms[RawCompany.HIRED] + firms[RawCompany.OPENINGS] == quota).all()
    assert (firms[RawCompany.OPENINGS] >= 0).all()


def test_a_working_life_is_no_longer_than_it_can_be():
    people = generate(candidates=2_000, companies=5, seed=3, year=2025).candidates
    since = 2025 - people[RawCandidate.FIRST_JOB_YEAR]
    used = people[RawCandidate.UNEMPLOYMENT_YEARS] + people[RawCandidate.EXPERIENCE_YEARS]
    assert (used <= since + 0.1).all()
    assert (people[[RawCandidate.UNEMPLOYMENT_YEARS, RawCandidate.EXPERIENCE_YEARS]] >= 0).all(axis=None)


def test_reference_offices_are_alike_in_everything_but_size(prepared):
    dataset = prepared("reference", SEEDS[0])
    by_office = dataset.table.groupby(OFFICE, observed=True)
    assert by_office["attitude_score"].mean().std() < 0.03
    assert by_office[OUTCOME].mean().std() < 0.03
    manifest = generate(candidates=5, companies=5, seed=1).manifest
    assert all(rule == REFERENCE_RULE.model_dump() for rule in manifest["rules"].values())


def test_heterogeneous_offices_differ_in_size_sectors_distance_people_and_rule(prepared):
    dataset = prepared("heterogeneous", SEEDS[0])
    sizes = dataset.candidates[OFFICE].value_counts()
    assert sizes.max() > 5 * sizes.min()
    shares = pd.crosstab(dataset.companies[OFFICE], dataset.companies["sector"], normalize="index").reindex(
        columns=list(SECTORS), fill_value=0
    )
    assert len(set(shares.idxmax(axis=1))) >= 3
    for one, other in zip(shares.to_numpy()[:-1], shares.to_numpy()[1:], strict=True):
        assert np.abs(one - other).sum() / 2 > 0.2  # total variation
    by_office = dataset.table.groupby(OFFICE, observed=True)
    distance, attitude = by_office["distance_km"].mean(), by_office["attitude_score"].mean()
    assert distance.max() > 1.3 * distance.min()
    assert attitude.max() > attitude.min() + 0.05
    rules = generate(candidates=5, companies=5, seed=1, scenario="heterogeneous").manifest["rules"]
    distinct = {json.dumps(rule, sort_keys=True) for rule in rules.values()}
    assert len(distinct) >= 4
    assert json.dumps(REFERENCE_RULE.model_dump(), sort_keys=True) not in distinct
