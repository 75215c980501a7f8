"""The gate between training and publishing: new model and published model on the same cases, as annotators get them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from lib.errors import BadInputError, LiverLoopError
from lib.inference.model import Model
from lib.inference.segment import segment
from lib.labels import NOT_LOOKED_AT
from lib.looked_at import check_looked_at
from lib.metrics.lesions import Detection
from lib.settings import GateSettings, Settings
from lib.training.cases import CaseFiles
from lib.training.comparison import Comparison, Figures, GateReport, PairedDifference, figures_of, signed
from lib.volume import Volume, same_geometry
from lib.volume_io import read_image, read_label

logger = logging.getLogger(__name__)

_USUAL_CONFIDENCE = 0.95  # of the intervals that are shown where the rule asks for none
_ROUNDING = 1e-9  # 0.51 - 0.5 is not quite 0.01 in binary, and a sum of equal differences not quite 0
_NAMED = 3
# What one case may do without ending a training of hours: unreadable, gone, too large for the memory.
CASE_ERRORS = (LiverLoopError, OSError, MemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Decision:
    """Whether annotators get the new model, and why, in a sentence."""

    publish: bool
    reason: str


@dataclass(frozen=True)
class Compared:
    """A case with what both models made of it.

    Args:
        comparison: their figures.
        image: int16 HU.
        label: class indices, and `NOT_LOOKED_AT`.
        candidate: those of the new model, on the grid of the image.
        published: those of the model in force.
    """

    comparison: Comparison
    image: Volume
    label: Volume
    candidate: Volume
    published: Volume


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks on one device hold exactly the same tensors."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def compare_models(
    candidate: Model,
    published: Model,
    files: Sequence[CaseFiles],
    settings: Settings,
    progress: Callable[[int, int], object] | None = None,
    on_case: Callable[[Compared], object] | None = None,
    against: str = "the published model",
) -> GateReport:
    """Segment cases with two models, exactly as annotators get it, and compare both with the labels.

    One case is in memory at a time. A case that can't be read or segmented is left out of the comparison and named in
    the report.

    Args:
        candidate: the new model.
        published: the model in force.
        files: validation cases.
        settings: channels, post-processing, labels; `training.gate.confidence` and `training.seed` of the intervals.
        progress: called with the number of the case that begins, from 1, and how many there are.
        on_case: called with each case that was compared; whoever keeps its volumes keeps them in memory.
        against: what the log says the candidate is compared with.
    """
    compared, left_out = [], {}
    for number, case in enumerate(files, start=1):
        logger.info("comparing with %s: case %d/%d", against, number, len(files))
        if progress:
            progress(number, len(files))
        try:
            seen = compare_on(case, candidate, published, settings)
        except CASE_ERRORS as error:
            left_out[case.name] = reason_of(error)
            logger.warning("%s is left out of the comparison: %s", case.name, left_out[case.name])
            continue
        compared.append(seen.comparison)
        if on_case:
            on_case(seen)
        del seen  # before the next case is read
    return report_of(candidate, published, compared, left_out, settings)


def report_of(
    candidate: Model,
    published: Model,
    compared: Sequence[Comparison],
    left_out: Mapping[str, str],
    settings: Settings,
) -> GateReport:
    """Comparisons of two models on single cases as a report."""
    return GateReport(
        candidate.version,
        published.version,
        tuple(sorted(compared, key=lambda comparison: comparison.name)),
        left_out,
        settings.training.gate.confidence or _USUAL_CONFIDENCE,
        settings.training.seed,
    )


def reason_of(error: BaseException) -> str:
    """Why a case is left out, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def decide(report: GateReport, rule: GateSettings, noun: str = "validation case") -> Decision:
    """Whether a candidate is better than the published model by the rule of `app.yaml`.

    It must gain more than `minimum_gain` Dice in the mean over classes and cases, lose no more than `most_loss` in the
    mean of any class, and no more than `most_recall_loss` of the lesions found. With `confidence`, the lower end of the
    gain's interval must exceed `minimum_gain`, which a single case can't show. A tie leaves the published model.

    Args:
        report: the comparison.
        rule: `training.gate`.
        noun: what the reason calls one of the cases.
    """
    left_out = _left_out(report)
    if report.overall is None:
        cases = len(report.left_out)
        subject = f"the only {noun} could not" if cases == 1 else f"none of the {cases} {noun}s could"
        return Decision(False, f"{subject} be compared{left_out}")
    problems = [
        *_gain_problems(report, report.overall, rule),
        *_class_problems(report, rule),
        *_lesion_problems(report, rule),
    ]
    why = f"{' and '.join(problems)}: " if problems else ""
    return Decision(not problems, f"{why}{_figures(report, noun)}{left_out}")


def compare_on(files: CaseFiles, candidate: Model, published: Model, settings: Settings) -> Compared:
    """Two models on one case.

    Raises:
        One of `CASE_ERRORS`.
    """
    image, label = _read(files, settings.classes)
    names = settings.label_indices()
    volumes = [segment(image, model, settings).label for model in (candidate, published)]
    figures = [figures_of(label.array, volume.array, image.voxel_ml, names) for volume in volumes]
    return Compared(Comparison(files.name, *figures), image, label, *volumes)


def judge_on(files: CaseFiles, model: Model, settings: Settings) -> Figures:
    """One model on one case.

    Raises:
        One of `CASE_ERRORS`.
    """
    image, label = _read(files, settings.classes)
    segmented = segment(image, model, settings).label
    return figures_of(label.array, segmented.array, image.voxel_ml, settings.label_indices())


class _Pair(NamedTuple):
    """How many lesions each model found of how many."""

    candidate: int
    published: int
    reference: int

    @property
    def fall(self) -> float:
        """How much smaller the candidate's recall is; 0 without lesions."""
        return (self.published - self.candidate) / self.reference if self.reference else 0.0


def _read(files: CaseFiles, classes: int) -> tuple[Volume, Volume]:
    # They may have changed since they were decoded for the training.
    image, label = read_image(files.image), read_label(files.label)
    if not same_geometry(image, label, tolerance_mm=1.0):
        msg = f"label {label.shape} and image {image.shape} do not lie on one grid"
        raise BadInputError(msg)
    check_looked_at(label, named=True)
    unknown = (label.array >= classes) & (label.array != NOT_LOOKED_AT)
    if unknown.any():
        msg = f"the label holds {label.array[unknown].max()}, but only 0 to {classes - 1} are classes"
        raise BadInputError(msg)
    return image, label


def _gain_problems(report: GateReport, overall: PairedDifference, rule: GateSettings) -> list[str]:
    gain, lower = overall.difference, overall.interval[0]
    if gain <= rule.minimum_gain + _ROUNDING:
        if rule.minimum_gain:
            return [f"the mean Dice changes by {gain:+.3g}, not by more than the {rule.minimum_gain:g} asked for"]
        return [f"{'worse' if gain < -_ROUNDING else 'no better'} than the published model"]
    if rule.confidence and len(report.cases) == 1:
        return [f"one case can't show a gain with {100 * rule.confidence:.4g} % confidence"]
    if rule.confidence and lower <= rule.minimum_gain + _ROUNDING:
        return [
            f"the mean Dice changes by {gain:+.3g}, but perhaps only by {lower:+.3g}, not surely by more than "
            f"{rule.minimum_gain:g}"
        ]
    return []


def _class_problems(report: GateReport, rule: GateSettings) -> list[str]:
    return [
        f"{name} Dice falls by {-paired.difference:.3g}, more than the {rule.most_loss:g} allowed"
        for name, paired in report.classes.items()
        if -paired.difference > rule.most_loss + _ROUNDING
    ]


def _lesion_problems(report: GateReport, rule: GateSettings) -> list[str]:
    lesions = _lesions(report)
    if lesions is None or lesions.fall <= rule.most_recall_loss + _ROUNDING:
        return []
    return [f"fewer lesions are found ({lesions.candidate} of {lesions.reference}, before {lesions.published})"]


def _lesions(report: GateReport) -> _Pair | None:
    """None without a tumor class or without lesions in the labels."""
    new, old = report.found or (Detection(), Detection())
    reference = new.true_positive + new.false_negative
    return _Pair(new.true_positive, old.true_positive, reference) if reference else None


def _figures(report: GateReport, noun: str) -> str:
    """The last class, which is the hard one, in full, then the others and the lesions."""
    (name, paired), *others = reversed(report.classes.items())
    count = f"{len(report.cases)} {noun}s"
    spread = f", {100 * report.confidence:.4g} % interval {signed(paired.interval[0])} to {signed(paired.interval[1])}"
    if len(report.cases) == 1:
        count, spread = f"one {noun}, which says little", ""
    parts = [f"{name} Dice {_against(paired)} on {count} (difference {signed(paired.difference)}{spread})"]
    parts += [f"{other} {_against(difference)}" for other, difference in others]
    if lesions := _lesions(report):
        noun = "lesion" if lesions.reference == 1 else "lesions"
        parts.append(f"{lesions.candidate} against {lesions.published} of {lesions.reference} {noun} found")
    return ", ".join(parts)


def _against(paired: PairedDifference) -> str:
    return f"{paired.candidate:.3f} against {paired.published:.3f}"


def _left_out(report: GateReport) -> str:
    if not report.left_out:
        return ""
    named = [f"{name} ({reason})" for name, reason in list(report.left_out.items())[:_NAMED]]
    more = len(report.left_out) - len(named)
    return f"; left out: {', '.join(named)}{f' and {more} more' if more else ''}"
