import numpy as np
import pytest
from scipy import ndimage

from lib.case_scores import CaseScores, Span
from lib.labels import NOT_LOOKED_AT
from lib.metrics.lesions import label_lesions
from lib.simulation.annotator import MOST_SHIFT, annotate, with_errors
from lib.volume import Volume

NAMES = {"liver": 1, "tumor": 2}


def truth(*, voxel_mm=2.0):
    """A liver with a large lesion, and nine of a few pixels."""
    axial = np.zeros((8, 64, 64), np.uint8)
    axial[1:7, 6:58, 6:58] = 1
    axial[2:5, 30:44, 30:44] = 2
    for place in range(9):
        axial[6, 10 + 5 * (place // 3) : 13 + 5 * (place // 3), 10 + 12 * (place % 3) : 13 + 12 * (place % 3)] = 2
    affine = np.diag([-voxel_mm, -voxel_mm, voxel_mm, 1.0])
    return Volume(np.zeros((64, 64, 8), np.uint8), affine).with_axial(axial)


def test_the_true_annotator_copies_the_truth():
    label = truth()
    done = annotate(label, NAMES, "true", np.random.default_rng(0))
    assert np.array_equal(done.label.array, label.array)
    assert done.slices == 8


@pytest.mark.parametrize("seed", range(5))
def test_realistic_errors_are_bounded(seed):
    label = truth()
    axial = label.axial()
    drawn = with_errors(label, NAMES, np.random.default_rng(seed)).axial()
    assert np.array_equal(drawn, with_errors(label, NAMES, np.random.default_rng(seed)).axial())
    changed = (drawn != axial) & (axial != 2)
    assert 0 < changed.sum() < 0.2 * (axial > 0).sum()
    for z in range(len(axial)):
        if not axial[z].any():
            assert not drawn[z].any()  # nothing is invented
            continue
        for least in (1, 2):  # the liver with its tumors, the tumors
            inside, now = axial[z] >= least, drawn[z] >= least
            if now.any():
                assert ndimage.distance_transform_edt(~inside)[now].max() <= MOST_SHIFT + 0.5


def test_small_lesions_are_missed_at_times_and_large_ones_never():
    label = truth()
    kept = []
    for seed in range(20):
        lesions, count = label_lesions(label.axial() == 2)
        drawn = with_errors(label, NAMES, np.random.default_rng(seed)).axial()
        there = [bool((drawn[lesions == number] == 2).any()) for number in range(1, count + 1)]
        sizes = [int((lesions == number).sum()) for number in range(1, count + 1)]
        assert all(found for found, size in zip(there, sizes, strict=True) if size > 100)
        small = [found for found, size in zip(there, sizes, strict=True) if size <= 100]
        kept.append(np.mean(small))
    assert 0.7 < np.mean(kept) < 0.95
    large = truth(voxel_mm=10.0)  # the same lesions are none that is overlooked now
    small = large.axial()[6] == 2
    drawn = [with_errors(large, NAMES, np.random.default_rng(seed)).axial()[6][small] == 2 for seed in range(5)]
    assert all(found.mean() > 0.5 for found in drawn)


def test_only_the_suggested_slices_are_looked_at():
    scores = CaseScores(1.0, {}, spans=(Span("tumor", 2, 3, 0.5), Span("liver", 3, 5, 0.2)))
    done = annotate(truth(), NAMES, "true", np.random.default_rng(0), scores)
    axial = done.label.axial()
    assert done.slices == 4
    assert (axial[[0, 1, 6, 7]] == NOT_LOOKED_AT).all()
    assert np.array_equal(axial[2:6], truth().axial()[2:6])
    whole = annotate(truth(), NAMES, "true", np.random.default_rng(0), CaseScores(1.0, {}))
    assert whole.slices == 8  # where nothing is suggested, everything is looked at
    assert np.array_equal(whole.label.array, truth().array)
