"""`djms anchor publish`: the newest published checkpoint outside of the federation, and whether it is still there."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from anchoring.anchor_folder import AnchorFolder
from anchoring.cli import Anchor
from anchoring.evm_node import EvmNode, require_web3
from anchoring.publications import Outcome, PendingTransaction, Publications, Record, Timestamp, Transaction
from anchoring.publish_evm import Terms, check_transaction, publish_transaction
from anchoring.timestamps import CHECKPOINT, TSR, check_timestamp, publish_timestamp, read_certificates
from common.cli import settings_of
from common.errors import InputError
from common.progress import progress_bars
from common.report import Report
from common.settings import AnchoringSettings

_HEADS: dict[Outcome, str] = {
    "published": "Published.",
    "finished": "Published before; it is confirmed and recorded now.",
    "already": "It is published already; nothing was sent.",
}


def publish(
    context: typer.Context,
    anchor: Anchor = None,
    check: Annotated[bool, typer.Option("--check", help="Send nothing: verify all that was published so far.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a transaction's blocks.")] = 300.0,
    max_cost: Annotated[
        float, typer.Option(min=0, help="What a transaction may cost at most, in the chain's coin.")
    ] = 0.02,
) -> Report:
    """Publish the newest checkpoint where anchoring.publish says: on an EVM chain, or at a time-stamping authority."""
    settings = settings_of(context)
    opened = AnchorFolder.open(settings.paths.anchor_dir if anchor is None else anchor)
    publications = Publications(opened)
    if check:
        return _checked(publications, settings.anchoring)
    return _published(publications, settings.anchoring, wait, round(max_cost * 10**18))


def _published(publications: Publications, settings: AnchoringSettings, wait: float, most: int) -> Report:
    evm, authority = settings.evm, settings.timestamp
    record: Transaction | Timestamp
    with progress_bars() as bars:
        if settings.publish == "evm":
            require_web3()
            terms = Terms(evm.key_file, evm.chain_id, evm.confirmations, most, wait)
            with bars.step("Waiting for the chain"):
                record, outcome = publish_transaction(publications, terms, lambda: EvmNode.at(evm.rpc_url))
        elif settings.publish == "rfc3161":
            with bars.step("Waiting for the authority"):
                record, outcome = publish_timestamp(publications, authority.url, authority.certificates)
        else:
            raise InputError(
                "it is not said where to publish",
                where="settings key 'anchoring.publish'",
                remedy="write evm or rfc3161",
            )
    path = publications.path(record.size, record.ENDING)
    cosigned, policy = len(publications.anchor.cosigned_by(record.size)), publications.anchor.policy
    by = "no witnesses are named" if policy is None else f"cosigned by {cosigned} witnesses"
    lines = {
        "Log": record.origin,
        "Checkpoint": f"{record.size} entries, {by}",
        "Root": record.root,
        **_particulars(record, publications, authority.certificates),
        "Record": str(path),
    }
    told = "\n".join(f"  {name:<12} {value}" for name, value in lines.items())
    folder = shlex.quote(str(publications.anchor.folder))
    text = f"{_HEADS[outcome]}\n\n{told}\n\nCheck it with: djms anchor publish --check --anchor {folder}"
    data = {"outcome": outcome, "record": str(path), "cosigned": cosigned, **record.to_json()}
    return Report(data, text)


def _checked(publications: Publications, settings: AnchoringSettings) -> Report:
    """Verify every record, in the order of sizes; the first that does not fit is the error."""
    node = cache(lambda: EvmNode.at(settings.evm.rpc_url))
    certificates = cache(lambda: read_certificates(settings.timestamp.certificates))
    kinds: tuple[type[Record], ...] = (Transaction, Timestamp)
    found = sorted((size, kind.ENDING) for kind in kinds for size in publications.sizes(kind))
    records: list[Transaction | Timestamp] = []
    with progress_bars() as bars, bars.step("Checking", len(found)) as advance:
        for size, ending in found:
            if ending == Transaction.ENDING:
                records.append(check_transaction(publications, size, node()))
            else:
                records.append(check_timestamp(publications, size, certificates()))
            advance()
    pending = publications.sizes(PendingTransaction)
    data = {"valid": True, "checked": [record.to_json() for record in records], "pending": pending}
    head = Text("Nothing was published yet.\n", "bold")
    if records:
        head = Text(f"All that was published fits the log, and is where it was: {len(records)}.\n", "bold")
    for size in pending:
        head.append(
            f"Not confirmed: the checkpoint of {size} entries. djms anchor publish goes on with it.\n", "default"
        )
    table = Table(box=None, pad_edge=False)
    table.add_column("entries", justify="right")
    table.add_column("where", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("since", no_wrap=True)
    for record in records:
        table.add_row(*_row(record))
    return Report(data, Group(head, table) if records else head)


def _row(record: Transaction | Timestamp) -> tuple[str, str, str, str]:
    if isinstance(record, Transaction):
        return str(record.size), f"chain {record.chain_id}", record.transaction, _time(record.block_time)
    return str(record.size), "authority", record.signer, record.time.replace("+00:00", "Z")


def _particulars(
    record: Transaction | Timestamp, publications: Publications, certificates: Path | None
) -> dict[str, str]:
    if isinstance(record, Transaction):
        return {
            "Chain": str(record.chain_id),
            "Transaction": record.transaction,
            "Sender": record.sender,
            "Block": f"{record.block_number}, {record.block_hash}",
            "Block's time": _time(record.block_time),
        }
    answer, note = (shlex.quote(str(publications.path(record.size, ending))) for ending in (TSR, CHECKPOINT))
    roots = "CERTIFICATES" if certificates is None else shlex.quote(str(certificates))
    return {
        "Existed at": record.time.replace("+00:00", "Z"),
        "Attested by": f"{record.signer}, number {record.serial_number}, policy {record.policy}",
        "Without DJMS": f"openssl ts -verify -in {answer} -data {note} -CAfile {roots}",
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
