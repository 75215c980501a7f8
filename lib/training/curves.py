"""Curves of a training as drawings that stay sharp at any size, on a phone and on paper."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.training.history import Row

_MARKED = 40  # epochs up to which each one gets a dot
# Colors that differ in brightness too, and dashes for those who see no colors.
_STYLES = (("#0b5c9e", "-"), ("#b3470b", "--"), ("#3a7d2c", ":"), ("#7a3c94", "-."))
_SOFT, _GRID = "#4f5b68", "#d9dfe6"


@dataclass(frozen=True)
class Plot:
    """Figures over the epochs.

    Args:
        title: what is drawn.
        hint: how to read it, in a sentence.
        text: the figures at the end in words, for those who don't see the drawing.
        svg: the drawing, which needs no other file and no script.
    """

    title: str
    hint: str
    text: str
    svg: bytes


def plots_of(rows: Sequence[Row], best_epoch: int | None) -> list[Plot]:
    """Loss and Dice of a training; without those that it has no figure of.

    Args:
        rows: of `history.csv`.
        best_epoch: whose weights were kept, None as long as that is not known.
    """
    dice = {key: key.removeprefix("dice_") for row in rows for key in row if key.startswith("dice_")}
    validated = any(row.get("validation_loss") is not None for row in rows)
    where = "validation slices, which it does not learn from" if validated else "slices that it learns from"
    wanted: tuple[tuple[str, str, Mapping[str, str], float | None], ...] = (
        ("Loss", "The error that the training makes smaller: it should fall and then level out.",
         {"train_loss": "training", "validation_loss": "validation"}, None),
        ("Dice", f"Agreement with the labels on {where}: 1 is perfect.", dice, 1.0),
    )  # fmt: skip
    plots = []
    for title, hint, columns, top in wanted:
        series = {name: _points(rows, key) for key, name in columns.items()}
        series = {name: points for name, points in series.items() if points}
        if series:
            last = ", ".join(f"{name} {points[-1][1]:.3f}" for name, points in series.items())
            text = f"{title} after each epoch; at the end: {last}"
            plots.append(Plot(title, hint, text, _draw(series, best_epoch, top)))
    return plots


def _points(rows: Sequence[Row], column: str) -> list[tuple[int, float]]:
    return [(int(row["epoch"] or 0), float(value)) for row in rows if (value := row.get(column)) is not None]


def _draw(series: Mapping[str, Sequence[tuple[int, float]]], best_epoch: int | None, top: float | None) -> bytes:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axis = figure.subplots()
    for number, (name, points) in enumerate(series.items()):
        color, dashes = _STYLES[number % len(_STYLES)]
        dot = "o" if len(points) <= _MARKED else ""
        label = f"{name} {points[-1][1]:.3f}"
        axis.plot(*zip(*points, strict=True), color=color, linestyle=dashes, marker=dot, markersize=3.5, label=label)
    if best_epoch is not None:
        axis.axvline(best_epoch, color=_SOFT, linewidth=1.2, linestyle=(0, (1, 3)), label="weights that were kept")
    axis.set_ylim(0, top)
    axis.set_xlabel("epoch", color=_SOFT)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="y", color=_GRID)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(colors=_SOFT, length=0)
    # Below the axes, where it hides no curve. A name is text, not mathematics.
    legend = figure.legend(loc="outside lower left", ncols=2, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
