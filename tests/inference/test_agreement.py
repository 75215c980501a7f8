import numpy as np
import pytest
import torch

from lib.inference.agreement import Agreement, labels_of, probe_cases


def labels():
    found = np.zeros((100, 1000), np.uint8)
    found[10:60] = 1
    found[20:30, :100] = 2
    return found


def test_the_same_labels_agree():
    found = Agreement.of(labels(), labels(), 3)
    assert found == Agreement(1.0, (1.0, 1.0, 1.0))
    assert found.is_enough
    assert str(found) == "100.000% of the pixels alike, Dice by class 1.0000, 1.0000, 1.0000"


def test_one_pixel_in_a_thousand_may_differ_and_no_more():
    other = labels()
    other[10, :100] = 0
    assert Agreement.of(labels(), other, 3).is_enough
    other[10, 100] = 0
    found = Agreement.of(labels(), other, 3)
    assert found.pixels == pytest.approx(0.99899)
    assert not found.is_enough


def test_a_class_that_shrinks_is_noticed_however_small_its_share():
    other = labels()
    other[20, :50] = 1
    found = Agreement.of(labels(), other, 3)
    assert found.pixels > 0.999
    assert found.dice[2] == pytest.approx(2 * 950 / 1950)
    assert not found.is_enough


def test_a_class_of_a_few_pixels_says_nothing():
    reference, other = labels(), labels()
    reference[reference == 2], other[other == 2] = 1, 1
    other[50, :50] = 2
    found = Agreement.of(reference, other, 3)
    assert found.dice[2] is None
    assert found.is_enough
    assert str(found).endswith(" -")


def test_the_probe_holds_two_sizes_with_their_whole_slices_gray_levels():
    (first, levels), (second, of_second) = probe_cases()
    assert (first.shape, second.shape) == ((4, 320, 320), (3, 176, 288))
    assert (levels.shape, of_second.shape) == ((4, 102), (3, 102))
    assert first.dtype == second.dtype == np.int16
    assert all(array.flags.c_contiguous for array in (first, second))

    class Counting:
        name = "counting"
        device = torch.device("cpu")

        def __call__(self, hu, levels, watch):
            return np.ones(hu.shape, np.uint8)

    assert labels_of(Counting()).sum() == first.size + second.size
