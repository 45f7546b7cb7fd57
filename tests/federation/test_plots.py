"""Pictures of a federation come out whole, of a sane size, whatever is not defined."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from federation import plots
from federation.plots import NAMES, TITLES, plot_comparison, plot_offices, plot_progress

BASELINES = {
    "centralised": {"roc_auc": 0.7304, "log_loss": 0.4425},
    "local": {"roc_auc": 0.7303, "log_loss": 0.4426},
    "best_possible": {"roc_auc": 0.7305, "log_loss": 0.4424},
}


def rounds(count, **columns):
    steps = np.arange(1, count + 1)
    table = {"round": steps, "roc_auc": 0.73 - 0.1 / steps, "log_loss": 0.44 + 0.2 / steps, "people": 100}
    return pd.DataFrame({**table, **columns})


def abandoned(*numbers, of):
    """The table of a run that abandoned these rounds, whose rows then hold no metric."""
    table = rounds(of, status="finished", reason="")
    chosen = table["round"].isin(numbers)
    table.loc[chosen, ["roc_auc", "log_loss"]] = np.nan
    table.loc[chosen, ["status", "reason"]] = ["abandoned", "only 1 of 5 sites took part"]
    return table


def size_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"))
    assert (pixels < 128).mean() > 0.002, "the picture is empty"
    return pixels.shape[1], pixels.shape[0]


@pytest.mark.parametrize(
    ("table", "baselines"),
    [
        (rounds(10), BASELINES),
        (rounds(1), {}),
        (rounds(0), {}),
        (rounds(100), {"centralised": {"roc_auc": None, "log_loss": None}, "local": {}}),
        (rounds(3, log_loss=[None, None, None]), BASELINES),
        (rounds(3, roc_auc=[0.6, None, float("nan")]), BASELINES),
        (rounds(3, roc_auc=0.5, log_loss=0.7), {}),
        (abandoned(1, 4, 7, 8, 10, of=10), BASELINES),
        (abandoned(*range(1, 100, 2), of=100), BASELINES),
        (abandoned(1, 2, 3, of=3), {}),
    ],
    ids=[
        *("usual", "one_round", "no_round", "no_baseline_applies", "no_log_loss", "gaps", "constant"),
        *("abandoned", "many_abandoned", "all_abandoned"),
    ],
)
def test_progress_is_drawn(tmp_path, table, baselines):
    path = tmp_path / "progress.png"
    plot_progress(table, baselines, path, note="Synthetic data.")
    assert size_of(path) == (1500, 990)


@pytest.mark.parametrize(
    ("numbers", "count", "key"),
    [
        ((), 4, "round"),
        ((2,), 4, "round      ×  abandoned, the model stayed as it was: 2"),
        ((1, 3, 4, 5, 9, 10), 10, "round      ×  abandoned, the model stayed as it was: 1, 3–5, 9–10"),
        (range(1, 100, 2), 100, "round      ×  abandoned, the model stayed as it was: 50 rounds"),
    ],
)
def test_abandoned_rounds_are_marked_and_named_and_the_line_does_not_cross_them(
    tmp_path, monkeypatch, numbers, count, key
):
    kept = []
    monkeypatch.setattr(plots, "_write", lambda figure, title, *rest: kept.append((figure, title)))
    plot_progress(abandoned(*numbers, of=count), {}, tmp_path / "progress.png")
    figure, title = kept[0]
    assert figure.axes[-1].get_xlabel() == key
    assert (f"{count - len(numbers)} of {count} rounds" in title) == bool(numbers)
    for axis in figure.axes:
        line, *marks = axis.get_lines()
        assert [int(mark.get_xdata()[0]) for mark in marks] == list(numbers)
        assert np.isnan(line.get_ydata()).sum() == len(numbers)
        low, high = axis.get_xlim()
        assert all(low < number < high for number in numbers)


def test_comparison_is_drawn_with_every_baseline_and_with_none_that_applies(tmp_path):
    rng = np.random.default_rng(0)
    metrics = {name: {metric: float(rng.random()) for metric in TITLES} for name in NAMES}
    metrics["rule"] |= {"log_loss": None, "brier": None, "ece": None}
    plot_comparison(metrics, tmp_path / "all.png", note="Labels: rule.")
    plot_comparison({"federated": dict.fromkeys(TITLES), "rule": {}}, tmp_path / "none.png")
    assert size_of(tmp_path / "all.png") == (1575, 840)
    assert size_of(tmp_path / "none.png") == (1575, 540)


@pytest.mark.parametrize(("count", "height"), [(1, 381), (5, 525), (30, 1725)])
def test_offices_are_drawn(tmp_path, count, height):
    by_office = {
        f"CPI_{n}": {name: {"roc_auc": 0.7 + n / 1000} for name in ("federated", "local", "best_possible")}
        for n in range(count)
    }
    plot_offices(by_office, tmp_path / "offices.png", note="Synthetic data.")
    assert size_of(tmp_path / "offices.png") == (1500, height)


def test_offices_without_a_value_are_drawn(tmp_path):
    by_office = {
        "CPI_A": {"federated": {"roc_auc": None}, "local": {"roc_auc": 0.7}},
        "CPI_B": {"federated": {"roc_auc": 0.7}, "local": {}},
        "CPI_C": {},
    }
    plot_offices(by_office, tmp_path / "offices.png")
    plot_offices({"CPI_C": {}}, tmp_path / "nothing.png")
    assert size_of(tmp_path / "offices.png")[0] == size_of(tmp_path / "nothing.png")[0] == 1500


@given(st.lists(st.floats(0, 1), max_size=6).map(sorted))
def test_labels_never_touch_and_stay_beside_the_panel(places):
    moved = plots._apart(places, gap=0.1)
    assert all(after - before >= 0.1 - 1e-9 for before, after in itertools.pairwise(moved))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in moved)
    if all(after - before >= 0.1 for before, after in itertools.pairwise(places)):
        assert moved == pytest.approx(places)


def test_no_two_texts_of_a_crowded_progress_overlap(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(plots, "_write", lambda figure, *rest: kept.append(figure))
    plot_progress(rounds(10, roc_auc=0.7304, log_loss=0.4425), BASELINES, tmp_path / "progress.png")
    figure = kept[0]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axis in figure.axes:
        boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in axis.texts]  # without its line
        assert len(boxes) == 4
        assert not [1 for a, b in itertools.combinations(boxes, 2) if min(a.y1, b.y1) - max(a.y0, b.y0) > 0]


def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "progress.png"
    path.write_bytes(b"old")

    def fails(self, file, **more):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OSError, match="disk full"):
        plot_progress(rounds(2), {}, path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["progress.png"]
