"""The Liver Tumor Segmentation challenge's scores for one case and for a set of cases, under the challenge's names.

Volumes hold 0 background, 1 liver, 2 tumor; the liver of the scores is everything from 1 up, a lesion a face-connected
component of 2. Figures without a meaning are 9001 where the challenge says so and None elsewhere.
What a reference holds as 255, not looked at, counts in no figure: both volumes are taken as background there, so that a
lesion of which a part was not looked at is compared by the part that was.
Source: Bilic et al., Medical Image Analysis 84:102680, 2023, doi:10.1016/j.media.2022.102680.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lib.box import Box, common_box, hull
from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT
from lib.looked_at import both_judged
from lib.metrics.burden import LARGE, burden_difference, burden_errors, tumor_burden
from lib.metrics.challenge_script import detected_by_script
from lib.metrics.confusion import CLASSES, confusion_matrix, overlap_of
from lib.metrics.lesions import Detection, LesionMatching, LesionPair, label_lesions, match_lesions
from lib.metrics.original import original_scores
from lib.metrics.overlap import Overlap
from lib.metrics.surface import SurfaceDistances, surface_distances

LIVER = (1, 2)
TUMOR = (2,)
DETECTED_IOU = 0.5


@dataclass(frozen=True)
class RegionScores:
    """The challenge's seven figures of a liver or a lesion; distances in mm.

    `rvd` is what the challenge calls so, (R - P) / P; `rvd_usual` is (P - R) / R, positive for over-segmentation.
    """

    dice: float
    jaccard: float
    voe: float
    rvd: float
    assd: float
    rmsd: float
    msd: float
    rvd_usual: float

    @classmethod
    def of(cls, overlap: Overlap, distances: SurfaceDistances | None) -> "RegionScores":
        """Scores of a region; `MISSING` when the reference or the prediction is empty."""
        if distances is None or overlap.rvd is None or overlap.rvd_official is None:
            return MISSING
        return cls(
            dice=overlap.dice,
            jaccard=overlap.jaccard,
            voe=overlap.voe,
            rvd=overlap.rvd_official,
            assd=distances.assd,
            rmsd=distances.rmsd,
            msd=distances.msd,
            rvd_usual=overlap.rvd,
        )

    @classmethod
    def mean(cls, scores: Sequence["RegionScores"]) -> "RegionScores":
        """Mean of each figure; `MISSING` of nothing."""
        if not scores:
            return MISSING
        rows = [asdict(score) for score in scores]
        return cls(**{key: float(np.mean([row[key] for row in rows])) for key in rows[0]})

    def named(self, region: str) -> dict[str, float]:
        """`{"liver_dice": ..., ...}` with the official RVD under both of its names."""
        values = {f"{region}_{key}": value for key, value in asdict(self).items()}
        values[f"{region}_rvd_official"] = self.rvd
        return values


MISSING = RegionScores(0.0, 0.0, 1.0, LARGE, LARGE, LARGE, LARGE, LARGE)


@dataclass(frozen=True)
class LesionScores:
    """A pair of matched lesions, whether it counts as detected (IoU above 0.5), and its scores if it does."""

    pair: LesionPair
    detected: bool
    detected_by_script: bool
    scores: RegionScores | None


@dataclass(frozen=True)
class CaseResult:
    """Everything measured on one pair of label volumes; `as_dict` has it under the challenge's names.

    Args:
        name: of the case.
        shape: voxels along the array's axes.
        spacing: mm along the array's axes.
        counts: confusion matrix, rows reference, columns prediction.
        liver: scores of the liver.
        lesions: matched lesions.
        detection: lesions counted at IoU above 0 and above 0.5.
        script_detection: at IoU above 0.5 as the scoring program counts, see `challenge_script`.
        not_looked_at: voxels of the reference that nobody looked at; they are in no other figure.
    """

    name: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    liver: RegionScores
    lesions: tuple[LesionScores, ...]
    detection: tuple[Detection, Detection]
    script_detection: Detection
    not_looked_at: int = 0

    @property
    def matrix(self) -> NDArray[np.int64]:
        """The confusion matrix as an array `(3, 3)`."""
        return np.array(self.counts, np.int64)

    @property
    def liver_predicted(self) -> bool:
        """Whether the prediction has any voxel with label 1: without one, the challenge takes its liver for missing."""
        return bool(self.matrix[:, 1].sum())

    @property
    def liver_dice(self) -> float:
        """Dice of the liver, 0 where no liver was predicted."""
        return overlap_of(self.matrix, LIVER).dice if self.liver_predicted else 0.0

    @property
    def burdens(self) -> tuple[float | None, float | None]:
        """Tumor burden of reference and prediction; None without liver."""
        liver, tumor = overlap_of(self.matrix, LIVER), overlap_of(self.matrix, TUMOR)
        predicted = tumor_burden(liver.prediction, tumor.prediction) if self.liver_predicted else None
        return tumor_burden(liver.reference, tumor.reference), predicted

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready scores of this case; lesion means are None where no lesion was detected."""
        liver, tumor = overlap_of(self.matrix, LIVER), overlap_of(self.matrix, TUMOR)
        voxel_ml = prod(self.spacing) / 1000.0
        detected = [lesion.scores for lesion in self.lesions if lesion.detected and lesion.scores]
        lesion_means = RegionScores.mean(detected).named("lesion")
        reference_burden, predicted_burden = self.burdens
        return {
            "name": self.name,
            "shape": list(self.shape),
            "spacing_mm": list(self.spacing),
            "part_looked_at": 1 - self.not_looked_at / prod(self.shape),
            "liver_dice_per_case": self.liver_dice,
            "lesion_dice_per_case": tumor.dice,
            **self.liver.named("liver"),
            **(lesion_means if detected else dict.fromkeys(lesion_means)),
            **_detection_scores(self.detection),
            **_detection_counts(self.detection),
            "tumor_burden_reference": reference_burden,
            "tumor_burden_prediction": predicted_burden,
            "tumor_burden_difference": burden_difference(reference_burden, predicted_burden),
            "liver_predicted": self.liver_predicted,
            "liver_ml_reference": liver.reference * voxel_ml,
            "liver_ml_prediction": liver.prediction * voxel_ml,
            "lesion_ml_reference": tumor.reference * voxel_ml,
            "lesion_ml_prediction": tumor.prediction * voxel_ml,
            "original": original_scores(self.matrix),
            "lesions": [_lesion_dict(lesion, voxel_ml) for lesion in self.lesions],
        }


def evaluate_case(reference: NDArray, prediction: NDArray, spacing: Sequence[float], name: str = "case") -> CaseResult:
    """Score a prediction against a reference.

    Args:
        reference: labels 0, 1, 2, and 255 where nobody looked; three axes in any order, integers.
        prediction: labels 0, 1, 2 of the same shape.
        spacing: voxel size in mm along the arrays' axes.
        name: what to call the case.

    Returns:
        The case's scores; add cases up with `summarize`.

    Raises:
        BadInputError: the shapes differ, are not 3D, a value is another, the reference holds nothing but 255, or a
            spacing is not positive.
    """
    if reference.ndim != 3 or reference.shape != prediction.shape:
        msg = f"{name}: reference {reference.shape} and prediction {prediction.shape} must be 3D and of one shape"
        raise BadInputError(msg)
    if len(spacing) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing):
        msg = f"{name}: the spacing must be three positive numbers in mm, not {tuple(spacing)}"
        raise BadInputError(msg)
    check_values(reference, f"{name}, reference", or_not_looked_at=True)
    check_values(prediction, f"{name}, prediction")

    not_looked_at = int(np.count_nonzero(reference == NOT_LOOKED_AT))
    reference, prediction = both_judged(reference, prediction)
    box = common_box(reference, prediction)
    cut_reference = np.ascontiguousarray(reference[box]).astype(np.uint8, copy=False)
    cut_prediction = np.ascontiguousarray(prediction[box]).astype(np.uint8, copy=False)
    counts = confusion_matrix(cut_reference, cut_prediction)
    counts[0, 0] += reference.size - cut_reference.size - not_looked_at

    liver = MISSING
    if counts[:, 1].any():
        distances = surface_distances(cut_reference, cut_prediction, spacing)
        liver = RegionScores.of(overlap_of(counts, LIVER), distances)
    matching, lesions = _score_lesions(cut_reference == TUMOR[0], cut_prediction == TUMOR[0], spacing)
    return CaseResult(
        name=name,
        shape=reference.shape,
        spacing=tuple(float(step) for step in spacing),
        counts=tuple(tuple(row) for row in counts.tolist()),
        liver=liver,
        lesions=lesions,
        detection=(matching.count(matching.detected(0.0)), matching.count(matching.detected(DETECTED_IOU))),
        script_detection=matching.count([lesion.pair for lesion in lesions if lesion.detected_by_script]),
        not_looked_at=not_looked_at,
    )


def summarize(cases: Sequence[CaseResult]) -> dict[str, Any]:
    """Scores of a set of cases under the challenge's names, the original's figures and what they were counted from.

    Means run over cases, for detected lesions over all lesions of all cases. Global Dice and the `_pooled` figures of
    the original come from voxel counts summed over the set.

    Raises:
        BadInputError: there are no cases.
    """
    if not cases:
        msg = "there are no cases to summarize; evaluate at least one pair"
        raise BadInputError(msg)
    detection = tuple(sum((case.detection[at] for case in cases), Detection()) for at in (0, 1))
    detected = [lesion.scores for case in cases for lesion in case.lesions if lesion.detected and lesion.scores]
    burdens = [case.burdens for case in cases]
    originals = [original_scores(case.matrix) for case in cases]
    pooled = original_scores(sum((case.matrix for case in cases), np.zeros((CLASSES, CLASSES), np.int64)))
    return {
        **_detection_scores(detection),
        **RegionScores.mean(detected).named("lesion"),
        "lesion_dice_per_case": float(np.mean([overlap_of(case.matrix, TUMOR).dice for case in cases])),
        "lesion_dice_global": _global_dice([overlap_of(case.matrix, TUMOR) for case in cases]),
        **RegionScores.mean([case.liver for case in cases]).named("liver"),
        "liver_dice_per_case": float(np.mean([case.liver_dice for case in cases])),
        "liver_dice_global": _global_dice([_counted_liver(case) for case in cases]),
        **burden_errors([burden_difference(reference, predicted) for reference, predicted in burdens]),
        "original": {
            **{key: float(np.mean([scores[key] for scores in originals])) for key in pooled},
            **{f"{key}_pooled": value for key, value in pooled.items()},
        },
        "counts": {"cases": len(cases), **_detection_counts(detection)},
        "official_script": _script_scores(cases),
    }


def check_values(labels: NDArray, name: str, *, or_not_looked_at: bool = False) -> None:
    """Make sure that a label volume holds 0, 1 and 2 only.

    Args:
        labels: of any shape.
        name: with which messages start.
        or_not_looked_at: 255 is right as well, but not everywhere.

    Raises:
        BadInputError: it does not; the message has the values found.
    """
    if labels.dtype.kind in "iub" and labels.min() >= 0 and labels.max() < CLASSES:
        return
    values = np.unique(labels)
    known = {*range(CLASSES), NOT_LOOKED_AT} if or_not_looked_at else {*range(CLASSES)}
    wrong = [value for value in values.tolist() if value not in known]
    if values.tolist() == [NOT_LOOKED_AT] and or_not_looked_at:
        msg = f"{name}: nobody looked at any slice, it holds 255 only; leave it out"
        raise BadInputError(msg)
    if wrong:
        shown = ", ".join(f"{value:g}" for value in wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        msg = f"{name}: holds the values {shown}; expected only 0 (background), 1 (liver) and 2 (tumor)"
        raise BadInputError(msg)


def _score_lesions(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: Sequence[float]
) -> tuple[LesionMatching, tuple[LesionScores, ...]]:
    box = common_box(reference, prediction)
    labels_r, labels_p = label_lesions(reference[box])[0], label_lesions(prediction[box])[0]
    matching = match_lesions(labels_r, labels_p)
    boxes_r, boxes_p = _boxes(labels_r), _boxes(labels_p)
    detected, by_script = matching.detected(DETECTED_IOU), detected_by_script(matching, DETECTED_IOU)
    lesions = []
    for pair in matching.pairs:
        scores = None
        if pair in detected or pair in by_script:
            boxes = [boxes_r[number - 1] for number in pair.reference]
            cut = hull(boxes + [boxes_p[number - 1] for number in pair.prediction])
            mask_r, mask_p = np.isin(labels_r[cut], pair.reference), np.isin(labels_p[cut], pair.prediction)
            scores = RegionScores.of(pair.overlap, surface_distances(mask_r, mask_p, spacing))
        lesions.append(LesionScores(pair, pair in detected, pair in by_script, scores))
    return matching, tuple(lesions)


def _boxes(labels: NDArray[np.uint32]) -> list[Box]:
    # Numbers run without gaps, so that no entry is None.
    return ndimage.find_objects(labels.astype(np.int32)) if labels.size else []


def _counted_liver(case: CaseResult) -> Overlap:
    liver = overlap_of(case.matrix, LIVER)
    return liver if case.liver_predicted else Overlap(liver.reference, 0, 0)


def _global_dice(overlaps: Sequence[Overlap]) -> float | None:
    total = sum(overlaps, Overlap(0, 0, 0))
    return total.dice if total.union else None


def _detection_scores(detection: Sequence[Detection]) -> dict[str, float]:
    any_overlap, half = detection
    return {
        "lesion_precision": half.precision,
        "lesion_recall": half.recall,
        "lesion_precision_greater_zero": any_overlap.precision,
        "lesion_recall_greater_zero": any_overlap.recall,
    }


def _detection_counts(detection: Sequence[Detection]) -> dict[str, int]:
    any_overlap, half = detection
    return {
        "lesions_reference": half.true_positive + half.false_negative,
        "lesions_prediction": half.true_positive + half.false_positive,
        "lesions_detected": half.true_positive,
        "lesions_detected_greater_zero": any_overlap.true_positive,
    }


def _script_scores(cases: Sequence[CaseResult]) -> dict[str, float]:
    """What the scoring program's slip changes, see `challenge_script`."""
    detection = sum((case.script_detection for case in cases), Detection())
    # The program also skips the lesions of a case whose count has dropped to 0 or below.
    counted = [case for case in cases if case.script_detection.true_positive > 0]
    found = [lesion.scores for case in counted for lesion in case.lesions if lesion.detected_by_script]
    scores = RegionScores.mean([score for score in found if score])
    return {"lesion_precision": detection.precision, "lesion_recall": detection.recall, **scores.named("lesion")}


def _lesion_dict(lesion: LesionScores, voxel_ml: float) -> dict[str, Any]:
    return {
        "reference": list(lesion.pair.reference),
        "prediction": list(lesion.pair.prediction),
        "iou": lesion.pair.iou,
        "detected": lesion.detected,
        "ml_reference": lesion.pair.overlap.reference * voxel_ml,
        "ml_prediction": lesion.pair.overlap.prediction * voxel_ml,
        **(asdict(lesion.scores) if lesion.detected and lesion.scores else {}),
    }
