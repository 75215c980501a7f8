import numpy as np
import pytest
from scipy import ndimage

from lib.errors import BadInputError
from lib.metrics.surface import surface, surface_distances


def ball(shape, center, radius):
    grid = np.indices(shape).T - np.array(center)
    return ((grid**2).sum(-1) <= radius**2).T


@pytest.mark.parametrize("seed", range(10))
def test_surface_is_the_mask_without_its_erosion_by_18_neighbors(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 9, size=3)) < 0.9
    eroded = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 2))
    assert np.array_equal(surface(mask), mask & ~eroded)


def test_a_mask_that_fills_the_grid_has_its_surface_at_the_border():
    assert np.count_nonzero(surface(np.ones((5, 5, 5)))) == 125 - 27


def test_single_voxels_a_known_distance_apart():
    one, other = np.zeros((2, 5, 6, 7), np.uint8)
    one[0, 0, 0] = other[3, 4, 0] = 1
    distances = surface_distances(one, other, (1.0, 1.0, 9.0))
    assert (distances.assd, distances.rmsd, distances.msd) == pytest.approx((5.0, 5.0, 5.0))
    scaled = surface_distances(one, other, (2.0, 0.5, 9.0))
    assert scaled.msd == pytest.approx(np.hypot(6.0, 2.0))


def test_concentric_boxes():
    small, large = np.zeros((2, 9, 9, 9), bool)
    small[4, 4, 4] = True
    large[3:6, 3:6, 3:6] = True
    distances = surface_distances(large, small, (1.0, 1.0, 1.0))
    # 26 surface voxels of the large box: 6 faces, 12 edges, 8 corners; back from the center it is 1 to a face.
    all_distances = [1.0] * 6 + [2**0.5] * 12 + [3**0.5] * 8 + [1.0]
    assert distances.assd == pytest.approx(np.mean(all_distances))
    assert distances.rmsd == pytest.approx(np.sqrt(np.mean(np.square(all_distances))))
    assert distances.msd == pytest.approx(3**0.5)


def test_identical_masks_are_zero_apart():
    mask = ball((9, 9, 9), (4, 4, 4), 3)
    assert surface_distances(mask, mask, (1, 2, 3)).msd == 0


def test_symmetric_and_independent_of_the_surrounding_background():
    one, other = ball((14, 12, 10), (5, 5, 5), 4), ball((14, 12, 10), (8, 6, 5), 3)
    distances = surface_distances(one, other, (0.7, 0.8, 3.0))
    back = surface_distances(other, one, (0.7, 0.8, 3.0))
    assert (distances.assd, distances.msd) == pytest.approx((back.assd, back.msd), abs=1e-12)
    padded = surface_distances(np.pad(one, 4), np.pad(other, 4), (0.7, 0.8, 3.0))
    assert padded == distances


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_no_distance_to_nothing(empty):
    masks = [np.ones((3, 3, 3)), np.ones((3, 3, 3))]
    for side in range(2):
        if empty in (side, 2):
            masks[side][:] = 0
    assert surface_distances(*masks, (1, 1, 1)) is None


def test_bad_input_is_refused():
    mask = np.ones((2, 2, 2))
    with pytest.raises(BadInputError, match=r"of one shape, not \(2, 2, 2\) and \(1, 2, 2\)"):
        surface_distances(mask, mask[:1], (1, 1, 1))
    with pytest.raises(BadInputError, match=r"three positive numbers in mm, not \(1, -1, 1\)"):
        surface_distances(mask, mask, (1, -1, 1))
