"""`djms privacy audit`: attacks on the private training that is installed here."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from common.cli import settings_of
from common.errors import InputError, RunError
from common.progress import progress_bars
from common.report import Report
from common.settings import Settings

if TYPE_CHECKING:
    from client.private_audit import MembershipAttack
    from client.site import Site


def audit(
    context: typer.Context,
    runs: Annotated[int, typer.Option(min=1, help="Trainings on canaries; more make the bound sharper.")] = 8,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Confidence of the bound.")] = 0.99,
    table: Annotated[
        Path | None, typer.Option(help="A site's training table for the second attack [default: synthetic people].")
    ] = None,
) -> Report:
    """Attack the private training: a lower bound on its ε by canaries, and telling members of a model from others."""
    settings = settings_of(context)
    private, rounds = settings.privacy.dp, settings.federated.rounds
    if private.unit != "candidate":
        raise InputError(
            "the audit attacks what hides single persons, and the settings hide whole offices",
            where="settings key 'privacy.dp.unit'",
            remedy="audit with --dp.unit candidate",
        )
    with progress_bars() as bars:
        with bars.step("Starting"):
            from client.private_audit import attack_membership, audit_with_canaries

            site = _site(table, settings)
        with bars.step("Training on canaries", runs) as advance:
            canaries = audit_with_canaries(private, rounds=rounds, runs=runs, confidence=confidence, advance=advance)
        canaries.require()
        with bars.step("Attacking a finished model"):
            attack = attack_membership(site, private, rounds=rounds)
        _require(attack)
    result = {"canaries": asdict(canaries), "membership": asdict(attack), "synthetic": table is None, "passed": True}
    return Report(result, _text(result))


def _site(table: Path | None, settings: Settings) -> Site:
    from client.site import load_site

    shares = {"validation_share": settings.data.validation_share, "test_share": settings.data.test_share}
    if table is not None:
        return load_site(table, seed=settings.seed, **shares)
    from data.generator import generate, write_raw
    from data.partition import partition
    from data.preparation import prepare, raw_files_of

    with tempfile.TemporaryDirectory(prefix="djms-audit-") as directory:
        folder = Path(directory)
        write_raw(generate(candidates=2_000, companies=200, seed=settings.seed), folder / "raw")
        small = settings.model_copy(update={"data": settings.data.model_copy(update={"pairs_per_candidate": 10})})
        dataset = prepare(raw_files_of(small, folder / "raw"), small)
        tables = partition(dataset.table, dataset.info, settings.offices, folder / "federated")
        return load_site(next(iter(tables.values())), seed=settings.seed, **shares)


def _require(attack: MembershipAttack) -> None:
    if not attack.passed:
        raise RunError(
            f"members of a finished model were told from others with an advantage of {attack.advantage:.3f}, and the "
            f"claim allows {attack.allowed:.3f}",
            where="privacy audit",
            remedy="train nothing with this installation: it adds less noise than it says",
        )


def _text(result: dict[str, Any]) -> Text:
    canaries, attack = result["canaries"], result["membership"]
    whom = "synthetic people" if result["synthetic"] else "the people of the table"
    return Text.assemble(
        ("\nThe audit found nothing against the private training.\n\n", "bold"),
        ("Canaries\n", "bold"),
        f"  claimed     ε {canaries['claimed']:.4g} at δ {canaries['delta']:g}, computed from what was executed\n",
        f"  observed    ε of at least {canaries['observed']:.3g}, at {canaries['confidence']:.2%} confidence; "
        f"{canaries['right']} of {canaries['canaries']} guesses were right\n",
        "  The claim would fail if more were observed than is claimed.\n\n",
        ("Members of a finished model\n", "bold"),
        f"  {attack['members']} of {whom} against {attack['others']} nobody trained on, told apart by their loss\n",
        f"  advantage   {attack['advantage']:.3f}, of which chance explains up to {attack['margin']:.3f}; "
        f"the claim allows {attack['allowed']:.3f}\n",
        f"  ROC-AUC     {attack['roc_auc']:.3f}; 0.5 is guessing\n",
        "  This attack is weak: it would find a gross fault, and passing it says little.\n",
    )
