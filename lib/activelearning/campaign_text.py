"""A campaign as text for people."""

from collections.abc import Sequence

import numpy as np

from lib.activelearning.campaign import Campaign, Outlook
from lib.activelearning.corrections import by_version, mean_dice
from lib.store.report import table

_MOST_DAYS = 14
_WIDEST = 40  # characters of an annotator's name


def status_text(campaign: Campaign) -> str:
    """Everything in a few tables, the advice at the end."""
    parts = [
        _facts(campaign),
        _labels_of_days(campaign),
        _corrections(campaign),
        _curves(campaign.outlooks),
        _agreement(campaign),
        "\n".join(f"{'' if number == 0 else '  '}{line}" for number, line in enumerate(campaign.verdict)),
    ]
    return "\n\n".join(part for part in parts if part)


def _facts(campaign: Campaign) -> str:
    progress = campaign.progress
    model = campaign.model_version or "none"
    lines = {
        "images": f"{progress.labelled} labelled, {progress.left} left, {progress.excluded} excluded",
        "scored": f"{campaign.scored} of {progress.left} left, by the model in force ({model})",
        "saved": f"{len(campaign.saved)} versions of final labels by people",
        "annotators": ", ".join(f"{name[:_WIDEST]} {cases}" for name, cases in campaign.by_author.items()) or "none",
        "time per case": _times(campaign.seconds),
    }
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines.items())


def _times(seconds: Sequence[float]) -> str:
    if not seconds:
        return "not known, as nobody has saved a label of a case that the server handed out"
    low, median, high = (_minutes(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
    count = "one case" if len(seconds) == 1 else f"{len(seconds)} cases"
    return f"median {median}, half of the cases between {low} and {high} ({count})"


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _labels_of_days(campaign: Campaign) -> str:
    days = list(campaign.by_day.items())
    earlier = sum(count for _, count in days[:-_MOST_DAYS])
    rows = [*([("before", earlier)] if earlier else []), *days[-_MOST_DAYS:]]
    return table(("day", "labels saved"), rows, "nobody has saved a label yet")


def _corrections(campaign: Campaign) -> str:
    names = [outlook.label for outlook in campaign.outlooks]
    headers = ("pre-segmented by", "cases", *(f"{name} Dice" for name in names))
    rows = [
        (version or "unknown", len(ones), *(_dice(mean_dice(ones, name)) for name in names))
        for version, ones in by_version(campaign.corrections).items()
    ]
    return table(headers, rows, "no label is known to begin with a pre-segmentation")


def _curves(outlooks: Sequence[Outlook]) -> str:
    """Each version once for each set of cases; Dice of different sets can't be compared."""
    names = [outlook.label for outlook in outlooks]
    dice: dict[tuple[str, int], dict[str, float]] = {}
    labels: dict[str, float | None] = {}
    for outlook in outlooks:
        for point in outlook.points:
            dice.setdefault((point.version, point.cases), {})[outlook.label] = point.dice
            labels[point.version] = point.labels
    rows = [
        (
            version,
            None if labels[version] is None else f"{labels[version]:.0f}",
            cases + 1,
            *(_dice(found.get(name)) for name in names),
        )
        for (version, cases), found in dice.items()
    ]
    headers = ("judged version", "trained with", "set of cases", *(f"{name} Dice" for name in names))
    return table(headers, rows, "no version was compared with the one before on two cases or more")


def _agreement(campaign: Campaign) -> str:
    if campaign.agreements is None:
        return ""
    names = [outlook.label for outlook in campaign.outlooks]
    rows = [
        (
            one.image_id,
            one.authors[0][:_WIDEST],
            one.authors[1][:_WIDEST],
            *(_dice(one.dice.get(name)) for name in names),
        )
        for one in campaign.agreements
    ]
    headers = ("labelled twice", "by", "and", *(f"{name} Dice" for name in names))
    return table(headers, rows, "no case was labelled by two annotators")


def _dice(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
