"""A folder with a CT series: which files count, in which order, what is known of it without pixels."""

import json

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from lib.dicom import read_headers, read_series, series_grid
from lib.errors import BadInputError
from lib.volume_io import read_image
from tests.dicom.written import (
    COLUMNS,
    ORIGIN,
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


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless])
def test_slices_are_ordered_by_position_and_rescaled(tmp_path, syntax):
    array, affine = read_series(write_series(tmp_path, syntax=syntax))
    np.testing.assert_array_equal(array, stored_values().transpose(2, 1, 0).astype(int) - 1024)
    np.testing.assert_allclose(affine, expected_affine())
    assert array.dtype == np.int16
    assert array.shape == (COLUMNS, ROWS, SLICES)


@pytest.mark.parametrize("order", [range(SLICES), range(SLICES - 1, -1, -1)], ids=["feet first", "head first"])
def test_the_order_of_files_makes_no_difference(tmp_path, order):
    array, affine = read_series(write_series(tmp_path, order=list(order)))
    np.testing.assert_array_equal(array[:, :, 0], stored_values()[0].T.astype(int) - 1024)
    np.testing.assert_allclose(affine, expected_affine())


def test_other_files_are_ignored(tmp_path):
    write_series(tmp_path)
    (tmp_path / "notes.txt").write_text("to be segmented")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "picture.png").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "._IM0001").write_bytes(bytes(128) + b"DICM" + bytes(100))
    (tmp_path / "folder").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "label.nii")
    save(make_slice(stored_values()[0], ORIGIN, series="9", Modality="MR", SOPClassUID=MRImageStorage), tmp_path / "mr")
    report = make_slice(stored_values()[0], ORIGIN, series="9", SOPClassUID=SecondaryCaptureImageStorage)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(report, name)
    save(report, tmp_path / "dose")
    array, _ = read_series(tmp_path)
    assert array.shape == (COLUMNS, ROWS, SLICES)


LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


@pytest.mark.parametrize("series", ["1.2.3", "1.2.9"], ids=["same series", "own series"])
def test_localizers_reports_and_screenshots_are_left_out(tmp_path, series):
    write_series(tmp_path)
    plane = stored_values()[0]
    coronal = (1.0, 0, 0, 0, 0, -1)
    save(make_slice(np.zeros((64, 8), np.uint16), ORIGIN, coronal, series=series, ImageType=LOCALIZER), tmp_path / "A")
    screenshot = make_slice(plane, at(0, 0, 1), series=series, SOPClassUID=SecondaryCaptureImageStorage)
    save(screenshot, tmp_path / "B")
    page = make_slice(plane, ORIGIN, series=series, ImageType=["DERIVED", "SECONDARY", "OTHER", "CSA REPORT"])
    del page.ImagePositionPatient, page.ImageOrientationPatient
    save(page, tmp_path / "C")
    report = make_slice(plane, ORIGIN, series=series, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR")
    del report.PixelData, report.Rows, report.Columns, report.ImagePositionPatient
    save(report, tmp_path / "D")
    array, affine = read_series(tmp_path)
    np.testing.assert_array_equal(array, stored_values().transpose(2, 1, 0).astype(int) - 1024)
    np.testing.assert_allclose(affine, expected_affine())


def test_secondary_captures_count_where_there_is_nothing_else(tmp_path):
    array, _ = read_series(write_series(tmp_path, SOPClassUID=SecondaryCaptureImageStorage))  # as ITK writes volumes
    np.testing.assert_array_equal(array, stored_values().transpose(2, 1, 0).astype(int) - 1024)


# What headers alone tell


IDENTITY = {"StudyInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.5", "PatientID": "0815", "PatientName": "Doe^Jane"}


def test_identity_and_geometry_without_pixels(tmp_path):
    order = [2, 0, 3, 1]
    write_series(tmp_path, order=order, **IDENTITY)
    headers = read_headers(tmp_path)
    assert not any("PixelData" in header for header in headers)
    series = series_grid(headers, "CT")
    assert (series.series_uid, series.study_uid) == ("1.2.3", "1.2.4")
    assert (series.frame_of_reference_uid, series.patient_id) == ("1.2.5", "0815")
    assert series.grid.shape == (COLUMNS, ROWS, SLICES)
    np.testing.assert_allclose(series.grid.affine, expected_affine())
    expected = [pydicom.dcmread(tmp_path / f"IM{number:04d}").SOPInstanceUID for number in order]
    assert [item.sop_instance_uid for item in series.slices] == expected
    assert {(item.sop_class_uid, item.frame_number) for item in series.slices} == {(CTImageStorage, None)}
    assert "0815" not in repr(series)


def test_the_headers_may_come_from_a_pacs(tmp_path):
    write_series(tmp_path, **IDENTITY)
    texts = [json.dumps(header.to_json_dict()) for header in read_headers(tmp_path)]
    series = series_grid([Dataset.from_json(text) for text in texts], "series 1.2.3")
    np.testing.assert_allclose(series.grid.affine, expected_affine())
    assert [item.position[2] for item in series.slices] == [ORIGIN[2] + k * STEP for k in range(SLICES)]


def test_without_pixels_only_one_identity_makes_a_copy(tmp_path):
    write_series(tmp_path, order=range(SLICES))
    (tmp_path / "copy").write_bytes((tmp_path / "IM0001").read_bytes())
    assert len(series_grid(read_headers(tmp_path), "CT").slices) == SLICES
    save(make_slice(stored_values()[1], at(0, 0, STEP)), tmp_path / "sent-again")
    with pytest.raises(BadInputError, match=r"^CT: 1 of 4 positions hold several slices: several phases or recon"):
        series_grid(read_headers(tmp_path), "CT")


# What is refused


@pytest.mark.parametrize("content", [{}, {"readme.txt": b"nothing here"}])
def test_no_slices(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_bytes(text)
    assert message(tmp_path) == ": no CT slices found; give a folder with the DICOM files of one CT series"


def test_nothing_but_a_localizer(tmp_path):
    save(make_slice(stored_values()[0], ORIGIN, ImageType=LOCALIZER), tmp_path / "A")
    assert message(tmp_path) == (
        ": no CT slices found among 1 DICOM objects; give a folder with the DICOM files of one CT series"
    )


def test_two_series(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path / "b", stored_values()[:2], series="1.2.4")
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / f"other-{path.name}")
    assert message(tmp_path) == ": 2 CT series found (4 slices, 2 slices); give a folder with one"


def test_converters_that_invent_a_study_for_each_slice(tmp_path):
    for k, plane in enumerate(stored_values()):
        invented = {"StudyInstanceUID": f"1.2.4.{k}", "FrameOfReferenceUID": f"1.2.5.{k}"}
        save(make_slice(plane, at(0, 0, k * STEP), **invented), tmp_path / f"{k}")
    series = series_grid(read_headers(tmp_path), "CT")
    assert (series.study_uid, series.frame_of_reference_uid) == ("", "")
    np.testing.assert_allclose(series.grid.affine, expected_affine())


@pytest.mark.parametrize(
    ("attribute", "kind"),
    [("PatientID", "patients"), ("StudyInstanceUID", "studies"), ("FrameOfReferenceUID", "frames of reference")],
)
def test_what_one_series_can_not_have_two_of(tmp_path, attribute, kind):
    write_series(tmp_path, **IDENTITY)
    save(make_slice(stored_values()[0], at(0, 0, -STEP), **IDENTITY | {attribute: "1.9"}), tmp_path / "other")
    assert message(tmp_path) == f": slices of 2 {kind} are mixed in one series; export it again"


def test_a_patient_for_each_slice(tmp_path):
    for k, plane in enumerate(stored_values()):
        save(make_slice(plane, at(0, 0, k * STEP), PatientID=f"{k + 1}"), tmp_path / f"{k}")
    assert message(tmp_path) == ": slices of 4 patients are mixed in one series; export it again"


@pytest.mark.filterwarnings("ignore:End of file reached")
def test_a_slice_truncated_before_it_says_what_it_is(tmp_path):
    write_series(tmp_path, order=range(SLICES))
    path = tmp_path / "IM0003"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"CS\x02\x00CT") - 4])
    assert message(tmp_path) == "/IM0003: damaged DICOM file (its header ends early); copy it again"


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("part", [0.2, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_a_truncated_slice_is_named_and_never_left_out(tmp_path, part, syntax):
    write_series(tmp_path, syntax=syntax, order=range(SLICES))
    path = tmp_path / "IM0003"  # the last one: without it the others would still be evenly spaced
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert message(tmp_path).startswith("/IM0003: ")


def test_a_real_series_lies_where_its_nifti_does(real_samples):
    series = read_image(real_samples / "dicom" / "totalsegmentator")
    assert series.shape == (512, 512, 20)
    assert -1024 <= series.array.min() < -900
    assert series.array.max() > 500
    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(real_samples / "dicom" / "totalsegmentator"))
    reader.SetFileNames(names)
    image = reader.Execute()
    np.testing.assert_array_equal(series.array, np.clip(sitk.GetArrayFromImage(image).T, -1024, None))
    for index in [(0, 0, 0), (511, 511, 19)]:
        position = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose((series.affine @ [*index, 1])[:3], position, atol=0.01)
