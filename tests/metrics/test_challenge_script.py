import numpy as np
import pytest
from scipy import ndimage

from lib.metrics.challenge_script import detected_by_script
from lib.metrics.lesions import label_lesions, match_lesions


def in_masks(matching, reference, prediction, threshold):
    """The slip, acted out on the masks: predicted lesions carry the number of their reference lesion."""
    merged, carried = reference.copy(), np.zeros_like(prediction)
    for pair in matching.pairs:
        merged[np.isin(reference, pair.reference)] = pair.reference[0]
        carried[np.isin(prediction, pair.prediction)] = pair.reference[0]
    detected = []
    for pair in matching.pairs:
        union = np.count_nonzero((carried == pair.prediction[0]) | (merged == pair.reference[0]))
        if pair.overlap.intersection / union > threshold:
            detected.append(pair)
        else:
            carried[carried == pair.reference[0]] = 0
    return tuple(detected)


@pytest.mark.parametrize("seed", range(20))
def test_same_as_on_masks(seed):
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=(14, 14, 10)), 0.8) for _ in range(2)]
    fields[1] = fields[0] + rng.uniform(0.2, 1.5) * fields[1]
    reference, prediction = (label_lesions(field > np.quantile(field, 0.8))[0] for field in fields)
    matching = match_lesions(reference, prediction)
    assert detected_by_script(matching, 0.5) == in_masks(matching, reference, prediction, 0.5)


def test_no_slip_where_the_numbers_agree():
    lesions = np.zeros((3, 12, 3), np.uint8)
    lesions[1, 1::3, 1] = 1
    labels, _ = label_lesions(lesions)
    matching = match_lesions(labels, labels)
    assert detected_by_script(matching, 0.5) == matching.detected(0.5) == matching.pairs


def test_a_missed_first_lesion_hides_perfect_ones():
    reference = np.zeros((3, 12, 3), np.uint8)
    reference[1, 1::3, 1] = 1
    prediction = reference.copy()
    prediction[1, 1, 1] = 0
    matching = match_lesions(label_lesions(reference)[0], label_lesions(prediction)[0])
    assert len(matching.detected(0.5)) == 3
    assert len(detected_by_script(matching, 0.5)) < 3
