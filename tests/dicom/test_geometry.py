"""How slices stack: order, affine, and what does not make a volume."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from lib.dicom import read_series
from lib.volume_io import read_image
from tests.dicom.written import (
    AXIAL,
    COLUMNS,
    ROWS,
    SLICES,
    STEP,
    at,
    expected_affine,
    make_slice,
    message,
    save,
    stored_values,
    write_series,
)  # fmt: skip

ORIENTATIONS = {
    "axial": AXIAL,
    "turned on the table": (0.0, 1, 0, -1, 0, 0),
    "prone": (-1.0, 0, 0, 0, -1, 0),
    "feet first": (-1.0, 0, 0, 0, 1, 0),
    "coronal": (1.0, 0, 0, 0, 0, -1),
    "sagittal": (0.0, 1, 0, 0, 0, -1),
    "oblique": tuple(np.ravel(Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix()[:, :2].T)),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_geometry_of_every_orientation_as_itk_sees_it(tmp_path, orientation):
    array, affine = read_series(write_series(tmp_path, orientation=orientation))
    np.testing.assert_allclose(affine, expected_affine(orientation), atol=1e-9)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(image).T)
    for index in [(0, 0, 0), (35, 39, 3), (1, 4, 2)]:
        position = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose((affine @ [*index, 1])[:3], position, atol=1e-3)


def test_a_tilted_gantry_gives_a_sheared_affine(tmp_path):
    step = (0, 0.4, STEP)  # each slice lies 0.4 mm further back: tilt of 9 degrees
    _, affine = read_series(write_series(tmp_path, step=step))
    np.testing.assert_allclose(affine, expected_affine(step=step))
    assert read_image(tmp_path).voxel_ml == pytest.approx(0.8 * 0.7 * 2.5 / 1000)


def test_a_gantry_that_tilts_the_slices_themselves(tmp_path):
    tilt = np.radians(15)
    orientation = (1.0, 0, 0, 0, np.cos(tilt), np.sin(tilt))  # the table moves along z, the slices lean
    array, affine = read_series(write_series(tmp_path, orientation=orientation, step=(0, 0, STEP)))
    np.testing.assert_allclose(affine, expected_affine(orientation, step=(0, 0, STEP)), atol=1e-9)
    np.testing.assert_array_equal(array[:, :, 1], stored_values()[1].T.astype(int) - 1024)
    assert read_image(tmp_path).voxel_ml == pytest.approx(0.8 * 0.7 * 2.5 * np.cos(tilt) / 1000)


def test_a_single_slice_has_its_thickness(tmp_path):
    array, affine = read_series(write_series(tmp_path, stored_values()[:1]))
    assert array.shape == (COLUMNS, ROWS, 1)
    np.testing.assert_allclose(affine, expected_affine())
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SliceThickness = None
        dataset.save_as(path)
    np.testing.assert_allclose(read_series(tmp_path)[1], expected_affine(step=(0, 0, 1)))


def test_small_jitter_of_positions_is_accepted(tmp_path):
    for k, plane in enumerate(stored_values()):
        save(make_slice(plane, at(0.001 * k, 0, STEP * k + 0.01 * (k % 2))), tmp_path / f"{k}")
    _, affine = read_series(tmp_path)
    assert affine[2, 2] == pytest.approx(STEP, abs=0.01)


# Slices that come more than once


def test_copies_of_a_slice_count_once(tmp_path):
    write_series(tmp_path, order=range(SLICES))
    (tmp_path / "copy").write_bytes((tmp_path / "IM0001").read_bytes())
    other_identity = pydicom.dcmread(tmp_path / "IM0002")
    other_identity.SOPInstanceUID = other_identity.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    other_identity.save_as(tmp_path / "sent-again")
    array, affine = read_series(tmp_path)
    np.testing.assert_array_equal(array, stored_values().transpose(2, 1, 0).astype(int) - 1024)
    np.testing.assert_allclose(affine, expected_affine())


def test_several_phases(tmp_path):
    write_series(tmp_path)
    for k, plane in enumerate(stored_values(seed=1)[:2]):
        save(make_slice(plane, at(0, 0, k * STEP)), tmp_path / f"later-{k}")
    assert message(tmp_path) == (
        ": 2 of 4 positions hold slices with different pixels: several phases or reconstructions in one series; "
        "export each as a series of its own"
    )


def test_different_slices_with_one_identity(tmp_path):
    for k, plane in enumerate(stored_values()):
        save(make_slice(plane, at(0, 0, k * STEP), SOPInstanceUID="1.2.3.4"), tmp_path / f"{k}")
    assert message(tmp_path) == (
        ": slices at different positions have the same SOP Instance UID, so that a segmentation could not say which "
        "it means; export the series again"
    )


def test_slices_beside_each_other_at_one_height(tmp_path):
    write_series(tmp_path)
    save(make_slice(stored_values()[0], at(30, 40, 0)), tmp_path / "aside")
    assert message(tmp_path) == (
        ": two slices at 300.0 mm lie 50.0 mm beside each other; give a folder with one series"
    )


# Gaps


def write_at(folder, heights, numbers=None):
    for k, height in enumerate(heights):
        number = {} if numbers is None else {"InstanceNumber": numbers[k]}
        save(make_slice(stored_values()[0], at(0, 0, height), **number), folder / f"{k}")


@pytest.mark.parametrize(
    ("heights", "numbers", "expected"),
    [
        (
            [0, 2.5, 7.5, 10, 12.5],
            [1, 2, 4, 5, 6],
            ": 1 slice is missing between 302.5 and 307.5 mm (instance numbers 2 and 4)",
        ),
        ([0, 2.5, 5, 15, 17.5], None, ": 3 slices are missing between 305.0 and 315.0 mm"),
        (
            [0, 5, 7.5, 10, 12.5, 15, 17.5, 25, 27.5, 30],
            None,
            ": 3 slices are missing in 2 places, first between 300.0 and 305.0 mm",
        ),
    ],
)
def test_missing_slices(tmp_path, heights, numbers, expected):
    write_at(tmp_path, heights, numbers)
    assert message(tmp_path) == expected + "; fetch or copy the whole series again"


@pytest.mark.parametrize(
    ("heights", "numbers", "gap", "elsewhere"),
    [
        ([0, 2.5, 5.5, 8], [4, 3, 2, 1], "3.00 mm between 302.5 and 305.5 mm (instance numbers 3 and 2)", 2.5),
        ([0, 2.5, 5, 11.1, 13.6], None, "6.10 mm between 305.0 and 311.1 mm", 2.5),
        ([0, 2.5, 5, 5.8, 8.3], None, "0.80 mm between 305.0 and 305.8 mm", 2.5),
        ([0, 1.25, 2.5, 3.75, 5, 7.5, 10, 12.5], None, "2.50 mm between 305.0 and 307.5 mm", 1.25),
    ],
    ids=["too wide", "no multiple", "too narrow", "spacing that changes"],
)
def test_uneven_spacing(tmp_path, heights, numbers, gap, elsewhere):
    write_at(tmp_path, heights, numbers)
    assert message(tmp_path) == (
        f": the slices are unevenly spaced: {gap} but {elsewhere:.2f} mm elsewhere; fetch the whole series again, or "
        "resample it to even spacing"
    )


def test_a_slice_beside_the_others(tmp_path):
    for k, plane in enumerate(stored_values()):
        save(make_slice(plane, at(8 * (k == 2), 0, STEP * k)), tmp_path / f"{k}")
    assert message(tmp_path) == ": slice 3 lies 8.0 mm beside the line of the others"


# Slices that do not belong together


def test_several_orientations_are_counted(tmp_path):
    write_series(tmp_path, stored_values()[:3])
    coronal = (1.0, 0, 0, 0, 0, -1)
    turned = (np.cos(0.05), np.sin(0.05), 0, -np.sin(0.05), np.cos(0.05), 0)
    for k in range(2):
        save(make_slice(stored_values()[0], at(0, 7 * k, 0), coronal), tmp_path / f"A{k}")
    save(make_slice(stored_values()[0], at(0, 0, 20), turned), tmp_path / "B")
    assert message(tmp_path) == (
        ": the slices have different orientations (3 axial, 2 coronal, 1 axial turned by 2.9 degrees); give a folder "
        "with one axial series"
    )


def test_pixel_spacings_that_differ(tmp_path):
    write_series(tmp_path, stored_values()[:2])
    save(make_slice(stored_values()[2], at(0, 0, 2 * STEP), PixelSpacing=[0.9, 0.7]), tmp_path / "A")
    assert message(tmp_path) == ": slices with pixels of 0.9x0.7 and 0.8x0.7 mm are mixed"


def test_sizes_that_differ(tmp_path):
    write_series(tmp_path, stored_values()[:2])
    position = at(0, 0, 2 * STEP)
    save(make_slice(np.zeros((8, 8), np.uint16), position), tmp_path / "Z")
    assert message(tmp_path) == ": slices of 40x36 and 8x8 are mixed"
