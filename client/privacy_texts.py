"""What `djms privacy plan` and `djms privacy ledger` say, for an official to read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.ledger import shown

_ACCOUNTANTS = {"rdp": "Rényi", "pld": "privacy loss distributions", "opacus": "Opacus"}
_ALIKE = ("purpose", "mechanism", "noise_multiplier", "sampling_rate", "steps", "state")


def plan_text(plan: Mapping[str, Any]) -> Group:
    """The plan, what it is expected to reach, and what was not done."""
    one = _one(plan["unit"])
    head = Text.assemble(
        (f"\nPlan: ε {plan['epsilon_asked']:g} for each {one}, at δ {plan['delta']:g}\n", "bold"),
        f"{plan['candidates']:,} people at {plan['sites']} offices; about {plan['training_people_per_site']:,} of each "
        "office's are trained on, the others are kept for testing.\n",
        _whole_offices() if plan["unit"] == "site" else "",
    )
    figures = Table.grid(padding=(0, 2))
    figures.add_column()
    figures.add_column(justify="right")
    everybody = plan["sampling_rate"] == 1
    drawn = f"every {one} takes part in every step" if everybody else f"chance of each {one} to take part in a step"
    figures.add_row("noise multiplier", f"{plan['noise_multiplier']:.4g}", f"noise beside what one {one} can change")
    figures.add_row("sampling rate", f"{plan['sampling_rate']:.4g}", drawn)
    figures.add_row("steps", f"{plan['steps']}", f"{plan['rounds']} rounds of {plan['local_steps']}")
    if plan["learning_rate"] is not None:
        figures.add_row("learning rate", f"{plan['learning_rate']:.4g}", "follows from the noise and the people")
    if plan["noise_in_mean"] is not None:
        beside = "times as long as one office's whole update may be"
        figures.add_row("noise in the mean", f"{plan['noise_in_mean']:.3g}", beside)
    figures.add_row("ε reached", shown(plan["epsilon"], up=True), "by the Rényi accountant, which DJMS states")
    for name in ("pld", "opacus"):
        if name in plan["by_accountant"]:
            figures.add_row("", shown(plan["by_accountant"][name], up=True), f"cross-check by {_ACCOUNTANTS[name]}")
    return Group(head, figures, *_quality(plan), Text(f"\n{_meaning(one, plan['epsilon'])}\nNothing was spent.\n"))


def ledger_text(report: Mapping[str, Any]) -> Group:
    """All offices beside each other, then what each spent, run by run."""
    offices = report["offices"]
    return Group(_overview(offices), *itertools.chain.from_iterable(map(_office, offices)), Text(_explained(offices)))


def _whole_offices() -> str:
    return (
        "What is hidden is a whole office's part in the run, and with it that of each person there. It takes many\n"
        "offices: a model learns something only where the noise in their mean is well below 1.\n"
    )


def _one(unit: str | None) -> str:
    return "office" if unit == "site" else "person"


def _meaning(one: str, epsilon: float) -> str:
    factor = f"{math.exp(epsilon):,.1f}" if epsilon < 10 else "more than 20,000"
    return (
        f"It means: whatever anybody finds out from the model about one {one}, a model trained without that {one} "
        f"would have told them too, at most {factor} times less or more likely."
    )


def _quality(plan: Mapping[str, Any]) -> Iterator[RenderableType]:
    found, without = plan["expected_quality"], plan["quality_without_noise"]
    if found is not None:
        yield Text("\nExpected quality, on people nobody trained on", style="bold")
        table = Table(box=None, pad_edge=False)
        for column in ("", "with this plan", "without noise"):
            table.add_column(column, justify="right" if column else "left")
        for key, name in (("log_loss", "log-loss (smaller is better)"), ("roc_auc", "ROC-AUC (0.5 is guessing)")):
            table.add_row(name, *(_figure(quality, key) for quality in (found, without)))
        yield table
    else:
        yield Text("\nExpected quality", style="bold")
    yield Text(plan["quality_note"])


def _figure(quality: Mapping[str, float] | None, key: str) -> str:
    return "–" if quality is None else f"{quality[key]:.3f} ± {quality[f'{key}_sd']:.3f}"


def _overview(offices: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="\nWhat offices' people have paid", title_justify="left", box=None, pad_edge=False)
    table.add_column("office")
    for column in ("runs", "ε spent", "budget", "left"):
        table.add_column(column, justify="right")
    for column in ("δ", "until"):
        table.add_column(column)
    for office in offices:
        budget = office["budget"]
        table.add_row(
            office["office"],
            str(len(office["runs"])),
            _epsilon(office["epsilon"]),
            "none" if budget is None else f"{budget['max_epsilon']:g}",
            "–" if budget is None else shown(office["left"], up=False),
            f"{office['delta']:g}",
            "–" if budget is None else _until(budget),
        )
    return table


def _until(budget: Mapping[str, Any]) -> str:
    return "no end date" if budget["valid_until"] is None else budget["valid_until"] + " (over)" * budget["ended"]


def _office(office: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(f"\n{office['office']}", style="bold")
    yield Text(office["path"], no_wrap=True, overflow="ignore")
    if not office["runs"]:
        yield Text("Nothing was spent.")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("run", "round", "purpose"):
        table.add_column(column)
    for column in ("noise", "rate", "steps"):
        table.add_column(column, justify="right")
    table.add_column("state")
    table.add_column("ε after it", justify="right")
    for run in office["runs"]:
        groups = list(_alike(run["rounds"]))
        for number, (rounds, release) in enumerate(groups, start=1):
            last = number == len(groups)
            table.add_row(
                run["run"] if number == 1 else "",
                rounds,
                release["purpose"],
                f"{release['noise_multiplier']:.4g}",
                f"{release['sampling_rate']:.4g}",
                f"{release['steps']}",
                release["state"],
                _epsilon(run["epsilon_after"]) if last else "",
            )
    yield table
    found = [
        f"{name} {_epsilon(office['by_accountant'][key])}"
        for key, name in _ACCOUNTANTS.items()
        if key in office["by_accountant"]
    ]
    yield Text(f"ε by accountants that must agree: {', '.join(found)}.")


def _alike(rounds: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rounds one after the other that did the same, as "1-10"."""
    for _, group in itertools.groupby(
        enumerate(rounds), key=lambda item: (item[1]["round"] - item[0], *(item[1][key] for key in _ALIKE))
    ):
        members = [release for _, release in group]
        first, last = members[0]["round"], members[-1]["round"]
        yield str(first) if first == last else f"{first}–{last}", members[0]


def _explained(offices: Sequence[Mapping[str, Any]]) -> str:
    states = {release["state"] for office in offices for run in office["runs"] for release in run["rounds"]}
    lines = [
        "",
        "ε adds up what all runs together can tell about one person: 0 is nothing. Steps are those of each round.",
    ]
    if "reserved" in states:
        lines.append("“reserved”: allowed and not confirmed, as after a crash or while training; it counts in full.")
    return "\n".join([*lines, ""])


def _epsilon(value: float | None) -> str:
    return "∞" if value is None else shown(value, up=True)
