from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from lib.errors import BadInputError
from lib.transforms.postprocessing import PostprocessingSettings, postprocess

MM = (1.0, 1.0, 1.0)
OFF = PostprocessingSettings(largest_liver=False, fill_holes=False, tumor_in_hull=False, drop_specks=False)
SPACINGS = st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3)
SETTINGS = st.builds(
    PostprocessingSettings,
    largest_liver=st.booleans(),
    fill_holes=st.booleans(),
    tumor_in_hull=st.booleans(),
    drop_specks=st.booleans(),
    hull_margin_mm=st.sampled_from([0.0, 1.0, 2.0]),
    min_tumor_mm3=st.sampled_from([0.0, 1.0, 3.0]),
)


@st.composite
def noisy_labels(draw: Any) -> np.ndarray:
    """Noise of any density, and often a block of liver in it, so that there are bridges, islands and cavities."""
    shape = draw(array_shapes(min_dims=3, max_dims=3, max_side=8))
    frequencies = draw(
        st.sampled_from([(0, 0, 0, 1, 2), (0, 1, 2), (0, 1, 1, 1, 1, 2), (0, 0, 0, 0, 0, 1), (2, 2, 0, 1)])
    )
    label = np.random.default_rng(draw(st.integers(0, 2**32))).choice(np.array(frequencies, np.uint8), shape)
    if draw(st.booleans()):
        low = [draw(st.integers(0, size - 1)) for size in shape]
        label[low[0] : low[0] + 4, low[1] : low[1] + 4, low[2] : low[2] + 4] = draw(st.integers(0, 2))
    return label


def only(**steps: Any) -> PostprocessingSettings:
    return OFF.changed(steps)


def ball(shape: tuple[int, int, int], center: tuple[float, ...], radius: float, spacing: tuple[float, ...] = MM) -> Any:
    """Voxels within `radius` mm of `center` (mm), as a mask."""
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    squares = [(axis * step - middle) ** 2 for axis, step, middle in zip(axes, spacing, center, strict=True)]
    return squares[0] + squares[1] + squares[2] <= radius**2


def liver_block() -> np.ndarray:
    """A liver of 20 x 30 x 30 mm in the middle of (40, 60, 60)."""
    label = np.zeros((40, 60, 60), np.uint8)
    label[10:30, 15:45, 15:45] = 1
    return label


# --- properties of every label -------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(label=noisy_labels(), spacing=SPACINGS, chosen=SETTINGS)
def test_result_is_final_and_never_adds_tumor(label: np.ndarray, spacing: Any, chosen: PostprocessingSettings) -> None:
    before = label.copy()
    result = postprocess(label, spacing, chosen)

    np.testing.assert_array_equal(label, before)
    assert result.dtype == np.uint8
    assert result.shape == label.shape
    assert not np.shares_memory(result, label)
    assert (label[result == 2] == 2).all()
    np.testing.assert_array_equal(postprocess(result, spacing, chosen), result)


@settings(max_examples=50, deadline=None)
@given(
    label=arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 2)),
    spacing=SPACINGS,
)
def test_nothing_happens_with_every_step_off(label: np.ndarray, spacing: Any) -> None:
    np.testing.assert_array_equal(postprocess(label, spacing, OFF), label)


@settings(max_examples=100, deadline=None)
@given(label=noisy_labels(), spacing=SPACINGS, chosen=SETTINGS, order=st.permutations([0, 1, 2]))
def test_axes_have_no_direction_and_no_rank(label: np.ndarray, spacing: Any, chosen: Any, order: Any) -> None:
    chosen = chosen.changed({"largest_liver": False})  # of two equally large pieces the first one is the liver
    if 1 in label.shape:
        chosen = chosen.changed({"fill_holes": False})  # a single slice is filled in its plane
    moved = np.flip(label.transpose(order), axis=1)
    result = postprocess(moved, [spacing[axis] for axis in order], chosen)

    expected = np.flip(postprocess(label, spacing, chosen).transpose(order), axis=1)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("axes", [0, 1, 2, (0, 1, 2)])
def test_flipped_volume_gives_the_flipped_result(axes: Any) -> None:
    label = liver_block()
    label[20, 30, 30] = 0
    label[ball(label.shape, (20, 30, 12), 6)] = 2
    label[ball(label.shape, (20, 55, 55), 3)] = 2
    label[2:4, 2:4, 2:4] = 1

    np.testing.assert_array_equal(postprocess(np.flip(label, axes), MM), np.flip(postprocess(label, MM), axes))


# --- largest liver -------------------------------------------------------------------------------------------------


def test_smaller_pieces_of_liver_go() -> None:
    label = liver_block()
    label[2:6, 2:6, 2:6] = 1

    np.testing.assert_array_equal(postprocess(label, MM, only(largest_liver=True)), liver_block())


def test_pieces_that_meet_at_a_corner_are_one() -> None:
    label = liver_block()
    label[30, 45, 45] = 1

    assert postprocess(label, MM, only(largest_liver=True))[30, 45, 45] == 1


def test_tumor_through_the_whole_liver_does_not_split_it() -> None:
    label = liver_block()
    label[10:30, 15:45, 20:35] = 2

    np.testing.assert_array_equal(postprocess(label, MM), label)


def test_big_tumor_mass_without_liver_is_not_taken_for_the_liver() -> None:
    label = np.zeros((20, 60, 60), np.uint8)
    label[5:15, 5:15, 5:15] = 1
    label[:, 25:, 25:] = 2

    result = postprocess(label, MM)

    assert (result == 1).sum() == 1000
    assert not (result == 2).any()


def test_pieces_held_together_only_by_a_dropped_speck_fall_apart() -> None:
    label = np.zeros((7, 7, 20), np.uint8)
    label[:, :, :10] = 1
    label[3, 3, 10] = 2  # between three free sides and two of liver
    label[3, 3, 11:14] = 1

    result = postprocess(label, MM)

    assert (result[:, :, :10] == 1).all()
    assert not result[:, :, 10:].any()


# --- holes ---------------------------------------------------------------------------------------------------------


def test_enclosed_holes_become_liver_even_between_liver_and_tumor() -> None:
    label = liver_block()
    label[10:30, 15:45, 30:45] = 2
    whole = label.copy()
    label[15:18, 20:24, 28:32] = 0
    whole[15:18, 20:24, 28:32] = 1

    np.testing.assert_array_equal(postprocess(label, MM, only(fill_holes=True)), whole)


@settings(max_examples=200, deadline=None)
@given(label=noisy_labels())
def test_holes_are_those_of_scipy(label: np.ndarray) -> None:
    liver = (label > 0).astype(np.uint8)
    outside = np.pad(liver[0] if len(liver) == 1 else liver, 1)
    expected = ndimage.binary_fill_holes(outside)[(slice(1, -1),) * outside.ndim].reshape(liver.shape)

    np.testing.assert_array_equal(postprocess(liver, MM, only(fill_holes=True)), expected)


def test_vessel_that_leaves_the_liver_stays_open() -> None:
    label = liver_block()
    label[15:30, 28:32, 28:32] = 0  # closed in every axial slice, open at the top

    np.testing.assert_array_equal(postprocess(label, MM), label)


def test_hole_closed_by_edges_only_counts_as_open_not_through_them() -> None:
    label = liver_block()
    label[10, 16, 20] = label[11, 17, 20] = 0  # the inner voxel shares an edge with the outer one: no way through faces

    result = postprocess(label, MM, only(fill_holes=True))

    assert result[11, 17, 20] == 1
    assert result[10, 16, 20] == 0


def test_hole_at_the_end_of_the_scan_is_open() -> None:
    label = np.ones((5, 9, 9), np.uint8)
    label[:2, 4, 4] = 0

    np.testing.assert_array_equal(postprocess(label, MM), label)


def test_single_slice_is_filled_in_its_plane() -> None:
    label = np.zeros((1, 20, 20), np.uint8)
    label[0, 3:17, 3:17] = 1
    expected = label.copy()
    label[0, 8:10, 8:10] = 0

    np.testing.assert_array_equal(postprocess(label, MM), expected)


# --- tumors in the hull --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [-6, -3, 0, 3, 6, 8])
def test_tumor_at_the_border_survives_whole(depth: int) -> None:
    """A ball of 16 mm whose center lies `depth` mm outside the liver's surface, from almost inside to touching."""
    label = liver_block()
    tumor = ball(label.shape, (20, 30, 44 + depth), 8)
    label[tumor] = 2

    np.testing.assert_array_equal(postprocess(label, MM) == 2, tumor)


def test_tumor_as_large_as_a_lobe_survives() -> None:
    label = np.zeros((80, 140, 160), np.uint8)
    label[20:60, 30:110, 10:70] = 1
    tumor = ball(label.shape, (40, 70, 90), 38)
    label[tumor] = 2

    np.testing.assert_array_equal(postprocess(label, MM) == 2, tumor)


def test_tumor_inside_the_liver_survives_at_margin_zero() -> None:
    label = liver_block()
    tumor = ball(label.shape, (20, 30, 30), 8)
    label[tumor] = 2

    np.testing.assert_array_equal(postprocess(label, MM, only(tumor_in_hull=True, hull_margin_mm=0)), label)


def test_tumors_in_other_organs_go() -> None:
    label = np.zeros((60, 120, 160), np.uint8)
    label[20:40, 20:60, 10:70] = 1
    label[20:40, 20:40, 70:110] = 1  # left lobe, with the stomach below it
    liver = label.copy()
    label[ball(label.shape, (30, 60, 95), 8)] = 2  # stomach: inside the convex hull of the liver, 12 mm from it
    label[ball(label.shape, (30, 100, 50), 10)] = 2  # spine
    label[25:35, 50:60, 140:150] = 2  # spleen

    np.testing.assert_array_equal(postprocess(label, MM), liver)


def test_whole_kidney_beside_the_liver_goes() -> None:
    label = np.zeros((80, 140, 100), np.uint8)
    label[10:70, 10:60, 10:90] = 1
    liver = label.copy()
    label[ball(label.shape, (40, 94, 50), 31)] = 2  # 3 mm of fat between

    np.testing.assert_array_equal(postprocess(label, MM), liver)


@pytest.mark.parametrize(("gap_mm", "survives"), [(4.0, True), (5.0, True), (6.0, False)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_margin_is_in_millimeters_along_every_axis(axis: int, gap_mm: float, survives: bool) -> None:
    spacing = (2.0, 1.0, 0.5)
    label = np.zeros((40, 50, 60), np.uint8)
    label[5:15, 5:15, 5:15] = 1
    place = [slice(5, 15)] * 3
    position = 14 + int(gap_mm / spacing[axis])
    place[axis] = slice(position, position + 2)
    label[tuple(place)] = 2

    result = postprocess(label, spacing, only(tumor_in_hull=True, hull_margin_mm=5))

    assert (result == 2).any() == survives


def test_tumor_of_a_removed_piece_is_judged_by_its_place() -> None:
    label = liver_block()
    label[20:24, 20:24, 50:56] = 1  # a second piece: far with its tumor
    label[20:24, 20:24, 56:59] = 2
    label[20:24, 30:34, 46:50] = 2  # 2 mm from the liver, near

    result = postprocess(label, MM)

    assert not result[20:24, 20:24, 50:].any()
    assert (result[20:24, 30:34, 46:50] == 2).all()


def test_tumor_in_a_cavity_of_the_liver_survives() -> None:
    label = liver_block()
    label[13:27, 20:40, 20:40] = 0
    label[18:22, 28:32, 28:32] = 2

    result = postprocess(label, MM)

    assert (result == 2).sum() == 64
    assert (result[13:27, 20:40, 20:40] > 0).all()


# --- specks --------------------------------------------------------------------------------------------------------


def test_speck_becomes_what_is_around_it() -> None:
    label = liver_block()
    label[20, 30, 30:34] = 2  # inside
    label[20, 30, 45:49] = 2  # outside, touching
    label[20, 20:25, 15] = 2  # in the liver's outermost layer

    result = postprocess(label, MM)

    np.testing.assert_array_equal(result, liver_block())


@pytest.mark.parametrize(("length", "survives"), [(7, False), (8, True)])
def test_speck_size_is_in_cubic_millimeters(length: int, survives: bool) -> None:
    label = liver_block()
    label[20, 30, 20 : 20 + length] = 2
    spacing = (5.0, 0.75, 1.0)  # 3.75 mm3: eight voxels are 30 mm3

    assert (postprocess(label, spacing) == 2).any() == survives


def test_speck_counts_with_its_diagonal_neighbors() -> None:
    label = liver_block()
    for step in range(4):
        label[20, 20 + step, 20 + step] = 2

    assert (postprocess(label, MM, only(drop_specks=True, min_tumor_mm3=4)) == 2).sum() == 4
    assert (postprocess(label, MM, only(drop_specks=True, min_tumor_mm3=4.5)) == 2).sum() == 0


def test_speck_in_a_single_slice_of_liver_becomes_liver() -> None:
    label = np.ones((1, 9, 9), np.uint8)
    label[0, 3:6, 3:6] = 2

    assert (postprocess(label, MM) == 1).all()


# --- edges of the definition ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 6), (4, 5, 6)])
def test_nothing_and_nothing_but_liver_stay(value: int, shape: tuple[int, int, int]) -> None:
    label = np.full(shape, value, np.uint8)

    np.testing.assert_array_equal(postprocess(label, MM), label)


def test_without_liver_only_specks_are_dropped() -> None:
    label = np.zeros((10, 30, 30), np.uint8)
    label[2:8, 2:8, 2:8] = 2
    label[4, 4, 4] = 0
    label[2:8, 20:26, 20:26] = 2
    expected = label.copy()
    label[0, 29, 0] = 2

    np.testing.assert_array_equal(postprocess(label, MM), expected)


def test_any_memory_order_gives_the_same() -> None:
    label = liver_block()
    label[ball(label.shape, (20, 30, 44), 8)] = 2
    label[0, 0, 0] = 1
    view = np.asfortranarray(label)
    read_only = label.copy()
    read_only.flags.writeable = False

    np.testing.assert_array_equal(postprocess(view, MM), postprocess(label, MM))
    np.testing.assert_array_equal(postprocess(read_only, MM), postprocess(label, MM))


@pytest.mark.parametrize(
    ("label", "spacing", "message"),
    [
        (np.zeros((2, 3), np.uint8), MM, r"not uint8 of shape \(2, 3\)"),
        (np.zeros((1, 2, 3), np.int16), MM, r"not int16 of shape"),
        (np.zeros((0, 2, 3), np.uint8), MM, r"with voxels"),
        (np.full((1, 2, 3), 3, np.uint8), MM, "but the label holds 3"),
        (np.zeros((1, 2, 3), np.uint8), (1, 0, 1), r"three positive lengths .* not \(1, 0, 1\)"),
        (np.zeros((1, 2, 3), np.uint8), (1, 1), r"three positive lengths"),
        (np.zeros((1, 2, 3), np.uint8), (1, 1, float("nan")), r"three positive lengths"),
    ],
)
def test_wrong_input_is_named(label: np.ndarray, spacing: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        postprocess(label, spacing)


def test_settings_change_per_request_and_name_what_is_wrong() -> None:
    assert PostprocessingSettings().changed({"min_tumor_mm3": 5}).min_tumor_mm3 == 5
    with pytest.raises(
        BadInputError, match="can't take hull_margin_mm = -1: Input should be greater than or equal to 0"
    ):
        PostprocessingSettings().changed({"hull_margin_mm": -1})
    with pytest.raises(
        BadInputError, match="can't take margin = 3: Extra inputs are not permitted; the keys are largest_liver"
    ):
        PostprocessingSettings().changed({"margin": 3})
