"""`djms anchor witness`: a witness of the log, without a run: made, and brought up to date, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anchoring.anchor_folder import AnchorFolder
from anchoring.cli import Anchor, folder_of
from anchoring.cosignature import WitnessKey, WitnessPolicy
from anchoring.errors import AnchoringError
from anchoring.guard import Presented
from anchoring.verification import read_policy, read_signers
from client.witness_folder import WitnessFolder, WitnessLimits
from common.cli import DjmsCommand, new_group
from common.errors import InputError
from common.files import atomic_path
from common.report import Report

Folder = Annotated[Path, typer.Argument(help="The witness's folder.")]

app = new_group("Be a witness of the log: check that it only grows, and sign for it.")


@app.command("init", cls=DjmsCommand)
def init(
    folder: Folder,
    signers: Annotated[Path, typer.Option(help="File of the log's signers, as its operator published it.")],
    witnesses: Annotated[Path | None, typer.Option(help="File of the witnesses whose quorum is to count.")] = None,
    anchor_every_n: Annotated[int, typer.Option(min=1, help="Use at most so many models in a row per proof.")] = 1,
) -> Report:
    """Make a witness with a key of its own that has seen nothing of the log yet."""
    limits = WitnessLimits(anchor_every_n=anchor_every_n)
    made = WitnessFolder.create(folder, read_signers(signers, None), read_policy(witnesses), limits)
    key = made.key.to_text()
    return Report(
        {"folder": str(folder), "origin": made.signers.origin, "key": key},
        f"A new witness of {made.signers.origin}.\nPublic key    {key}\n"
        f"Give it to the log's operator, who adds it with `djms anchor witness trust '{key}'`.",
    )


@app.command("cosign", cls=DjmsCommand)
def cosign(
    folder: Folder,
    log: Annotated[Path, typer.Option(help="The log's folder, or a copy of it.")],
    out: Annotated[Path | None, typer.Option(help="The cosigned checkpoint [default: in the folder].")] = None,
) -> Report:
    """Check that the log extends what this witness saw last, and sign its checkpoint."""
    witness = WitnessFolder(folder)
    source = AnchorFolder.open(log, signers=witness.signers)
    seen, size = witness.size(), source.log.size
    proof = source.log.consistency_proof(seen, size) if seen <= size else []
    published = source.published() if source.policy is not None else None
    known = 0 if published is None else source.verified_cosignatures(published)[0]
    presented = Presented(
        source.checkpoint(),
        tuple(proof),
        published=published,
        published_consistency=tuple(source.log.consistency_proof(known, size)),
    )
    text, _ = witness.accept(presented, None)
    path = folder / f"cosigned-{size}.checkpoint" if out is None else out
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Report(
        {"origin": source.origin, "size": size, "before": seen, "cosigned": str(path)},
        f"The log {source.origin} has {size} entries and extends the {seen} seen before; cosigned: {path}\n"
        "Give that file to the log's operator, who adds it with `djms anchor witness collect`.",
    )


@app.command("follow", cls=DjmsCommand)
def follow(
    folder: Folder,
    signers: Annotated[Path, typer.Option(help="File of the log's signers after its key changed.")],
) -> Report:
    """Follow the log to its new key; its other keys must still be among the signers."""
    witness = WitnessFolder(folder)
    witness.set_signers(read_signers(signers, None))
    keys = len(witness.signers.keys)
    return Report(
        {"origin": witness.signers.origin, "keys": keys}, f"This witness knows {keys} keys of {witness.signers.origin}."
    )


@app.command("trust", cls=DjmsCommand)
def trust(
    context: typer.Context,
    keys: Annotated[list[str], typer.Argument(help="Public keys of witnesses.")],
    quorum: Annotated[int, typer.Option(min=1, help="So many must cosign before a checkpoint is published.")],
    anchor: Anchor = None,
) -> Report:
    """Let the cosignatures of these witnesses count, besides those that count already."""
    opened = AnchorFolder.open(folder_of(context, anchor))
    known = () if opened.policy is None else opened.policy.witnesses
    named = {key.public_key: key for key in known}  # under the name that their cosignatures bear
    for key in (WitnessKey.from_text(text) for text in keys):
        named.setdefault(key.public_key, key)
    policy = WitnessPolicy(quorum, tuple(named.values()))
    opened.set_policy(policy)
    return Report(
        {"quorum": quorum, "witnesses": [key.to_text() for key in policy.witnesses]},
        f"{quorum} of {len(policy.witnesses)} witnesses must cosign a checkpoint of {opened.origin}.",
    )


@app.command("collect", cls=DjmsCommand)
def collect(
    context: typer.Context,
    cosigned: Annotated[list[Path], typer.Argument(help="Checkpoints that witnesses cosigned.")],
    anchor: Anchor = None,
) -> Report:
    """Add cosignatures to the log's checkpoints."""
    opened = AnchorFolder.open(folder_of(context, anchor))
    texts, size = [], 0
    for path in cosigned:
        if not path.is_file():
            raise InputError("the cosigned checkpoint does not exist", where=path, remedy="check the path")
        texts.append(path.read_bytes())
        try:
            found, signatures = opened.verified_cosignatures(texts[-1])
        except AnchoringError as error:
            error.where = str(path)
            raise
        if not signatures:
            raise InputError(
                "it has no cosignature of a witness that counts", where=path, remedy="name its key with `trust` first"
            )
        size = max(size, found)
    opened.add_cosignatures(*texts)
    by, published = len(opened.cosigned_by(size)), opened.is_published(size)
    return Report(
        {"size": size, "cosigned": by, "published": published},
        f"The checkpoint of {size} entries is cosigned by {by}, which is {'enough' if published else 'not enough yet'} "
        "to be published.",
    )
