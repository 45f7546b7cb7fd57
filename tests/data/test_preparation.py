"""From raw files to labelled pairs, whole: flat and per-office folders, labels by rule or by outcomes."""

import json

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from common.settings import Settings
from common.split import split_people
from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    KEY_COLUMNS,
    MATCH_PROBABILITY,
    NUMERIC_COLUMNS,
    OFFICE,
    ONE_HOT_GROUPS,
    OUTCOME,
    RAW_CANDIDATES_FILE,
    RAW_COMPANIES_FILE,
    RAW_OUTCOMES_FILE,
    SYNTHETIC_MARK_FILE,
    TRAINING_COLUMNS,
    RawCandidate,
    RawCompany,
)
from common.training_table import read_training_table, write_training_table
from data.generator import generate
from data.labels import REFERENCE_RULE
from data.preparation import prepare, raw_files_of

TOWNS = {"CPI_Verona": "Verona", "CPI_Vicenza": "Vicenza", "CPI_Padova": "Padova"}
DRAWN = generate(candidates=60, companies=30, seed=11)


def settings_of(**changes):
    return Settings.model_validate({"data": {"pairs_per_candidate": 3, **changes}})


def people(*towns, **columns):
    """Raw candidates with the columns every office has, one in each of `towns`."""
    frame = pd.DataFrame(
        {
            RawCandidate.RESIDENCE: list(towns),
            RawCandidate.ATTITUDE: np.linspace(0.2, 0.9, len(towns)).round(3),
            RawCandidate.EXCLUSIONS: ["Lavoro in quota" if number % 2 else "" for number in range(len(towns))],
        }
    )
    return frame.assign(**columns)


def firms(*towns, prefix="Ditta", **columns):
    """Raw companies with the columns every office has, one in each of `towns`."""
    frame = pd.DataFrame(
        {
            RawCompany.NAME: [f"{prefix} {number}" for number in range(len(towns))],
            RawCompany.SEAT: list(towns),
            RawCompany.SECTOR: "Servizi IT",
            RawCompany.EMPLOYEES: 60,
            RawCompany.QUOTA: 4,
            RawCompany.HIRED: 2,
            RawCompany.OPENINGS: 2,
            RawCompany.COMPATIBILITY: "Ambiente tranquillo.",
        }
    )
    return frame.assign(**columns)


def deliver(folder, candidates, companies, outcomes=None, manifest=None):
    """Write one delivery into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    candidates.to_csv(folder / RAW_CANDIDATES_FILE, index=False)
    companies.to_csv(folder / RAW_COMPANIES_FILE, index=False)
    if outcomes is not None:
        rows = pd.DataFrame(outcomes, columns=["ID_Candidato", "Nome Azienda", "Esito"]).assign(Data="2024-03-31")
        rows.to_csv(folder / RAW_OUTCOMES_FILE, index=False)
    if manifest is not None:
        (folder / SYNTHETIC_MARK_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def prepared(folder, settings=None):
    settings = settings or settings_of()
    return prepare(raw_files_of(settings, folder), settings)


@pytest.fixture
def flat(tmp_path):
    return deliver(tmp_path / "flat", DRAWN.candidates, DRAWN.companies)


@pytest.fixture
def per_office(tmp_path):
    """Three offices' folders; every office calls its people P0 to P3."""
    root = tmp_path / "offices"
    for office, town in TOWNS.items():
        ids = {RawCandidate.ID: [f"P{number}" for number in range(4)]}
        deliver(root / office, people(*[town] * 4, **ids), firms(*[town] * 5, prefix=f"Ditta di {town}"))
    return root


def test_a_flat_folder_gives_one_table_by_residence(flat):
    dataset = prepared(flat)
    assert list(dataset.table.columns) == [*TRAINING_COLUMNS, MATCH_PROBABILITY]
    assert len(dataset.table) == 60 * 3
    assert (len(dataset.candidates), len(dataset.companies)) == (60, 30)
    office_of = dict(zip(dataset.candidates[CANDIDATE_ID], dataset.candidates[OFFICE], strict=True))
    market_of = dict(zip(dataset.companies[COMPANY_ID], dataset.companies[OFFICE], strict=True))
    for row in dataset.table[list(KEY_COLUMNS)].astype(str).itertuples():
        assert row.office == office_of[row.candidate_id] == market_of[row.company_id]
    assert (dataset.info.labels, dataset.info.synthetic) == ("rule", False)


def test_what_is_prepared_keeps_the_training_tables_contract(flat, tmp_path):
    table = prepared(flat).table
    write_training_table(table, tmp_path / "table.csv")
    back = read_training_table(tmp_path / "table.csv")
    for name in table.columns:
        if name in KEY_COLUMNS:
            assert back[name].astype(str).tolist() == table[name].astype(str).tolist()
        else:
            np.testing.assert_array_equal(back[name].to_numpy(), table[name].to_numpy())


def test_the_two_files_of_the_settings_are_a_delivery_too(flat):
    settings = settings_of()
    named = settings.model_copy(
        update={
            "paths": settings.paths.model_copy(
                update={
                    "raw_candidates": flat / RAW_CANDIDATES_FILE,
                    "raw_companies": flat / RAW_COMPANIES_FILE,
                }
            )
        }
    )
    found = prepare(raw_files_of(named, None), named)
    pd.testing.assert_frame_equal(found.table, prepared(flat).table)


def test_the_same_seed_gives_the_same_table_and_another_another(flat):
    one, same = prepared(flat), prepared(flat)
    pd.testing.assert_frame_equal(one.table, same.table)
    settings = settings_of()
    other = prepared(flat, settings.model_copy(update={"seed": 43})).table
    assert not one.table[COMPANY_ID].astype(str).equals(other[COMPANY_ID].astype(str))


def test_labels_do_not_change_with_the_draw_of_pairs():
    """Pairs and labels have random streams of their own, and neither is the generator's."""
    settings = Settings()
    streams = [np.random.default_rng([settings.seed, stream, 0]).random(4).tolist() for stream in (0xA1, 0xA2, 0xD1)]
    assert len({tuple(stream) for stream in streams}) == 3


def test_preparing_writes_nothing(flat, per_office, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    prepared(flat)
    prepared(per_office)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_per_office_folders_pair_people_with_their_own_offices_companies_only(per_office):
    dataset = prepared(per_office)
    assert len(dataset.table) == 3 * 4 * 3
    for row in dataset.table[list(KEY_COLUMNS)].astype(str).itertuples():
        assert row.company_id.startswith(f"Ditta di {TOWNS[row.office]} ")
    everything = prepared(per_office, settings_of(pairs_per_candidate="all")).table
    assert len(everything) == 3 * 4 * 5
    for row in everything[list(KEY_COLUMNS)].astype(str).itertuples():
        assert row.company_id.startswith(f"Ditta di {TOWNS[row.office]} ")


def test_the_same_identifier_in_two_offices_is_two_people(per_office):
    dataset = prepared(per_office)
    keys = dataset.table[[OFFICE, CANDIDATE_ID]].drop_duplicates()
    assert len(keys) == 12
    assert dataset.table[CANDIDATE_ID].nunique() == 4
    part = split_people(dataset.table, seed=1, validation_share=0.3, test_share=0.3)
    by_person = dataset.table.assign(part=part).groupby([OFFICE, CANDIDATE_ID], observed=True)["part"]
    assert (by_person.nunique() == 1).all()
    assert len(by_person) == 12


def test_a_folders_office_is_its_peoples_office_wherever_they_live(tmp_path):
    root = tmp_path / "offices"
    deliver(root / "CPI_Verona", people("Vicenza", "Milano"), firms("Padova", "Torino"))
    table = prepared(root).table
    assert set(table[OFFICE].astype(str)) == {"CPI_Verona"}
    assert set(table[COMPANY_ID].astype(str)) == {"Ditta 0", "Ditta 1"}


def test_offices_folders_draw_pairs_and_labels_independently(tmp_path):
    """Two offices with equal files must not get the same random draws."""
    root = tmp_path / "offices"
    for office, town in list(TOWNS.items())[:2]:
        deliver(root / office, people(*[town] * 40, **{RawCandidate.ATTITUDE: 0.5}), firms(*[town] * 30))
    table = prepared(root).table
    one, other = (table[table[OFFICE] == office] for office in list(TOWNS)[:2])
    assert one[COMPANY_ID].astype(str).tolist() != other[COMPANY_ID].astype(str).tolist()
    assert one[OUTCOME].tolist() != other[OUTCOME].tolist()


OUTCOMES = [
    ("P0", "Ditta 0", "proposto"),
    ("P0", "Ditta 0", "assunto"),
    ("P1", "Ditta 1", "colloquio"),
    ("P2", "Ditta 0", "rifiutato"),
    ("P0", "Ditta 0", "cessato"),
]


def test_recorded_outcomes_are_the_labels_where_they_lie_and_no_probability_is_known(tmp_path):
    candidates = people("Verona", "Vicenza", "Padova", "Padova", **{RawCandidate.ID: ["P0", "P1", "P2", "P3"]})
    folder = deliver(tmp_path / "raw", candidates, firms("Verona", "Padova", "Vicenza"), OUTCOMES)
    dataset = prepared(folder)
    assert (dataset.info.labels, dataset.info.synthetic) == ("outcomes", False)
    assert list(dataset.table.columns) == list(TRAINING_COLUMNS)
    rows = [tuple(row) for row in dataset.table[[*KEY_COLUMNS, OUTCOME]].astype(str).to_numpy()]
    assert rows == [
        ("P0", "Ditta 0", "CPI_Verona", "1"),
        ("P1", "Ditta 1", "CPI_Vicenza", "0"),
        ("P2", "Ditta 0", "CPI_Padova", "0"),
    ]
    early = prepared(folder, settings_of(success_from="colloquio")).table
    assert early[OUTCOME].tolist() == [1, 1, 0]


def test_outcomes_of_two_offices_with_equal_identifiers_keep_to_their_own(tmp_path):
    root = tmp_path / "offices"
    ids = {RawCandidate.ID: ["P0", "P1"]}
    for office, step in (("CPI_Verona", "assunto"), ("CPI_Vicenza", "colloquio")):
        town = TOWNS[office]
        deliver(root / office, people(town, town, **ids), firms(town), [("P0", "Ditta 0", step)])
    table = prepared(root).table
    assert [tuple(row) for row in table[[OFFICE, CANDIDATE_ID, OUTCOME]].astype(str).to_numpy()] == [
        ("CPI_Verona", "P0", "1"),
        ("CPI_Vicenza", "P0", "0"),
    ]


@pytest.mark.parametrize(
    ("row", "what"),
    [(("P9", "Ditta 0", "assunto"), "person"), (("P0", "Ditta 9", "assunto"), "'Ditta 9'")],
)
def test_an_outcome_of_somebody_unknown_is_refused_and_no_person_named(tmp_path, row, what):
    candidates = people("Verona", "Verona", **{RawCandidate.ID: ["P0", "P1"]})
    folder = deliver(tmp_path / "raw", candidates, firms("Verona"), [*OUTCOMES[:2], row])
    with pytest.raises(InputError, match=what) as caught:
        prepared(folder)
    assert "P9" not in str(caught.value)
    assert RAW_OUTCOMES_FILE in caught.value.where


def test_columns_that_an_office_does_not_deliver_stay_missing_in_the_table(tmp_path):
    table = prepared(deliver(tmp_path / "raw", people("Verona", "Padova"), firms("Verona", "Padova"))).table
    for name in ("years_experience", "unemployment_duration", "remote_work", "certification"):
        assert table[name].isna().all(), name
    for name in ("attitude_score", "compatibility_score", "distance_km", "company_size", "retention_rate"):
        assert table[name].notna().all(), name
    for group in ("edu", "dis"):
        assert (table[list(ONE_HOT_GROUPS[group])] == 0).all(axis=None)
    assert (table["sector_it"] == 1).all()


def test_blank_cells_stay_missing_beside_filled_ones(tmp_path):
    years = {RawCandidate.EXPERIENCE_YEARS: [None, 7.5], RawCandidate.EDUCATION: ["Diploma", None]}
    table = prepared(deliver(tmp_path / "raw", people("Verona", "Verona", **years), firms("Verona"))).table
    np.testing.assert_array_equal(table["years_experience"], np.array([np.nan, 7.5], dtype=np.float32))
    assert table["edu_diploma"].tolist() == [1, 0]


def test_an_unknown_place_is_refused_or_kept_with_its_distance_unknown(tmp_path):
    folder = deliver(tmp_path / "raw", people("Verona", "Verona"), firms("Verona", "Cittàchenonesiste"))
    with pytest.raises(InputError, match="Cittàchenonesiste"):
        prepared(folder, settings_of(pairs_per_candidate="all"))
    table = prepared(folder, settings_of(pairs_per_candidate="all", unknown_places="keep")).table
    nowhere = table[COMPANY_ID].astype(str) == "Ditta 1"
    assert table.loc[nowhere, "distance_km"].isna().all()
    assert table.loc[~nowhere, "distance_km"].notna().all()


def test_labels_by_rule_follow_the_reference_rule_on_real_data(tmp_path):
    table = prepared(deliver(tmp_path / "raw", DRAWN.candidates, DRAWN.companies)).table
    np.testing.assert_allclose(table[MATCH_PROBABILITY], REFERENCE_RULE.success_probability(table), atol=1e-6)
    assert (table.loc[table[MATCH_PROBABILITY] == 0, OUTCOME] == 0).all()


RULES = {"synthetic": True, "rules": {office: {"threshold": 0.0, "attitude": 0.0} for office in Settings().offices}}


@pytest.mark.parametrize("where", ["folder", "parent"])
def test_synthetic_data_follows_the_rules_of_its_manifest_and_says_so(tmp_path, where):
    root = tmp_path / "raw"
    folder = deliver(root / "CPI_Verona", people("Verona", "Verona"), firms("Verona", "Verona"))
    marked = folder if where == "folder" else root
    (marked / SYNTHETIC_MARK_FILE).write_text(json.dumps(RULES), encoding="utf-8")
    dataset = prepared(root)
    assert dataset.info.synthetic
    bare = REFERENCE_RULE.model_copy(update=RULES["rules"]["CPI_Verona"])
    np.testing.assert_allclose(dataset.table[MATCH_PROBABILITY], bare.success_probability(dataset.table), atol=1e-6)


def test_real_data_in_a_folder_below_synthetic_data_is_not_labelled_by_its_rules(tmp_path):
    (tmp_path / SYNTHETIC_MARK_FILE).write_text(json.dumps(RULES), encoding="utf-8")
    dataset = prepared(deliver(tmp_path / "mine", DRAWN.candidates, DRAWN.companies))
    assert not dataset.info.synthetic
    table = dataset.table
    np.testing.assert_allclose(table[MATCH_PROBABILITY], REFERENCE_RULE.success_probability(table), atol=1e-6)


def test_people_whose_office_has_no_company_are_refused_by_office(tmp_path):
    folder = deliver(tmp_path / "raw", people("Verona", "Treviso"), firms("Verona"))
    with pytest.raises(InputError, match="CPI_Treviso"):
        prepared(folder)
    assert len(prepared(folder, settings_of(pairs_per_candidate="all")).table) == 2


def test_territories_that_overlap_are_refused_before_anything_is_read(tmp_path):
    settings = Settings.model_validate({"offices": {"A": {"provinces": ["VR"]}, "B": {"provinces": ["VR"]}}})
    folder = deliver(tmp_path / "raw", people("Verona"), firms("Verona"))
    with pytest.raises(InputError, match="claimed by both A and B"):
        prepared(folder, settings)


def test_numbers_of_the_table_stay_in_the_units_of_the_raw_files(tmp_path):
    near = {RawCandidate.LATITUDE: [45.0], RawCandidate.LONGITUDE: [11.0]}
    far = {RawCompany.LATITUDE: [46.0], RawCompany.LONGITUDE: [11.0], RawCompany.EMPLOYEES: [300]}
    row = prepared(deliver(tmp_path / "raw", people("Verona", **near), firms("Verona", **far))).table.iloc[0]
    assert row["distance_km"] == pytest.approx(6371.0088 * np.pi / 180, rel=1e-5)  # one degree along a meridian
    assert row["attitude_score"] == pytest.approx(0.2)
    assert row["company_size"] == 2
    assert row["retention_rate"] == 0.5
    assert set(NUMERIC_COLUMNS) <= set(row.index)
