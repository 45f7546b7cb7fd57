"""Pictures of a federation: its progress by round, beside its baselines, and office by office.

Rules they keep:

* A metric that is None is written as "does not apply", never drawn as 0.
* Every mark is labelled where it stands and its value is written out; no label covers another.
* Colours are Okabe and Ito's, which colour-blind readers tell apart; the federated model is always the blue one.
* Figures are objects of their own (no pyplot, no global state), and a file appears whole or not at all.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.isotonic import isotonic_regression

from common.files import atomic_path

Metrics = Mapping[str, float | None]

NAMES: Final = MappingProxyType(
    {
        "federated": "federated",
        "centralised": "centralised",
        "local": "each office alone",
        "rule": "rule alone",
        "yes_to_everybody": "yes to everybody",
        "best_possible": "best possible",
    }
)
COLOURS: Final = MappingProxyType(
    {
        "federated": "#0072B2",
        "centralised": "#D55E00",
        "local": "#B87A00",
        "rule": "#009E73",
        "yes_to_everybody": "#A0527E",
        "best_possible": "#000000",
    }
)
"""Okabe & Ito's palette; orange and purple a little darker than theirs, so that text in them is readable on white."""
TITLES: Final = MappingProxyType(
    {
        "roc_auc": "ROC-AUC",
        "pr_auc": "PR-AUC",
        "f1": "F1",
        "balanced_accuracy": "Balanced accuracy",
        "log_loss": "Log-loss",
        "brier": "Brier score",
        "ece": "Calibration error",
        "ndcg_at_5": "NDCG@5",
    }
)
LOWER_IS_BETTER: Final = frozenset({"log_loss", "brier", "ece"})
GREY: Final = "#595959"
SMALL, NORMAL, LARGE = 8.5, 9.5, 13


def plot_progress(
    rounds: pd.DataFrame, baselines: Mapping[str, Metrics], path: Path, *, title: str | None = None, note: str = ""
) -> None:
    """ROC-AUC and log-loss of the global model after each round, as a PNG.

    `rounds` has the columns round, roc_auc and log_loss (NaN or None: does not apply), and may have status: where that
    is "abandoned", the line is broken and the round is marked as such. `baselines` may hold centralised, local (each
    office's own model on its own people) and best_possible, each with the same metrics: horizontal lines.
    """
    figure = Figure(figsize=(10, 6.6), dpi=150, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    ordered = rounds.sort_values("round")
    for axis, metric in zip(axes, ("roc_auc", "log_loss"), strict=True):
        _progress_panel(axis, ordered, baselines, metric)
    abandoned = _abandoned(ordered)
    axes[-1].set_xlabel("round" + _abandoned_key(abandoned), fontsize=NORMAL)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    reached = _numbers(ordered["roc_auc"])
    known = reached[np.isfinite(reached)]
    finished = f"{len(ordered) - len(abandoned)} of " if abandoned else ""
    told = f": ROC-AUC {known[-1]:.4f} after {finished}{_counted(len(ordered), 'round')}" if known.size else ""
    _write(figure, title or f"Training progress of the federated model{told}", note, path)


def plot_comparison(
    metrics: Mapping[str, Metrics],
    path: Path,
    *,
    title: str = "The federated model beside its baselines",
    note: str = "",
) -> None:
    """Eight metrics of the federated model and of what it is compared with, a panel each, as a PNG.

    `metrics` holds a mapping of metrics under some of the names of `NAMES`; a name that is absent has no row.
    """
    systems = [name for name in NAMES if name in metrics]
    figure = Figure(figsize=(10.5, 2.6 + 0.5 * len(systems)), dpi=150, layout="constrained")
    axes = figure.subplots(2, 4, sharey=True, squeeze=False)
    for axis, metric in zip(axes.flat, TITLES, strict=True):
        _comparison_panel(axis, [(name, metrics[name].get(metric)) for name in systems], metric)
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(systems)), [NAMES[name] for name in systems], fontsize=NORMAL)
        for tick, name in zip(axis.get_yticklabels(), systems, strict=True):
            tick.set(color=COLOURS[name], fontweight="bold" if name == "federated" else "normal")
    _write(figure, title, note, path)


def plot_offices(
    metrics_by_office: Mapping[str, Mapping[str, Metrics]], path: Path, *, title: str | None = None, note: str = ""
) -> None:
    """ROC-AUC at each office: the office alone, the federated model, and the best possible, as a PNG.

    `metrics_by_office[office]` holds metrics under federated, local and best_possible; any of them may be absent.
    """
    values = {
        office: {name: by_name.get(name, {}).get("roc_auc") for name in ("local", "federated", "best_possible")}
        for office, by_name in metrics_by_office.items()
    }
    figure = Figure(figsize=(10, 1.9 + 0.32 * max(len(values), 2)), dpi=150, layout="constrained")
    _offices_panel(figure.subplots(), values)
    _write(figure, title or _offices_title(values), note, path)


def _progress_panel(axis: Axes, rounds: pd.DataFrame, baselines: Mapping[str, Metrics], metric: str) -> None:
    steps, values = _numbers(rounds["round"]), _numbers(rounds[metric])
    known = np.isfinite(values)
    labels: list[tuple[float, str, str]] = []
    for name in ("best_possible", "centralised", "local"):
        value = baselines.get(name, {}).get(metric)
        if value is not None:
            axis.axhline(value, color=COLOURS[name], linewidth=1.2, linestyle=(0, (5, 3)), zorder=2)
            labels.append((float(value), f"{NAMES[name]} {value:.4f}", name))
    if known.any():
        axis.plot(steps, values, color=COLOURS["federated"], linewidth=2.2, marker="o", markersize=4.5, zorder=3)
        labels.append((float(values[known][-1]), f"federated {values[known][-1]:.4f}", "federated"))
    axis.set_ylim(*_limits([*values[known], *(value for value, _, _ in labels)], least=0.01, pad=0.1))
    for step in _abandoned(rounds):
        axis.axvspan(step - 0.5, step + 0.5, color="#EFEFEF", linewidth=0, zorder=0)
        axis.plot(step, 0.03, transform=axis.get_xaxis_transform(), marker="x", markersize=6, color=GREY, zorder=3)
    missing = "" if known.any() else "   (federated: does not apply)"
    axis.set_title(_heading(metric, up_down=True) + missing, loc="left", fontsize=NORMAL + 1)
    _clean(axis, grid="y")
    _label_at_right(axis, labels)


def _abandoned(rounds: pd.DataFrame) -> list[int]:
    """The numbers of the abandoned rounds, ascending."""
    if "status" not in rounds:
        return []
    return sorted(int(number) for number in rounds.loc[rounds["status"] == "abandoned", "round"])


def _abandoned_key(numbers: Sequence[int]) -> str:
    """What the marks of abandoned rounds mean, and which they are: "×  abandoned: 2, 5–7"."""
    if not numbers:
        return ""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    which = ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]}–{span[-1]}" for span in spans)
    if len(which) > 60:
        which = _counted(len(numbers), "round")
    return f"      ×  abandoned, the model stayed as it was: {which}"


def _label_at_right(axis: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write (value, text, name) beside the axis at the value's height, moved apart where two would touch."""
    low, high = axis.get_ylim()
    ordered = sorted(labels)
    heights = [(value - low) / (high - low) for value, _, _ in ordered]
    for (value, text, name), place in zip(ordered, _apart(heights, gap=0.095), strict=True):
        axis.annotate(
            text,
            xy=(1.0, (value - low) / (high - low)),
            xytext=(1.035, place),
            xycoords="axes fraction",
            va="center",
            fontsize=NORMAL,
            color=COLOURS[name],
            fontweight="bold" if name == "federated" else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": COLOURS[name],
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """The ascending places in [0, 1] nearest to `places` (ascending too) that are at least `gap` from one another.

    Least squares under y[i+1] - y[i] >= gap is isotonic regression of y[i] - i * gap.
    """
    if not places:
        return []
    steps = gap * np.arange(len(places))
    return list(isotonic_regression(np.asarray(places) - steps, y_min=0.0, y_max=max(0.0, 1.0 - steps[-1])) + steps)


def _comparison_panel(axis: Axes, values: Sequence[tuple[str, float | None]], metric: str) -> None:
    known = [value for _, value in values if value is not None]
    low, high = _limits(known, least=0.02, pad=0.12)
    axis.set_xlim(low, high)
    for row, (name, value) in enumerate(values):
        ours = name == "federated"
        if ours:
            axis.axhspan(row - 0.42, row + 0.42, color=COLOURS[name], alpha=0.10, linewidth=0)
        if value is None:
            axis.text(
                0.5, row, "does not apply", **_beside(axis), ha="center", color=GREY, fontsize=SMALL, style="italic"
            )
            continue
        axis.plot([low, high], [row, row], color="#E4E4E4", linewidth=0.8, zorder=1)
        _mark(axis, name, value, row, size=6)
        weight = "bold" if ours else "normal"
        axis.text(1.04, row, f"{value:.4f}", **_beside(axis), color=COLOURS[name], fontsize=SMALL, fontweight=weight)
    axis.set_ylim(len(values) - 0.5, -0.5)
    axis.set_title(_heading(metric, up_down=False), loc="left", fontsize=NORMAL, linespacing=1.35)
    axis.xaxis.set_major_locator(MaxNLocator(3))
    if not known:
        axis.set_xticks([])
    _clean(axis, grid="x")


def _offices_panel(axis: Axes, values: Mapping[str, Metrics]) -> None:
    known = [value for office in values.values() for value in office.values() if value is not None]
    axis.set_xlim(*_limits(known, least=0.02, pad=0.08))
    columns = {"local": 1.02, "federated": 1.12, "best_possible": 1.245}
    for row, by_name in enumerate(values.values()):
        ends = [by_name[name] for name in ("local", "federated") if by_name[name] is not None]
        if len(ends) == 2:
            axis.plot(ends, [row, row], color="#BBBBBB", linewidth=2, zorder=2, solid_capstyle="butt")
        for name, value in by_name.items():
            shown = "–" if value is None else f"{value:.4f}"
            weight = "bold" if name == "federated" else "normal"
            colour = GREY if value is None else COLOURS[name]
            axis.text(columns[name], row, shown, **_beside(axis), color=colour, fontsize=SMALL, fontweight=weight)
            if value is not None:
                _mark(axis, name, value, row, size=6.5)
        if all(value is None for value in by_name.values()):
            axis.text(
                0.5, row, "does not apply", **_beside(axis), ha="center", color=GREY, fontsize=SMALL, style="italic"
            )
    for name, text in (("local", "● alone"), ("federated", "● federated"), ("best_possible", "◇ best possible")):
        axis.text(columns[name], 1.02, text, transform=axis.transAxes, va="bottom", color=COLOURS[name], fontsize=SMALL)
    axis.set_ylim(len(values) - 0.5, -0.5)
    axis.set_yticks(range(len(values)), [office.replace("_", " ") for office in values], fontsize=NORMAL)
    axis.set_title(_heading("roc_auc", up_down=False), loc="left", fontsize=NORMAL, linespacing=1.35)
    _clean(axis, grid="x")


def _mark(axis: Axes, name: str, value: float, row: int, size: float) -> None:
    """A dot; the best possible, which nobody can reach, is hollow."""
    hollow = name == "best_possible"
    face = "white" if hollow else COLOURS[name]
    axis.plot(
        value,
        row,
        marker="D" if hollow else "o",
        color=COLOURS[name],
        markerfacecolor=face,
        markersize=8.5 if name == "federated" else size,
        zorder=4 if name == "federated" else 3,
    )


def _offices_title(values: Mapping[str, Metrics]) -> str:
    both = [(v["federated"], v["local"]) for v in values.values()]
    pairs = [(ours, alone) for ours, alone in both if ours is not None and alone is not None]
    if not pairs:
        return "ROC-AUC of the federated model at each office"
    better = sum(ours > alone for ours, alone in pairs)
    return f"ROC-AUC: the federated model is ahead of the office alone at {better} of {_counted(len(pairs), 'office')}"


def _heading(metric: str, *, up_down: bool) -> str:
    lower = metric in LOWER_IS_BETTER
    if up_down:
        return f"{TITLES[metric]}   {'↓ lower' if lower else '↑ higher'} is better"
    return f"{TITLES[metric]}\n{'← lower is better' if lower else 'higher is better →'}"


def _limits(values: Sequence[float], *, least: float, pad: float) -> tuple[float, float]:
    """Axis limits around `values`: at least `least` wide, so that noise does not look like a difference."""
    if not len(values):
        return 0.0, 1.0
    low, high = min(values), max(values)
    widen = max(0.0, least - (high - low)) / 2
    margin = pad * max(high - low, least)
    return low - widen - margin, high + widen + margin


def _beside(axis: Axes) -> dict[str, object]:
    """Text placed by axis fraction across and by row down, centred on the row."""
    return {"transform": axis.get_yaxis_transform(), "va": "center"}


def _clean(axis: Axes, *, grid: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#999999")
    axis.tick_params(labelsize=SMALL, color="#999999", length=3)
    if grid == "x":
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0, labelsize=NORMAL)
    axis.grid(axis=grid, color="#E9E9E9", linewidth=0.8)
    axis.set_axisbelow(True)


def _numbers(column: pd.Series) -> np.ndarray:
    """The column as floats, None and text that is no number as NaN."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _write(figure: Figure, title: str, note: str, path: Path) -> None:
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.08, rect=(0, 0, 0.985, 1))
    figure.suptitle(textwrap.fill(title, 95), x=0.012, ha="left", fontsize=LARGE, fontweight="bold")
    if note:
        figure.supxlabel(textwrap.fill(note, 150), x=0.012, ha="left", fontsize=SMALL, color=GREY, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
