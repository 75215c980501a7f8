"""DICOM folders: order by position, geometry, rescale, and what a folder may hold besides."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from lib.dicom import read_series
from lib.errors import BadInputError
from lib.volume_io import read_image

ROWS, COLUMNS, SLICES = 40, 36, 4  # JPEG 2000 takes no smaller images
SPACING, STEP = (0.8, 0.7), 2.5  # rows apart, columns apart, slices apart
AXIAL = (1.0, 0, 0, 0, 1, 0)
ORIGIN = (-120.0, -90.0, 300.0)


def stored_values(seed=0):
    """`(Z, Y, X)` as the scanner stores them, HU + 1024."""
    return np.random.default_rng(seed).integers(0, 3000, (SLICES, ROWS, COLUMNS)).astype(np.uint16)


def make_slice(pixels, position, orientation=AXIAL, *, series="1.2.3", syntax=ExplicitVRLittleEndian, **attributes):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID, dataset.Modality = series, "CT"
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = list(orientation), list(map(float, position))
    dataset.PixelSpacing, dataset.SliceThickness = list(SPACING), STEP
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    if syntax == JPEG2000Lossless:
        dataset.PixelData = encapsulate([encode_array(pixels, bits_stored=16)])
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def at(x, y, z):
    """A position relative to the first slice's."""
    return np.add(ORIGIN, (x, y, z))


def save(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.is_little_endian = True
    dataset.is_implicit_VR = dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    dataset.save_as(path, write_like_original=False)


def write_series(folder, pixels=None, *, orientation=AXIAL, step=None, order=None, **options):
    """Slices along the normal (or `step`), in files whose names are in random order or in `order`."""
    pixels = stored_values() if pixels is None else pixels
    normal = np.cross(orientation[:3], orientation[3:])
    step = normal * STEP if step is None else np.asarray(step)
    names = np.random.default_rng(3).permutation(len(pixels)) if order is None else order
    for k, plane in enumerate(pixels):
        save(make_slice(plane, np.array(ORIGIN) + k * step, orientation, **options), folder / f"IM{names[k]:04d}")
    return folder


def expected_affine(orientation=AXIAL, step=None):
    row, column = np.reshape(orientation, (2, 3))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * SPACING[1], column * SPACING[0]
    lps[:3, 2] = np.cross(row, column) * STEP if step is None else step
    lps[:3, 3] = ORIGIN
    return np.diag([-1.0, -1, 1, 1]) @ lps


def message(folder):
    with pytest.raises(BadInputError) as caught:
        read_series(folder)
    text = str(caught.value)
    assert text.startswith(str(folder))
    return text.removeprefix(str(folder))


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


def test_signed_pixels_and_padding(tmp_path):
    pixels = stored_values().astype(np.int16) - 1024
    pixels[:, 0, 0] = -2000
    array, _ = read_series(write_series(tmp_path, pixels, RescaleIntercept=0))
    np.testing.assert_array_equal(array, pixels.transpose(2, 1, 0))
    assert read_image(tmp_path).array.min() == -1024


def test_signed_jpeg_2000(tmp_path):
    pixels = stored_values().astype(np.int16) - 1024
    array, _ = read_series(write_series(tmp_path, pixels, RescaleIntercept=0, syntax=JPEG2000Lossless))
    np.testing.assert_array_equal(array, pixels.transpose(2, 1, 0))


def test_rescale_of_each_slice_is_its_own_and_may_be_missing(tmp_path):
    pixels = np.full((2, ROWS, COLUMNS), 100, np.uint16)
    save(make_slice(pixels[0], ORIGIN, RescaleSlope=2, RescaleIntercept=-1000), tmp_path / "a")
    other = make_slice(pixels[1], at(0, 0, STEP))
    del other.RescaleSlope
    del other.RescaleIntercept
    save(other, tmp_path / "b")
    array, _ = read_series(tmp_path)
    assert np.unique(array[:, :, 0]) == -800
    assert np.unique(array[:, :, 1]) == 100


def test_values_beyond_16_bits_are_clipped(tmp_path):
    pixels = np.full((SLICES, ROWS, COLUMNS), 40000, np.uint16)
    array, _ = read_series(write_series(tmp_path, pixels, RescaleSlope=2))
    assert np.unique(array) == 32767


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


def test_a_single_slice_has_its_thickness(tmp_path):
    array, affine = read_series(write_series(tmp_path, stored_values()[:1]))
    assert array.shape == (COLUMNS, ROWS, 1)
    np.testing.assert_allclose(affine, expected_affine())
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SliceThickness = None
        dataset.save_as(path)
    np.testing.assert_allclose(read_series(tmp_path)[1], expected_affine(step=(0, 0, 1)))


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


def test_small_jitter_of_positions_is_accepted(tmp_path):
    for k, plane in enumerate(stored_values()):
        save(make_slice(plane, at(0.001 * k, 0, STEP * k + 0.01 * (k % 2))), tmp_path / f"{k}")
    _, affine = read_series(tmp_path)
    assert affine[2, 2] == pytest.approx(STEP, abs=0.01)


# What is refused


@pytest.mark.parametrize("content", [{}, {"readme.txt": b"nothing here"}])
def test_no_slices(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_bytes(text)
    assert message(tmp_path) == ": no CT slices found; give a folder with the DICOM files of one CT series"


def test_two_series(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path / "b", stored_values()[:2], series="1.2.4")
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / f"other-{path.name}")
    assert message(tmp_path) == ": 2 CT series found (4 slices, 2 slices); give a folder with one"


def test_a_missing_slice(tmp_path):
    write_series(tmp_path, order=range(SLICES))
    (tmp_path / "IM0001").unlink()
    save(make_slice(stored_values()[0], at(0, 0, 4 * STEP)), tmp_path / "IM0009")
    assert message(tmp_path) == (
        ": the gap after slice 1 is 5.00 mm but 2.50 mm elsewhere; slices are missing or unevenly spaced"
    )


def test_a_doubled_slice(tmp_path):
    write_series(tmp_path)
    save(make_slice(stored_values()[1], ORIGIN), tmp_path / "again")
    assert message(tmp_path) == (
        ": several slices lie at one position; the series holds doubled slices or several phases"
    )


def test_a_slice_beside_the_others(tmp_path):
    for k, plane in enumerate(stored_values()):
        save(make_slice(plane, at(8 * (k == 2), 0, STEP * k)), tmp_path / f"{k}")
    assert message(tmp_path) == ": slice 3 lies 8.0 mm beside the line of the others"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
            ": the slices have different orientations; give a folder with one axial series",
        ),
        ({"PixelSpacing": [0.9, 0.7]}, ": slices with pixels of 0.9x0.7 and 0.8x0.7 mm are mixed"),
    ],
)
def test_slices_that_do_not_stack(tmp_path, attributes, expected):
    write_series(tmp_path, stored_values()[:2])
    save(make_slice(stored_values()[2], at(0, 0, 2 * STEP), **attributes), tmp_path / "A")
    assert message(tmp_path) == expected


def test_sizes_that_differ(tmp_path):
    write_series(tmp_path, stored_values()[:2])
    position = at(0, 0, 2 * STEP)
    save(make_slice(np.zeros((8, 8), np.uint16), position), tmp_path / "Z")
    assert message(tmp_path) == ": slices of 40x36 and 8x8 are mixed"


@pytest.mark.parametrize("name", ["ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "PixelData"])
def test_a_slice_without_what_it_needs(tmp_path, name):
    write_series(tmp_path)
    broken = make_slice(stored_values()[0], ORIGIN)
    delattr(broken, name)
    save(broken, tmp_path / "broken")
    assert message(tmp_path) == (
        f"/broken: lacks {name}; the file is damaged or not a CT slice: copy it again or remove it"
    )


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_a_truncated_slice_is_named_and_never_left_out(tmp_path, part, syntax):
    write_series(tmp_path, syntax=syntax, order=range(SLICES))
    path = tmp_path / "IM0003"  # the last one: without it the others would still be evenly spaced
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert message(tmp_path).startswith("/IM0003: ")


def test_several_slices_in_one_file(tmp_path):
    save(make_slice(stored_values()[0], ORIGIN, SOPClassUID=EnhancedCTImageStorage), tmp_path / "all")
    assert message(tmp_path) == (
        "/all: several slices in one file (Enhanced CT); export the series with one file per slice"
    )


def test_colors(tmp_path):
    pixels = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    colored = make_slice(pixels[:, :, 0], ORIGIN, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    colored.PlanarConfiguration, colored.BitsAllocated, colored.BitsStored, colored.HighBit = 0, 8, 8, 7
    colored.PixelData = pixels.tobytes()
    save(colored, tmp_path / "rgb")
    assert message(tmp_path) == "/rgb: a slice has shape (40, 36, 3); expected one gray value per pixel"


def test_a_compression_that_is_not_supported_is_named(tmp_path):
    compressed = make_slice(stored_values()[0], ORIGIN, syntax=JPEGLosslessSV1)
    compressed.PixelData = encapsulate([b"\xff\xd8 no jpeg \xff\xd9"])
    compressed["PixelData"].is_undefined_length = True
    save(compressed, tmp_path / "jpeg")
    text = message(tmp_path)
    assert text.startswith(
        "/jpeg: the pixels can't be decoded (JPEG Lossless, Non-Hierarchical, First-Order Prediction"
    )
    assert text.endswith("copy the file again, or convert the series to uncompressed")
    assert "\n" not in text


def test_run_length_encoding(tmp_path):
    write_series(tmp_path)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_series(tmp_path)[0], stored_values().transpose(2, 1, 0).astype(int) - 1024)


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
