import io

import numpy as np
import pytest
from PIL import Image

from lib.labels import NOT_LOOKED_AT
from lib.training.pictures import draw_case
from tests.training.compared import AFFINE, SETTINGS, compared, label, without

LIVER, TUMOR = (SETTINGS.labels[name].color for name in ("liver", "tumor"))


def opened(panel):
    return np.asarray(Image.open(io.BytesIO(panel.png)).convert("RGB"))


def has(panel, color):
    return bool((opened(panel) == np.array(color)).all(-1).any())


def test_the_slice_that_differs_most_and_the_missed_lesion():
    candidate = without(label(), slice(8, 9))
    candidate[10:20, 10:70, 6] = 0
    case = draw_case(compared(candidate), SETTINGS)
    assert [(one.number, one.total, one.reasons) for one in case.slices] == [
        (7, 12, ("where label and new model differ most",)),
        (9, 12, ("a missed lesion of 0.1 ml, which the published model found",)),
    ]
    assert case.labelled_ml == pytest.approx({"liver": 40 * 60 * 10 * 0.01, "tumor": (2 * 200 + 12) * 0.01})
    assert not case.partly_labelled


def test_one_slice_can_be_shown_for_both_reasons():
    missed = without(label(), slice(3, 5))
    (only,) = draw_case(compared(missed, missed), SETTINGS).slices
    assert only.reasons == (
        "where label and new model differ most", "a missed lesion of 4.0 ml, which the published model missed, too",
    )  # fmt: skip


def test_a_missed_lesion_that_the_published_model_found_comes_before_a_larger_one():
    candidate, published = without(label(), slice(0, 12)), without(label(), slice(3, 5))
    *_, last = draw_case(compared(candidate, published), SETTINGS).slices
    assert (last.number, last.reasons) == (9, ("a missed lesion of 0.1 ml, which the published model found",))


def test_panels_show_the_outlines_in_the_colors_of_the_app():
    case = draw_case(compared(without(label(), slice(3, 5))), SETTINGS)
    ct, reference, new, published = case.slices[0].panels
    assert [panel.title for panel in case.slices[0].panels] == ["CT", "Label", "New model", "Published model"]
    assert not has(ct, LIVER)
    assert [has(panel, LIVER) for panel in (reference, new, published)] == [True] * 3
    assert [has(panel, TUMOR) for panel in (reference, new, published)] == [True, False, True]
    assert (ct.dice, reference.dice) == ({}, {})
    assert new.dice == {"liver": 1.0, "tumor": 0.0}
    assert published.dice == {"liver": 1.0, "tumor": 1.0}
    # The labels span 80 x 60 mm; with 20 mm around them, 40 voxels of 2 mm and 60 of 1 mm are cut from 60 x 80.
    assert opened(ct).shape[:2] == (round(360 * 80 / 120), 360)


def test_a_class_that_is_not_in_the_slice_has_no_dice():
    candidate = label()
    candidate[10:30, 10:70, 6] = 0
    (only,) = draw_case(compared(candidate), SETTINGS).slices
    assert only.panels[2].dice == {"liver": pytest.approx(2 / 3)}


def test_what_nobody_looked_at_counts_for_nothing_and_is_hatched():
    reference = label()
    reference[..., 6:] = NOT_LOOKED_AT
    reference[30:, :, 5] = NOT_LOOKED_AT
    candidate = label()
    candidate[:, :, 7] = 0  # would be the largest difference
    candidate[10:12, 10:70, 5] = 0
    case = draw_case(compared(candidate, label(), reference), SETTINGS)
    assert [one.number for one in case.slices] == [6]
    assert case.partly_labelled
    gray, *outlined = (opened(panel) for panel in case.slices[0].panels)
    hatched = [(panel == (120, 130, 142)).all(-1) for panel in outlined]
    assert all(0.05 < mask.mean() < 0.5 for mask in hatched)
    assert not (gray == (120, 130, 142)).all(-1).any()
    # 20 of 60 rows are looked at, two of them missed.
    assert case.slices[0].panels[2].dice == {"liver": pytest.approx(2 * 18 / (20 + 18))}


def test_nothing_to_show_where_the_new_model_gives_the_label():
    assert draw_case(compared(label()), SETTINGS).slices == ()


@pytest.mark.parametrize("empty", ["label", "candidate"])
def test_empty_labels(empty):
    nothing = np.zeros_like(label())
    case = draw_case(compared(label(), reference=nothing) if empty == "label" else compared(nothing), SETTINGS)
    assert [one.number for one in case.slices] == ([2] if empty == "label" else [2, 4])


def test_file_orientation_does_not_change_the_pictures():
    candidate = without(label(), slice(3, 5))
    turned = AFFINE @ np.array([[-1, 0, 0, 59], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    flipped = compared(candidate[::-1], label()[::-1], label()[::-1], affine=turned)
    assert draw_case(flipped, SETTINGS).slices == draw_case(compared(candidate), SETTINGS).slices
