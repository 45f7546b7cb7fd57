"""The extended tables: places, offices, attributes that stay missing, and files that are whole or not there."""

from __future__ import annotations

import stat
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.tables import DISABILITIES, EDUCATION, SECTORS, RawCandidate, RawCompany
from data.extension import (
    EXTENDED_CANDIDATES_FILE,
    EXTENDED_COMPANIES_FILE,
    extend_candidates,
    extend_companies,
    write_extended,
)
from data.gazetteer import Gazetteer
from data.places import locate
from data.raw_tables import RawFiles, read_candidates, read_companies

NAN = float("nan")
PLACE = "Area di Residenza"
PLACES = ["latitude", "longitude", "comune", "province"]


@dataclass(frozen=True)
class Served:
    provinces: tuple[str, ...] = ()
    comuni: tuple[str, ...] = ()


@dataclass(frozen=True)
class At:
    latitude: float
    longitude: float


@dataclass
class FakeGeocoder:
    """Knows one invented place and remembers what it was asked."""

    answer: At | None = At(45.44, 10.99)
    asked: list[str] = field(default_factory=list)

    def find(self, text: str) -> At | None:
        self.asked.append(text)
        return self.answer if text == "Borgo Inventato" else None


OFFICES = {"CPI_Verona": Served(provinces=("VR",)), "CPI_Vicenza": Served(provinces=("VI",))}


@pytest.fixture(scope="module")
def gazetteer() -> Gazetteer:
    return Gazetteer.load()


def files(office: str | None = None) -> RawFiles:
    return RawFiles(Path("candidati.csv"), Path("aziende.csv"), None, office, synthetic=False)


def raw_people(residences: list[str | None], **columns: list[Any]) -> pd.DataFrame:
    count = len(residences)
    frame = pd.DataFrame(
        {
            RawCandidate.ID: [f"INVENTED{number}" for number in range(count)],
            RawCandidate.RESIDENCE: pd.Series(residences, dtype=object),
            RawCandidate.ATTITUDE: np.linspace(0.0, 1.0, count),
            RawCandidate.EXCLUSIONS: [""] * count,
            **columns,
        }
    )
    return frame.set_axis(pd.RangeIndex(2, count + 2, name="row"))


def raw_firms(seats: list[str | None], **columns: list[Any]) -> pd.DataFrame:
    count = len(seats)
    numbers = {
        name: [NAN] * count for name in (RawCompany.EMPLOYEES, RawCompany.QUOTA, RawCompany.HIRED, RawCompany.OPENINGS)
    }
    frame = pd.DataFrame(
        {
            RawCompany.NAME: [f"Ditta Inventata {number}" for number in range(count)],
            RawCompany.SEAT: pd.Series(seats, dtype=object),
            RawCompany.SECTOR: ["Servizi IT"] * count,
            RawCompany.COMPATIBILITY: pd.Series([None] * count, dtype=object),
        }
        | numbers
        | columns
    )
    return frame.set_axis(pd.RangeIndex(2, count + 2, name="row"))


def people(gazetteer: Gazetteer, raw: pd.DataFrame, office: str | None = None, **options: Any) -> pd.DataFrame:
    options = {"unknown_places": "refuse"} | options
    return extend_candidates(raw, files(office), OFFICES, gazetteer=gazetteer, **options)


def firms(gazetteer: Gazetteer, raw: pd.DataFrame, office: str | None = None, **options: Any) -> pd.DataFrame:
    options = {"unknown_places": "refuse"} | options
    return extend_companies(raw, files(office), OFFICES, gazetteer=gazetteer, **options)


def refused(action: Callable[[], object]) -> str:
    """The sentence of the refusal, checked to carry no candidate's data anywhere in its traceback."""
    with pytest.raises(InputError) as caught:
        action()
    assert "INVENTED" not in str(caught.value)
    assert caught.value.__context__ is None
    return str(caught.value)


# Places


def test_a_town_is_found_offline_and_a_blank_one_stays_missing(gazetteer: Gazetteer) -> None:
    raw = raw_people(["Verona, Veneto, Italy", None, "Schio"])
    places = locate(raw, "candidate", Path("x.csv"), gazetteer=gazetteer, unknown_places="refuse", provinces=("VR",))
    assert places.columns.tolist() == PLACES
    assert places.index.equals(raw.index)
    assert places["comune"].tolist() == ["Verona", None, "Schio"]
    assert places["province"].tolist() == ["VR", None, "VI"]
    assert places.loc[3, ["latitude", "longitude"]].isna().all()
    assert places.at[2, "latitude"] == pytest.approx(45.44, abs=0.05)


def test_given_coordinates_win_and_the_comune_comes_from_the_text_or_from_the_nearest(gazetteer: Gazetteer) -> None:
    raw = raw_people(
        ["Legnago", "Borgo Inventato", None, "Castro"],
        Lat=[45.44, 45.44, 45.55, 45.81],
        Lon=[10.99, 10.99, 11.55, 10.07],
    )
    places = locate(raw, "candidate", Path("x.csv"), gazetteer=gazetteer, unknown_places="refuse", provinces=())
    assert places["latitude"].tolist() == [45.44, 45.44, 45.55, 45.81]
    assert places["longitude"].tolist() == [10.99, 10.99, 11.55, 10.07]
    assert places["comune"].tolist()[:3] == ["Legnago", "Verona", "Vicenza"]
    assert places["province"].tolist() == ["VR", "VR", "VI", "BG"]


def test_a_residence_nobody_knows_is_refused_without_being_shown(gazetteer: Gazetteer) -> None:
    said = refused(lambda: people(gazetteer, raw_people(["Verona", "Veronna", "Borgo Inventato"])))
    assert said.startswith(
        "candidati.csv, row 3, column 'Area di Residenza': the place is no comune that is known (and 1"
    )
    assert "unknown_places=keep" in said
    assert "Veronna" not in said
    assert "Verona" not in said


def test_a_seat_nobody_knows_is_shown_with_the_nearest_names(gazetteer: Gazetteer) -> None:
    said = refused(lambda: firms(gazetteer, raw_firms(["Veronna"])))
    assert "aziende.csv, row 2, column 'Area di Attività': 'Veronna' is no comune that is known, the nearest: " in said
    assert "Verona" in said


def test_a_name_of_several_comuni_is_refused_and_for_a_person_not_repeated(gazetteer: Gazetteer) -> None:
    said = refused(lambda: people(gazetteer, raw_people(["Verona", "Livo"])))
    assert "row 3" in said
    assert "Livo" not in said
    said = refused(lambda: firms(gazetteer, raw_firms(["Livo"]), unknown_places="keep"))
    assert "'Livo' is the name of several comuni" in said
    assert "Livo (CO)" in said


def test_the_offices_province_decides_between_comuni_of_one_name(gazetteer: Gazetteer) -> None:
    offices = {"Como": Served(provinces=("CO",)), "Trento": Served(provinces=("TN",))}
    for office, province in (("Como", "CO"), ("Trento", "TN")):
        extended = extend_candidates(
            raw_people(["Livo"]), files(office), offices, gazetteer=gazetteer, unknown_places="refuse"
        )
        assert extended["province"].tolist() == [province]


def test_keep_leaves_an_unknown_place_without_distance(gazetteer: Gazetteer) -> None:
    extended = people(gazetteer, raw_people(["Borgo Inventato"]), "CPI_Verona", unknown_places="keep")
    assert extended[["latitude", "longitude"]].isna().all(axis=None)
    assert extended[["comune", "province"]].to_numpy().tolist() == [[None, None]]
    assert extended["office"].tolist() == ["CPI_Verona"]


def test_the_geocoder_is_asked_once_and_only_about_what_nobody_knows(gazetteer: Gazetteer) -> None:
    geocoder = FakeGeocoder()
    raw = raw_people(["Borgo Inventato", "Verona", "Borgo Inventato", None, "Altro Inventato"])
    kept = people(gazetteer, raw, "CPI_Verona", geocoder=geocoder, unknown_places="keep")
    assert geocoder.asked == ["Borgo Inventato", "Altro Inventato"]
    assert kept["comune"].tolist() == ["Verona", "Verona", "Verona", None, None]
    assert kept["latitude"].tolist()[0] == 45.44
    assert "row 6" in refused(lambda: people(gazetteer, raw, "CPI_Verona", geocoder=geocoder))


def test_an_answer_outside_italy_is_no_answer(gazetteer: Gazetteer) -> None:
    geocoder = FakeGeocoder(At(39.78, -89.65))
    assert "row 2" in refused(lambda: people(gazetteer, raw_people(["Borgo Inventato"]), geocoder=geocoder))


# People


def test_people_of_a_flat_delivery_go_to_the_office_of_their_residence(gazetteer: Gazetteer) -> None:
    extended = people(gazetteer, raw_people(["Schio", "Verona", "Legnago"]))
    assert extended["office"].tolist() == ["CPI_Vicenza", "CPI_Verona", "CPI_Verona"]
    assert extended.index.tolist() == [0, 1, 2]


def test_people_of_an_offices_folder_belong_to_it_wherever_they_live(gazetteer: Gazetteer) -> None:
    extended = people(gazetteer, raw_people(["Schio", "Milano", None]), "CPI_Verona")
    assert extended["office"].tolist() == ["CPI_Verona"] * 3


@pytest.mark.parametrize(
    ("residences", "reason"),
    [
        (
            ["Verona", "Milano", None, "Roma"],
            "row 3, column 'Area di Residenza': the residence lies in no office's territory",
        ),
        (["Verona", None, "Milano", None], "row 3, column 'Area di Residenza': the residence is blank or unknown"),
    ],
)
def test_a_person_without_an_office_stops_the_import(
    gazetteer: Gazetteer, residences: list[str | None], reason: str
) -> None:
    said = refused(lambda: people(gazetteer, raw_people(residences)))
    assert reason in said
    assert "(and 1 more row)" in said
    assert "own folder" in said
    assert "Milano" not in said


def test_an_unknown_residence_cannot_be_kept_in_a_flat_delivery(gazetteer: Gazetteer) -> None:
    said = refused(lambda: people(gazetteer, raw_people(["Borgo Inventato"]), unknown_places="keep"))
    assert "row 2" in said
    assert "Borgo" not in said


def test_an_office_without_territory_is_refused(gazetteer: Gazetteer) -> None:
    assert "CPI_Altrove" in refused(lambda: people(gazetteer, raw_people(["Verona"]), "CPI_Altrove"))


def test_what_the_office_did_not_state_stays_missing(gazetteer: Gazetteer) -> None:
    row = people(gazetteer, raw_people(["Verona"], **{RawCandidate.FIRST_JOB_YEAR: [2001.0]})).loc[0]
    assert row["disability"] is None
    assert row["education"] is None
    assert np.isnan(row["years_experience"])
    assert np.isnan(row["unemployment_duration"])
    assert row["exclusions"] == ()


def test_words_become_slugs_and_exclusions_are_said_once(gazetteer: Gazetteer) -> None:
    raw = raw_people(
        ["Verona"],
        **{
            RawCandidate.EXCLUSIONS: [" Lavoro in quota ,, mansioni pesanti, LAVORO IN QUOTA"],
            RawCandidate.DISABILITY: ["Disturbi Specifici dell'Apprendimento"],
            RawCandidate.EDUCATION: ["Licenza Media"],
            RawCandidate.EXPERIENCE_YEARS: [3.5],
        },
    )
    row = people(gazetteer, raw).loc[0]
    assert row["exclusions"] == ("Lavoro in quota", "mansioni pesanti")
    assert (row["disability"], row["education"], row["years_experience"]) == ("dsa", "licenza_media", 3.5)


# Companies


def test_a_company_belongs_to_the_market_of_its_seat_or_to_none(gazetteer: Gazetteer) -> None:
    extended = firms(gazetteer, raw_firms(["Schio", "Milano", None]))
    assert extended["office"].tolist() == ["CPI_Vicenza", None, None]
    assert firms(gazetteer, raw_firms(["Milano"]), "CPI_Verona")["office"].tolist() == ["CPI_Verona"]


def test_size_comes_from_the_word_or_else_from_the_employees(gazetteer: Gazetteer) -> None:
    employees = [0.0, 49.0, 50.0, 249.0, 250.0, NAN]
    raw = raw_firms(["Verona"] * 6, **{RawCompany.EMPLOYEES: employees})
    np.testing.assert_array_equal(firms(gazetteer, raw)["company_size"], [0, 0, 1, 1, 2, NAN])
    raw[RawCompany.SIZE] = pd.Series(["large", None, None, None, "small", "medium"], index=raw.index, dtype=object)
    np.testing.assert_array_equal(firms(gazetteer, raw)["company_size"], [2, 0, 1, 1, 0, 1])


def test_retention_is_hired_over_quota_and_zero_without_a_quota(gazetteer: Gazetteer) -> None:
    columns: dict[str, list[Any]] = {
        RawCompany.QUOTA: [4.0, 0.0, 0.0, NAN, 2.0, 2.0],
        RawCompany.HIRED: [1.0, 3.0, NAN, 1.0, NAN, 1.0],
        RawCompany.RETENTION: [NAN, NAN, NAN, NAN, NAN, 0.9],
    }
    rate = firms(gazetteer, raw_firms(["Verona"] * 6, **columns))["retention_rate"]
    np.testing.assert_array_equal(rate, [0.25, 0.0, 0.0, NAN, NAN, 0.9])


def test_a_companys_unstated_attributes_stay_missing(gazetteer: Gazetteer) -> None:
    row = firms(gazetteer, raw_firms(["Verona"])).loc[0]
    assert row["compatibility_text"] is None
    numbers = [
        "employees",
        "quota",
        "hired",
        "openings",
        "company_size",
        "retention_rate",
        "remote_work",
        "certification",
    ]
    assert row[numbers].isna().all()


# Types and files


def test_types_do_not_depend_on_what_is_missing(gazetteer: Gazetteer) -> None:
    full = raw_people(
        ["Verona"],
        **{
            RawCandidate.DISABILITY: ["Motoria"],
            RawCandidate.EDUCATION: ["Laurea"],
            RawCandidate.EXPERIENCE_YEARS: [1.0],
            RawCandidate.UNEMPLOYMENT_YEARS: [1.0],
        },
    )
    bare = raw_people([None])
    one, two = (people(gazetteer, raw, "CPI_Verona").dtypes for raw in (full, bare))
    assert one.drop("candidate_id").equals(two.drop("candidate_id"))
    assert set(one[["disability", "education", "comune", "province", "office", "exclusions"]]) == {np.dtype(object)}
    assert firms(gazetteer, raw_firms(["Verona"]))["company_size"].dtype == np.float64


def test_files_are_written_whole_and_the_peoples_are_private(gazetteer: Gazetteer, tmp_path: Path) -> None:
    raw = raw_people(["Verona", "Schio"], **{RawCandidate.EXCLUSIONS: ["Lavoro in quota, Mansioni pesanti", ""]})
    candidates, companies = people(gazetteer, raw), firms(gazetteer, raw_firms(["Verona", "Milano"]))
    folder = tmp_path / "nuova" / "processed"
    write_extended(candidates, companies, folder)
    write_extended(candidates, companies, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([EXTENDED_CANDIDATES_FILE, EXTENDED_COMPANIES_FILE])
    assert stat.S_IMODE((folder / EXTENDED_CANDIDATES_FILE).stat().st_mode) == 0o600
    again = pd.read_csv(folder / EXTENDED_CANDIDATES_FILE, keep_default_na=False)
    assert again.columns.tolist() == candidates.columns.tolist()
    assert again["exclusions"].tolist() == ["Lavoro in quota, Mansioni pesanti", ""]
    assert again["latitude"].tolist() == candidates["latitude"].tolist()
    assert pd.read_csv(folder / EXTENDED_COMPANIES_FILE)["office"].isna().tolist() == [False, True]


def test_a_write_that_fails_leaves_the_old_files_and_nothing_else(gazetteer: Gazetteer, tmp_path: Path) -> None:
    candidates, companies = people(gazetteer, raw_people(["Verona"])), firms(gazetteer, raw_firms(["Verona"]))
    write_extended(candidates, companies, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    half_a_character = pd.Series(["\ud800"], dtype=object)  # UTF-8 cannot hold it
    unwritable = companies.assign(compatibility_text=half_a_character)
    with pytest.raises(UnicodeEncodeError):
        write_extended(candidates.assign(attitude_score=0.25), unwritable, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# Properties

PERSON = st.fixed_dictionaries(
    {
        "residence": st.sampled_from(
            ["Verona", "VERONA", "Legnago, Veneto, Italy", "schio", "S. Bonifacio (VR)", "Thiene"]
        ),
        "score": st.one_of(st.none(), st.floats(0, 1)),
        "exclusions": st.lists(st.text("abcDEF àé'", max_size=6), max_size=4),
        "disability": st.sampled_from([None, *DISABILITIES]),
        "education": st.sampled_from([None, *EDUCATION]),
        "years": st.one_of(st.none(), st.floats(0, 80)),
    }
)


@settings(deadline=None, max_examples=40)
@given(drawn=st.lists(PERSON, min_size=1, max_size=6))
def test_a_written_file_is_extended_to_what_it_says(
    drawn: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "extend" / "candidati.csv"
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(
        {
            RawCandidate.RESIDENCE.value: [person["residence"] for person in drawn],
            RawCandidate.ATTITUDE.value: [person["score"] for person in drawn],
            RawCandidate.EXCLUSIONS.value: [",".join(person["exclusions"]) for person in drawn],
            RawCandidate.DISABILITY.value: [DISABILITIES.get(person["disability"]) for person in drawn],
            RawCandidate.EDUCATION.value: [EDUCATION.get(person["education"]) for person in drawn],
            RawCandidate.EXPERIENCE_YEARS.value: [person["years"] for person in drawn],
        }
    ).to_csv(path, index=False)
    extended = people(Gazetteer.load(), read_candidates(path))
    assert len(extended) == len(drawn)
    for person, row in zip(drawn, extended.to_dict("records"), strict=True):
        assert row["office"] == ("CPI_Vicenza" if person["residence"] in {"schio", "Thiene"} else "CPI_Verona")
        assert (row["disability"], row["education"]) == (person["disability"], person["education"])
        for name, column in (("score", "attitude_score"), ("years", "years_experience")):
            assert row[column] == person[name] or (person[name] is None and np.isnan(row[column]))
        stated = [part.strip() for part in person["exclusions"] if part.strip()]
        assert {part.casefold() for part in row["exclusions"]} == {part.casefold() for part in stated}
        assert len({part.casefold() for part in row["exclusions"]}) == len(row["exclusions"])
        assert set(row["exclusions"]) <= set(stated)


@settings(deadline=None, max_examples=40)
@given(place=st.text("bcdfgjkqvwxz", min_size=8, max_size=16), row=st.integers(0, 4), keep=st.booleans())
def test_an_invented_residence_is_told_by_its_row_and_never_shown(place: str, row: int, keep: bool) -> None:
    residences: list[str | None] = ["Verona"] * 5
    residences[row] = place
    with pytest.raises(InputError) as caught:
        people(Gazetteer.load(), raw_people(residences), unknown_places="keep" if keep else "refuse")
    said = "".join(traceback.format_exception(caught.value, limit=0))
    assert f"row {row + 2}, " in said
    assert place not in said


def test_companies_read_from_a_file_are_extended(gazetteer: Gazetteer, tmp_path: Path) -> None:
    path = tmp_path / "aziende.csv"
    path.write_text(
        "Nome Azienda,Area di Attività,Tipo di Attività,Numero Dipendenti,Quota Dipendenti Categoria Protetta,"
        "Assunti Categoria Protetta,Posizioni Aperte,Compatibilità,Remote\n"
        'Ditta Inventata,"Arzignano, Veneto, Italy",produzione industriale,120,8,6,2,Ambiente tranquillo.,sì\n',
        encoding="utf-8",
    )
    row = firms(gazetteer, read_companies(path)).loc[0]
    assert (row["company_id"], row["office"], row["comune"]) == ("Ditta Inventata", "CPI_Vicenza", "Arzignano")
    assert row["sector"] in SECTORS
    assert (row["company_size"], row["retention_rate"], row["remote_work"]) == (1.0, 0.75, 1.0)
    assert np.isnan(row["certification"])
