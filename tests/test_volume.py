"""Geometry of volumes in every orientation."""

import itertools

import numpy as np
import pytest
from nibabel.orientations import aff2axcodes
from scipy.spatial.transform import Rotation

from lib.errors import BadInputError
from lib.volume import Volume, corner_distance, same_geometry

SPACING = (0.7, 0.9, 2.5)
SHAPE = (4, 5, 6)
PERMUTATIONS = list(itertools.permutations(range(3)))
FLIPS = list(itertools.product((1, -1), repeat=3))
EVERY_ORIENTATION = pytest.mark.parametrize(
    ("order", "signs"),
    itertools.product(PERMUTATIONS, FLIPS),
    ids=lambda item: "".join(f"{value:+d}" for value in item),
)


def affine_of(order=(0, 1, 2), signs=(1, 1, 1), *, tilt=None, shear=0.0):
    """Voxel axis i runs along patient axis order[i]; optionally rotated by `tilt` and sheared as a tilted gantry is."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis in range(3):
        affine[order[axis], axis] = signs[axis] * SPACING[axis]
    affine[:3, 2] += shear * affine[:3, 1]
    if tilt is not None:
        affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = (-100.5, 20.25, 300)
    return affine


def numbered(affine, shape=SHAPE):
    return Volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)


def position(affine, index):
    return (affine @ [*index, 1])[:3]


def axial_positions(volume):
    """Where the voxels of `axial()` lie, found by their unique values."""
    axial = volume.axial()
    flat = axial.ravel()
    indices = np.column_stack([*np.unravel_index(flat, volume.shape), np.ones(flat.size)])
    return (volume.affine @ indices.T)[:3].T.reshape(*axial.shape, 3)


def assert_axial(volume):
    """Z grows to the head, Y to the back, X to the patient's left (each the nearest such axis)."""
    positions = axial_positions(volume)
    for axis, (patient_axis, sign) in enumerate(((2, 1), (1, -1), (0, -1))):
        if positions.shape[axis] > 1:
            step = np.diff(positions, axis=axis).reshape(-1, 3)[0]
            assert np.sign(step[patient_axis]) == sign
            assert np.linalg.norm(step) == pytest.approx(volume.axial_spacing[axis])


@EVERY_ORIENTATION
@pytest.mark.parametrize("options", [{}, {"tilt": (7, -9, 12)}, {"shear": 0.2}], ids=["straight", "oblique", "sheared"])
def test_axial_slices_are_axial_and_turn_back(order, signs, options):
    volume = numbered(affine_of(order, signs, **options))
    assert_axial(volume)
    back = volume.with_axial(volume.axial().copy())
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_array_equal(back.affine, volume.affine)
    assert back.array.flags.f_contiguous  # the order of the files
    assert sorted(volume.axial_spacing) == pytest.approx(sorted(volume.spacing))


def test_in_lps_the_axial_slices_are_the_transposed_array():
    volume = numbered(affine_of(signs=(-1, -1, 1)))
    assert aff2axcodes(volume.affine) == ("L", "P", "S")
    np.testing.assert_array_equal(volume.axial(), volume.array.T)
    assert volume.axial_spacing == pytest.approx((2.5, 0.9, 0.7))


def test_axial_is_a_view():
    volume = numbered(affine_of((2, 0, 1), (-1, 1, -1)))
    assert np.shares_memory(volume.axial(), volume.array)


@pytest.mark.parametrize("tilt", [(45, 0, 0), (0, 45, 0), (0, 0, 45), (45, 45, 45), (90, 30, 45)])
def test_tilts_of_half_a_right_angle_turn_back_too(tilt):
    volume = numbered(affine_of(tilt=tilt))
    np.testing.assert_array_equal(volume.with_axial(volume.axial()).array, volume.array)


@pytest.mark.parametrize("shape", [(4, 5, 1), (1, 5, 6), (4, 1, 6), (1, 1, 1)])
def test_single_slices_turn_back(shape):
    volume = numbered(affine_of((2, 0, 1), (-1, 1, -1)), shape)
    assert_axial(volume)
    np.testing.assert_array_equal(volume.with_axial(volume.axial()).array, volume.array)


def test_with_axial_takes_the_dtype_it_is_given_and_refuses_another_shape():
    volume = numbered(affine_of((2, 0, 1)))
    assert volume.with_axial(np.zeros(volume.axial().shape, np.uint8)).array.dtype == np.uint8
    with pytest.raises(BadInputError, match=r"axial voxels of shape \(1, 2, 3\) do not fit this volume's \(4, 6, 5\)"):
        volume.with_axial(np.zeros((1, 2, 3)))


def test_spacing_and_voxel_volume():
    straight, oblique, sheared = affine_of(), affine_of(tilt=(10, 20, 30)), affine_of(shear=0.5)
    assert numbered(oblique).spacing == pytest.approx(SPACING)
    expected = np.prod(SPACING) / 1000
    assert [numbered(affine).voxel_ml for affine in (straight, oblique, sheared)] == pytest.approx([expected] * 3)
    assert numbered(sheared).spacing[2] == pytest.approx(np.hypot(2.5, 0.45))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5, 1), (3, 0, 5), ()])
def test_arrays_that_are_no_volume_are_refused(shape):
    with pytest.raises(BadInputError) as caught:
        Volume(np.zeros(shape), np.eye(4))
    assert str(caught.value) == f"a volume needs three axes with at least one voxel each, not shape {shape}"


@pytest.mark.parametrize(
    "affine",
    [np.eye(3), np.zeros((4, 4)), np.diag([1, 1, 0, 1]), np.diag([1, np.nan, 1, 1]), np.diag([np.inf, 1, 1, 1])],
)
def test_affines_that_place_nothing_are_refused(affine):
    with pytest.raises(BadInputError, match="the affine must be an invertible, finite 4x4 matrix, not "):
        Volume(np.zeros((2, 2, 2)), affine)


def test_same_geometry_looks_at_every_corner():
    first = numbered(affine_of())
    moved, stretched = first.affine.copy(), first.affine.copy()
    moved[0, 3] += 0.5
    stretched[2, 2] += 0.1  # 0.5 mm at the last of six slices
    assert corner_distance(first, numbered(moved)) == pytest.approx(0.5)
    assert corner_distance(first, numbered(stretched)) == pytest.approx(0.5)
    assert same_geometry(first, numbered(moved), tolerance_mm=0.6)
    assert not same_geometry(first, numbered(moved))
    assert same_geometry(first, numbered(first.affine.astype(np.float32)))
    assert not same_geometry(first, numbered(first.affine, (4, 5, 7)))


def test_a_grid_that_is_flipped_in_place_is_another_geometry():
    first = numbered(affine_of())
    flipped = first.affine.copy()
    flipped[:3, 3] = position(first.affine, (SHAPE[0] - 1, 0, 0))
    flipped[:3, 0] *= -1
    assert corner_distance(first, numbered(flipped)) == pytest.approx((SHAPE[0] - 1) * SPACING[0])
