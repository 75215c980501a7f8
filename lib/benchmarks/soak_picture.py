"""Memory and latencies of a soak over time, as a picture."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.benchmarks.soak_samples import Sample
from lib.benchmarks.soak_timings import Asked, End
from lib.files import atomic_write

_KINDS = ("infer", "save label", "next sample")
# Colors that differ in brightness too, and dashes for those who see no colors.
_STYLES = (("#0b5c9e", "-"), ("#b3470b", "--"), ("#3a7d2c", ":"))
_BINS = 40


def draw(path: Path, asked: Sequence[Asked], samples: Sequence[Sample], models: Mapping[str, Any]) -> None:
    """Draw memory of the server and its trainings above, 95th percentiles of latencies below, over minutes.

    Args:
        path: of the picture, a `.png`.
        asked: every request.
        samples: of the server.
        models: `training`, pairs of seconds and whether a training ran; `versions`, when each was first seen.

    Raises:
        StorageError: it can't be written.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    minutes = [sample.at / 60 for sample in samples]
    above.plot(minutes, [sample.memory_mb for sample in samples], color=_STYLES[0][0], label="server")
    trainings = [sample.children_mb for sample in samples]
    above.plot(minutes, trainings, color=_STYLES[1][0], linestyle="--", label="its trainings")
    above.set_ylabel("memory in MB")
    above.set_ylim(bottom=0)
    for number, (kind, (color, dashes)) in enumerate(zip(_KINDS, _STYLES, strict=True)):
        times, values = percentiles([one for one in asked if one.kind == kind and one.end is End.DONE])
        below.plot(times, values, color=color, linestyle=dashes, label=kind, zorder=2 + number)
    below.set_ylabel("95th percentile in s")
    below.set_ylim(bottom=0)
    below.set_xlabel("minutes; gray where a training ran, dotted where annotators first got another model")
    for axes in (above, below):
        _shade(axes, models)
        axes.legend(loc="best")
        axes.grid(color="#d9dfe6", linewidth=0.6)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def percentiles(asked: Sequence[Asked]) -> tuple[list[float], list[float]]:
    """Of up to 40 equal spans of time the middles in minutes, and the 95th percentiles of the seconds."""
    if not asked:
        return [], []
    edges = np.linspace(0, max(one.at for one in asked) + 1e-9, _BINS + 1)
    spans = np.digitize([one.at for one in asked], edges)
    seconds = np.array([one.seconds for one in asked])
    found = [(number, seconds[spans == number]) for number in range(1, _BINS + 1)]
    return (
        [float(edges[number - 1 : number + 1].mean()) / 60 for number, values in found if len(values)],
        [float(np.percentile(values, 95, method="inverted_cdf")) for _, values in found if len(values)],
    )


def _shade(axes: Axes, models: Mapping[str, Any]) -> None:
    looks = models["training"]
    for (at, runs), (until, _) in pairwise(looks):
        if runs:
            axes.axvspan(at / 60, until / 60, color="#4f5b68", alpha=0.15, linewidth=0)
    for at in sorted(models["versions"].values())[1:]:
        axes.axvline(at / 60, color="#4f5b68", linewidth=0.8, linestyle=":")
