"""Our logs, checkpoints, cosignatures and receipts, verified by Go's packages, which share no code with ours.

Needs Debian's packages golang-go and golang-golang-x-mod-dev; nothing is downloaded.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from go_verifier import built_verifier, needs_go

from anchoring.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from anchoring.cosignature import WitnessKey, cosign
from anchoring.log_store import LogStore
from anchoring.note import Note, Signer, VerifierKey, new_private_key, to_base64
from anchoring.receipt import Receipt
from anchoring.signers import Signers

pytestmark = needs_go

ORIGIN = "example.org/log"
# The second size fills tiles up to level 1 and leaves partial ones at three levels.
EARLIER, SIZE = 300, 66_100


def signer(number: int, name: str) -> Signer:
    return Signer.from_private_key(name, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


log, torino, milano = signer(1, ORIGIN), signer(2, "torino"), signer(3, "milano")
signers = Signers.of(log.verifier_key)


def entry(index: int) -> bytes:
    return f"entry {index}".encode() * (index % 5)


def read(text: bytes) -> tuple[int, bytes]:
    checkpoint = open_checkpoint(text, signers)
    return checkpoint.size, checkpoint.root


def sign(size: int, root: bytes) -> bytes:
    text = sign_checkpoint(Checkpoint(ORIGIN, size, root), log)
    return cosign(cosign(text, torino, 1679315147), milano, 1679315148).encode()


@dataclass(frozen=True)
class Case:
    """A log's folder and the files beside it, to be verified as they are or altered."""

    go: Path
    folder: Path
    quorum: int = 2

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def run(self) -> subprocess.CompletedProcess[str]:
        arguments = ["-log", self.log, "-key", log.verifier_key.to_text(), "-quorum", self.quorum]
        for witness in (torino, milano):
            arguments += ["-witness", WitnessKey.of(witness).to_text()]
        for receipt in sorted(self.folder.glob("*.tlog-proof")):
            arguments += ["-receipt", receipt, "-entry", receipt.with_suffix(".entry")]
        arguments += ["-earlier", self.folder / "earlier", "-consistency", self.folder / "consistency"]
        return subprocess.run(
            [self.go, "verify", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, built without network."""
    return built_verifier(tmp_path_factory.mktemp("go"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that grew twice, three receipts of its last tree, one of the earlier one, and a consistency proof."""
    folder = tmp_path_factory.mktemp("original")
    with LogStore.create(folder / "log", read, sign) as store:
        store.append([entry(index) for index in range(EARLIER)], sign)
        write_receipt(folder, store, 255)
        (folder / "earlier").write_bytes(store.checkpoint)
        store.append([entry(index) for index in range(EARLIER, SIZE)], sign)
        for index in (0, 65_535, SIZE - 1):
            write_receipt(folder, store, index)
        proof = store.consistency_proof(EARLIER)
        (folder / "consistency").write_text("\n".join(map(to_base64, proof)), encoding="ascii")
    return folder


def write_receipt(folder: Path, store: LogStore, index: int) -> None:
    extra = b"not vouched for" if index else None
    receipt = Receipt(index, tuple(store.inclusion_proof(index)), store.checkpoint.decode(), extra)
    receipt.verify(entry(index), signers)
    (folder / f"{index}.tlog-proof").write_text(receipt.to_text(), encoding="utf-8")
    (folder / f"{index}.entry").write_bytes(entry(index))


@pytest.fixture
def case(go: Path, original: Path, tmp_path: Path) -> Case:
    return Case(go, Path(shutil.copytree(original, tmp_path / "case")))


def test_go_verifies_log_checkpoints_cosignatures_receipts_and_consistency(case: Case) -> None:
    outcome = case.run()
    assert (outcome.returncode, outcome.stderr) == (0, "")
    tiles = len([path for path in case.log.glob("tile/[0-9]/**/*") if path.is_file()])
    assert tiles == 258 + 1 + 1 + 1 + 1
    assert outcome.stdout == f"verified {SIZE} entries, {tiles} tiles, 4 receipts\n"


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 512])
def test_go_verifies_logs_at_the_edges_of_tiles(go: Path, tmp_path: Path, size: int) -> None:
    with LogStore.create(tmp_path / "log", read, sign) as store:
        store.append([entry(0)], sign)
        (tmp_path / "earlier").write_bytes(store.checkpoint)
        store.append([entry(index) for index in range(1, size)], sign)
        (tmp_path / "consistency").write_text("\n".join(map(to_base64, store.consistency_proof(1))), encoding="ascii")
        write_receipt(tmp_path, store, size - 1)
    outcome = Case(go, tmp_path).run()
    assert (outcome.returncode, outcome.stderr) == (0, "")


def flip(path: Path, place: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def replace(path: Path, old: str, new: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new), encoding="utf-8")


def other_key(case: Case) -> None:
    root = open_checkpoint((case.log / "checkpoint").read_bytes(), signers).root
    text = sign_checkpoint(Checkpoint(ORIGIN, SIZE, root), signer(9, ORIGIN))
    (case.log / "checkpoint").write_text(text, encoding="utf-8")


def other_root(case: Case) -> None:
    (case.log / "checkpoint").write_bytes(sign(SIZE, bytes(32)))


def other_origin(case: Case) -> None:
    root = open_checkpoint((case.log / "checkpoint").read_bytes(), signers).root
    text = sign_checkpoint(Checkpoint("example.org/another", SIZE, root), log)
    (case.log / "checkpoint").write_bytes(cosign(cosign(text, torino, 1), milano, 1).encode())


def forked_earlier(case: Case) -> None:
    (case.folder / "earlier").write_bytes(sign(EARLIER, bytes(32)))


def reversed_proof(case: Case) -> None:
    path = case.folder / "consistency"
    path.write_text("\n".join(reversed(path.read_text(encoding="ascii").split())), encoding="ascii")


def without_a_witness(case: Case) -> None:
    note = Note.parse((case.log / "checkpoint").read_bytes())
    (case.log / "checkpoint").write_text(Note(note.text, note.signatures[:2]).to_text(), encoding="utf-8")


@pytest.mark.parametrize(
    ("alter", "because"),
    [
        (lambda case: replace(case.log / "checkpoint", f"\n{SIZE}\n", f"\n{SIZE - 1}\n"), "invalid signature"),
        (other_key, "no verifiable signatures"),
        (other_root, "another root"),
        (other_origin, "another log"),
        (without_a_witness, "1 of 2 witnesses"),
        (lambda case: replace(case.log / "checkpoint", "— milano ", "— milan0 "), "1 of 2 witnesses"),
        (lambda case: flip(case.log / "tile/0/000", 0), "another root"),
        (lambda case: flip(case.log / "tile/0/257", 8191), "another root"),
        (lambda case: flip(case.log / "tile/0/258.p/52", 0), "another root"),
        (lambda case: flip(case.log / "tile/1/000", 100), "other hashes"),
        (lambda case: flip(case.log / "tile/1/001.p/2", 33), "other hashes"),
        (lambda case: flip(case.log / "tile/2/000.p/1", 5), "other hashes"),
        (lambda case: (case.log / "tile/0/100").unlink(), "no such file"),
        (lambda case: (case.log / "tile/entries/100").unlink(), "entry 25600 is missing"),
        (lambda case: (case.log / "tile/entries/258.p/52").unlink(), "entry 66048 is missing"),
        (lambda case: (case.log / "tile/1/000").unlink(), "tile/1/000 is missing"),
        (lambda case: (case.log / "tile/2/000.p/1").unlink(), "tile/2/000.p/1 is missing"),
        (lambda case: flip(case.log / "tile/entries/000", 300), "entries/000: entry"),
        (lambda case: flip(case.log / "tile/entries/258.p/52", -1), "entry 66099 has another hash"),
        (lambda case: replace(case.folder / "0.tlog-proof", "index 0", "index 1"), "invalid transparency proof"),
        (lambda case: (case.folder / "0.entry").write_bytes(b"another"), "invalid transparency proof"),
        (lambda case: flip(case.folder / "65535.tlog-proof", 100), "receipt 65535"),
        (lambda case: replace(case.folder / "65535.tlog-proof", f"\n{SIZE}\n", "\n70000\n"), "invalid signature"),
        (reversed_proof, "invalid transparency proof"),
        (lambda case: (case.folder / "consistency").write_text(""), "invalid transparency proof"),
        (forked_earlier, "invalid transparency proof"),
    ],
)
def test_go_refuses_what_was_altered(case: Case, alter: Callable[[Case], object], because: str) -> None:
    alter(case)
    outcome = case.run()
    assert outcome.returncode == 1, outcome.stdout
    assert because in outcome.stderr


def test_notes_that_go_signs_open_here(go: Path) -> None:
    private = new_private_key(ORIGIN)
    checkpoint = Checkpoint(ORIGIN, 7, bytes(range(32)), ("an extension",))
    signed = subprocess.run(
        [str(go), "sign", "-key", private], input=checkpoint.body.encode(), capture_output=True, timeout=60, check=True
    ).stdout
    key = Signer.from_text(private).verifier_key
    assert open_checkpoint(signed, Signers.of(key)) == checkpoint
    assert signed.decode() == sign_checkpoint(checkpoint, Signer.from_text(private))
    assert VerifierKey.from_text(key.to_text()) == key
