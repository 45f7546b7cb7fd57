"""What a training table holds, without showing anybody: sums, means, quantiles and one picture.

Rules that hold:

* People are counted once, by (office, candidate_id), however many companies they were paired with.
* A count of 1 to `minimum_cell` - 1 people is suppressed (None), and so is whatever it could be reckoned from: the
  pairs behind it, and the next smallest cells of its group until at least two are hidden, `minimum_cell` people
  together. A total minus the cells shown then tells no cell (complementary suppression; Hundepool et al. 2012,
  "Statistical Disclosure Control", ch. 4). A cell of nobody is shown as 0: there is nobody in it to protect.
* A mean is shown where at least `minimum_cell` people stand behind it, a quantile where as many lie on either side of
  it, a share of missing values where the missing ones are of nobody or of as many.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from common.errors import InputError
from common.files import atomic_path
from common.tables import (
    CANDIDATE_ID,
    COMPANY_ID,
    DISABILITIES,
    EDUCATION,
    MATCH_PROBABILITY,
    NUMERIC_COLUMNS,
    OFFICE,
    ONE_HOT_GROUPS,
    OUTCOME,
    SECTORS,
    TRAINING_COLUMNS,
)

QUANTILES: Final = (5, 25, 50, 75, 95)
NOT_STATED: Final = "not_stated"
UNIT: Final = MappingProxyType(
    {
        "attitude_score": "people",
        "years_experience": "people",
        "unemployment_duration": "people",
        "compatibility_score": "pairs",
        "distance_km": "pairs",
        "company_size": "companies",
        "retention_rate": "companies",
        "remote_work": "companies",
        "certification": "companies",
    }
)
"""What one value of a numeric column belongs to, and is counted once for."""
HISTOGRAMS: Final = MappingProxyType(
    {
        "attitude_score": ("Attitude to placement", "score"),
        "compatibility_score": ("Compatibility", "score"),
        "distance_km": ("Distance", "km"),
        "unemployment_duration": ("Unemployment", "years"),
        "years_experience": ("Work experience", "years"),
    }
)
VOCABULARIES: Final = MappingProxyType({"edu": EDUCATION, "dis": DISABILITIES, "sector": SECTORS})
GROUP_TITLES: Final = MappingProxyType({"edu": "education", "dis": "disability", "sector": "sector"})
BLUE, GREY = "#0072B2", "#595959"


def describe(table: pd.DataFrame, *, minimum_cell: int = 5) -> dict[str, Any]:
    """A JSON-able summary of a training table (`common.tables.TRAINING_COLUMNS`); None is suppressed or undefined.

    `pairs`, `people`, `companies`, `offices`; `match_rate` and `mean_distance_km` over pairs, `mean_attitude` over
    people; `numeric[column]`; `groups[edu|dis|sector][value]` with people and pairs; `by_office[office]`; `labels`
    ("rule" where the table carries the probability its labels were drawn with, else "outcomes"); and `suppressed`, the
    places of what was left out. Raises InputError where a column is missing, ValueError for `minimum_cell` below 1.
    """
    if minimum_cell < 1:
        raise ValueError("minimum_cell must be at least 1")
    missing = [name for name in TRAINING_COLUMNS if name not in table.columns]
    if missing:
        raise InputError(f"column '{missing[0]}' is missing", remedy="build the table anew with `djms data import`")
    person = person_codes(table)
    people = int(person.max(initial=-1)) + 1
    enough = people >= minimum_cell
    numeric = {name: _numeric(table, person, name, minimum_cell) for name in NUMERIC_COLUMNS}
    groups = {
        group: counted(person, one_hot_values(table, group), [*_slugs(group), NOT_STATED], minimum_cell)
        for group in ONE_HOT_GROUPS
    }
    summary: dict[str, Any] = {
        "minimum_cell": minimum_cell,
        "labels": "rule" if MATCH_PROBABILITY in table.columns else "outcomes",
        "pairs": len(table) if enough else None,
        "people": people if enough else None,
        "companies": int(table[COMPANY_ID].nunique()),
        "offices": int(table[OFFICE].nunique()),
        "match_rate": _mean(table[OUTCOME]) if enough else None,
        "mean_distance_km": numeric["distance_km"]["mean"],
        "mean_attitude": numeric["attitude_score"]["mean"],
        "numeric": numeric,
        "groups": groups,
        "by_office": by_office(table, person, minimum_cell),
    }
    return {**summary, "suppressed": _suppressed(summary)}


def hidden_cells(people: Mapping[str, int], minimum_cell: int) -> set[str]:
    """The cells not to show: under `minimum_cell`, then the next smallest until two hide `minimum_cell` people."""
    ordered = sorted((name for name in people if people[name] > 0), key=lambda name: (people[name], name))
    hidden = [name for name in ordered if people[name] < minimum_cell]
    for name in ordered[len(hidden) :]:
        if not hidden or (len(hidden) > 1 and sum(people[one] for one in hidden) >= minimum_cell):
            break
        hidden.append(name)
    return set(hidden)


def person_codes(table: pd.DataFrame) -> np.ndarray:
    """Codes 0..people-1 of the pairs' people: the same candidate_id at two offices is two people."""
    keys = [pd.factorize(table[name])[0].astype(np.int64) for name in (OFFICE, CANDIDATE_ID)]
    return pd.factorize(keys[0] * (len(table) + 1) + keys[1])[0]


def one_hot_values(table: pd.DataFrame, group: str) -> np.ndarray:
    """The value of a one-hot group in each pair, as its slug; a row of zeros is `not_stated`."""
    columns = table[list(ONE_HOT_GROUPS[group])].to_numpy()
    slugs = np.array([*_slugs(group), NOT_STATED])
    return slugs[np.where(columns.any(axis=1), columns.argmax(axis=1), len(slugs) - 1)]


def counted(
    person: np.ndarray, value: np.ndarray, order: Sequence[str], minimum_cell: int
) -> dict[str, dict[str, int | None]]:
    """People and pairs by value, in the given order; both are None in a hidden cell.

    Where all are fewer than `minimum_cell`, empty cells are hidden too: they would tell what each of the few is not.
    """
    rows = pd.DataFrame({"person": person, "value": value}).groupby("value")["person"].agg(["nunique", "size"])
    people = {name: int(rows["nunique"].get(name, 0)) for name in order}
    few = np.unique(person).size < minimum_cell
    hidden = set(order) if few else hidden_cells(people, minimum_cell)
    return {
        name: {"people": None, "pairs": None}
        if name in hidden
        else {"people": people[name], "pairs": int(rows["size"].get(name, 0))}
        for name in order
    }


def by_office(table: pd.DataFrame, person: np.ndarray, minimum_cell: int) -> dict[str, dict[str, float | int | None]]:
    """People, pairs and match rate of each office; all None where the office's people are hidden."""
    office = table[OFFICE].astype(str).to_numpy()
    names = sorted(set(office))
    rates = table[OUTCOME].astype(float).groupby(office).mean()
    cells = counted(person, office, names, minimum_cell)
    return {
        name: {**cells[name], "match_rate": None if cells[name]["people"] is None else _finite(rates[name])}
        for name in names
    }


def once_each(table: pd.DataFrame, person: np.ndarray, name: str) -> pd.DataFrame:
    """The column's values once per person, company or pair, with the person (for counting who stands behind them)."""
    rows = pd.DataFrame({"value": table[name].to_numpy(dtype=float), "person": person})
    if UNIT[name] == "pairs":
        return rows
    key = rows["person"] if UNIT[name] == "people" else table[COMPANY_ID].reset_index(drop=True)
    return rows[~key.duplicated()]


def _numeric(table: pd.DataFrame, person: np.ndarray, name: str, minimum_cell: int) -> dict[str, Any]:
    """Missing share, mean, standard deviation (n - 1) and quantiles of a column, each value counted once per unit."""
    rows = once_each(table, person, name)
    absent = np.isnan(table[name].to_numpy(dtype=float))
    without, known = np.unique(person[absent]).size, np.unique(person[~absent]).size
    values = rows["value"].dropna()
    shown = known >= minimum_cell
    share = float(rows["value"].isna().mean()) if len(rows) else None
    quantiles = {
        str(q): _finite(values.quantile(q / 100)) if known * min(q, 100 - q) / 100 >= minimum_cell else None
        for q in QUANTILES
    }
    return {
        "counted": UNIT[name],
        "missing_share": share if without == 0 or (without >= minimum_cell and (shown or known == 0)) else None,
        "mean": _finite(values.mean()) if shown else None,
        "std": _finite(values.std()) if shown else None,
        "quantiles": quantiles,
    }


def plot_distributions(table: pd.DataFrame, path: Path, note: str = "", *, minimum_cell: int = 5) -> None:
    """One PNG: people's and pairs' numbers as histograms, people by disability and education, sectors, match rates.

    Bars obey the suppression of `describe`; axes end at the last bar that is drawn. `note` stands in the footer.
    """
    person = person_codes(table)
    offices = by_office(table, person, minimum_cell)
    rows = (2.5, 2.7, max(3.4, 0.9 + 0.19 * len(offices)))
    figure = Figure(figsize=(11, sum(rows) + 1.1), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    axes = np.stack([row.subplots(1, 3) for row in figure.subfigures(3, 1, height_ratios=rows)])
    for axis, (name, (title, unit)) in zip(axes.flat, HISTOGRAMS.items(), strict=False):
        _histogram(axis, once_each(table, person, name).dropna(), minimum_cell)
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axis.set_xlabel(unit, fontsize=8.5)
        axis.set_ylabel(UNIT[name], fontsize=8.5)
    for axis, (group, names) in zip(axes.flat[5:], VOCABULARIES.items(), strict=False):
        unit = "pairs" if group == "sector" else "people"
        cells = counted(person, one_hot_values(table, group), [*names, NOT_STATED], minimum_cell)
        if cells[NOT_STATED]["people"] == 0:
            del cells[NOT_STATED]
        _bars(axis, {names.get(slug, "(not stated)"): cell[unit] for slug, cell in cells.items()}, "{:,.0f}")
        axis.set_title(f"{unit.capitalize()} by {GROUP_TITLES[group]}", loc="left", fontsize=10, fontweight="bold")
    _bars(axes[2, 2], {name.replace("_", " "): cell["match_rate"] for name, cell in offices.items()}, "{:.3f}")
    axes[2, 2].set_title("Match rate by office", loc="left", fontsize=10, fontweight="bold")
    hidden = f"Not drawn: bars of fewer than {minimum_cell} people, and the next smallest where that would be only one."
    footer = textwrap.fill(f"{hidden} {note}".strip(), 165)
    figure.suptitle("Who and what the training table holds", x=0.012, ha="left", fontsize=13, fontweight="bold")
    figure.supxlabel(footer, x=0.012, ha="left", fontsize=8.5, color=GREY, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _histogram(axis: Axes, rows: pd.DataFrame, minimum_cell: int) -> None:
    """Bars of the rows' values in about 20 round bins from 0; a bin of too few people has none."""
    top = float(rows["value"].max()) if len(rows) else 1.0
    edges = MaxNLocator(nbins=20, steps=[1, 2, 2.5, 5, 10]).tick_values(0, max(top, 1.0))
    place = np.clip(np.searchsorted(edges, rows["value"], side="right") - 1, 0, len(edges) - 2)
    bins = [str(b) for b in range(len(edges) - 1)]
    cells = counted(rows["person"].to_numpy(), place.astype(str), bins, minimum_cell)
    heights = np.array([cells[b]["pairs"] or 0 for b in bins])
    _clean(axis, "y")
    if not heights.any():
        _say(axis, "too few people to show")
        return
    drawn = np.flatnonzero(heights)
    axis.bar(edges[drawn], heights[drawn], width=np.diff(edges)[drawn], align="edge", color=BLUE, edgecolor="white")
    axis.set_xlim(edges[drawn[0]], edges[drawn[-1] + 1])
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _bars(axis: Axes, cells: Mapping[str, float | None], number: str) -> None:
    """A labelled horizontal bar for each cell, "not shown" where it is suppressed."""
    _clean(axis, "")
    for row, value in enumerate(cells.values()):
        axis.barh(row, value or 0, height=0.7, color=BLUE)
        text = "not shown" if value is None else number.format(value)
        style = "italic" if value is None else "normal"
        shift = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(text, (value or 0, row), **shift, fontsize=8, style=style, color=GREY)
    axis.set_yticks(range(len(cells)), [textwrap.fill(name, 26) for name in cells])
    axis.set_ylim(len(cells) - 0.4, -0.6)
    axis.set_xlim(0, 1.22 * max((value for value in cells.values() if value), default=1.0))
    axis.spines["bottom"].set_visible(False)
    axis.set_xticks([])


def _say(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", fontsize=9, style="italic", color=GREY)
    axis.set(xticks=[], yticks=[])


def _clean(axis: Axes, grid: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#999999")
    axis.tick_params(labelsize=8, color="#999999", length=3)
    if grid:
        axis.grid(axis=grid, color="#E9E9E9", linewidth=0.8)
        axis.set_axisbelow(True)


def _slugs(group: str) -> list[str]:
    return [name.removeprefix(f"{group}_") for name in ONE_HOT_GROUPS[group]]


def _mean(values: pd.Series) -> float | None:
    return _finite(values.astype(float).mean())


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _suppressed(summary: Mapping[str, Any], place: str = "") -> list[str]:
    """The dotted places of what is None in the summary, apart from statistics of a column that nobody filled in."""
    places: list[str] = []
    for name, value in summary.items():
        if value is None:
            places.append(f"{place}{name}")
        elif isinstance(value, Mapping) and value.get("missing_share") != 1.0:
            places.extend(_suppressed(value, f"{place}{name}."))
    return places
