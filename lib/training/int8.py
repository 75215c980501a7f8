"""Whether a version may run in 8-bit integers: quantized on training cases, judged on validation cases."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lib.errors import BadInputError
from lib.inference.agreement import LEAST_DICE, Case
from lib.inference.choice import weights_digest, why_no_int8
from lib.inference.engine import STRIDE
from lib.inference.int8 import keep_int8, quantize
from lib.inference.model import Model, load_model
from lib.inference.predict import padded
from lib.labels import NOT_LOOKED_AT
from lib.metrics.overlap import Overlap
from lib.settings import Settings
from lib.training.cases import CaseFiles, checked_label, kept_slices
from lib.training.comparison import GateReport
from lib.training.gate import CASE_ERRORS, Compared, compare_models, reason_of
from lib.training.registry import Registry
from lib.transforms.coarse import coarse_factors, shrunk
from lib.transforms.windowing import gray_levels
from lib.volume_io import read_image

logger = logging.getLogger(__name__)

MOST_LOSS = 0.002  # a class whose mean validation Dice falls by so much is not to be had in int8
LEAST_CASES = 3  # to judge on
_CALIBRATION_SLICES = 48
_MARGIN = 40  # pixels around the label: about what the network is given of a slice
_ROUNDING = 1e-9


class Verdict(NamedTuple):
    """Whether annotators may get a model in int8, and why, in a sentence."""

    accepted: bool
    reason: str

    def __str__(self) -> str:
        return f"{'accepted' if self.accepted else 'not used'}: {self.reason}"


def after_training(
    version: str,
    training: Sequence[CaseFiles],
    validation: Sequence[CaseFiles],
    registry: Registry,
    settings: Settings,
    device: torch.device,
    progress: Callable[[str], object] | None = None,
) -> str | None:
    """Offer a version that a training has just published in int8; whatever goes wrong is one line in the log.

    Args:
        version: its id.
        training: cases that it learned from.
        validation: cases that were kept from it.
        registry: holds the version.
        settings: the app's.
        device: that it was trained on, and will be used on.
        progress: see `offer_int8`.

    Returns:
        What came of it; None where the settings or the machine have no int8.
    """
    if device.type != "cpu" or why_no_int8(settings):
        return None
    try:
        model = load_model(settings, registry.get(version).weights, device)
        verdict = offer_int8(model, training, validation, settings, progress)
    except Exception as error:  # whatever a compiler of networks raises: the model is published and runs without
        logger.warning("model %s can't be quantized and runs without int8: %s", version, reason_of(error)[:300])
        return f"failed: {reason_of(error)[:300]}"
    logger.info("model %s in int8: %s", version, verdict)
    return str(verdict)


def offer_int8(
    model: Model,
    training: Sequence[CaseFiles],
    validation: Sequence[CaseFiles],
    settings: Settings,
    progress: Callable[[str], object] | None = None,
) -> Verdict:
    """Quantize a version and let annotators have it in int8 if no class loses as much as `MOST_LOSS`.

    Int8 and the fastest engine without it segment the validation cases whole, as annotators get it; the mean Dice of
    each class decides, and whether the labels are the same (`LEAST_DICE`). Files and verdict are kept in the version's
    folder, where servers find them.

    Args:
        model: loaded from the version's file, on the CPU.
        training: cases to calibrate with.
        validation: others, to judge on.
        settings: the app's.
        progress: called with what is being done, in a few words.

    Raises:
        BadInputError: the settings or this machine allow no int8, or no training case can be read.
        StorageError: the disk refused the write.
        Exception: whatever NNCF or OpenVINO raise for a network that they can't express.
    """
    if why := why_no_int8(settings):
        msg = f"there is no int8 to be had here: {why}"
        raise BadInputError(msg)
    if model.folder is None:
        msg = f"model {model.version} belongs to no app folder that could keep its int8 files"
        raise BadInputError(msg)
    if len(validation) < LEAST_CASES:
        return Verdict(False, f"too few validation cases ({len(validation)}) to judge it on, {LEAST_CASES} are needed")
    tell = progress or (lambda _: None)
    tell("calibrating")
    slices = calibration_slices(training, settings)
    with tempfile.TemporaryDirectory(prefix="liverloop-int8-") as place:
        made = Path(place) / "int8.xml"
        quantize(model.network, settings.blend_channels(), slices, made)
        alike: dict[str, Overlap] = {}
        report = compare_models(
            _in_int8(model, made, settings),
            replace(model, chosen=None).hastened(_without_int8(settings)),
            validation,
            settings,
            lambda number, count: tell(f"validation case {number}/{count}"),
            lambda compared: _add(alike, compared, settings),
            against="the engine without int8",
        )
        agreement = {name: overlap.dice for name, overlap in alike.items()}
        verdict = decide(report, agreement)
        told = {
            "version": model.version,
            "weights": weights_digest(model.network),
            "reason": verdict.reason,
            "agreement": agreement,
            "calibration": {"slices": len(slices), "cases": [case.name for case in training]},
            "validation": [
                {"name": case.name, "int8": case.candidate.dice, "before": case.published.dice} for case in report.cases
            ],
            "left_out": dict(report.left_out),
        }
        keep_int8(model.folder, made if verdict.accepted else None, told)
    return verdict


def decide(report: GateReport, agreement: Mapping[str, float]) -> Verdict:
    """Whether int8 loses too little to be noticed, and annotators get the labels that they would get without it.

    Args:
        report: with int8 as the candidate.
        agreement: Dice of each class, over all cases, with the labels of the engine without int8.
    """
    count = len(report.cases)
    if count < LEAST_CASES:
        return Verdict(False, f"only {count} of the validation cases could be segmented, {LEAST_CASES} are needed")
    figures = ", ".join(
        f"{name} Dice {paired.candidate:.4f} instead of {paired.published:.4f}"
        for name, paired in report.classes.items()
    )
    falls = [
        f"{name} Dice falls by {-paired.difference:.4f}"
        for name, paired in report.classes.items()
        if -paired.difference >= MOST_LOSS - _ROUNDING
    ]
    others = [f"{name} {dice:.4f}" for name, dice in agreement.items() if dice < LEAST_DICE]
    why = f"{' and '.join(falls)}, where less than {MOST_LOSS} is allowed: " if falls else ""
    if others:
        why += f"its labels are others (Dice with those without int8: {', '.join(others)}; {LEAST_DICE} is needed): "
    return Verdict(not falls and not others, f"{why}{figures} on {count} validation cases")


def _add(alike: dict[str, Overlap], compared: Compared, settings: Settings) -> None:
    """Count where both engines have each class in one more case."""
    for name, index in settings.label_indices().items():
        overlap = Overlap.of(compared.published.array == index, compared.candidate.array == index)
        alike[name] = overlap + alike[name] if name in alike else overlap


def calibration_slices(files: Sequence[CaseFiles], settings: Settings) -> list[Case]:
    """Slices of labelled cases as the network gets them: around the label, and as small as the coarse pass has them.

    Args:
        files: cases; one that can't be read is left out with a line in the log.
        settings: with the classes.

    Returns:
        Each one slice: HU `(1, Y, X)` and gray levels `(1, 102)`.

    Raises:
        BadInputError: none can be read.
    """
    chosen = [files[place] for place in _spread(len(files), _CALIBRATION_SLICES)]
    found: list[Case] = []
    for case in chosen:
        try:
            found += _slices_of(case, settings.classes, max(1, _CALIBRATION_SLICES // len(chosen)), len(found))
        except CASE_ERRORS as error:
            logger.warning("%s is left out of the calibration: %s", case.name, reason_of(error))
    if not found:
        msg = f"none of the {len(files)} training cases can be read to calibrate with"
        raise BadInputError(msg)
    return found


def _slices_of(files: CaseFiles, classes: int, count: int, before: int) -> Iterator[Case]:
    """So many slices of a case; every fourth of all, of which there were some `before`, is small."""
    image = read_image(files.image)
    label = checked_label(files, image.grid, classes).axial()
    hu, spacing = image.axial(), image.axial_spacing
    there = (label > 0) & (label != NOT_LOOKED_AT)
    shown = np.flatnonzero(there.any(axis=(1, 2)))
    rows, columns = (_span(there.any(axis=(0, 2 - axis)), _MARGIN) for axis in (0, 1))
    factors = coarse_factors(spacing)
    usable = shown if len(shown) else kept_slices(label)
    for number, place in enumerate(_spread(len(usable), count), start=before):
        z = usable[place]
        one = np.ascontiguousarray(hu[z : z + 1])
        levels = gray_levels(one[0])[None]
        if number % 4 == 3 and factors != (1, 1):
            small = shrunk(one, factors)
            yield padded(small), gray_levels(small[0])[None]
        else:
            yield padded(one[:, rows, columns]), levels


def _span(there: NDArray[np.bool_], margin: int) -> slice:
    """From and to which pixel there is something, with the margin; all of it where there is nothing."""
    places = np.flatnonzero(there)
    if not len(places):
        return slice(0, len(there))
    return slice(max(0, (int(places[0]) - margin) // STRIDE * STRIDE), min(len(there), int(places[-1]) + margin + 1))


def _spread(count: int, most: int) -> list[int]:
    """At most so many places of `count`, each in the middle of a part of the same size."""
    parts = min(most, count)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def _in_int8(model: Model, made: Path, settings: Settings) -> Model:
    from lib.inference.openvino_engine import OpenVinoEngine

    threads = torch.get_num_threads()
    streams = min(threads, settings.inference.batch_slices)
    engine = OpenVinoEngine(made, settings.blend_channels(), "int8", threads=threads, streams=streams)
    return replace(model, chosen=engine)


def _without_int8(settings: Settings) -> Settings:
    return settings.model_copy(update={"inference": settings.inference.model_copy(update={"int8": False})})
