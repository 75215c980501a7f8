"""What an evaluation writes: JSON for programs, a CSV row per case, one HTML page for people."""

import base64
import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lib.metrics.burden import LARGE
from lib.metrics.evaluation import Evaluated
from lib.metrics.lits import summarize
from lib.metrics.page import page_template
from lib.metrics.pictures import LIVER_COLOR, TUMOR_COLOR, SlicePicture

BILIC = "Bilic et al., Medical Image Analysis 84:102680, 2023"
# (our score, what was published, where); on test data that we do not have.
PUBLISHED = (
    ("liver_dice_per_case", "0.963", "best liver of the benchmark"),
    ("lesion_dice_per_case", "0.674 / 0.702 / 0.739", "best tumor at ISBI 2017 / MICCAI 2017 / MICCAI 2018"),
    ("lesion_recall", "0.554", "best lesion recall of the benchmark"),
    ("mean_dice", "0.801 to 0.816", "nnU-Net variants, mean of liver and tumor Dice"),
)
_PACKAGES = ("numpy", "scipy", "connected-components-3d", "nibabel")
_REGION_ROWS = (
    ("dice", "Dice", ""),
    ("jaccard", "Jaccard (IoU)", ""),
    ("voe", "Volumetric overlap error", ""),
    ("rvd", "Relative volume difference, official (R − P) / P", ""),
    ("rvd_usual", "Relative volume difference, usual (P − R) / R", ""),
    ("assd", "Average symmetric surface distance", "mm"),
    ("rmsd", "Root mean square surface distance", "mm"),
    ("msd", "Maximum surface distance", "mm"),
)
_GROUPS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Dice",
        (
            ("liver_dice_per_case", "Liver, mean over cases", ""),
            ("liver_dice_global", "Liver, all voxels together", ""),
            ("lesion_dice_per_case", "Tumor, mean over cases", ""),
            ("lesion_dice_global", "Tumor, all voxels together", ""),
            ("mean_dice", "Mean of liver and tumor", ""),
        ),
    ),
    (
        "Lesion detection",
        (
            ("lesion_precision", "Precision, IoU above 0.5", ""),
            ("lesion_recall", "Recall, IoU above 0.5", ""),
            ("lesion_precision_greater_zero", "Precision, any overlap", ""),
            ("lesion_recall_greater_zero", "Recall, any overlap", ""),
        ),
    ),
    ("Liver, mean over cases", tuple((f"liver_{key}", label, unit) for key, label, unit in _REGION_ROWS)),
    ("Detected lesions, mean", tuple((f"lesion_{key}", label, unit) for key, label, unit in _REGION_ROWS)),
    (
        "Tumor burden",
        (
            ("RMSE_Tumorburden", "Root mean square error", ""),
            ("MAXERROR_Tumorburden", "Largest signed error, official", ""),
            ("MAXABSERROR_Tumorburden", "Largest absolute error", ""),
        ),
    ),
    (
        "Original U-Net's figures, background included",
        (
            ("three_class_dice", "3-class Dice", ""),
            ("one_hot_mean_iou", "One-hot mean IoU", ""),
            ("pixel_accuracy", "Pixel accuracy", ""),
        ),
    ),
)


def build_report(
    evaluated: Sequence[Evaluated],
    reference_only: Sequence[Path] = (),
    prediction_only: Sequence[Path] = (),
) -> dict[str, Any]:
    """The JSON document: set scores on top, then `original`, `counts`, `official_script`, `cases` and `meta`.

    Args:
        evaluated: at least one case, in the order wanted.
        reference_only: reference files without prediction, which were left out.
        prediction_only: predictions without reference.
    """
    cases = [
        {**case.result.as_dict(), "reference": str(case.pair.reference), "prediction": str(case.pair.prediction)}
        for case in evaluated
    ]
    meta = {
        "definitions": f"{BILIC}, doi:10.1016/j.media.2022.102680",
        "undefined": f"null; {LARGE:.0f} where the challenge has a stand-in for infinity",
        "reference_only": [str(path) for path in reference_only],
        "prediction_only": [str(path) for path in prediction_only],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }
    return {**summarize([case.result for case in evaluated]), "cases": cases, "meta": meta}


def as_json(report: Mapping[str, Any]) -> str:
    """Indented JSON without NaN or infinity."""
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def as_csv(report: Mapping[str, Any]) -> str:
    """One row per case; empty where a score is undefined."""
    rows = []
    for case in report["cases"]:
        row = {key: value for key, value in case.items() if key not in {"original", "lesions"}}
        row["shape"] = "x".join(str(length) for length in case["shape"])
        row["spacing_mm"] = "x".join(f"{step:g}" for step in case["spacing_mm"])
        rows.append(row | {f"original_{key}": value for key, value in case["original"].items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_html(report: Mapping[str, Any], evaluated: Sequence[Evaluated]) -> str:
    """One page with tables and pictures that needs no other file and no network."""
    scores = _page_scores(report)
    published = {key: (figure, where) for key, figure, where in PUBLISHED}
    groups = [
        (title, [(label, key, _shown(scores[key], unit), published.get(key)) for key, label, unit in rows])
        for title, rows in _GROUPS
    ]
    pictures = [
        (case, [_encoded(picture) for picture in one.pictures])
        for case, one in zip(report["cases"], evaluated, strict=True)
    ]
    template = page_template(Path(__file__).with_name("report.html.j2"), {"shown": _shown})
    return template.render(
        report=report,
        scores=scores,
        groups=groups,
        pictures=pictures,
        bilic=BILIC,
        colors={"liver": f"rgb{LIVER_COLOR}", "tumor": f"rgb{TUMOR_COLOR}"},
    )


def as_text(report: Mapping[str, Any]) -> str:
    """The main scores as a few aligned lines for a terminal."""
    scores = _page_scores(report)
    lines = []
    for title, rows in _GROUPS[:2]:
        lines.append(title)
        lines += [f"  {label:<28} {_shown(scores[key])}" for key, label, _ in rows]
    return "\n".join(lines)


def _page_scores(report: Mapping[str, Any]) -> dict[str, float | None]:
    mean = (report["liver_dice_per_case"] + report["lesion_dice_per_case"]) / 2
    return {**report, **report["original"], "mean_dice": mean}


def _shown(value: float | None, unit: str = "", digits: int = 3) -> str:
    if value is None:
        return "–"
    if value == LARGE:
        return f"{LARGE:.0f}"
    return f"{value:.{digits}f}{f' {unit}' if unit else ''}".replace("-", "−")


def _encoded(picture: SlicePicture) -> dict[str, Any]:
    panels = [(title, base64.b64encode(png).decode("ascii")) for title, png in picture.panels]
    return {
        "number": picture.number,
        "total": picture.total,
        "liver": picture.liver_dice,
        "tumor": picture.tumor_dice,
        "panels": panels,
    }
