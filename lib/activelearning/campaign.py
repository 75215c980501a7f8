"""How a labelling campaign stands, and whether more labels are worth it: the ledger's facts and what follows from them.

Two signs say when to stop: what the next labels are expected to bring (`gain`), and how much annotators still change in
what the model draws (`corrections`). Each is told with how sure it is, and as unknown where it is.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from lib.activelearning.annotators import Agreement, agreements, pairs
from lib.activelearning.corrections import LAST, LITTLE, Lately, by_version, last_of_each, lately, mean_dice
from lib.activelearning.gain import CONFIDENCE, Curve, GateHistory, Point, fit_curve, points_of
from lib.errors import UnavailableError
from lib.store import campaign as facts
from lib.store import scores
from lib.store.campaign import Progress, SavedLabel
from lib.store.layout import FINAL
from lib.store.store import Store

NEXT, NEXT_WORD = 10, "ten"  # labels
WORTH = 0.01  # Dice that ten labels must promise to be worth their hours
STOP, GO_ON, LOOK, UNKNOWN = "consider stopping", "go on", "look at the model", "too early to say"


@dataclass(frozen=True)
class Outlook:
    """What more labels promise for one class.

    Args:
        label: name of the class.
        points: of the learning curve.
        curve: None where the versions are too few.
        why_not: why there is no curve.
        lately: the last corrections; None without any.
    """

    label: str
    points: tuple[Point, ...]
    curve: Curve | None
    why_not: str | None
    lately: Lately | None

    @property
    def gain_in_words(self) -> str:
        """One sentence."""
        if self.curve is None:
            return f"what the next {NEXT_WORD} labels bring for {self.label} is not known: {self.why_not}"
        gain, (low, high) = self.curve.gain, self.curve.interval
        verb = "raise" if gain >= 0 else "change"
        spread = f"({100 * CONFIDENCE:g} % interval {_digits(low)} to {_digits(high)})"
        return f"the next {NEXT_WORD} labels are expected to {verb} {self.label} Dice by {_digits(gain)} {spread}"

    @property
    def corrections_in_words(self) -> str:
        """One sentence."""
        if self.lately is None:
            return f"nothing is known of corrections of {self.label}"
        cases = "the last case" if self.lately.cases == 1 else f"the last {self.lately.cases} cases"
        change = "little" if self.lately.dice >= LITTLE else "something" if self.lately.dice >= 0.8 else "much"
        spread = ""
        if self.lately.interval:
            low, high = self.lately.interval
            spread = f", {100 * CONFIDENCE:g} % interval {low:.3f} to {high:.3f}"
        return f"annotators changed {change} of {self.label} in {cases} (Dice {self.lately.dice:.3f}{spread})"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        curve, last = self.curve, self.lately
        return {
            "gain": curve and {
                "dice": curve.gain, "interval": list(curve.interval), "confidence": CONFIDENCE, "labels": NEXT,
            },
            "why_not": self.why_not,
            "corrections": last and {
                "cases": last.cases, "dice": last.dice, "interval": last.interval and list(last.interval),
                "confidence": CONFIDENCE, "before": last.before,
            },
        }  # fmt: skip


@dataclass(frozen=True)
class Campaign:
    """A campaign as it stands.

    Args:
        progress: images by how far they are.
        model_version: the model in force; None while there is none.
        scored: images left that this model has scored.
        saved: final labels that people saved, the oldest first.
        outlooks: of each class, in the order of the labels.
        agreements: of annotators who labelled the same case; None where that was not looked at.
    """

    progress: Progress
    model_version: str | None
    scored: int
    saved: tuple[SavedLabel, ...]
    outlooks: tuple[Outlook, ...]
    agreements: tuple[Agreement, ...] | None = field(default=None)

    @property
    def corrections(self) -> list[SavedLabel]:
        """See `lib.activelearning.corrections.last_of_each`."""
        return last_of_each(self.saved)

    @property
    def advice(self) -> str:
        """One of `STOP`, `GO_ON`, `LOOK` and `UNKNOWN`; for people, who decide."""
        curves = [outlook.curve for outlook in self.outlooks if outlook.curve]
        corrected = [outlook.lately for outlook in self.outlooks if outlook.lately]
        little = len(corrected) == len(self.outlooks) and all(one.is_little for one in corrected)
        much = [one for one in corrected if one.dice < LITTLE]
        if any(curve.gain >= WORTH for curve in curves):
            return GO_ON
        if little:
            return STOP
        if len(curves) == len(self.outlooks) and all(curve.interval[1] < WORTH for curve in curves):
            return LOOK if much else STOP
        return GO_ON if any(one.cases >= LAST for one in much) else UNKNOWN

    @property
    def verdict(self) -> list[str]:
        """The advice and what it comes from, in sentences."""
        meaning = {
            STOP: "consider stopping: little is left to gain by more labels",
            GO_ON: "go on: there is still something to gain",
            LOOK: "look at the model: more labels promise little, yet annotators still change much; other settings or "
            "better labels may do more than more of them",
            UNKNOWN: "too early to say whether more labels are worth it",
        }
        signs = [
            sentence
            for outlook in reversed(self.outlooks)
            for sentence in (outlook.gain_in_words, outlook.corrections_in_words)
        ]
        return [meaning[self.advice], *signs]

    @property
    def by_day(self) -> dict[str, int]:
        """Labels saved each day of this machine's calendar, the first day first."""
        return dict(Counter(f"{datetime.fromtimestamp(one.saved_at):%Y-%m-%d}" for one in self.saved))

    @property
    def by_author(self) -> dict[str, int]:
        """Cases that each annotator has labelled, the most first."""
        cases = {(one.author, one.image_id) for one in self.saved}
        return dict(sorted(Counter(author for author, _ in cases).items(), key=lambda one: (-one[1], one[0])))

    @property
    def seconds(self) -> list[float]:
        """From when an annotator got a case until they saved it last."""
        last = {(one.image_id, one.author): one.seconds for one in self.saved if one.seconds is not None}
        return list(last.values())

    def short(self) -> dict[str, Any]:
        """JSON-ready: what a client shows."""
        return {
            "advice": self.advice,
            "verdict": self.verdict,
            "images": {**asdict(self.progress), "scored": self.scored},
            "classes": {outlook.label: outlook.as_dict() for outlook in self.outlooks},
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with every correction and every point of the curves."""
        names = [outlook.label for outlook in self.outlooks]
        quartiles = np.quantile(self.seconds, (0.25, 0.5, 0.75)).tolist() if self.seconds else None
        return {
            **self.short(),
            "model_version": self.model_version,
            "labels_by_day": self.by_day,
            "cases_by_author": self.by_author,
            "seconds_per_case": {"cases": len(self.seconds), "quartiles": quartiles},
            "corrections_by_version": [
                {"version": version, "cases": len(ones), "dice": {name: mean_dice(ones, name) for name in names}}
                for version, ones in by_version(self.corrections).items()
            ],
            "corrections": [asdict(one) for one in self.corrections],
            "learning_curves": {
                outlook.label: [point._asdict() for point in outlook.points] for outlook in self.outlooks
            },
            "agreement": None if self.agreements is None else [asdict(one) for one in self.agreements],
        }


def outlook_of(label: str, history: GateHistory, corrections: Sequence[SavedLabel], labelled: int) -> Outlook:
    """What more labels promise for a class.

    Args:
        label: name of the class.
        history: of the gate.
        corrections: of `lib.activelearning.corrections.last_of_each`.
        labelled: images that are labelled now; the same part of them as before is trained on.
    """
    points, share = points_of(history.judged, label), history.training_share
    curve, why_not = None, None
    try:
        learned = max((one.labels for one in history.judged), default=1.0)  # some may have been withdrawn since
        curve = fit_curve(points, max(learned, labelled * share), NEXT * share)
    except UnavailableError as error:
        why_not = str(error)
    return Outlook(label, tuple(points), curve, why_not, lately(corrections, label))


def campaign_of(
    store: Store,
    history: GateHistory,
    model_version: str | None,
    *,
    corrections_only: bool = False,
) -> Campaign:
    """How the campaign of a studies folder or a PACS stands.

    Args:
        store: its store.
        history: of the gate, see `lib.training.gate_history`.
        model_version: the model in force; None while there is none.
        corrections_only: leave out the labels that were not made from a pre-segmentation; nothing of the advice
            depends on them.

    Raises:
        StorageError: the ledger can't be read.
    """
    with store.ledger.reading() as connection:
        progress = facts.progress(connection)
        scored = scores.counts(connection, model_version).current if model_version else 0
        saved = facts.saved_labels(connection, corrections_only=corrections_only)
    corrections = last_of_each(saved)
    outlooks = (outlook_of(name, history, corrections, progress.labelled) for name in store.settings.label_indices())
    return Campaign(progress, model_version, scored, tuple(saved), tuple(outlooks))


def agreements_in(
    store: Store, saved: Sequence[SavedLabel], progress: Callable[[int], object] | None = None
) -> tuple[Agreement, ...]:
    """How far annotators agree, by their last labels of each case that several of them labelled; reads these files.

    Args:
        store: of the labels.
        saved: final labels, the oldest first.
        progress: called with how many pairs are done.
    """

    def compare(image_id: str, first: int, second: int) -> Any:
        return store.labels.diff(image_id, FINAL, first, second)

    return tuple(agreements(pairs(saved), compare, progress))


def _digits(value: float) -> str:
    """Three of them, without the minus of a zero."""
    return f"{round(value, 3) + 0.0:.3f}"
