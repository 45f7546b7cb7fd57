"""Finding and reading the CSV files that offices export.

The rules:

* a file is UTF-8 (with or without a byte order mark), comma separated, with Italian column names in its first row;
* a row is named as a spreadsheet numbers it: the header is row 1, a blank row counts and holds nobody;
* a file is read whole or refused with the first reason why; nothing is repaired in silence and nothing is written;
* an error names file, row, column and remedy, and never shows a cell of a table that holds people.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from common.errors import InputError, row_place
from common.tables import (
    RAW_CANDIDATES_FILE,
    RAW_COMPANIES_FILE,
    RAW_OUTCOMES_FILE,
    SYNTHETIC_MARK_FILE,
    RawCandidate,
    RawCompany,
)
from data.gazetteer.spelling import normalise
from data.raw_cells import split_coordinates
from data.raw_schemas import CANDIDATE_SCHEMA, COMPANY_SCHEMA, OUTCOME_SCHEMA
from data.table_schema import TableSchema, and_more, nearest

ROW: Final = "row"
"""Name of the index of every frame read here: the spreadsheet's row number."""

_HEADER_LIKENESS: Final = 0.8
_FILE_LIKENESS: Final = 0.7


@dataclass(frozen=True)
class RawFiles:
    """One delivery: its files, the office whose folder held them (None: people go by residence), and its mark."""

    candidates: Path
    companies: Path
    outcomes: Path | None
    office: str | None
    synthetic: bool


def find_raw_files(directory: Path, offices: Collection[str]) -> tuple[RawFiles, ...]:
    """The deliveries in `directory`: one lying flat in it, or one per sub-folder named like an office, by name.

    Raises InputError where a file is missing, a folder with CSV files is named like no office, only some offices
    deliver outcomes, or synthetic and real deliveries are mixed.
    """
    if not directory.is_dir():
        raise InputError(
            "there is no such folder",
            where=directory,
            remedy=f"create it and put {RAW_CANDIDATES_FILE} and {RAW_COMPANIES_FILE} there",
        )
    flat = _holds_raw_file(directory)
    folders = [] if flat else _office_folders(directory, offices)
    if flat and (inside := [f.name for f in _visible_folders(directory) if f.name in offices and _holds_raw_file(f)]):
        raise InputError(
            f"raw files lie both here and in the office's folder '{inside[0]}'",
            where=directory,
            remedy="keep either the files here or the offices' folders",
        )
    if flat:
        return (_delivery(directory, None, marked=False),)
    if not folders:
        raise InputError(
            f"neither {RAW_CANDIDATES_FILE} and {RAW_COMPANIES_FILE} nor an office's folder with these files is here"
            + _similar_file(directory, RAW_CANDIDATES_FILE),
            where=directory,
            remedy="put the two files here, or into one folder per office, named like the office in the settings",
        )
    marked = (directory / SYNTHETIC_MARK_FILE).is_file()
    return _consistent(directory, tuple(_delivery(folder, folder.name, marked=marked) for folder in folders))


def read_candidates(path: Path) -> pd.DataFrame:
    """People as the office wrote them, one row each; the index `row` is the spreadsheet's.

    Text is object with None where blank, numbers are float64, words are spelt as in the vocabulary. `ID_Candidato` is
    made (`C000001` ... by order) where the file has none, unless outcomes lie beside the file and refer to it.
    Coordinates written in one cell are copied to `Lat` and `Lon` where these are blank.
    """
    cells = _read_cells(path, CANDIDATE_SCHEMA)
    name = RawCandidate.ID.value
    if name in cells and cells[name].isna().all():
        cells = cells.drop(columns=name)
    if name not in cells:
        if path.with_name(RAW_OUTCOMES_FILE).exists():
            raise InputError(
                f"there is no identifier in column '{name}', and {RAW_OUTCOMES_FILE} beside this file refers to it",
                where=path,
                remedy="export the identifiers, or take the file of outcomes away",
            )
        cells.insert(0, name, _cells((f"C{number:06d}" for number in range(1, len(cells) + 1)), cells.index))
    frame = CANDIDATE_SCHEMA.read(cells, path)
    return _with_coordinates(frame, RawCandidate.COORDINATES, RawCandidate.LATITUDE, RawCandidate.LONGITUDE)


def read_companies(path: Path) -> pd.DataFrame:
    """Companies as the office wrote them, one row each, read like the candidates; names are distinct."""
    frame = COMPANY_SCHEMA.read(_read_cells(path, COMPANY_SCHEMA), path)
    return _with_coordinates(frame, RawCompany.COORDINATES, RawCompany.LATITUDE, RawCompany.LONGITUDE)


def read_outcomes(path: Path) -> pd.DataFrame:
    """Events of placements, one row each: `Data` is datetime64, `Esito` is spelt as in the ladder of outcomes."""
    return OUTCOME_SCHEMA.read(_read_cells(path, OUTCOME_SCHEMA), path)


def _visible_folders(directory: Path) -> list[Path]:
    return sorted(entry for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _holds_raw_file(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RAW_CANDIDATES_FILE, RAW_COMPANIES_FILE))


def _office_folders(directory: Path, offices: Collection[str]) -> list[Path]:
    """Folders named like an office; InputError for another that holds CSV files, for its people would be left out."""
    found = []
    for folder in _visible_folders(directory):
        if folder.name in offices:
            found.append(folder)
        elif any(entry.suffix.lower() == ".csv" for entry in folder.iterdir()):
            like = nearest(folder.name, offices)
            hint = f" (the nearest is '{like}')" if like else ""
            raise InputError(
                f"no office of this name is known{hint}",
                where=folder,
                remedy="rename the folder like an office in the settings, or add the office to the setting offices",
            )
    return found


def _delivery(folder: Path, office: str | None, *, marked: bool) -> RawFiles:
    for name in (RAW_CANDIDATES_FILE, RAW_COMPANIES_FILE):
        if not (folder / name).is_file():
            raise InputError(
                f"the file {name} is missing{_similar_file(folder, name)}",
                where=folder,
                remedy="put it there under exactly this name",
            )
    outcomes = folder / RAW_OUTCOMES_FILE
    return RawFiles(
        candidates=folder / RAW_CANDIDATES_FILE,
        companies=folder / RAW_COMPANIES_FILE,
        outcomes=outcomes if outcomes.is_file() else None,
        office=office,
        synthetic=marked or (folder / SYNTHETIC_MARK_FILE).is_file(),
    )


def _similar_file(folder: Path, name: str) -> str:
    like = nearest(name, (entry.name for entry in folder.iterdir() if entry.is_file()), _FILE_LIKENESS)
    return f" (there is '{like}')" if like else ""


def _consistent(directory: Path, deliveries: tuple[RawFiles, ...]) -> tuple[RawFiles, ...]:
    """The deliveries, if they can be used together."""
    with_outcomes = [files.office for files in deliveries if files.outcomes]
    without = [files.office for files in deliveries if not files.outcomes]
    if with_outcomes and without:
        raise InputError(
            f"{with_outcomes[0]} delivers {RAW_OUTCOMES_FILE} and {without[0]} does not",
            where=directory,
            remedy="labels come from outcomes everywhere or nowhere: add the missing file, or take the others away",
        )
    synthetic = [files.office for files in deliveries if files.synthetic]
    real = [files.office for files in deliveries if not files.synthetic]
    if synthetic and real:
        raise InputError(
            f"the delivery of {synthetic[0]} is marked synthetic ({SYNTHETIC_MARK_FILE}) and that of {real[0]} is not",
            where=directory,
            remedy="keep synthetic and real deliveries in separate folders",
        )
    return deliveries


def _read_cells(path: Path, schema: TableSchema) -> pd.DataFrame:
    """The file's cells as text, trimmed, None where blank; blank rows left out; the index is the spreadsheet's row."""
    rows = _split(_decode(path), path)
    header = [" ".join(name.split()) for name in rows[0]] if rows else []
    if not any(header):
        raise InputError(
            "the first row is blank" if any(map(any, rows)) else "the file is empty",
            where=path,
            remedy=f"the first row must hold the column names: {', '.join(schema.required)}",
        )
    _check_header(header, rows[0], path, schema)
    filled = [(number, row) for number, row in enumerate(rows[1:], start=2) if any(cell.strip() for cell in row)]
    if not filled:
        raise InputError("there is a header and no row below it", where=path, remedy="export the table with its rows")
    uneven = [(number, len(row)) for number, row in filled if len(row) != len(header)]
    if uneven:
        number, width = uneven[0]
        raise InputError(
            f"the row has {width} cells and the header has {len(header)}{and_more(len(uneven) - 1)}",
            where=row_place(path, number),
            remedy="put a cell that contains a comma between double quotes, and give every row all its cells",
        )
    index = pd.Index([number for number, _ in filled], name=ROW, dtype="int64")
    columns = zip(header, zip(*(row for _, row in filled), strict=True), strict=True)
    # A column without a name cannot be referred to; spreadsheets leave such columns behind.
    return pd.DataFrame({name: _cells(column, index) for name, column in columns if name}, index=index)


def _cells(column: Iterable[str], index: pd.Index) -> pd.Series:
    return pd.Series([cell.strip() or None for cell in column], index=index, dtype=object)


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the file cannot be read ({error.strerror})", where=path, remedy="check its name and its permissions"
        ) from None
    try:
        text = content.decode("utf-8-sig")
        wrong = content.find(b"\0")  # UTF-16 without its mark is valid UTF-8 with every second byte null
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        raise InputError(
            "the file is not UTF-8",
            where=f"{path}, line {content.count(bytes([10]), 0, wrong) + 1}",
            remedy="save it again as UTF-8 (in a spreadsheet: save as 'CSV UTF-8', separated by commas)",
        )
    # One accented letter can be written as one character or as two; names are compared, so they must agree.
    return unicodedata.normalize("NFC", text)


def _split(text: str, path: Path) -> list[list[str]]:
    rows: list[list[str]] = []
    broken = False
    try:
        rows.extend(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        broken = True
    if broken:
        raise InputError(
            "a cell's quotation marks do not match",
            where=row_place(path, len(rows) + 1),
            remedy='close every quoted cell, and write a quotation mark inside one twice ("")',
        )
    return rows


def _check_header(header: list[str], first_row: list[str], path: Path, schema: TableSchema) -> None:
    """The required columns are there, none stands twice, and no known column is written almost right.

    A header that is no known column is repeated only where it is close to one: in a file without a header the first
    row holds the first person's data.
    """
    missing = [name for name in schema.required if name not in header]
    if missing:
        _check_separator(first_row, path, schema)
    for position, name in enumerate(header):
        if name and name in header[:position]:
            called = f"'{name}' " if name in schema.fields else ""
            raise InputError(
                f"the same column name {called}stands in columns {header.index(name) + 1} and {position + 1}",
                where=row_place(path, 1),
                remedy="remove or rename one of them",
            )
    others = [name for name in header if name and name not in schema.fields]
    alike = {normalise(name): name for name in others}
    # An optional column that differs in case or accents only is refused too: left alone, its data would be lost.
    for name in (
        name for name in schema.fields if name not in header and (name in missing or normalise(name) in alike)
    ):
        like = alike.get(normalise(name)) or nearest(name, others, _HEADER_LIKENESS)
        raise InputError(
            f"column '{name}' is missing" + (f", and there is a column '{like}'" if like else ""),
            where=row_place(path, 1),
            remedy=f"rename that column to '{name}'" if like else "add a column of this name; its cells may be blank",
        )


def _check_separator(first_row: list[str], path: Path, schema: TableSchema) -> None:
    for sign, kind in ((";", "semicolons"), ("\t", "tabs")):
        parts = [part.strip().strip('"') for part in ",".join(first_row).split(sign)]
        if len(parts) > 1 and set(parts) & set(schema.fields):
            raise InputError(
                f"the file is separated by {kind}",
                where=path,
                remedy="save it again separated by commas, with a point for decimals",
            )


def _with_coordinates(frame: pd.DataFrame, both: str, latitude: str, longitude: str) -> pd.DataFrame:
    """Fill the two columns of degrees from the one column that holds both, where they are blank or absent."""
    if both not in frame:
        return frame
    pair = split_coordinates(frame[both])
    blank = pd.Series(float("nan"), index=frame.index)
    filled = {str(name): frame.get(name, blank).fillna(pair[part]) for part, name in enumerate((latitude, longitude))}
    return frame.assign(**filled)
