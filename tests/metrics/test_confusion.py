import numpy as np

from lib.metrics.confusion import confusion_matrix, overlap_of
from lib.metrics.overlap import Overlap


def test_counts_by_reference_row_and_predicted_column():
    counts = confusion_matrix(np.array([0, 0, 1, 2, 2], np.uint8), np.array([0, 1, 1, 2, 0], np.uint8))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_overlaps_are_those_of_the_masks():
    rng = np.random.default_rng(0)
    reference, prediction = rng.integers(0, 3, (2, 5, 6, 7)).astype(np.uint8)
    counts = confusion_matrix(reference, prediction)
    assert overlap_of(counts, (1, 2)) == Overlap.of(reference >= 1, prediction >= 1)
    assert overlap_of(counts, (2,)) == Overlap.of(reference == 2, prediction == 2)
    assert counts.sum() == reference.size
