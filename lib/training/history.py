"""What happened epoch by epoch: a CSV and a picture that can be looked at while training runs."""

import csv
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.files import atomic_write

mpl.use("Agg")
Row = dict[str, float | int | None]

# One panel each: title and the columns it shows.
_PANELS = (
    ("Loss", ("train_loss", "validation_loss")),
    ("Dice per class", ()),  # filled with the class columns of the run
    ("3-class Dice and one-hot mean IoU", ("three_class_dice", "mean_iou")),
    ("Pixel accuracy", ("accuracy",)),
    ("Learning rate", ("learning_rate",)),
)


class History:
    """Rows of one training, written to `history.csv` and `curves.png` after each.

    Args:
        folder: where both files go.
        rows: of the epochs before, where a training goes on; the files are brought in line with them at once.
        draw: False leaves out `curves.png`.
    """

    def __init__(self, folder: Path, rows: Sequence[Row] = (), *, draw: bool = True) -> None:
        self.folder, self._draw = folder, draw
        self.rows = list(rows)
        if rows:
            self._write()

    def add(self, row: Row) -> None:
        """Append an epoch and write the files anew, each whole or not at all."""
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        columns = list(dict.fromkeys(key for line in self.rows for key in line))
        with atomic_write(self.folder / "history.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        if not self._draw:
            return
        with atomic_write(self.folder / "curves.png") as path:
            draw_curves(self.rows).savefig(path, dpi=100)


def sentence(row: Row, epochs: int) -> str:
    """One line on an epoch for the log, the terminal and the client's training status."""
    epoch, seconds = int(row["epoch"] or 0), float(row["seconds"] or 0)
    parts = []
    if row.get("train_loss") is not None:
        parts.append(f"loss {row['train_loss']:.4f}")
    prefix = "dice_"
    dice = [
        f"{key.removeprefix(prefix)} {row[key]:.3f}" for key in row if key.startswith(prefix) and row[key] is not None
    ]
    if dice:
        validated = row.get("validation_loss") is not None
        parts.append(f"{'validation' if validated else 'training'} Dice {', '.join(dice)}")
    if 0 < epoch < epochs:
        parts.append(f"ETA {timedelta(seconds=round(seconds / epoch * (epochs - epoch)))}")
    return f"epoch {epoch}/{epochs}: {', '.join(parts) or 'before training'}"


def as_table(rows: Sequence[Row]) -> str:
    """Epochs side by side for the terminal: one line per figure, one column per epoch."""
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in {"epoch", "seconds"}]
    table = [("epoch", *(str(row["epoch"]) for row in rows))]
    table += [(_name(key), *(_cell(row.get(key)) for row in rows)) for key in keys]
    return "\n".join(f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in table)


def _name(column: str) -> str:
    """A column of the history as people call it."""
    known = {"three_class_dice": "3-class Dice", "mean_iou": "mean IoU"}
    return known.get(column) or column.replace("dice_", "Dice ").replace("_", " ")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if 0 < value < 1e-3 else f"{value:.4f}"


def draw_curves(rows: Sequence[Row]) -> Figure:
    """Loss, Dice, IoU, accuracy and learning rate against the epoch."""
    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    per_class = tuple(key for key in rows[-1] if key.startswith("dice_"))
    for axis, (title, columns) in zip(axes, _PANELS, strict=False):
        for column in columns or per_class:
            points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=_name(column))
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    axes[4].set_yscale("log")
    for axis in axes[len(_PANELS) :]:
        axis.set_axis_off()
    for axis in axes[1:4]:
        axis.set_ylim(None, 1.0)
    return figure
