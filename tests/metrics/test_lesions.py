import numpy as np
import pytest
from scipy import ndimage

from lib.metrics.lesions import Detection, label_lesions, match_lesions


def line(*runs, length=40):
    """A one-dimensional lesion map: `(start, stop)` runs."""
    mask = np.zeros((1, length, 1), np.uint8)
    for start, stop in runs:
        mask[0, start:stop] = 1
    return mask


def matched(reference, prediction):
    return match_lesions(label_lesions(reference)[0], label_lesions(prediction)[0])


def summary(matching):
    return [(pair.reference, pair.prediction) for pair in matching.pairs]


@pytest.mark.parametrize("seed", range(8))
def test_lesions_are_numbered_as_scipy_does(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 12, size=3)) < rng.uniform(0.1, 0.7)
    expected, count = ndimage.label(mask)
    for layout in (mask, np.asfortranarray(mask)):
        labels, found = label_lesions(layout)
        assert found == count
        assert np.array_equal(labels, expected)


def test_diagonal_neighbors_are_two_lesions():
    mask = np.zeros((2, 2, 1))
    mask[0, 0] = mask[1, 1] = 1
    assert label_lesions(mask)[1] == 2


def test_nothing_at_all():
    labels, count = label_lesions(np.zeros((2, 3, 0)))
    assert (labels.shape, count) == ((2, 3, 0), 0)
    assert match_lesions(labels, labels).pairs == ()


def test_a_prediction_over_two_lesions_merges_them():
    matching = matched(line((0, 4), (6, 10)), line((0, 10)))
    assert summary(matching) == [((1, 2), (1,))]
    assert matching.pairs[0].iou == pytest.approx(0.8)


def test_pieces_of_one_lesion_are_merged():
    matching = matched(line((0, 10)), line((0, 4), (5, 10)))
    assert summary(matching) == [((1,), (1, 2))]
    assert matching.pairs[0].iou == pytest.approx(0.9)


def test_a_lesion_is_merged_by_its_largest_share_only():
    # Lesion 2 shares 2 voxels with blob 1 and 3 with blob 2: it stays with blob 2.
    matching = matched(line((0, 4), (6, 12)), line((0, 8), (9, 12)))
    assert summary(matching) == [((1,), (1,)), ((2,), (2,))]


def test_a_prediction_goes_to_the_lesion_it_shares_most_with():
    # Blob 1 is the favorite of lesion 1 but shares more with lesion 2, whose favorite is blob 2.
    matching = matched(line((0, 2), (3, 14)), line((0, 6), (7, 14)))
    assert summary(matching) == [((2,), (1, 2))]
    assert matching.count(matching.detected(0.0)) == Detection(1, 1, 1)


def test_ties_go_to_the_smaller_number():
    matching = matched(line((0, 3), (4, 7)), line((0, 3), (4, 7))[:, ::-1][:, ::-1])
    assert summary(matching) == [((1,), (1,)), ((2,), (2,))]
    assert summary(matched(line((0, 9)), line((0, 3), (6, 9)))) == [((1,), (1, 2))]
    tied = matched(line((2, 6)), line((0, 4), (5, 6)))
    assert summary(tied) == [((1,), (1, 2))]


def test_the_threshold_must_be_exceeded():
    matching = matched(line((0, 10)), line((0, 5)))
    assert matching.pairs[0].iou == 0.5
    assert matching.detected(0.5) == ()
    assert matching.detected(0.49) == matching.pairs


def test_lesions_without_partner_are_counted():
    matching = matched(line((0, 4), (10, 14), (20, 24)), line((0, 4), (30, 34)))
    detection = matching.count(matching.detected(0.5))
    assert detection == Detection(true_positive=1, false_positive=1, false_negative=2)
    assert (detection.precision, detection.recall) == pytest.approx((1 / 2, 1 / 3))


def test_an_undetected_merged_pair_takes_off_each_of_its_lesions():
    matching = matched(line((0, 2), (4, 6), (8, 10)), line((0, 30)))
    assert matching.count(matching.detected(0.0)) == Detection(1, 0, 2)
    assert matching.count(matching.detected(0.5)) == Detection(-2, 3, 5)


def test_nothing_to_divide_by_is_zero():
    assert (Detection().precision, Detection().recall) == (0, 0)
    assert Detection(1, 2, 3) + Detection(10, 20, 30) == Detection(11, 22, 33)


def test_thousands_of_specks():
    rng = np.random.default_rng(0)
    reference, prediction = rng.random((2, 60, 60, 30)) < 0.08
    matching = matched(reference, prediction)
    assert matching.reference_count > 3000
    assert matching.count(matching.detected(0.0)).true_positive == len(matching.pairs) > 100
