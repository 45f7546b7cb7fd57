"""Bad input: one clear sentence with the place and the remedy, exit code 1, no traceback, nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import WITHOUT_PROTECTIONS, Outcome
from e2e.independent_writer import write_office_files, write_outcomes

from common.tables import TRAINING_COLUMNS
from common.training_table import read_training_table, write_training_table

Djms = Callable[..., Outcome]
PEOPLE = "Dataset_Candidati_Aggiornato.csv"
FIRMS = "Dataset_Aziende_con_Stima_Assunzioni.csv"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_office_files(tmp_path / "raw", people=100, companies=25, seed=2)
    return tmp_path / "raw"


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    path.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")


def cell(row: int, column: int, value: str) -> Callable[[list[str]], list[str]]:
    """Replace a cell of an unquoted row; rows count like a spreadsheet's, from 1."""

    def change(lines: list[str]) -> list[str]:
        fields = ["Diploma", "", "0.5", "Verona", "", "inventato"]
        fields[column] = value
        return [*lines[: row - 1], ",".join(fields), *lines[row:]]

    return change


def with_identifiers(lines: list[str], *, twice: int) -> list[str]:
    numbered = [f"P{number},{line}" for number, line in enumerate(lines)]
    numbered[0] = f"ID_Candidato,{lines[0]}"
    numbered[twice] = f"P1,{lines[twice]}"
    return numbered


CASES: dict[str, tuple[str, Callable[[list[str]], list[str]], tuple[str, ...]]] = {
    "a missing column": (
        PEOPLE,
        lambda lines: [lines[0].replace("Area di Residenza", "Paese"), *lines[1:]],
        (PEOPLE, "Area di Residenza"),
    ),
    "a score of 1.7": (PEOPLE, cell(12, 2, "1.7"), (PEOPLE, "row 12", "Score Attitudine al Collocamento")),
    "a decimal comma": (PEOPLE, cell(9, 2, '"0,7"'), (PEOPLE, "row 9", "point")),
    "a duplicate candidate": (
        PEOPLE,
        lambda lines: with_identifiers(lines, twice=7),
        (PEOPLE, "row 8", "ID_Candidato"),
    ),
    "an empty file": (PEOPLE, lambda _lines: [], (PEOPLE, "empty")),
    "a header without rows": (FIRMS, lambda lines: lines[:1], (FIRMS,)),
    "a residence nobody knows": (PEOPLE, cell(20, 3, "Paperopoli"), (PEOPLE, "row 20", "Area di Residenza")),
    "a seat nobody knows": (
        FIRMS,
        lambda lines: [*lines[:4], lines[4].replace('"Verona"', '"Veronna"').replace('"Legnago"', '"Veronna"')
                       .replace('"San Bonifacio"', '"Veronna"').replace('"Treviso"', '"Veronna"')
                       .replace('"Conegliano"', '"Veronna"').replace('"Oderzo"', '"Veronna"'), *lines[5:]],
        (FIRMS, "row 5", "Veronna", "Verona"),
    ),
    "semicolons": (PEOPLE, lambda lines: [line.replace(",", ";") for line in lines], (PEOPLE, "semicolon")),
    "a row with too many cells": (PEOPLE, lambda lines: [*lines[:5], lines[5] + ",x,y", *lines[6:]], ("row 6",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_gives_one_sentence_with_its_place_and_leaves_nothing(
    djms: Djms, raw: Path, tmp_path: Path, case: str
) -> None:
    name, change, expected = CASES[case]
    edit(raw / name, change)
    refused_cleanly(djms("demo", "--raw", raw, "--out", tmp_path / "run"), tmp_path, *expected)


def test_a_file_in_latin_1_is_told_how_to_become_utf_8(djms: Djms, raw: Path, tmp_path: Path) -> None:
    text = (raw / FIRMS).read_text(encoding="utf-8")
    (raw / FIRMS).write_bytes(text.encode("latin-1"))
    refused_cleanly(djms("demo", "--raw", raw, "--out", tmp_path / "run"), tmp_path, FIRMS, "UTF-8")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--set", "federated.round=5"), ("federated.round", "federated.rounds")),
        (("--secure_agg.threshold", "6-of-5"), ("6-of-5", "5-of-5")),
        (("--aggregator", "mean_of_means"), ("mean_of_means", "trimmed_mean")),
        (("--aggregator", "coordinate_median"), ("secure aggregation", "hides")),
        (("--secure_agg.groups", "2"), ("groups", "fedavg")),
        (("--anchoring.witnesses", "6"), ("6 witnesses", "there are 5 sites")),
        (("--anchoring.publish", "evm"), ("key_file",)),
        (
            ("--privacy.enabled", "false", "--aggregator", "trimmed_mean", "--federated.trim", "0.1"),
            ("trim 0.1", "needs 10 sites"),
        ),
        (("--federated.min_clients", "6"), ("needs 6 sites", "there are 5")),
        (
            ("--set", "offices={CPI_Trento: {provinces: [TN]}, CPI_Bolzano: {provinces: [BZ]}, A: {provinces: [VR]}}"),
            ("five offices of Veneto", "--raw"),
        ),
        (("--candidates", "30", "--companies", "30"), ("CPI_", "too few people")),
        (("--config", "nowhere.yaml"), ("nowhere.yaml", "does not exist")),
        (("--candidates", "5", "--raw", "x"), ("--raw", "leave --candidates")),
        (("--candidates", "2"), ("2 candidates", "at least 5")),
    ],
)
def test_bad_settings_and_flags_give_one_sentence(
    djms: Djms, tmp_path: Path, flags: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    refused_cleanly(djms("demo", *flags, "--out", tmp_path / "run"), tmp_path, *expected)


def test_a_site_without_rows_is_refused_by_file(djms: Djms, small_federation: Path, tmp_path: Path) -> None:
    data = _copy(small_federation, tmp_path / "federated")
    (data / "CPI_Este.csv").write_text(",".join(TRAINING_COLUMNS) + "\n", encoding="utf-8")
    flags = ("--set", "offices={CPI_Este: {provinces: [PD]}, CPI_Verona: {provinces: [VR]}}")
    done = djms(
        *("federate", "--data", data, "--out", tmp_path / "run", "--federated.min_clients", "2"),
        *(*flags, *WITHOUT_PROTECTIONS),
    )
    refused_cleanly(done, tmp_path, "CPI_Este.csv", "no rows")


def test_a_site_with_one_class_only_is_refused_by_file(djms: Djms, small_federation: Path, tmp_path: Path) -> None:
    data = _copy(small_federation, tmp_path / "federated")
    table = read_training_table(data / "CPI_Padova.csv")
    table["outcome"] = table["outcome"] * 0
    write_training_table(table, data / "CPI_Padova.csv")
    done = djms("federate", "--data", data, "--out", tmp_path / "run", *WITHOUT_PROTECTIONS)
    refused_cleanly(done, tmp_path, "CPI_Padova.csv", "failures only")


def test_an_office_nobody_belongs_to_is_refused(djms: Djms, raw: Path, tmp_path: Path) -> None:
    flags = ("--set", "offices.CPI_Trento={provinces: [TN]}", "--secure_agg.threshold", "60%")
    done = djms("demo", "--raw", raw, "--out", tmp_path / "run", *flags)
    refused_cleanly(done, tmp_path, "CPI_Trento", "no people")


def test_outcomes_of_people_nobody_knows_are_refused_without_naming_them(djms: Djms, raw: Path, tmp_path: Path) -> None:
    edit(raw / PEOPLE, lambda lines: with_identifiers(lines, twice=1))
    write_outcomes(raw, [("ZZTOP", "Ditta inventata, n. 3", "2025-01-01", "assunto")])
    done = djms("demo", "--raw", raw, "--out", tmp_path / "run")
    refused_cleanly(done, tmp_path, "Esiti_Collocamento.csv", "not in the candidates' file")
    assert "ZZTOP" not in done.err


@pytest.mark.parametrize("out", ["letter.txt", "letter.txt/run"])
def test_a_place_that_cannot_be_a_folder_is_refused_in_one_sentence(djms: Djms, tmp_path: Path, out: str) -> None:
    (tmp_path / "letter.txt").write_text("keep", encoding="utf-8")
    refused_cleanly(djms("demo", "--candidates", "400", "--companies", "50", "--out", tmp_path / out), tmp_path, out)
    assert (tmp_path / "letter.txt").read_text(encoding="utf-8") == "keep"


def test_a_section_of_the_settings_whose_keys_are_all_commented_out_is_an_empty_one(djms: Djms, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("federated:\n  # rounds: 5\nprivacy:\n", encoding="utf-8")
    shown = djms("config", "show", "--json", "--config", tmp_path / "my.yaml")
    assert shown.code == 0, shown.err
    assert shown.data["federated"]["rounds"] == 10


def test_a_key_of_the_settings_may_be_written_with_dashes(djms: Djms) -> None:
    shown = djms("config", "show", "--json", "--pairs-per-candidate", "all", "--federated.min-clients", "4")
    assert shown.data["data"]["pairs_per_candidate"] == "all"
    assert shown.data["federated"]["min_clients"] == 4


def test_a_folder_of_somebody_elses_files_is_not_written_into(djms: Djms, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.yaml").write_text("keep", encoding="utf-8")
    done = djms("demo", "--quick", "--out", tmp_path / "mine")
    assert done.code == 1
    assert "not an earlier run's" in done.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["settings.yaml"]


def test_the_installed_command_prints_no_traceback_and_returns_1(raw: Path, tmp_path: Path) -> None:
    edit(raw / PEOPLE, cell(12, 2, "1.7"))
    command = [Path(sys.executable).with_name("djms"), "demo", "--raw", raw, "--out", tmp_path / "run", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    refused_cleanly(Outcome(done.returncode, "", done.stderr), tmp_path, "row 12")
    assert Outcome(1, done.stdout, "").data["exit_code"] == 1


def refused_cleanly(done: Outcome, folder: Path, *expected: str) -> None:
    assert done.code == 1, done.err
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, f"not one sentence: {done.err}"
    assert "Traceback" not in done.err
    for words in expected:
        assert words in done.err, done.err
    assert "1.7" not in done.err.replace("row 1.7", ""), "a person's value is shown"
    assert "Paperopoli" not in done.err, "a person's town is shown"
    assert not (folder / "run").exists(), "something was half-written"


def _copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target
