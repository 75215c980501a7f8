"""Multi-frame CT: the same volumes as from one file per slice."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    LegacyConvertedEnhancedCTImageStorage,
)

from lib.dicom import read_headers, read_series, series_grid
from tests.dicom.written import (
    AXIAL,
    ORIGIN,
    SLICES,
    STEP,
    at,
    expected_affine,
    frame,
    make_slice,
    message,
    recompress,
    save,
    stored_values,
    write_enhanced,
)  # fmt: skip

SHARED = (
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
)


def frames(order=range(SLICES), **attributes):
    return [frame(stored_values()[k], at(0, 0, k * STEP), **attributes) for k in order]


def check(folder):
    array, affine = read_series(folder)
    np.testing.assert_array_equal(array, stored_values().transpose(2, 1, 0).astype(int) - 1024)
    np.testing.assert_allclose(affine, expected_affine())


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
@pytest.mark.parametrize("shared", [(), SHARED], ids=["per frame", "shared"])
def test_frames_in_any_order(tmp_path, order, shared):
    write_enhanced(tmp_path / "all", frames(order), shared=shared)
    check(tmp_path)


def test_single_slices_that_were_converted(tmp_path):
    kind = LegacyConvertedEnhancedCTImageStorage
    write_enhanced(tmp_path / "all", frames([1, 0, 2, 3], StackID=None, FrameType=None, RescaleType=None), kind=kind)
    check(tmp_path)


def test_geometry_as_itk_sees_it(tmp_path):
    turned = [0.0, 1, 0, -1, 0, 0]
    write_enhanced(tmp_path / "all", frames(ImageOrientationPatient=turned), shared=SHARED)
    array, affine = read_series(tmp_path)
    image = sitk.ReadImage(tmp_path / "all")
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(image).T)
    for index in [(0, 0, 0), (35, 39, 3), (1, 4, 2)]:
        position = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose((affine @ [*index, 1])[:3], position, atol=1e-3)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless])
def test_compressed_frames(tmp_path, syntax):
    write_enhanced(tmp_path / "all", frames([1, 0, 2, 3]))
    recompress(tmp_path / "all", syntax)
    check(tmp_path)


def test_a_concatenation_and_single_frames(tmp_path):
    write_enhanced(tmp_path / "a", frames([2]))
    write_enhanced(tmp_path / "b", frames([3, 1, 0]))
    check(tmp_path)


def test_each_frame_has_its_own_rescaling(tmp_path):
    pixels = stored_values()
    double = frame(pixels[0], ORIGIN, RescaleSlope=2, RescaleIntercept=-1000)
    several = [double, frame(pixels[1], at(0, 0, STEP))]
    write_enhanced(tmp_path / "all", several)
    array, _ = read_series(tmp_path)
    np.testing.assert_array_equal(array[:, :, 0], 2 * pixels[0].T.astype(int) - 1000)
    np.testing.assert_array_equal(array[:, :, 1], pixels[1].T.astype(int) - 1024)


def test_a_frame_s_own_group_counts_before_the_shared_one(tmp_path):
    several = frames()
    write_enhanced(tmp_path / "all", several, shared=SHARED)
    dataset = pydicom.dcmread(tmp_path / "all")
    dataset.SharedFunctionalGroupsSequence[0].PlanePositionSequence = [pydicom.Dataset()]
    dataset.SharedFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]
    dataset.save_as(tmp_path / "all")
    check(tmp_path)


def test_frames_say_where_they_are(tmp_path):
    write_enhanced(tmp_path / "all", frames([2, 0, 3, 1]))
    series = series_grid(read_headers(tmp_path), "CT")
    assert [item.frame_number for item in series.slices] == [2, 4, 1, 3]
    assert len({item.sop_instance_uid for item in series.slices}) == 1
    assert {item.sop_class_uid for item in series.slices} == {EnhancedCTImageStorage}


def test_the_same_object_twice(tmp_path):
    write_enhanced(tmp_path / "all", frames())
    (tmp_path / "copy").write_bytes((tmp_path / "all").read_bytes())
    check(tmp_path)


def test_localizers_are_left_out(tmp_path):
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    coronal = [1, 0, 0, 0, 0, -1]
    scouts = [frame(stored_values()[0], ORIGIN, FrameType=scout, ImageOrientationPatient=coronal)]
    write_enhanced(tmp_path / "all", scouts + frames())
    write_enhanced(tmp_path / "scout", frames([2], ImageOrientationPatient=coronal), ImageType=scout)
    check(tmp_path)


def test_a_tilted_gantry(tmp_path):
    step = np.array((0, 0.4, STEP))
    several = [frame(stored_values()[k], ORIGIN + k * step) for k in (1, 0, 2, 3)]
    write_enhanced(tmp_path / "all", several)
    np.testing.assert_allclose(read_series(tmp_path)[1], expected_affine(AXIAL, step))


# What is refused


def test_several_stacks(tmp_path):
    second = [frame(stored_values()[0], at(0, 0, 100 + k * STEP), StackID="2") for k in range(2)]
    write_enhanced(tmp_path / "all", frames() + second)
    assert message(tmp_path) == (": 2 stacks in one series (4 slices, 2 slices); export each as a series of its own")


def test_several_phases(tmp_path):
    write_enhanced(tmp_path / "all", [*frames(), frame(stored_values(1)[0], ORIGIN)])
    assert message(tmp_path).startswith(": 1 of 4 positions hold slices with different pixels")


def test_a_missing_frame(tmp_path):
    write_enhanced(tmp_path / "all", [frame(stored_values()[0], at(0, 0, k * STEP)) for k in (5, 4, 3, 1, 0)])
    assert message(tmp_path) == (
        ": 1 slice is missing between 302.5 and 307.5 mm (frames 4 and 3); fetch or copy the whole series again"
    )


@pytest.mark.parametrize("name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_frame_without_what_it_needs(tmp_path, name):
    several = frames()
    several[2][name] = None
    write_enhanced(tmp_path / "all", several)
    assert message(tmp_path) == (
        f"/all, frame 3: lacks {name}; the file is damaged or not a CT slice: copy it again or remove it"
    )


@pytest.mark.parametrize("announced", [3, 5])
def test_frames_without_description(tmp_path, announced):
    write_enhanced(tmp_path / "all", frames())
    dataset = pydicom.dcmread(tmp_path / "all")
    dataset.NumberOfFrames = announced
    dataset.save_as(tmp_path / "all")
    assert message(tmp_path) == (
        f"/all: {announced} frames announced but 4 described; the file is damaged: copy it again, or export the series "
        "with one file per slice"
    )


def test_frames_beside_single_slices_of_another_series(tmp_path):
    write_enhanced(tmp_path / "all", frames())
    save(make_slice(stored_values()[0], ORIGIN, series="1.2.9", SOPClassUID=CTImageStorage), tmp_path / "one")
    assert message(tmp_path) == ": 2 CT series found (4 slices, 1 slices); give a folder with one"
