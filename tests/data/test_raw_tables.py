"""Raw files: what is read, what is refused, and that a refusal never repeats what a person's row says."""

from __future__ import annotations

import csv
import traceback
import unicodedata
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.tables import (
    DISABILITIES,
    EDUCATION,
    RAW_CANDIDATES_FILE,
    RAW_COMPANIES_FILE,
    RAW_OUTCOMES_FILE,
    SYNTHETIC_MARK_FILE,
)
from data.raw_tables import find_raw_files, read_candidates, read_companies, read_outcomes

Rows = list[dict[str, str]]

ID, RESIDENCE, SCORE, EXCLUSIONS = "ID_Candidato", "Area di Residenza", "Score Attitudine al Collocamento", "Esclusioni"
DISABILITY, STUDY, FIRST_JOB = "Tipo di Disabilità", "Titolo di Studio", "Data Inizio Prima Occupazione"
UNEMPLOYED, EXPERIENCE = "Durata Disoccupazione", "Years_of_Experience"
NAME, SECTOR, EMPLOYEES = "Nome Azienda", "Tipo di Attività", "Numero Dipendenti"


def candidate(number: int = 1, **changes: str) -> dict[str, str]:
    row = {
        ID: f"INVENTED{number:04d}",
        RESIDENCE: "Verona, Veneto, Italy",
        SCORE: "0.5",
        EXCLUSIONS: "Lavoro in quota, Mansioni pesanti",
        "Lat": "45.44",
        "Lon": "10.99",
        DISABILITY: "Motoria",
        STUDY: "Diploma",
        FIRST_JOB: "2009",
        UNEMPLOYED: "1.5",
        EXPERIENCE: "7",
    }
    return row | changes


def company(number: int = 1, **changes: str) -> dict[str, str]:
    row = {
        NAME: f"Ditta Inventata {number}",
        "Area di Attività": "Vicenza",
        SECTOR: "Servizi IT",
        EMPLOYEES: "60",
        "Quota Dipendenti Categoria Protetta": "4",
        "Assunti Categoria Protetta": "2",
        "Posizioni Aperte": "2",
        "Compatibilità": "Ambiente tranquillo.",
        "Company_Size": "medium",
        "Certification": "1",
        "Remote": "0",
        "Retention_Rate": "0.5",
    }
    return row | changes


def outcome(**changes: str) -> dict[str, str]:
    return {ID: "INVENTED0001", NAME: "Ditta Inventata 1", "Data": "2024-03-31", "Esito": "colloquio"} | changes


def save(path: Path, rows: Rows, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return tmp_path / RAW_CANDIDATES_FILE


@pytest.fixture
def firms(tmp_path: Path) -> Path:
    return tmp_path / RAW_COMPANIES_FILE


def refused(read: Any, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    said = str(caught.value)
    assert str(path) in said
    assert said.endswith(".")
    assert "\n" not in said
    return said


def without(row: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in names}


# What is read


def test_a_valid_file_gives_values_and_spreadsheet_rows(people: Path) -> None:
    frame = read_candidates(save(people, [candidate(1), candidate(2, **{SCORE: "", FIRST_JOB: "2011-05-31"})]))
    assert frame.index.tolist() == [2, 3]
    assert frame.index.name == "row"
    assert frame[SCORE].dtype == "float64"
    assert frame[SCORE].tolist()[0] == 0.5
    assert pd.isna(frame.at[3, SCORE])
    assert frame[FIRST_JOB].tolist() == [2009.0, 2011.0]
    assert frame.at[2, EXCLUSIONS] == "Lavoro in quota, Mansioni pesanti"


def test_missing_cells_and_missing_optional_columns_stay_missing(people: Path) -> None:
    row = {RESIDENCE: "", SCORE: " ", EXCLUSIONS: "", STUDY: ""}
    frame = read_candidates(save(people, [candidate() | row, candidate(2)]))
    assert frame.at[2, RESIDENCE] is None
    assert frame.at[2, STUDY] is None
    assert frame.at[2, EXCLUSIONS] == ""
    bare = read_candidates(save(people, [{RESIDENCE: "Verona", SCORE: "0.1", EXCLUSIONS: ""}]))
    assert set(bare.columns) == {ID, RESIDENCE, SCORE, EXCLUSIONS}


def test_columns_nobody_knows_are_kept_as_text(people: Path) -> None:
    frame = read_candidates(save(people, [candidate() | {"Note": " 007 "}]))
    assert frame["Note"].tolist() == ["007"]


def test_words_are_matched_without_case_accents_and_blanks(people: Path, firms: Path) -> None:
    frame = read_candidates(
        save(people, [candidate(**{DISABILITY: "disturbi specifici dell’apprendimento", STUDY: "  LICENZA  media"})])
    )
    assert frame.at[2, DISABILITY] == "Disturbi Specifici dell'Apprendimento"
    assert frame.at[2, STUDY] == "Licenza Media"
    row = company(
        **{SECTOR: "sanita' e assistenza sociale", "Company_Size": "Large", "Remote": "Sì", "Certification": "no"}
    )
    values = read_companies(save(firms, [row])).loc[2]
    assert values[SECTOR] == "Sanità e assistenza sociale"
    assert values["Company_Size"] == "large"
    assert (values["Remote"], values["Certification"]) == (1.0, 0.0)


def test_numeric_identifiers_stay_text(people: Path) -> None:
    frame = read_candidates(save(people, [candidate(**{ID: "007"}), candidate(**{ID: "7"})]))
    assert frame[ID].tolist() == ["007", "7"]


@pytest.mark.parametrize("absent", [True, False], ids=["no column", "blank column"])
def test_absent_identifiers_are_made_by_row_order(people: Path, absent: bool) -> None:
    rows = [candidate(n) for n in (1, 2, 3)]
    rows = [without(row, ID) if absent else row | {ID: ""} for row in rows]
    assert read_candidates(save(people, rows))[ID].tolist() == ["C000001", "C000002", "C000003"]


def test_coordinates_in_one_cell_fill_the_two_columns(people: Path, firms: Path) -> None:
    rows = [
        without(candidate(1), "Lat", "Lon") | {"Coord_Residenza": "(45.52, 10.94)"},
        without(candidate(2), "Lat", "Lon") | {"Coord_Residenza": ""},
    ]
    frame = read_candidates(save(people, rows))
    assert frame["Lat"].tolist()[0] == 45.52
    assert frame["Lon"].tolist()[0] == 10.94
    assert frame[["Lat", "Lon"]].loc[3].isna().all()
    row = company() | {"Lat_a": "45.1", "Lon_a": "11.2", "Coord_Attività": "(45.9, 11.9)"}
    assert read_companies(save(firms, [row]))["Lat_a"].tolist() == [45.1]


def test_a_byte_order_mark_and_decomposed_accents_are_read(firms: Path) -> None:
    rows = [{unicodedata.normalize("NFD", name): value for name, value in company().items()}]
    assert read_companies(save(firms, rows, encoding="utf-8-sig"))[SECTOR].tolist() == ["Servizi IT"]


def test_blank_rows_count_and_hold_nobody(people: Path) -> None:
    save(people, [candidate(1), dict.fromkeys(candidate(), ""), candidate(2), candidate(3, **{SCORE: "1.7"})])
    with people.open("a", encoding="utf-8") as file:
        file.write("\n\n")
    assert "row 5," in refused(read_candidates, people)


def test_a_line_break_inside_a_cell_does_not_shift_the_rows(people: Path) -> None:
    said = refused(
        read_candidates, save(people, [candidate(1, **{EXCLUSIONS: "uno,\ndue"}), candidate(2, **{SCORE: "2"})])
    )
    assert "row 3, column 'Score Attitudine al Collocamento'" in said


def test_outcomes_are_read_as_dates_and_steps(tmp_path: Path) -> None:
    rows = [outcome(Esito="In forza 6 mesi"), outcome(Data="2999-01-01T10:30:00+01:00", Esito="CESSATO")]
    frame = read_outcomes(save(tmp_path / RAW_OUTCOMES_FILE, rows))
    assert frame["Data"].tolist() == [pd.Timestamp("2024-03-31"), pd.Timestamp("2999-01-01")]
    assert frame["Esito"].tolist() == ["in forza 6 mesi", "cessato"]


# What is refused


def test_score_of_1_7_names_the_row_and_not_the_value(people: Path) -> None:
    rows = [candidate(1), candidate(2, **{SCORE: "1.7"}), candidate(3), candidate(4, **{SCORE: "-0.25"})]
    said = refused(read_candidates, save(people, rows))
    assert "row 3, column 'Score Attitudine al Collocamento': the value is not between 0 and 1 (and 1 more row)" in said
    assert "1.7" not in said
    assert "INVENTED" not in said


def test_a_decimal_comma_asks_for_a_point(people: Path, firms: Path) -> None:
    assert "use a point" in refused(read_candidates, save(people, [candidate(**{SCORE: "0,7"})]))
    said = refused(read_companies, save(firms, [company(**{"Retention_Rate": "1.234,5"})]))
    assert "'1.234,5' is written with a decimal comma" in said


@pytest.mark.parametrize("number", ["quasi due", "nan", "inf", "1e999", "0x10", "1 000", "٣", "1_000", "True"])
def test_what_is_no_number_is_refused(firms: Path, number: str) -> None:
    assert "row 2, column 'Posizioni Aperte'" in refused(
        read_companies, save(firms, [company(**{"Posizioni Aperte": number})])
    )


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (EMPLOYEES, "-3", "'-3' is not a number of people from 0 to ten million"),
        (EMPLOYEES, "1.500", "'1.500' is not a whole number"),
        ("Assunti Categoria Protetta", "-1", "'-1' is not a number of people from 0 to ten million"),
        ("Company_Size", "enorme", "'enorme' is not a known company size, the nearest is"),
        (SECTOR, "Ristorazzione", "'Ristorazzione' is not a known sector, the nearest is 'Ristorazione'"),
        ("Remote", "forse", "'forse' is neither 0 nor 1"),
        (NAME, "", "the cell is blank"),
    ],
)
def test_a_companys_cell_is_shown_and_its_column_named(firms: Path, column: str, value: str, reason: str) -> None:
    said = refused(read_companies, save(firms, [company(1), company(2, **{column: value})]))
    assert f"row 3, column '{column}': {reason}" in said


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (DISABILITY, "Xinventata", "write one of: Motoria, Intellettiva"),
        (STUDY, "Diplomma", "write one of: Nessuno, Licenza Media"),
        (FIRST_JOB, "1929", "1930"),
        (FIRST_JOB, str(date.today().year + 1), "the current year"),
        (FIRST_JOB, "2011-02-30", "neither a year nor a date"),
        (FIRST_JOB, "31/05/2011", "neither a year nor a date"),
        (UNEMPLOYED, "-4.125", "not a number of years"),
        (EXPERIENCE, "2004", "not a number of years"),
        ("Lat", "10.99", "a latitude in Italy"),
        ("Lon", "45.44", "a longitude in Italy"),
        ("Lat", "", "only one of 'Lat' and 'Lon'"),
        (ID, "", "the cell is blank"),
    ],
)
def test_a_candidates_cell_is_never_shown(people: Path, column: str, value: str, reason: str) -> None:
    said = refused(read_candidates, save(people, [candidate(1), candidate(2, **{column: value})]))
    assert "row 3" in said
    assert reason in said
    assert not value or value not in said


@pytest.mark.parametrize("cell", ["45.61", "(10.83, 45.61)", "(45,52, 10,94)", "Piazza Inventata"])
def test_a_pair_that_is_no_coordinates_in_italy_is_refused(people: Path, cell: str) -> None:
    rows = [without(candidate(), "Lat", "Lon") | {"Coord_Residenza": cell}]
    said = refused(read_candidates, save(people, rows))
    assert "row 2, column 'Coord_Residenza'" in said
    assert cell not in said


@pytest.mark.parametrize("changes", [{"Data": "31/03/2024"}, {"Esito": "Xsparito"}, {"Data": ""}, {ID: ""}])
def test_an_outcome_is_refused_without_its_cells(tmp_path: Path, changes: dict[str, str]) -> None:
    said = refused(read_outcomes, save(tmp_path / RAW_OUTCOMES_FILE, [outcome(), outcome(**changes)]))
    assert f"row 3, column '{next(iter(changes))}'" in said
    assert all(value not in said for value in changes.values() if value)
    assert "INVENTED" not in said
    assert "Ditta" not in said


def test_one_identifier_twice_names_both_rows_and_not_the_identifier(people: Path) -> None:
    said = refused(read_candidates, save(people, [candidate(1), candidate(2), candidate(1)]))
    assert "row 4, column 'ID_Candidato': the value stands in row 2 already" in said
    assert "INVENTED" not in said


def test_one_company_name_twice_names_both_rows_and_asks_for_the_town(firms: Path) -> None:
    said = refused(read_companies, save(firms, [company(1), company(2), company(1), company(1)]))
    assert "row 4, column 'Nome Azienda': 'Ditta Inventata 1' stands in row 2 already (and 1 more row)" in said
    assert "adding the town" in said


def test_missing_identifiers_are_refused_beside_outcomes(people: Path) -> None:
    save(people.with_name(RAW_OUTCOMES_FILE), [outcome()])
    assert "ID_Candidato" in refused(read_candidates, save(people, [without(candidate(), ID)]))


def test_a_latin_1_file_is_told_by_its_line(firms: Path) -> None:
    header = ",".join(company()).replace("à", "a")
    firms.write_bytes(f"{header}\nuno\nCaffè Inventato\n".encode("latin-1"))
    said = refused(read_companies, firms)
    assert "line 3: the file is not UTF-8" in said
    assert "CSV UTF-8" in said


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf_16_is_not_utf_8(people: Path, encoding: str) -> None:
    assert "the file is not UTF-8" in refused(read_candidates, save(people, [candidate()], encoding=encoding))


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_named(people: Path, delimiter: str, name: str) -> None:
    said = refused(read_candidates, save(people, [candidate()], delimiter=delimiter))
    assert f"separated by {name}" in said


def test_empty_files_and_files_without_rows_are_refused(people: Path) -> None:
    people.write_text("")
    assert "the file is empty" in refused(read_candidates, people)
    people.write_text("\n\n")
    assert "the file is empty" in refused(read_candidates, people)
    people.write_text(",".join(candidate()) + "\n\n")
    assert "no row below" in refused(read_candidates, people)
    people.unlink()
    assert "cannot be read" in refused(read_candidates, people)


def test_a_missing_column_names_the_one_that_is_nearly_it(people: Path) -> None:
    row = without(candidate(), SCORE) | {"score attitudine al collocamento": "0.3"}
    said = refused(read_candidates, save(people, [row]))
    assert "column 'Score Attitudine al Collocamento' is missing, and there is a column 'score attitudine" in said
    said = refused(read_candidates, save(people, [without(candidate(), SCORE)]))
    assert "column 'Score Attitudine al Collocamento' is missing; add a column" in said


def test_an_optional_column_written_almost_right_is_not_lost(people: Path) -> None:
    row = without(candidate(), DISABILITY) | {"Tipo di disabilita": "Motoria"}
    assert "rename that column to 'Tipo di Disabilità'" in refused(read_candidates, save(people, [row]))


def test_a_column_twice_is_refused(people: Path) -> None:
    people.write_text(f"{RESIDENCE},{SCORE},{SCORE},{EXCLUSIONS}\nVerona,0.1,0.2,\n")
    assert "the same column name 'Score Attitudine al Collocamento' stands in columns 2 and 3" in refused(
        read_candidates, people
    )


def test_a_file_without_a_header_does_not_show_its_first_person(people: Path) -> None:
    people.write_text("INVENTED0001,Paese Inventato,0.123456,0.123456\n" * 2)
    said = refused(read_candidates, people)
    assert "INVENTED" not in said
    assert "0.123456" not in said
    assert "Paese" not in said


@pytest.mark.parametrize("line", ["Verona,0.5,Lavoro in quota, Mansioni pesanti", "Verona,0.5"])
def test_a_ragged_row_is_told_by_its_number(people: Path, line: str) -> None:
    people.write_text(f"{RESIDENCE},{SCORE},{EXCLUSIONS}\nVerona,0.5,\n{line}\n")
    said = refused(read_candidates, people)
    assert "row 3: the row has" in said
    assert "the header has 3" in said


def test_an_open_quotation_mark_is_told_by_the_row_where_it_begins(people: Path) -> None:
    people.write_text(f'{RESIDENCE},{SCORE},{EXCLUSIONS}\nVerona,0.5,\nVerona,0.5,"Lavoro\nVerona,0.5,\n')
    assert "row 3: a cell's quotation marks do not match" in refused(read_candidates, people)


# Where the files lie


def deliver(folder: Path, *, outcomes: bool = False, synthetic: bool = False) -> None:
    save(folder / RAW_CANDIDATES_FILE, [candidate()])
    save(folder / RAW_COMPANIES_FILE, [company()])
    if outcomes:
        save(folder / RAW_OUTCOMES_FILE, [outcome()])
    if synthetic:
        (folder / SYNTHETIC_MARK_FILE).write_text("{}")


OFFICES = ("CPI_Verona", "CPI_Vicenza")


def test_a_flat_delivery_belongs_to_no_single_office(tmp_path: Path) -> None:
    deliver(tmp_path, outcomes=True, synthetic=True)
    (tmp_path / "appunti").mkdir()
    (files,) = find_raw_files(tmp_path, OFFICES)
    assert files.office is None
    assert files.synthetic
    assert files.outcomes == tmp_path / RAW_OUTCOMES_FILE


def test_offices_deliver_into_their_folders(tmp_path: Path) -> None:
    for office in reversed(OFFICES):
        deliver(tmp_path / office)
    (tmp_path / ".nascosta").mkdir()
    (tmp_path / ".nascosta" / "x.csv").touch()
    (tmp_path / "appunti").mkdir()
    found = find_raw_files(tmp_path, OFFICES)
    assert [files.office for files in found] == list(OFFICES)
    assert not any(files.synthetic or files.outcomes for files in found)
    assert found[0].candidates == tmp_path / "CPI_Verona" / RAW_CANDIDATES_FILE


def test_a_mark_above_the_offices_marks_them_all(tmp_path: Path) -> None:
    for office in OFFICES:
        deliver(tmp_path / office)
    (tmp_path / SYNTHETIC_MARK_FILE).write_text("{}")
    assert all(files.synthetic for files in find_raw_files(tmp_path, OFFICES))


def refused_delivery(directory: Path) -> str:
    return refused(lambda path: find_raw_files(path, OFFICES), directory)


def test_synthetic_and_real_deliveries_do_not_mix(tmp_path: Path) -> None:
    deliver(tmp_path / "CPI_Verona", synthetic=True)
    deliver(tmp_path / "CPI_Vicenza")
    assert "CPI_Verona is marked synthetic" in refused_delivery(tmp_path)


def test_outcomes_come_from_every_office_or_from_none(tmp_path: Path) -> None:
    deliver(tmp_path / "CPI_Verona", outcomes=True)
    deliver(tmp_path / "CPI_Vicenza")
    assert f"CPI_Verona delivers {RAW_OUTCOMES_FILE} and CPI_Vicenza does not" in refused_delivery(tmp_path)


def test_a_folder_named_like_no_office_names_the_nearest(tmp_path: Path) -> None:
    deliver(tmp_path / "CPI_Verona")
    deliver(tmp_path / "cpi_vicensa")
    assert "the nearest is 'CPI_Vicenza'" in refused_delivery(tmp_path)


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    assert RAW_CANDIDATES_FILE in refused_delivery(tmp_path / "niente")
    assert RAW_COMPANIES_FILE in refused_delivery(tmp_path)
    deliver(tmp_path / "CPI_Verona")
    (tmp_path / "CPI_Vicenza").mkdir()
    assert f"the file {RAW_CANDIDATES_FILE} is missing" in refused_delivery(tmp_path)


def test_a_misspelt_file_is_pointed_at(tmp_path: Path) -> None:
    deliver(tmp_path)
    (tmp_path / RAW_COMPANIES_FILE).rename(tmp_path / "dataset_aziende_stima_assunzioni.csv")
    said = refused_delivery(tmp_path)
    assert f"the file {RAW_COMPANIES_FILE} is missing (there is 'dataset_aziende_stima_assunzioni.csv')" in said


def test_files_both_here_and_in_an_offices_folder_are_refused(tmp_path: Path) -> None:
    deliver(tmp_path)
    deliver(tmp_path / "CPI_Verona")
    assert "both here and in the office's folder 'CPI_Verona'" in refused_delivery(tmp_path)


# Properties

LETTERS = st.text("bcdfghjklmnpqrstvwxyz", min_size=9, max_size=20).map(lambda text: f"qx{text}")
TOO_LARGE = st.integers(10_000, 10**9).map(lambda number: f"{number}.375")
COMMA = st.integers(0, 10**6).map(lambda number: f"{number}00,125")
BAD_NUMBER = st.one_of(LETTERS, TOO_LARGE, TOO_LARGE.map("-{}".format), COMMA)
CORRUPTIONS = {
    SCORE: BAD_NUMBER,
    "Lat": BAD_NUMBER,
    "Lon": BAD_NUMBER,
    DISABILITY: st.one_of(LETTERS, TOO_LARGE),
    STUDY: st.one_of(LETTERS, TOO_LARGE),
    FIRST_JOB: BAD_NUMBER,
    UNEMPLOYED: BAD_NUMBER,
    EXPERIENCE: BAD_NUMBER,
}


@settings(deadline=None, max_examples=60)
@given(data=st.data(), row=st.integers(0, 6), column=st.sampled_from(sorted(CORRUPTIONS)))
def test_any_corrupted_cell_is_told_by_its_row_and_never_shown(
    data: st.DataObject, row: int, column: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    value = data.draw(CORRUPTIONS[column])
    rows = [candidate(number) for number in range(7)]
    rows[row][column] = value
    path = save(tmp_path_factory.getbasetemp() / "corrupted.csv", rows)
    with pytest.raises(InputError) as caught:
        read_candidates(path)
    said = "".join(traceback.format_exception(caught.value)).replace(str(path), "")
    assert f", row {row + 2}, column '{column}': " in said
    assert value not in said
    assert "INVENTED" not in said


def clean(text: str) -> str | None:
    return unicodedata.normalize("NFC", text).strip() or None


ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NUMBER = st.one_of(st.none(), st.floats(0, 1))
PEOPLE = st.lists(
    st.tuples(ANY_TEXT, NUMBER, ANY_TEXT, st.sampled_from([None, *DISABILITIES.values()]), ANY_TEXT),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(people=PEOPLE)
def test_what_is_written_is_what_is_read(people: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [
        {
            ID: f"INVENTED{number}",
            RESIDENCE: residence,
            SCORE: "" if score is None else repr(score),
            EXCLUSIONS: exclusions,
            DISABILITY: disability or "",
            "Note": note,
        }
        for number, (residence, score, exclusions, disability, note) in enumerate(people)
    ]
    frame = read_candidates(save(tmp_path_factory.getbasetemp() / "same.csv", rows))
    assert frame[ID].tolist() == [row[ID] for row in rows]
    assert frame[RESIDENCE].tolist() == [clean(row[RESIDENCE]) for row in rows]
    assert [None if pd.isna(score) else score for score in frame[SCORE]] == [score for _, score, *_ in people]
    assert frame[EXCLUSIONS].tolist() == [clean(row[EXCLUSIONS]) or "" for row in rows]
    assert frame[DISABILITY].tolist() == [disability for *_, disability, _ in people]
    assert frame["Note"].tolist() == [clean(row["Note"]) for row in rows]


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = save(tmp_path_factory.getbasetemp() / "damaged.csv", [candidate(number) for number in range(3)])
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 30)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=12)) + content[stop:])
    refusal, frame = "", pd.DataFrame({SCORE: [], STUDY: []})
    try:
        frame = read_candidates(path)
    except InputError as error:
        refusal = str(error)
    assert "INVENTED" not in refusal
    assert frame[SCORE].dropna().between(0, 1).all()
    assert STUDY not in frame or frame[STUDY].dropna().isin(list(EDUCATION.values())).all()
