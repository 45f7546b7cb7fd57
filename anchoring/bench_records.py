"""What committing records with personal data costs, beside the hashing of them and beside the files alone.

| figure | what is in it |
|---|---|
| commit | from the table's text to receipts: rows read, leaves, the release's entry in a log, every receipt durable |
| hashing | RFC 8785 JSON of the rows and one HMAC-SHA256 of each under a fresh nonce; nothing is read or written |
| files | as many files of the same lengths, written, and then put on disk by one sync of everything |

Records are made up, with the columns of a candidate. Seconds are the clock's. Some receipts are verified.
"""

from __future__ import annotations

import csv
import hmac
import io
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import rfc8785

from anchoring.anchor_folder import AnchorFolder
from anchoring.bench_receipt import ORIGIN
from anchoring.bench_timing import clock_seconds, in_kept_folder, least
from anchoring.record_release import RecordRelease, commit
from anchoring.records import NONCE_SIZE, canonical_rows

RECORDS = 10_000
"""Records of the commit that has a limit."""

_CHECKED = 50
_MOST_TURNS = 3


def measure_commit(folder: Path, turns: int, records: int = RECORDS) -> dict[str, Any]:
    """Seconds of a commit, and of what it is compared with. A turn's files are as long as the receipts before them."""
    rows = [_row(number) for number in range(1, records + 1)]
    lengths: list[int] = []
    with TemporaryDirectory(dir=folder, prefix="djms-bench-") as kept:
        committing, writing, hashing = least(
            min(turns, _MOST_TURNS),
            in_kept_folder(Path(kept), partial(commit_table, _table(rows), lengths)),
            in_kept_folder(Path(kept), partial(write_files, lengths)),
            lambda: clock_seconds(lambda: plain_hashing(rows)),
        )
    return {
        "commit_seconds": round(committing, 4),
        "commit_files_seconds": round(writing, 4),
        "commit_hashing_seconds": round(hashing, 4),
        "commit_ratio": round(committing / (writing + hashing), 4),
        "commit_records": len(lengths),
        "commit_bytes": sum(lengths),
    }


def commit_table(table: bytes, lengths: list[int], folder: Path) -> float:
    """Seconds of a commit to a new log. Verifies some receipts afterwards, and leaves the lengths of all."""
    anchor = AnchorFolder.create(folder / "anchor", ORIGIN)
    path = folder / "release"
    seconds = clock_seconds(lambda: commit(canonical_rows(table, path), path, anchor))
    release = RecordRelease.open(path)
    held = release.held()
    for row in held[:: max(1, len(held) // _CHECKED)]:
        release.receipt(row).verify(anchor.signers)
    lengths[:] = [release.receipt_path(row).stat().st_size for row in held]
    return seconds


def plain_hashing(rows: list[dict[str, str]]) -> None:
    """The canonical JSON of each row, and its HMAC under a fresh nonce."""
    for row in rows:
        hmac.digest(os.urandom(NONCE_SIZE), rfc8785.dumps(row), "sha256")


def write_files(lengths: list[int], folder: Path) -> float:
    """Seconds of putting files of these lengths on disk, in `folder`."""
    files = [(folder / str(number), bytes(length)) for number, length in enumerate(lengths)]

    def write() -> None:
        for path, content in files:
            path.write_bytes(content)
        os.sync()

    return clock_seconds(write)


def _table(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _row(number: int) -> dict[str, str]:
    return {
        "ID_Candidato": f"C{number:06}",
        "Area di Residenza": "Isola della Scala, Veneto, Italy",
        "Score Attitudine al Collocamento": f"{number % 997 / 997:.4f}",
        "Esclusioni": "Turni e orari notturni, Sollevamento carichi pesanti",
        "Lat": f"{45 + number % 89 / 100:.4f}",
        "Lon": f"{10 + number % 83 / 100:.4f}",
        "Tipo di Disabilità": "Motoria",
        "Titolo di Studio": "Licenza Media",
        "Data Inizio Prima Occupazione": str(1980 + number % 40),
        "Durata Disoccupazione": str(number % 7),
        "Years_of_Experience": str(number % 31),
    }
