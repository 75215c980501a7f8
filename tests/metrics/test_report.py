import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lib.metrics.evaluation import Evaluated
from lib.metrics.folders import Pair
from lib.metrics.lits import evaluate_case
from lib.metrics.pictures import draw_worst_slices
from lib.metrics.report import as_csv, as_html, as_json, as_text, build_report
from lib.volume import Volume


def evaluated(name, *, tumor=True, pictures=1):
    reference = np.zeros((12, 10, 6), np.uint8)
    reference[2:9, 2:9, 1:5] = 1
    prediction = reference.copy()
    if tumor:
        reference[3:6, 3:6, 2:4] = 2
        prediction[3:6, 3:5, 2:4] = 2
    volumes = [Volume(array, np.diag([1.0, 1.0, 5.0, 1.0])) for array in (reference, prediction)]
    return Evaluated(
        Pair(name, Path("r") / f"{name}.nii", Path("p") / f"{name}.nii"),
        evaluate_case(reference, prediction, (1, 1, 5), name),
        tuple(draw_worst_slices(None, *volumes, pictures)),
    )


class Page(HTMLParser):
    """Checks that tags are closed in order and collects what the page refers to."""

    void = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[key] for key in ("src", "href") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


CASES = [evaluated("case-1"), evaluated("case-2", tumor=False)]
REPORT = build_report(CASES, [Path("r/lost.nii")])


def test_set_scores_are_at_the_top_and_cases_below():
    report = json.loads(as_json(REPORT))
    for key in ("lesion_dice_per_case", "liver_assd", "lesion_precision_greater_zero", "MAXERROR_Tumorburden"):
        assert isinstance(report[key], float), key
    assert [case["name"] for case in report["cases"]] == ["case-1", "case-2"]
    assert set(report["original"]) >= {"three_class_dice", "one_hot_mean_iou", "pixel_accuracy"}
    assert report["cases"][1]["lesion_dice"] is None
    assert report["meta"]["reference_only"] == ["r/lost.nii"]
    assert report["meta"]["versions"]["numpy"] == np.__version__


def test_csv_has_a_row_per_case_with_the_same_numbers():
    rows = list(csv.DictReader(io.StringIO(as_csv(REPORT))))
    assert [row["name"] for row in rows] == ["case-1", "case-2"]
    assert float(rows[0]["lesion_dice"]) == REPORT["cases"][0]["lesion_dice"]
    assert rows[1]["lesion_dice"] == ""
    assert rows[0]["shape"] == "12x10x6"
    assert float(rows[0]["original_pixel_accuracy"]) == REPORT["cases"][0]["original"]["pixel_accuracy"]


def test_page_is_well_formed_and_needs_nothing_else():
    text = as_html(REPORT, CASES)
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.tags.count("img") == 4
    for link in page.links:
        assert link.startswith("data:image/png;base64,") or link.removeprefix("#") in page.ids
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize(
    "words",
    [
        "Research software, no clinical claim",
        "Bilic et al., Medical Image Analysis 84:102680, 2023",
        "0.674 / 0.702 / 0.739",
        "Without prediction: r/lost.nii",
        "lesion_recall_greater_zero",
        "case-2",
    ],
)
def test_page_says(words):
    assert words in as_html(REPORT, CASES)


def test_names_are_escaped():
    case = evaluated("<b>&")
    assert "&lt;b&gt;&amp;" in as_html(build_report([case]), [case])


def test_page_without_pictures():
    cases = [evaluated("a", pictures=0)]
    page = as_html(build_report(cases), cases)
    assert "<img" not in page
    assert "Worst slices" not in page
    Page(page)


def test_text_for_the_terminal():
    assert "Tumor, mean over cases       0.900" in as_text(REPORT)
