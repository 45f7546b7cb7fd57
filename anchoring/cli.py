"""`djms anchor init | rotate | log | prove | verify`: the log as its operator, and whoever holds a receipt, use it."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from anchoring.anchor_folder import SIGNERS_FILE, AnchorFolder
from anchoring.errors import EntryInvalid
from anchoring.manifest import ROUND_TYPE, RoundManifest, type_of
from anchoring.records import RELEASE_TYPE, ReleaseEntry
from anchoring.verification import Verified, read_policy, read_signers, verify_receipt
from common.cli import settings_of
from common.errors import InputError
from common.files import atomic_path
from common.report import Report

Anchor = Annotated[Path | None, typer.Option("--anchor", help="Folder of the log [default: paths.anchor_dir].")]
SignersOption = Annotated[Path | None, typer.Option("--signers", help="File of the log's signers, as it published it.")]
KeyOption = Annotated[str | None, typer.Option("--key", help="The log's public key, where it never had another one.")]
WitnessesOption = Annotated[
    Path | None, typer.Option("--witnesses", help="File of the witnesses; their quorum is then required.")
]


def folder_of(context: typer.Context, anchor: Path | None) -> Path:
    """The folder that a command works on."""
    return settings_of(context).paths.anchor_dir if anchor is None else anchor


def init(
    context: typer.Context,
    anchor: Anchor = None,
    origin: Annotated[
        str | None, typer.Option(help="The log's name, best a domain and path of yours [default: a random one].")
    ] = None,
) -> Report:
    """Make a new, empty log with a key of its own."""
    folder = folder_of(context, anchor)
    made = AnchorFolder.create(folder, f"djms-log-{secrets.token_hex(8)}" if origin is None else origin)
    key = made.signers.keys[0].key.to_text()
    return Report(
        {"origin": made.origin, "folder": str(folder), "key": key, "signers": str(folder / SIGNERS_FILE)},
        Text.assemble(
            ("A new log: ", "bold"),
            f"{made.origin}\n\n",
            f"Public key    {key}\n",
            f"Signers       {folder / SIGNERS_FILE}: give it to every site and auditor, by a way you trust\n",
            f"Private key   {folder / 'keys'}: keep a copy apart, and let nobody read it\n",
            "Next          djms federate",
        ),
    )


def rotate(context: typer.Context, anchor: Anchor = None) -> Report:
    """Let a new key sign from now on and forget the old private key; receipts of before stay valid."""
    folder = folder_of(context, anchor)
    log = AnchorFolder.open(folder)
    signers = log.rotate()
    key = signers.keys[-1].key.to_text()
    return Report(
        {"origin": log.origin, "key": key, "keys": len(signers.keys), "first_size": signers.keys[-1].first_size},
        f"From {signers.keys[-1].first_size} entries on, a new key signs for {log.origin}: {key}\n"
        f"Give {folder / SIGNERS_FILE} to every site and auditor; the old private key is gone.",
    )


def log(context: typer.Context, anchor: Anchor = None) -> Report:
    """Show what stands in the log, and which of its checkpoints are published."""
    opened = AnchorFolder.open(folder_of(context, anchor))
    published = opened.published()
    covered = 0 if published is None or opened.policy is None else opened.verified_cosignatures(published)[0]
    rows = [_row(index, entry, index < covered) for index, entry in enumerate(opened.log.entries())]
    quorum = None if opened.policy is None else opened.policy.quorum
    data = {
        "origin": opened.origin,
        "size": opened.log.size,
        "root": opened.log.root().hex(),
        "published_size": covered,
        "quorum": quorum,
        "entries": rows,
    }
    head = Text.assemble(
        (f"{opened.origin}\n", "bold"), f"{opened.log.size} entries, {_published_text(quorum, covered)}.\n"
    )
    table = Table(box=None, pad_edge=False)
    for column in ("entry", "what", "run", "round", "model or root", "ε", "published"):
        table.add_column(column, justify="right" if column in ("entry", "round", "ε") else "left", no_wrap=True)
    for row in rows:
        epsilon = "" if row["epsilon"] is None else f"{row['epsilon']:.3g}"
        cells = [row["what"], row["run"] or "", "" if row["round"] is None else str(row["round"]), row["sha256"][:16]]
        table.add_row(str(row["index"]), *cells, epsilon, "yes" if row["published"] else "no")
    return Report(data, Group(head, table) if rows else head)


def prove(
    context: typer.Context,
    index: Annotated[int | None, typer.Argument(help="The entry's place in the log.")] = None,
    model: Annotated[Path | None, typer.Option(help="A model file: the newest entry with its hash.")] = None,
    anchor: Anchor = None,
    out: Annotated[Path | None, typer.Option(help="The receipt [default: entry-<place>.tlog-proof].")] = None,
) -> Report:
    """Write the receipt of an entry: one file that proves it offline."""
    if (index is None) == (model is None):
        raise InputError(
            "one entry is to be named", where="djms anchor prove", remedy="give its place, or --model FILE"
        )
    opened = AnchorFolder.open(folder_of(context, anchor))
    place = index if index is not None else _place_of(opened, model)
    if not 0 <= place < opened.log.size:
        raise InputError(
            f"the log has {opened.log.size} entries and none at {place}",
            where=opened.folder,
            remedy="`djms anchor log` lists them",
        )
    receipt = opened.receipt(place)
    path = Path(f"entry-{place}.tlog-proof") if out is None else out
    with atomic_path(path) as temporary:
        temporary.write_text(receipt.to_text(), encoding="utf-8")
    size, cosignatures = opened.verified_cosignatures(receipt.checkpoint_text)
    published = opened.policy is not None and opened.is_published(size)
    return Report(
        {"index": place, "receipt": str(path), "size": size, "cosigned": len(cosignatures), "published": published},
        f"Receipt of entry {place} under the checkpoint of {size} entries, cosigned by {len(cosignatures)}"
        f"{'' if published else '; it is not published yet'}: {path}\n"
        f"Check it with: djms anchor verify {path} --signers {opened.folder / SIGNERS_FILE}",
    )


def verify(
    receipt: Annotated[Path, typer.Argument(help="The receipt, a .tlog-proof file.")],
    signers: SignersOption = None,
    key: KeyOption = None,
    witnesses: WitnessesOption = None,
    model: Annotated[Path | None, typer.Option(help="A model file: it must be the one in the receipt.")] = None,
) -> Report:
    """Check a receipt offline: what it proves, and that the log and its witnesses signed for it."""
    verified = verify_receipt(receipt, read_signers(signers, key), read_policy(witnesses), model=model)
    return Report(verified.to_json(), _verified_text(verified, model))


def _place_of(opened: AnchorFolder, model: Path | None) -> int:
    """The newest entry with the hash of a model file. Raises InputError where there is none."""
    if model is None or not model.is_file():
        raise InputError("the model file does not exist", where=model, remedy="check the path")
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    rows = [_row(index, entry) for index, entry in enumerate(opened.log.entries())]
    places = [int(row["index"]) for row in rows if row["sha256"] == sha256]
    if not places:
        raise InputError("no entry of the log has this model's hash", where=model, remedy="name the log it is in")
    return places[-1]


def _row(index: int, entry: bytes, published: bool = False) -> dict[str, Any]:
    """An entry as the table shows it."""
    row: dict[str, Any] = {"index": index, "type": type_of(entry), "published": published}
    if row["type"] == ROUND_TYPE:
        try:
            manifest = RoundManifest.from_bytes(entry)
        except EntryInvalid as error:
            error.where = f"entry {index} of the log"
            raise
        epsilon = None if manifest.privacy is None else manifest.privacy.epsilon
        what = "released model" if manifest.released else "model"
        return row | {
            "what": what,
            "run": manifest.run,
            "round": manifest.round,
            "sha256": manifest.model_sha256,
            "epsilon": epsilon,
        }
    if row["type"] == RELEASE_TYPE:
        root = ReleaseEntry.from_bytes(entry).root.hex()
        return row | {"what": "records", "run": None, "round": None, "sha256": root, "epsilon": None}
    return row | {"what": row["type"] or "unknown", "run": None, "round": None, "sha256": "", "epsilon": None}


def _published_text(quorum: int | None, covered: int) -> str:
    if quorum is None:
        return "no witnesses are named yet"
    if not covered:
        return f"none published yet: {quorum} witnesses must cosign a checkpoint"
    return f"the first {covered} published: cosigned by {quorum} witnesses or more"


def _verified_text(verified: Verified, model: Path | None) -> Text:
    manifest = verified.manifest
    by = f"cosigned by {len(verified.cosigned)} witnesses" if verified.policy_checked else "witnesses were not checked"
    text = Text.assemble(
        ("The receipt is right.\n", "bold"),
        f"Entry {verified.index} of {verified.checkpoint.size} in the log {verified.checkpoint.origin}; {by}.\n",
    )
    if manifest is None:
        return text.append(f"It is an entry of the kind {verified.type}.")
    kind = "the model that the run released" if manifest.released else "the model"
    finished = [record for record in manifest.rounds if record.status == "finished"]
    text.append(f"It states {kind} after round {manifest.round} of the run {manifest.run}:\n")
    text.append(f"  SHA-256   {manifest.model_sha256}{' (this file)' if model is not None else ''}\n")
    if finished:
        text.append(f"  Sites     {len(finished[-1].cohort)} with a part, {len(finished[-1].dropouts)} without\n")
    if manifest.privacy is not None:
        unit = {"candidate": "person", "site": "office"}[manifest.privacy.unit]
        text.append(f"  Privacy   ε {manifest.privacy.epsilon:.3g} for each {unit}, δ {manifest.privacy.delta:g}\n")
    for name, value in (manifest.metrics or {}).items():
        text.append(f"  {name:<9} {value:.4f}\n")
    text.append(f"  Settings  {manifest.settings_sha256}\n")
    text.append(f"  Code      {manifest.bundle_sha256 or 'no bundle was made'}")
    return text
