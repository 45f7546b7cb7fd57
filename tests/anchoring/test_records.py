"""Records with personal data: what is committed, what a receipt proves, and that nothing else passes for one."""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from anchoring.checkpoint import Checkpoint, sign_checkpoint
from anchoring.cosignature import WitnessKey, WitnessPolicy, cosign
from anchoring.errors import (
    AnchoringError,
    CheckpointInvalid,
    EntryInvalid,
    QuorumMissing,
    ReceiptInvalid,
    SignatureInvalid,
    UnknownSigner,
)
from anchoring.merkle import MerkleTree, leaf_hash, root_of
from anchoring.note import Signer, from_base64, to_base64
from anchoring.receipt import LONGEST_RECEIPT, Receipt
from anchoring.records import (
    LONGEST_ROW,
    Record,
    RecordReceipt,
    ReleaseEntry,
    canonical_row,
    canonical_rows,
    new_release_id,
)
from anchoring.signers import Signers
from common.errors import DjmsError, InputError

ORIGIN = "example.org/log"
WHERE = Path("records.csv")


def signer(number: int, name: str) -> Signer:
    return Signer.from_private_key(name, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


log, witness = signer(1, ORIGIN), signer(2, "torino")
signers, policy = Signers.of(log.verifier_key), WitnessPolicy(1, (WitnessKey.of(witness),))


@dataclass(frozen=True)
class Release:
    """A release in a log of several entries, made from the definitions and not from the code that writes files."""

    rows: list[bytes]
    receipts: list[RecordReceipt]


def released(rows: list[bytes], by: Signer = log, entries: int = 5, place: int = 3) -> Release:
    records = [Record.of(row) for row in rows]
    tree = MerkleTree(record.leaf_hash() for record in records)
    entry = ReleaseEntry.of(new_release_id(), tree)
    others = [b"entry %d" % at for at in range(entries)]
    others[place] = entry.content
    whole = MerkleTree(leaf_hash(one) for one in others)
    text = cosign(sign_checkpoint(Checkpoint(by.name, entries, whole.root()), by), witness, 1679315147)
    anchored = Receipt(place, tuple(whole.inclusion_proof(place)), text, entry.content)
    receipts = [
        RecordReceipt(record, at, tuple(tree.inclusion_proof(at)), entry, anchored) for at, record in enumerate(records)
    ]
    return Release(rows, receipts)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
names = texts.filter(lambda name: bool(name.strip()) and not set(";\t") & set(name) and name.isprintable())


@st.composite
def tables(draw: st.DrawFn, most: int = 40) -> tuple[list[str], list[list[str]]]:
    header = draw(st.lists(names, min_size=1, max_size=5, unique_by=nfc))
    width = len(header)
    return header, draw(st.lists(st.lists(texts, min_size=width, max_size=width), min_size=1, max_size=most))


def nfc(text: str) -> str:
    return normalize("NFC", text)


def written(header: list[str], rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    return text.getvalue().encode()


SOME = released([canonical_row({"Codice": f"{at}", "Nome": "Nicolò"}) for at in range(5)])


@settings(deadline=None, max_examples=60)
@given(tables())
def test_every_record_of_every_table_is_proven_by_its_receipt_alone(table: tuple[list[str], list[list[str]]]) -> None:
    header, rows = table
    release = released(canonical_rows(written(header, rows), WHERE))
    for at, made in enumerate(release.receipts):
        read = RecordReceipt.from_text(made.to_text().encode())
        assert read == made == RecordReceipt.from_text(made.to_text())
        proven = read.verify(signers, policy)
        assert (proven.row, proven.entry.rows, proven.place, proven.tree_size) == (at + 1, len(rows), 3, 5)
        assert (proven.origin, proven.cosigned) == (ORIGIN, (("torino", 1679315147),))
        assert read.record.cells() == dict(zip(header, rows[at], strict=True))


@settings(deadline=None)
@given(tables(most=6))
def test_a_row_is_the_json_that_rfc_8785_prescribes(table: tuple[list[str], list[list[str]]]) -> None:
    header, rows = table
    wanted = [rfc8785.dumps(dict(zip(header, cells, strict=True))) for cells in rows]
    assert canonical_rows(written(header, rows), WHERE) == wanted


def test_columns_are_in_the_order_of_their_utf_16() -> None:
    assert canonical_rows("\U0001f600,ﾡ,b\n1,2,3\n".encode(), WHERE) == ['{"b":"3","\U0001f600":"1","ﾡ":"2"}'.encode()]


def test_a_leaf_is_the_hmac_of_its_definition() -> None:
    row, nonce = b'{"Nome":"Anna"}', bytes(range(32))
    inner = hashlib.sha256(bytes(one ^ 0x36 for one in nonce.ljust(64, b"\x00")) + b"djms/v1/record\x00" + row).digest()
    outer = hashlib.sha256(bytes(one ^ 0x5C for one in nonce.ljust(64, b"\x00")) + inner).digest()
    assert Record(row, nonce).leaf_hash() == hashlib.sha256(b"\x00" + outer).digest()
    assert outer == hmac.new(nonce, b"djms/v1/record\x00" + row, hashlib.sha256).digest()


def test_the_same_table_committed_twice_has_nothing_in_common() -> None:
    first, second = released(SOME.rows), released(SOME.rows)
    leaves = [made.record.leaf_hash() for made in first.receipts + second.receipts]
    assert len(set(leaves)) == 10
    assert first.receipts[0].entry.root != second.receipts[0].entry.root
    assert first.receipts[0].entry.release != second.receipts[0].entry.release


def test_the_entry_says_nothing_but_how_many_rows_there_are() -> None:
    entry = SOME.receipts[0].entry
    leaves = [made.record.leaf_hash() for made in SOME.receipts]
    assert json.loads(entry.content) == {
        "release": entry.release,
        "root": root_of(leaves).hex(),
        "rows": 5,
        "type": "djms.records/v1",
    }
    assert entry.content == rfc8785.dumps(json.loads(entry.content))
    assert ReleaseEntry.from_bytes(entry.content) == entry


def test_the_extra_data_is_canonical_and_holds_exactly_what_was_hashed() -> None:
    made = SOME.receipts[2]
    extra = Receipt.from_text(made.to_text()).extra
    assert extra is not None
    assert rfc8785.dumps(json.loads(extra)) == extra
    content = json.loads(extra)
    assert from_base64(content["row"]) == SOME.rows[2]
    assert from_base64(content["entry"]) == made.entry.content


def test_nothing_shows_a_row_or_a_nonce_by_accident() -> None:
    made = SOME.receipts[0]
    for shown in (repr(made), str(made), repr(made.record), repr([made.record])):
        assert "Nicol" not in shown
        assert "row=" not in shown
        assert "nonce" not in shown


# What is refused.


def test_every_byte_of_a_receipt_counts() -> None:
    text = SOME.receipts[1].to_text().encode()
    for place in range(len(text)):
        for change in (1, 2, 32, 128):
            flipped = bytearray(text)
            flipped[place] ^= change
            with pytest.raises(DjmsError):
                RecordReceipt.from_text(bytes(flipped)).verify(signers, policy)


@settings(deadline=None)
@given(st.data(), tables())
def test_a_flipped_byte_in_any_receipt_of_any_table_is_refused(
    data: st.DataObject, table: tuple[list[str], list[list[str]]]
) -> None:
    made = data.draw(st.sampled_from(released(canonical_rows(written(*table), WHERE)).receipts))
    text = bytearray(made.to_text().encode())
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DjmsError):
        RecordReceipt.from_text(bytes(text)).verify(signers, policy)


def flips(content: bytes) -> list[bytes]:
    return [content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :] for at in range(len(content))]


def with_extra(made: RecordReceipt, change: Callable[[dict[str, Any]], object]) -> str:
    """The receipt with its extra data changed, and everything around it in the right form."""
    read = Receipt.from_text(made.to_text())
    content = json.loads(read.extra or b"")
    change(content)
    return replace(read, extra=rfc8785.dumps(content)).to_text()


@pytest.mark.parametrize("name", ["row", "nonce", "entry"])
def test_every_byte_of_what_was_hashed_counts_beneath_its_base64(name: str) -> None:
    made = SOME.receipts[1]
    original = from_base64(json.loads(Receipt.from_text(made.to_text()).extra or b"")[name])
    assert original
    for altered in flips(original):
        text = with_extra(made, lambda content, altered=altered: content.update({name: to_base64(altered)}))
        with pytest.raises((ReceiptInvalid, EntryInvalid)):
            RecordReceipt.from_text(text).verify(signers, policy)


def test_every_byte_of_the_proof_counts_beneath_its_base64() -> None:
    made = SOME.receipts[1]
    for at, one in enumerate(made.proof):
        for altered in flips(one):
            proof = (*made.proof[:at], altered, *made.proof[at + 1 :])
            with pytest.raises(ReceiptInvalid, match="root of its release"):
                RecordReceipt.from_text(replace(made, proof=proof).to_text()).verify(signers, policy)
    for proof in (made.proof[1:], made.proof[:-1], (*made.proof, bytes(32)), made.proof[::-1], ()):
        with pytest.raises(ReceiptInvalid, match="root of its release"):
            replace(made, proof=proof).verify(signers, policy)


def test_a_record_is_proven_at_its_own_place_only() -> None:
    for made in SOME.receipts:
        for index in set(range(5)) - {made.index}:
            with pytest.raises(ReceiptInvalid, match="root of its release"):
                replace(made, index=index).verify(signers, policy)
        for index in (-1, 5, 2**63):
            with pytest.raises(ReceiptInvalid, match="within its release"):
                replace(made, index=index)


@pytest.mark.parametrize("part", ["record", "proof", "entry", "anchored"])
def test_no_part_of_another_row_release_or_log_takes_the_place_of_ones_own(part: str) -> None:
    another_log = signer(3, "example.org/another")
    same_rows, other_log = released(SOME.rows), released(SOME.rows, another_log)
    made = SOME.receipts[1]
    strangers = [same_rows.receipts[1], other_log.receipts[1]]
    if part in ("record", "proof"):
        strangers.append(SOME.receipts[2])
    for stranger in strangers:
        mixed = replace(made, **{part: getattr(stranger, part)})
        with pytest.raises(AnchoringError):
            RecordReceipt.from_text(mixed.to_text()).verify(signers, policy)
        made.verify(signers, policy)


def test_a_receipt_of_another_log_or_by_another_key_is_refused() -> None:
    with pytest.raises(CheckpointInvalid):
        released(SOME.rows, signer(3, "example.org/another")).receipts[0].verify(signers)
    with pytest.raises(UnknownSigner):
        released(SOME.rows, signer(3, ORIGIN)).receipts[0].verify(signers)


def test_a_release_is_proven_at_its_own_place_in_the_log_only() -> None:
    made = SOME.receipts[0]
    for index in (0, 2, 4, 5):
        anchored = replace(made.anchored, index=index)
        with pytest.raises(ReceiptInvalid, match="stands in the log"):
            replace(made, anchored=anchored).verify(signers, policy)


def test_an_entry_that_no_log_has_proves_nothing_however_well_its_records_fit() -> None:
    made = SOME.receipts[0]
    record = Record.of(canonical_row({"Nome": "made up"}))
    entry = ReleaseEntry(new_release_id(), 1, record.leaf_hash())
    forged = RecordReceipt(record, 0, (), entry, made.anchored)
    forged.verify_in_release()
    with pytest.raises(ReceiptInvalid, match="stands in the log"):
        forged.verify(signers, policy)


def test_a_receipt_without_its_witnesses_is_refused_by_a_policy() -> None:
    made = SOME.receipts[0]
    alone = "".join(line for line in made.anchored.checkpoint_text.splitlines(True) if "torino" not in line)
    bare = replace(made, anchored=replace(made.anchored, checkpoint_text=alone))
    assert bare.verify(signers).cosigned == ()
    with pytest.raises(QuorumMissing, match="torino"):
        bare.verify(signers, policy)


def test_signatures_are_verified_before_anything_they_vouch_for() -> None:
    made = SOME.receipts[0]
    forged = made.anchored.checkpoint_text.replace("\n5\n", "\n6\n")
    with pytest.raises(SignatureInvalid):
        replace(made, proof=(), anchored=Receipt(0, (), forged)).verify(signers)


def test_the_receipt_of_another_kind_of_entry_is_no_records_receipt() -> None:
    with pytest.raises(ReceiptInvalid, match="no record in it"):
        RecordReceipt.from_text(SOME.receipts[0].anchored.to_text())
    with pytest.raises(ReceiptInvalid, match="no record of the form"):
        RecordReceipt.from_text(replace(SOME.receipts[0].anchored, extra=SOME.receipts[0].entry.content).to_text())


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.clear(),
        lambda content: content.pop("nonce"),
        lambda content: content.update(more=1),
        lambda content: content.update(type="djms.record/v2"),
        lambda content: content.update(type=1),
        lambda content: content.update(index=True),
        lambda content: content.update(index="1"),
        lambda content: content.update(index=-1),
        lambda content: content.update(index=2**53 - 1),
        lambda content: content.update(row=to_base64(b"")),
        lambda content: content.update(row=to_base64(b"[]")),
        lambda content: content.update(row=to_base64(b'{"Nome":1}')),
        lambda content: content.update(row=to_base64(b'{"Nome": "Anna"}')),
        lambda content: content.update(row=to_base64(b'{"b":"1","a":"2"}')),
        lambda content: content.update(row=to_base64(b'{"a":"1","a":"1"}')),
        lambda content: content.update(row=to_base64(b'{"a":"\\ud800"}')),
        lambda content: content.update(row=to_base64(b'{"\\ud800":"a"}')),
        lambda content: content.update(row=to_base64(b"{" * 100_000)),
        lambda content: content.update(row=to_base64(b'{"a":"\xff"}')),
        lambda content: content.update(row=to_base64(canonical_row({"a": "x" * LONGEST_ROW}))),
        lambda content: content.update(row=None),
        lambda content: content.update(nonce=to_base64(bytes(31))),
        lambda content: content.update(nonce=to_base64(bytes(33))),
        lambda content: content.update(nonce=""),
        lambda content: content.update(nonce=content["nonce"].rstrip("=")),
        lambda content: content.update(nonce=bytes(32).hex()),
        lambda content: content.update(proof="AAAA"),
        lambda content: content.update(proof={}),
        lambda content: content.update(proof=[1]),
        lambda content: content.update(proof=[to_base64(bytes(31))] * 3),
        lambda content: content.update(entry=""),
        lambda content: content.update(entry=to_base64(b"{}")),
        lambda content: content.update(entry=to_base64(b" " + (from_base64(content["entry"]) or b""))),
    ],
)
def test_extra_data_of_another_form_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises((ReceiptInvalid, EntryInvalid)):
        RecordReceipt.from_text(with_extra(SOME.receipts[1], change)).verify(signers)


@settings(deadline=None)
@given(st.binary() | st.text().map(lambda text: json.dumps(text).encode()))
def test_arbitrary_extra_data_is_refused_with_a_typed_error(extra: bytes) -> None:
    for content in (extra, b'{"entry":%b}' % extra, b"[" * 100_000):
        with pytest.raises(ReceiptInvalid):
            RecordReceipt.from_text(replace(SOME.receipts[0].anchored, extra=content).to_text())


@pytest.mark.parametrize("row", [b'{"a": "1"}', b'{"b":"1","a":"2"}', b'{"a":1}', b"text", b""])
def test_a_row_of_another_form_is_refused_even_where_it_was_committed(row: bytes) -> None:
    made = released([row]).receipts[0]
    assert made.verify(signers, policy).row == 1
    with pytest.raises(ReceiptInvalid, match="canonical form"):
        RecordReceipt.from_text(made.to_text())


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"release":"00000000000000000000000000000000","root":"00","rows":1,"type":"djms.records/v1"}',
        b'{"release":"%b","root":"%b","rows":0,"type":"djms.records/v1"}' % (b"0" * 32, b"0" * 64),
        b'{"release":"%b","root":"%b","rows":1.0,"type":"djms.records/v1"}' % (b"0" * 32, b"0" * 64),
        b'{"release":"%b","root":"%b","rows":true,"type":"djms.records/v1"}' % (b"0" * 32, b"0" * 64),
        b'{"release":"%b","root":"%b","rows":9007199254740992,"type":"djms.records/v1"}' % (b"0" * 32, b"0" * 64),
        b'{"release":"%b","root":"%b","rows":1,"type":"djms.records/v2"}' % (b"0" * 32, b"0" * 64),
        b'{"release":"%b","root":"%b","rows":1,"type":"djms.records/v1"}\n' % (b"0" * 32, b"0" * 64),
        b'{"release":"%b","root":"%b","rows":1,"type":"djms.records/v1"}' % (b"0" * 31, b"0" * 64),
        b'{"release":"%b","root":"%b","rows":1,"type":"djms.records/v1"}' % (b"A" * 32, b"0" * 64),
        b'{"release":"%b","root":"%b","rows":1,"type":"djms.records/v1"}' % (b"0" * 32, b"A" * 64),
        b'{"release":"%b","root":"%b","rows":1,"type":"djms.records/v1","name":"x"}' % (b"0" * 32, b"0" * 64),
    ],
)
def test_an_entry_of_another_form_is_no_release(entry: bytes) -> None:
    with pytest.raises(EntryInvalid):
        ReleaseEntry.from_bytes(entry)


# Tables.


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        (b"", "records.csv", "no header"),
        (b"\xef\xbb\xbf", "records.csv", "no header"),
        (b"\nNome\nsegreto\n", "records.csv", "no header"),
        (b",\nsegreto,x\n", "records.csv", "no header"),
        (b"Nome,Codice\n", "records.csv", "no row below"),
        (b"Nome,\nsegreto,1\n", "records.csv, row 1", "column 2 has no name"),
        (b"Nome, \nsegreto,1\n", "records.csv, row 1", "column 2 has no name"),
        (b"segreto,x,segreto\n1,2,3\n", "records.csv, row 1", "columns 1 and 3 have the same name"),
        ("Città,Citta\u0300\nsegreto,x\n".encode(), "records.csv, row 1", "columns 1 and 2 have the same name"),
        (b"Nome;Codice\nsegreto;1\n", "records.csv, row 1", "not separated by commas"),
        (b"Nome\tCodice\nsegreto\t1\n", "records.csv, row 1", "not separated by commas"),
        (b"Nome,Codice\nsegreto,1\nsegreto\n", "records.csv, row 3", "1 cells, and the header 2"),
        (b"Nome,Codice\nsegreto,1\nsegreto,1,2\n", "records.csv, row 3", "3 cells, and the header 2"),
        (b"Nome,Codice\n\nsegreto,1\n", "records.csv, row 2", "blank"),
        (b"Nome,Codice\nsegreto,1\n\n", "records.csv, row 3", "blank"),
        (b'Nome,Codice\nsegreto,1\n"segreto,1\n', "records.csv, row 3", "quotation marks"),
        (b'Nome,Codice\nsegreto,1\n"segreto"x,1\n', "records.csv, row 3", "quotation marks"),
        (b"Nome,Codice\nsegreto," + b"x" * 200_000 + b"\n", "records.csv, row 2", "131072 characters"),
        (b"a,b,c\n" + b",".join([b"x" * 100_000] * 3) + b"\n", "records.csv, row 2", "262144 bytes"),
        (b"Nome,Codice\nsegreto\xe0,1\n", "records.csv, line 2", "not UTF-8"),
        ("Nome,Codice\nsegreto,1\n".encode("utf-16"), "records.csv, line 1", "not UTF-8"),
        ("Nome,Codice\nsegreto,1\n".encode("utf-16-le"), "records.csv, line 1", "not UTF-8"),
    ],
)
def test_a_table_that_is_none_is_refused_by_file_and_row_and_shows_no_cell(
    content: bytes, where: str, what: str
) -> None:
    with pytest.raises(InputError, match=what) as caught:
        canonical_rows(content, WHERE)
    assert caught.value.where == where
    assert "segreto" not in str(caught.value)
    assert "x" * 10 not in str(caught.value)


def test_a_byte_order_mark_belongs_to_no_column() -> None:
    assert canonical_rows(b"\xef\xbb\xbfNome\r\nAnna\r\n", WHERE) == [b'{"Nome":"Anna"}']


def test_cells_are_committed_to_letter_for_letter() -> None:
    rows = canonical_rows('Nome,Note\n" Zoe\u0308 ","a\nb, ""c"" "\n'.encode(), WHERE)
    assert Record.of(rows[0]).cells() == {"Nome": " Zoe\u0308 ", "Note": 'a\nb, "c" '}


def test_the_longest_row_has_a_receipt_that_can_be_read() -> None:
    filling = LONGEST_ROW - len(canonical_row({"a": "", "b": "", "c": ""}))
    cells = [filling // 3, filling // 3, filling - 2 * (filling // 3)]
    rows = canonical_rows(b"a,b,c\n" + b",".join(b"x" * one for one in cells) + b"\n", WHERE)
    assert len(rows[0]) == LONGEST_ROW
    text = released(rows).receipts[0].to_text()
    assert len(text) < LONGEST_RECEIPT
    assert RecordReceipt.from_text(text).verify(signers, policy).row == 1
