"""A release's folder at its issuer: the receipts of its records, and what it takes to make their proofs again.

    release.json     the log's entry, where it stands in which log, and the numbers of erased rows
    leaves           the leaves' hashes, 32 bytes each
    receipts/        row-000001.tlog-proof and so on: row 1 is the first below the table's header
    pending          all rows and nonces, as long as the commit is not finished

Only `receipts` and `pending` hold personal data. The folder is its owner's alone, and no name in it tells anything.

Rules:

* `commit` makes rows and nonces durable in `pending` before the log grows. A kill at any instant leaves nothing, or a
  pending release that `resume`, or `commit` with the same rows, finishes: the entry is looked for in the log first, so
  that it never stands there twice.
* Receipts are written beside their place and move there together, when all are durable. `pending` goes last.
* `erase` first notes durably what is to go and then removes it. Whoever works next on the folder ends what a kill cut
  short; one at a time works on it.

What erasing does: no file of the folder has the row or its nonce any more, so that nobody who kept no receipt can open
the leaf, or try guesses on it. The leaf's hash stays; all other receipts stay valid and can be issued again.

What it cannot reach: receipts that were given out, backups and snapshots, the table that was committed, and what a file
system's journal or a disk keeps of a removed file until it is written over. For those, encrypt the disk and let backups
of this folder end in time. The log keeps the release's root, from which nothing about a row can be learnt.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from unicodedata import normalize

from anchoring.anchor_folder import AnchorFolder
from anchoring.durable_files import PART, DurableFiles, LogLocked, locked
from anchoring.errors import AnchoringError, ContentDamaged, LogRolledBack, NotAnchored, ReceiptInvalid
from anchoring.merkle import HASH_SIZE, MerkleTree
from anchoring.note import from_base64, to_base64
from anchoring.receipt_files import receipt_name, row_of, write_all
from anchoring.records import Record, RecordReceipt, ReleaseEntry, new_release_id
from anchoring.signers import is_size
from common.errors import InputError
from common.exact_json import exact_json, exact_object
from common.files import LOCK, sync

_STATE, _LEAVES, _RECEIPTS, _PENDING = "release.json", "leaves", "receipts", "pending"
_UNSETTLED = f".{_RECEIPTS}{PART}"
_BEGINNING = {LOCK, f".{_PENDING}{PART}"}
_RELEASE_FOLDER = re.compile(r"[0-9a-f]{32}")
_RESTORE = "restore it from a copy of the release's folder"


@dataclass(frozen=True)
class RecordRelease:
    """A committed release: its entry, its place in the log of that origin (from 0), and the numbers of erased rows."""

    folder: Path
    entry: ReleaseEntry
    origin: str
    place: int
    erased: frozenset[int] = frozenset()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a release's folder. Raises InputError when it has no finished release, ContentDamaged for damage."""
        path = folder / _STATE
        if is_pending(folder):
            raise InputError("the commit of this release is not finished", where=folder, remedy=_resume(folder))
        if not path.is_file():
            raise InputError("there is no release in this folder", where=folder, remedy="name a release's folder")
        content = _read(path, {"entry", "erased", "origin", "place"})
        origin, place, erased = content["origin"], content["place"], content["erased"]
        entry = _entry(content["entry"], path)
        if not (isinstance(origin, str) and isinstance(place, int) and is_size(place) and isinstance(erased, list)):
            raise _damaged(path)
        if not all(is_size(row) and 1 <= row <= entry.rows for row in erased):
            raise _damaged(path)
        return cls(folder, entry, origin, place, frozenset(erased))

    def held(self) -> list[int]:
        """The rows whose receipts lie in the folder, ascending; the others were erased or moved away."""
        folder = self.folder / _RECEIPTS
        return sorted(filter(None, map(row_of, folder.iterdir()))) if folder.is_dir() else []

    def receipt_path(self, row: int) -> Path:
        """Where the receipt of a row lies."""
        return self.folder / _RECEIPTS / receipt_name(row)

    def receipt(self, row: int) -> RecordReceipt:
        """The receipt of a row. Raises ReceiptInvalid when it is damaged, or that of another record."""
        path = self.receipt_path(row)
        try:
            receipt = RecordReceipt.from_text(path.read_bytes())
        except AnchoringError as error:
            raise ReceiptInvalid(error.what, where=path, remedy=_RESTORE) from error
        if (receipt.entry, receipt.index) != (self.entry, row - 1):
            raise ReceiptInvalid("it is the receipt of another record", where=path, remedy=_RESTORE)
        return receipt

    def tree(self) -> MerkleTree:
        """The tree of the leaves' hashes. Raises ContentDamaged when it is not the entry's."""
        path = self.folder / _LEAVES
        content = path.read_bytes() if path.is_file() else b""
        if len(content) == self.entry.rows * HASH_SIZE:
            tree = MerkleTree(content[at : at + HASH_SIZE] for at in range(0, len(content), HASH_SIZE))
            if tree.root() == self.entry.root:
                return tree
        raise ContentDamaged("its hashes do not lead to the release's root", where=path, remedy=_RESTORE)

    def matching(self, cells: Mapping[str, str]) -> list[int]:
        """The rows with all these cells, by the receipts that are held: other rows cannot be compared.

        Accented letters compare however they are composed. Raises InputError when a column is none of the records'.
        """
        wanted = _composed(cells).items()
        rows = []
        for row in self.held():
            record = _composed(self.receipt(row).record.cells())
            if any(column not in record for column, _ in wanted):
                what = "the records have no column of the name that was asked for"
                raise InputError(what, where=self.folder, remedy="write it as it stands in the table's header")
            if wanted <= record.items():
                rows.append(row)
        return rows

    def write(self, files: DurableFiles) -> None:
        """Write `release.json`."""
        entry, erased = to_base64(self.entry.content), sorted(self.erased)
        content = {"entry": entry, "erased": erased, "origin": self.origin, "place": self.place}
        files.write(self.folder / _STATE, f"{json.dumps(content, ensure_ascii=False)}\n".encode())


def commit(rows: Sequence[bytes], folder: Path, anchor: AnchorFolder, *, release: str | None = None) -> RecordRelease:
    """Commit canonical rows to a log and write their receipts into a folder, which is made. Returns what is durable.

    Where these rows' commit to this folder was cut short, this finishes it. `release` is the id, a random one if none.

    Raises:
        InputError: something else lies in the folder, or other rows wait in it to be finished; nothing was written.
        LogLocked: another process works on the folder, or appends to the log.
        AnchoringError: a file could not be written, or the log is not as it was; what is pending stays so.
    """
    anchor.signer()
    _require_free(folder)
    _make(folder)
    with _working_on(folder):
        _require_free(folder)  # another may have been faster
        if not is_pending(folder):
            pending = _Pending.of(rows, new_release_id() if release is None else release, anchor)
            pending.write(folder / _PENDING)
            return _finished(folder, pending, anchor)
        pending = _Pending.read(folder / _PENDING)
        if [record.row for record in pending.records] != list(rows):
            what = "an unfinished commit of other rows lies in this folder"
            raise InputError(what, where=folder, remedy=_resume(folder))
        return _finished(folder, pending, anchor)


def resume(folder: Path, anchor: AnchorFolder) -> RecordRelease:
    """Finish a commit that was cut short. Raises InputError when none was, and otherwise as `commit`."""
    if not is_pending(folder):
        raise InputError("no unfinished commit lies in this folder", where=folder, remedy="commit a table instead")
    with _working_on(folder):
        return _finished(folder, _Pending.read(folder / _PENDING), anchor)


def erase(folder: Path, rows: Collection[int] = (), matching: Mapping[str, str] | None = None) -> RecordRelease:
    """Remove rows, and nonces with them, from the folder for ever: those numbered, and those that have all the cells.

    The module's docstring says what that means. A row that was erased already stays so.

    Raises:
        InputError: a row is not the release's, none matches, or files of others lie in the folder, which may be copies.
        ReceiptInvalid: a receipt that was to be compared is damaged. Nothing was erased then.
    """
    RecordRelease.open(folder)
    with _working_on(folder):
        release = RecordRelease.open(folder)
        found = release.matching(matching) if matching else []
        if matching and not found:
            raise InputError("no record matches", where=folder, remedy="check the value's spelling, or name the row")
        outside = [row for row in rows if not 1 <= row <= release.entry.rows]
        if outside:
            what = f"the release has the rows 1 to {release.entry.rows}, and no row {outside[0]}"
            raise InputError(what, where=folder, remedy="count from 1, the first row below the header")
        _require_no_strangers(release)
        release = replace(release, erased=release.erased.union(rows, found))
        files = DurableFiles()
        release.write(files)
        files.settle()
        _remove_erased(release)
        return release


def reissue(folder: Path, anchor: AnchorFolder) -> int:
    """Prove the receipts in the folder anew, under the log's newest published checkpoint; returns how many there are.

    Each is the old or the new one at every instant, and both are valid.

    Raises:
        NotAnchored: the log is another one, or has not the release where it stood.
        ContentDamaged, ReceiptInvalid: a file of the folder is damaged; every receipt is as it was.
    """
    RecordRelease.open(folder)
    with _working_on(folder):
        release = RecordRelease.open(folder)
        if not (rows := release.held()):
            return 0
        records = []
        for row in rows:
            receipt = release.receipt(row)
            receipt.verify_in_release()
            records.append(receipt.record)
        part = folder / _UNSETTLED
        write_all(part, _receipts(release, zip(rows, records, strict=True), anchor))
        for row in rows:
            (part / receipt_name(row)).replace(release.receipt_path(row))
        sync(folder / _RECEIPTS)
        part.rmdir()
        return len(rows)


def is_pending(folder: Path) -> bool:
    """Whether a commit lies in the folder that is not finished."""
    return (folder / _PENDING).is_file()


def is_release(folder: Path) -> bool:
    """Whether a release lies in the folder, finished or not."""
    return is_pending(folder) or (folder / _STATE).is_file()


def clear_beginnings(root: Path) -> None:
    """Remove folders of releases below `root` whose commit was killed before it was pending: they came to nothing."""
    for folder in root.iterdir() if root.is_dir() else ():
        if _RELEASE_FOLDER.fullmatch(folder.name) and folder.is_dir() and _names(folder) <= _BEGINNING:
            try:
                with _working_on(folder):
                    if _names(folder) <= _BEGINNING:
                        shutil.rmtree(folder)
            except LogLocked:
                continue  # it is just being made


@dataclass(frozen=True)
class _Pending:
    """A commit before it is finished: what, to the log of which origin, and how long that was at the time."""

    entry: ReleaseEntry
    origin: str
    log_size: int
    records: tuple[Record, ...]

    @classmethod
    def of(cls, rows: Iterable[bytes], release: str, anchor: AnchorFolder) -> Self:
        records = tuple(Record.of(row) for row in rows)
        tree = MerkleTree(record.leaf_hash() for record in records)
        return cls(ReleaseEntry.of(release, tree), anchor.origin, anchor.log.size, records)

    @classmethod
    def read(cls, path: Path) -> Self:
        content = _read(path, {"entry", "log_size", "origin", "records"})
        origin, size, records = content["origin"], content["log_size"], content["records"]
        if not (isinstance(origin, str) and isinstance(size, int) and isinstance(records, list)):
            raise _damaged(path)
        try:
            read = tuple(Record(from_base64(row) or b"", from_base64(nonce) or b"") for row, nonce in records)
        except (AttributeError, TypeError, ValueError, ReceiptInvalid):
            raise _damaged(path) from None
        entry = _entry(content["entry"], path)
        if MerkleTree(record.leaf_hash() for record in read).root() != entry.root:
            raise _damaged(path)
        return cls(entry, origin, size, read)

    def write(self, path: Path) -> None:
        records = [(to_base64(record.row), to_base64(record.nonce)) for record in self.records]
        entry = to_base64(self.entry.content)
        content = {"entry": entry, "log_size": self.log_size, "origin": self.origin, "records": records}
        files = DurableFiles()
        files.write(path, json.dumps(content, ensure_ascii=False).encode())
        files.settle()


def _finished(folder: Path, pending: _Pending, anchor: AnchorFolder) -> RecordRelease:
    release = RecordRelease(folder, pending.entry, pending.origin, _placed(pending, anchor))
    files = DurableFiles()
    files.write(folder / _LEAVES, b"".join([record.leaf_hash() for record in pending.records]))
    release.write(files)
    files.settle()
    if not (folder / _RECEIPTS).is_dir():
        write_all(folder / _UNSETTLED, _receipts(release, enumerate(pending.records, start=1), anchor))
        (folder / _UNSETTLED).replace(folder / _RECEIPTS)
        sync(folder)
    (folder / _PENDING).unlink()
    sync(folder)
    return release


def _placed(pending: _Pending, anchor: AnchorFolder) -> int:
    """The entry's place in the log, which gets it now unless it has it."""
    if anchor.origin != pending.origin:
        what = f"the commit was begun to the log '{pending.origin}', and this is another"
        raise InputError(what, where=anchor.folder, remedy="name the folder of that log")
    anchor.log.refresh()
    if anchor.log.size < pending.log_size:
        what = f"the log has {anchor.log.size} entries, and had {pending.log_size} when the commit was begun"
        raise LogRolledBack(what, where=anchor.folder, remedy="restore the log before anything is added to it")
    later = enumerate(anchor.log.entries(pending.log_size), start=pending.log_size)
    found = next((place for place, entry in later if entry == pending.entry.content), None)
    return anchor.append([pending.entry.content])[0] if found is None else found


def _receipts(
    release: RecordRelease, records: Iterable[tuple[int, Record]], anchor: AnchorFolder
) -> Iterator[tuple[int, RecordReceipt]]:
    """Rows with the receipts of their records, which are those of the leaves."""
    if anchor.origin != release.origin or anchor.log.entry(release.place) != release.entry.content:
        what = f"it has not the release where it was committed, at place {release.place} of '{release.origin}'"
        raise NotAnchored(what, where=anchor.folder, remedy="name the folder of that log")
    anchored, tree = replace(anchor.receipt(release.place), extra=None), release.tree()
    for row, record in records:
        yield row, RecordReceipt(record, row - 1, tuple(tree.inclusion_proof(row - 1)), release.entry, anchored)


def _make(folder: Path) -> None:
    files = DurableFiles()
    files.make(folder)
    folder.chmod(0o700)
    files.settle()


@contextmanager
def _working_on(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and leave nothing behind of work that was cut short."""
    try:
        lock = locked(folder)
    except LogLocked as error:
        what, remedy = "another process works on this release", "wait until it ends, then run this again"
        raise LogLocked(what, where=folder, remedy=remedy) from error
    try:
        _tidy(folder)
        if (folder / _STATE).is_file() and not is_pending(folder):
            _remove_erased(RecordRelease.open(folder))
        try:
            yield
        finally:
            _tidy(folder)
    except OSError as error:
        what = f"a file could not be read or written: {(error.strerror or 'no access').lower()}"
        remedy = "make room or give access, then run this again"
        raise AnchoringError(what, where=error.filename or folder, remedy=remedy) from error
    finally:
        lock.release()


def _tidy(folder: Path) -> None:
    for name in (_PENDING, _STATE, _LEAVES):
        (folder / f".{name}{PART}").unlink(missing_ok=True)
    if (folder / _UNSETTLED).is_dir():
        shutil.rmtree(folder / _UNSETTLED)


def _remove_erased(release: RecordRelease) -> None:
    for row in release.erased:
        release.receipt_path(row).unlink(missing_ok=True)
    if (release.folder / _RECEIPTS).is_dir():
        sync(release.folder / _RECEIPTS)


def _require_free(folder: Path) -> None:
    names = _names(folder)
    if _PENDING not in names and names - _BEGINNING:
        what = "a release lies in this folder already" if _STATE in names else "the folder is not empty"
        raise InputError(what, where=folder, remedy="name another folder, or none")


def _require_no_strangers(release: RecordRelease) -> None:
    """Nobody can say that a row is gone from a folder in which there is a file that may be a copy of it."""
    names = _names(release.folder) - {LOCK, _STATE, _LEAVES, _RECEIPTS}
    strangers = len(names) + len(_names(release.folder / _RECEIPTS)) - len(release.held())
    if strangers:
        what = f"files that are not the release's, {strangers} of them, lie in its folder and may be copies of receipts"
        raise InputError(what, where=release.folder, remedy="look at them, and move or remove them")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _composed(cells: Mapping[str, str]) -> dict[str, str]:
    return {normalize("NFC", column): normalize("NFC", cell) for column, cell in cells.items()}


def _read(path: Path, keys: set[str]) -> dict[str, object]:
    try:
        return exact_object(exact_json(path.read_bytes().decode()), keys)
    except ValueError:
        raise _damaged(path) from None


def _entry(text: object, path: Path) -> ReleaseEntry:
    content = from_base64(text) if isinstance(text, str) else None
    if content is None:
        raise _damaged(path)
    return ReleaseEntry.from_bytes(content)


def _damaged(path: Path) -> ContentDamaged:
    return ContentDamaged("it is damaged", where=path, remedy=_RESTORE)


def _resume(folder: Path) -> str:
    return f"finish it with `djms anchor records commit --resume {folder}`"
