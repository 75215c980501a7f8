import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from lib.activelearning.regions import Region, UncertaintyMap, dilated

LN3, LN2 = np.log(3), np.log(2)
ALL = slice(None)
NEAR = 1e-3  # what is kept is float16


def told(chances, depth=1, shape=(8, 8)):
    """Classes and probabilities of slices that are the same everywhere."""
    probabilities = np.empty((depth, len(chances), *shape), np.float32)
    probabilities[:] = np.array(chances, np.float32)[:, None, None]
    return probabilities.argmax(1).astype(np.uint8), probabilities


def cube(shape, *box):
    label = np.zeros(shape, np.uint8)
    label[box] = 1
    return label


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 0.9), (2.5, 0.5), (5.0, 5.0), (6.0, 0.3)], ids=str)
def test_dilation_is_exact_in_mm(spacing):
    rng = np.random.default_rng(1)
    mask = rng.random((40, 57)) > 0.995
    mask[20, 30] = True
    expected = distance_transform_edt(~mask, sampling=spacing) <= 5.0 + 1e-6
    np.testing.assert_array_equal(dilated(mask, spacing, 5.0), expected)
    assert not dilated(np.zeros((4, 5), bool), spacing, 5.0).any()
    np.testing.assert_array_equal(dilated(np.ones((1, 1), bool), spacing, 50.0), [[True]])


def test_a_region_reaches_its_margin_in_plane_and_in_the_slices_near():
    region = Region(cube((20, 30, 30), slice(8, 10), slice(15, 16), slice(15, 16)), (2.0, 1.0, 2.5))
    assert region.slices == range(6, 12)  # 5 mm are two slices of 2 mm
    assert (region.rows, region.columns) == (slice(10, 21), slice(13, 18))
    for z in region.slices:
        mask = region.mask(z)
        assert mask.shape == (11, 5)
        assert mask[0].tolist() == mask[-1].tolist() == [False, False, True, False, False]
        assert mask[5].all()
        assert not mask[1, 0]
    assert region.counts(2).tolist() == [[55, 0, 0]] * 2 + [[54, 1, 0]] * 2 + [[55, 0, 0]] * 2
    thick = Region(cube((20, 30, 30), slice(8, 10), 15, 15), (5.1, 1.0, 1.0))
    assert thick.slices == range(8, 10)


def test_a_region_ends_with_the_volume_and_says_where_it_is_in_a_slice():
    label = cube((6, 9, 9), 0, slice(0, 2), slice(0, 2))
    label[5, 8, 8] = 2
    region = Region(label, (1.0, 2.5, 2.5))
    assert (region.slices, region.rows, region.columns) == (range(6), slice(0, 9), slice(0, 9))
    rows, columns, mask = region.cut(0)
    assert (rows, columns) == (slice(0, 9), slice(0, 9))  # both pieces are within 5 mm
    apart = np.zeros((20, 9, 9), np.uint8)
    apart[0, :2, :2] = apart[19, 8, 8] = 1
    region = Region(apart, (1.0, 2.5, 2.5))
    rows, columns, mask = region.cut(0)
    assert (rows, columns, mask.shape) == (slice(0, 4), slice(0, 4), (4, 4))
    assert not mask[3, 3]
    assert region.cut(10) is None
    with pytest.raises(ValueError, match="needs foreground"):
        Region(np.zeros((2, 2, 2), np.uint8), (1, 1, 1))


def test_three_equal_classes_have_the_entropy_ln_3_and_a_third_of_it_each():
    seen = UncertaintyMap((4, 8, 8), (1.0, 1.0, 1.0), 2)
    classes, probabilities = told([1 / 3] * 3, 4)
    classes[:, 3:5, 3:5] = 1
    seen.see(0, ALL, ALL, classes, probabilities)
    for region in (Region(cube((4, 8, 8), 2, slice(3, 5), slice(3, 5)), (1.0, 1.0, 1.0)), None):
        result = seen.over(region)
        assert result.means == pytest.approx([LN3, LN3 / 3, LN3 / 3], rel=NEAR)
        assert (result.first_slice, result.slices.shape) == (0, (2, 4))
        pixels = 64 if region is None else region.mask(2).sum()
        assert result.slices[0] == pytest.approx([pixels * LN3 / 3] * 4, rel=NEAR)


def test_certain_classes_have_no_entropy():
    seen = UncertaintyMap((1, 8, 8), (1.0, 1.0, 1.0), 2)
    seen.see(0, ALL, ALL, *told([0, 1, 0]))
    assert seen.over(None).means.tolist() == [0, 0, 0]


def test_only_the_region_counts():
    label = cube((9, 20, 20), 4, slice(8, 12), slice(8, 12))
    region = Region(label, (5.0, 2.5, 2.5))
    _, probabilities = told([1, 0, 0], 9, (20, 20))
    inside = np.stack([region.mask(z) if z in region.slices else np.zeros((8, 8), bool) for z in range(9)])
    assert region.slices == range(3, 6)
    chances = probabilities.transpose(0, 2, 3, 1)
    assert (region.rows, region.columns) == (slice(6, 14), slice(6, 14))
    chances[:, 6:14, 6:14][inside] = [0.5, 0.5, 0]
    chances[:, 0, 0] = [0.2, 0.3, 0.5]
    seen = UncertaintyMap(label.shape, (5.0, 2.5, 2.5), 2)
    seen.see(0, ALL, ALL, label, probabilities)
    assert seen.over(region).means == pytest.approx([LN2, LN2 / 2, 0], rel=NEAR)
    assert seen.over(region).first_slice == 3
    assert seen.over(None).means[0] < LN2 / 10


@pytest.mark.parametrize("batch", [1, 2, 4, 10])
def test_what_is_kept_depends_neither_on_batches_nor_on_parts_nor_on_memory_order(batch):
    rng = np.random.default_rng(0)
    shape, spacing = (10, 40, 50), (3.0, 1.0, 1.0)
    probabilities = rng.dirichlet([1, 1, 1], shape).transpose(0, 3, 1, 2).astype(np.float32)
    label = cube(shape, slice(4, 7), slice(15, 20), slice(20, 30))
    region = Region(label, spacing)
    whole = UncertaintyMap(shape, spacing, 2)
    whole.see(0, ALL, ALL, label, np.ascontiguousarray(probabilities))
    part = UncertaintyMap(shape, spacing, 2)
    rows, columns = slice(8, 32), slice(10, 45)
    for first in reversed(range(0, 10, batch)):
        of = slice(first, first + batch)
        part.see(first, rows, columns, label[of, rows, columns], probabilities[of, :, rows, columns])
    expected, result = whole.over(region), part.over(region)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(1)
    chosen = np.stack([region.mask(z) if z in region.slices else np.zeros_like(region.mask(4)) for z in range(10)])
    assert region.slices == range(3, 8)
    assert expected.means[0] == pytest.approx(entropy[:, region.rows, region.columns][chosen].mean(), rel=NEAR)
    assert result.means == pytest.approx(expected.means, rel=1e-5)
    assert result.first_slice == expected.first_slice
    np.testing.assert_allclose(result.slices, expected.slices, rtol=1e-5)
    assert whole.nbytes == 5 * 3 * 15 * 20 * 2  # float16, around what was found in the slices near


def test_slices_that_are_told_again_replace_what_was_told():
    seen = UncertaintyMap((3, 8, 8), (9.0, 1.0, 1.0), 2)
    seen.see(0, ALL, ALL, *told([0.2, 0.5, 0.3], 3))
    seen.see(1, slice(0, 4), slice(2, 8), *told([0, 1, 0], 1, (4, 6)))
    result = seen.over(None)
    entropy = -sum(p * np.log(p) for p in (0.2, 0.5, 0.3))
    assert result.slices[0] == pytest.approx([64 * entropy / 2, 0, 64 * entropy / 2], rel=NEAR)
    assert result.means[0] == pytest.approx(entropy * 128 / 152, rel=NEAR)  # of what was looked at
    seen.clear()
    assert seen.over(None).means.tolist() == [0, 0, 0]
    assert seen.over(None).slices.shape == (2, 0)
    assert seen.nbytes == 0


def test_slices_between_that_were_not_looked_at_count_nothing():
    seen = UncertaintyMap((9, 8, 8), (9.0, 1.0, 1.0), 2)
    for z in (2, 6):
        seen.see(z, ALL, ALL, *told([0.5, 0.5, 0]))
    result = seen.over(None)
    assert result.means[0] == pytest.approx(LN2, rel=NEAR)
    assert (result.slices[0] > 0).tolist() == [True, False, False, False, True]
    assert result.first_slice == 2
