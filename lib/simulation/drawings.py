"""The pictures of a simulation's report."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.simulation.report import BASELINE, OF_FULL
from lib.simulation.test_set import FALSE, RECALL

# Colors that differ in brightness too, and dashes and marks for those who see no colors.
_STYLES = (
    ("#4f5b68", ":", "o"), ("#0b5c9e", "--", "s"), ("#3a7d2c", "-.", "^"), ("#b3470b", (0, (5, 1)), "D"),
    ("#7a3c94", "-", "v"), ("#9a7b00", (0, (1, 1)), "P"), ("#11838a", (0, (3, 1, 1, 1)), "X"), ("#a3123f", "--", "*"),
)  # fmt: skip
_KINDS = ("#c9d2dc", "#0b5c9e", "#b3470b", "#3a7d2c", "#7a3c94", "#d9a900", "#11838a", "#a3123f")
_SOFT, _GRID = "#4f5b68", "#d9dfe6"
_LEAST_SEEDS = 3  # of an interval that is drawn: that of two spans many times what the curves do


def draw_curves(summary: Mapping[str, Any]) -> Figure:
    """Learning curves of each measure: above over the labels, below over the slices that were looked at.

    Bands are the intervals, where there are three seeds or more.
    """
    measures = [measure for measure in summary["measures"] if measure != FALSE]
    figure = Figure(figsize=(4.6 * len(measures), 7.6), layout="constrained")
    rows = figure.subplots(2, len(measures), squeeze=False)
    for row, axis, what in zip(rows, ("labels", "slices"), ("labelled images", "slices looked at"), strict=True):
        for axes, measure in zip(row, measures, strict=True):
            for number, (name, told) in enumerate(summary["strategies"].items()):
                _line(axes, told["curves"][measure], axis, name, number)
            if full := summary["full"].get(measure):
                axes.axhline(full["mean"], color="black", linewidth=1)
                axes.axhline(OF_FULL * full["mean"], color="black", linewidth=1, linestyle=(0, (1, 3)))
            axes.set_title(titled(measure) if axis == "labels" else "", color=_SOFT)
            axes.set_xlabel(what, color=_SOFT)
            _plain(axes)
        row[0].set_ylabel("test set", color=_SOFT)
    _legend(figure, rows[0][0])
    return figure


def draw_differences(summary: Mapping[str, Any]) -> Figure:
    """Paired differences of the areas under the curves to the baseline, with their intervals."""
    measures = [measure for measure in summary["measures"] if measure != FALSE]
    rows = [(name, told) for name, told in summary["strategies"].items() if told["against_baseline"]]
    figure = Figure(figsize=(4.6 * len(measures), 1.2 + 0.42 * max(1, len(rows))), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False, sharey=True)[0], measures, strict=True):
        for place, (name, told) in enumerate(rows):
            found = told["against_baseline"][measure]["area"]
            if found is None:
                continue
            color, _, mark = _STYLES[list(summary["strategies"]).index(name) % len(_STYLES)]
            if found["low"] is not None and len(told["seeds"]) >= _LEAST_SEEDS:
                axes.plot([found["low"], found["high"]], [place, place], color=color, linewidth=2)
            axes.plot(found["mean"], place, marker=mark, color=color)
        axes.axvline(0, color="black", linewidth=1)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=6)  # with more, their numbers overlap
        axes.set_title(titled(measure), color=_SOFT)
        axes.set_xlabel(f"mean height of the curve less that of {BASELINE}", color=_SOFT, fontsize=8)
        _plain(axes)
    return figure


def draw_kinds(summary: Mapping[str, Any], pool: Mapping[str, int]) -> Figure:
    """Which kinds of patients each strategy chose, round by round, beside those of the pool.

    Args:
        summary: of the simulation.
        pool: images of each kind in the pools of all seeds together.
    """
    names, kinds = list(summary["strategies"]), list(pool)
    columns = min(3, max(1, len(names)))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.0 * lines + 0.8), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        _bars(axes, [pool, *summary["strategies"][name]["kinds"]], kinds)
        axes.set_title(name, color=_SOFT)
        axes.set_xlabel("round", color=_SOFT)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel("share of the images chosen", color=_SOFT)
    _legend(figure, grid[0][0])
    return figure


def titled(measure: str) -> str:
    """A measure as people call it."""
    return measure if measure in {RECALL, FALSE} else f"{measure} Dice"


def as_png(figure: Figure) -> bytes:
    """A figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _line(axes: Axes, points: Sequence[Mapping[str, Any]], axis: str, name: str, number: int) -> None:
    color, dashes, mark = _STYLES[number % len(_STYLES)]
    x, mean = [point[axis] for point in points], [point["mean"] for point in points]
    axes.plot(x, mean, color=color, linestyle=dashes, marker=mark, markersize=4, linewidth=1.6, label=name)
    there = [point for point in points if point["seeds"] >= _LEAST_SEEDS]
    if there:
        at, low, high = ([point[key] for point in there] for key in (axis, "low", "high"))
        axes.fill_between(at, low, high, color=color, alpha=0.12, linewidth=0)


def _bars(axes: Axes, columns: Sequence[Mapping[str, int]], kinds: Sequence[str]) -> None:
    counts = np.array([[column.get(kind, 0) for kind in kinds] for column in columns], float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    places = np.array([-0.5, *range(1, len(columns))])
    for number, kind in enumerate(kinds):
        bottom = shares[:, :number].sum(axis=1)
        color = _KINDS[number % len(_KINDS)]
        axes.bar(places, shares[:, number], bottom=bottom, color=color, width=0.8, label=kind, edgecolor="white")
    axes.set_xticks(places, ["pool", *map(str, range(1, len(columns)))])
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=_SOFT, length=0)


def _legend(figure: Figure, axes: Axes) -> None:
    # Outside of the axes, where it hides no curve.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(8, max(1, len(labels))), frameon=False)
