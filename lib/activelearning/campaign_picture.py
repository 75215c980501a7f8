"""A campaign as a picture: what annotators changed case by case, and the learning curve through the versions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.activelearning.campaign import NEXT, Campaign, Outlook
from lib.activelearning.corrections import LAST, LITTLE
from lib.activelearning.gain import CONFIDENCE
from lib.files import atomic_write
from lib.store.campaign import SavedLabel

mpl.use("Agg")
# Colors that differ in brightness too, and dashes for those who see no colors.
_STYLES = (("#0b5c9e", "-", "o"), ("#b3470b", "--", "s"), ("#3a7d2c", ":", "^"), ("#7a3c94", "-.", "D"))
_SOFT, _GRID = "#4f5b68", "#d9dfe6"
_CURVE_POINTS = 100


def draw(path: Path, campaign: Campaign) -> None:
    """Draw it.

    Args:
        path: of the picture, a `.png`.
        campaign: as it stands.

    Raises:
        StorageError: it can't be written.
    """
    figure = Figure(figsize=(9, 8), layout="constrained")
    above, below = figure.subplots(2, 1)
    _draw_corrections(above, campaign.corrections, [outlook.label for outlook in campaign.outlooks])
    _draw_curves(below, campaign.outlooks)
    for axes in (above, below):
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            for text in axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False).get_texts():
                text.set_parse_math(False)  # a name is text, not mathematics
    figure.suptitle(campaign.verdict[0])
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Creation Time": f"{datetime.now(UTC):%F}"})


def _draw_corrections(axes: Axes, corrections: Sequence[SavedLabel], names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        color, dashes, marker = _STYLES[number % len(_STYLES)]
        found = [(at, one.dice[name]) for at, one in enumerate(corrections, 1) if one.dice and name in one.dice]
        if not found:
            continue
        cases, dice = zip(*found, strict=True)
        axes.plot(cases, dice, marker, color=color, alpha=0.45, markersize=4, linestyle="none")
        means = [float(np.mean(dice[max(0, end - LAST) : end])) for end in range(1, len(dice) + 1)]
        axes.plot(cases, means, color=color, linestyle=dashes, label=name)
    axes.axhline(LITTLE, color=_SOFT, linewidth=1, linestyle=(0, (1, 3)))
    before = None
    for at, one in enumerate(corrections, 1):
        if before is not None and one.model_version != before:
            axes.axvline(at - 0.5, color=_SOFT, linewidth=0.6)
        before = one.model_version
    axes.set_title("What annotators leave of the pre-segmentation")
    axes.set_ylabel("Dice with the corrected label")
    axes.set_xlabel(
        f"corrected cases; curve: mean of the last {LAST}; upright: another model; dotted: little is changed from "
        f"{LITTLE:g} on"
    )
    axes.set_ylim(None if corrections else 0, 1.01)
    if not corrections:
        _say(axes, ["no label is known to begin with a pre-segmentation"])


def _draw_curves(axes: Axes, outlooks: Sequence[Outlook]) -> None:
    axes.set_title("What the versions of the model reach")
    axes.set_ylabel("Dice on validation cases")
    axes.set_xlabel("labels trained with")
    if any(outlook.curve for outlook in outlooks):
        axes.set_ylabel("Dice on the newest validation cases")
        axes.set_xlabel(
            f"labels trained with; dotted: now and after the next {NEXT} labels; band: {100 * CONFIDENCE:g} % interval"
        )
    reasons = []
    for number, outlook in enumerate(outlooks):
        color, dashes, marker = _STYLES[number % len(_STYLES)]
        curve = outlook.curve
        # Laid over each other: what other cases are harder or easier by is not the model's.
        lift = curve.levels[outlook.points[-1].cases] - curve.levels if curve else None
        known = [
            (point.labels, point.dice + (0.0 if lift is None else lift[point.cases]))
            for point in outlook.points
            if point.labels is not None
        ]
        if known:
            axes.plot(*zip(*known, strict=True), marker, color=color, markersize=5)
        if curve is None:
            if outlook.why_not:
                reasons.append(f"{outlook.label}: {outlook.why_not}")
            continue
        labels = np.linspace(min(labels for labels, _ in known), curve.now + curve.more, _CURVE_POINTS)
        low, middle, high = curve.band(labels)
        axes.fill_between(labels, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(labels, middle, color=color, linestyle=dashes, label=outlook.label)
    curve = next((outlook.curve for outlook in outlooks if outlook.curve), None)
    for end in (curve.now, curve.now + curve.more) if curve else ():
        axes.axvline(end, color=_SOFT, linewidth=1, linestyle=(0, (1, 3)))
    _say(axes, reasons)


def _say(axes: Axes, lines: Sequence[str]) -> None:
    """Words in the middle, where nothing else is to be seen."""
    axes.text(
        0.5, 0.5, "\n".join(lines), transform=axes.transAxes, color=_SOFT, parse_math=False, ha="center", va="center"
    )
