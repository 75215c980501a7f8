"""Pixels in HU: transfer syntaxes, stored bits, padding, rescaling."""

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessP14,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from lib.dicom import read_series
from lib.volume_io import read_image
from tests.dicom.written import (
    COLUMNS,
    ORIGIN,
    ROWS,
    SLICES,
    STEP,
    at,
    make_slice,
    message,
    recompress,
    save,
    stored_values,
    write_series,
)  # fmt: skip

# Transfer syntaxes


SIGNED_OR_NOT = pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
UNCOMPRESSED = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
LOSSLESS = [JPEGLosslessP14, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]


def written(folder, *, signed, **options):
    """A series of 12 bits, and its HU `(X, Y, Z)`."""
    pixels = stored_values()
    if signed:
        pixels = pixels.astype(np.int16) - 1024
    intercept = 0 if signed else -1024
    write_series(folder, pixels, BitsStored=12, HighBit=11, RescaleIntercept=intercept, **options)
    return pixels.transpose(2, 1, 0).astype(int) + intercept


@SIGNED_OR_NOT
@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda syntax: syntax.name)
def test_uncompressed_and_deflated(tmp_path, syntax, signed):
    hu = written(tmp_path, signed=signed, syntax=syntax)
    np.testing.assert_array_equal(read_series(tmp_path)[0], hu)


@SIGNED_OR_NOT
def test_run_length_encoding(tmp_path, signed):
    hu = written(tmp_path, signed=signed)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_series(tmp_path)[0], hu)


@SIGNED_OR_NOT
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
def test_lossless_compression(tmp_path, syntax, signed):
    hu = written(tmp_path, signed=signed)
    for path in tmp_path.iterdir():
        recompress(path, syntax)
    np.testing.assert_array_equal(read_series(tmp_path)[0], hu)


LOSSY = [JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000]


@pytest.mark.parametrize("syntax", LOSSY, ids=lambda syntax: syntax.name)
def test_lossy_compression(tmp_path, syntax):
    hu = written(tmp_path, signed=False)
    for path in tmp_path.iterdir():
        recompress(path, syntax)
    difference = abs(read_series(tmp_path)[0] - hu)
    assert 0 < difference.max() <= 12


def test_signed_jpeg_2000(tmp_path):
    pixels = stored_values().astype(np.int16) - 1024
    array, _ = read_series(write_series(tmp_path, pixels, RescaleIntercept=0, syntax=JPEG2000Lossless))
    np.testing.assert_array_equal(array, pixels.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 (Lossless Only)"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile / Level 4.1"),
        ("1.2.840.99999.1", "1.2.840.99999.1"),
        ("1.2.840.10\nDoe^Jane", "an unknown transfer syntax"),
    ],
)
def test_a_transfer_syntax_that_is_not_supported_is_named(tmp_path, syntax, name):
    known = pydicom.uid.MPEG2MPML  # pydicom writes no others
    compressed = make_slice(stored_values()[0], ORIGIN, syntax=known)
    compressed.PixelData = encapsulate([b"whatever"])
    compressed["PixelData"].is_undefined_length = True
    save(compressed, tmp_path / "new")
    content = (tmp_path / "new").read_bytes()
    (tmp_path / "new").write_bytes(content.replace(known.encode(), syntax.ljust(len(known), "\0").encode()))
    assert message(tmp_path) == (
        f"/new: compressed as {name}, which is not supported; have the PACS send, or export, the series "
        "as Explicit VR Little Endian"
    )


def test_colors(tmp_path):
    pixels = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    colored = make_slice(pixels[:, :, 0], ORIGIN, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    colored.PlanarConfiguration, colored.BitsAllocated, colored.BitsStored, colored.HighBit = 0, 8, 8, 7
    colored.PixelData = pixels.tobytes()
    save(colored, tmp_path / "rgb")
    assert message(tmp_path) == "/rgb: a slice has shape (40, 36, 3); expected one gray value per pixel"


# Stored bits


def read_one(folder, words, **attributes):
    save(make_slice(words, ORIGIN, **attributes), folder / "one")
    return read_series(folder)[0][:, :, 0].T


def test_signed_values_with_zeros_above_their_12_bits(tmp_path):
    hu = np.random.default_rng(4).integers(-1024, 2047, (ROWS, COLUMNS))
    words = (hu & 0xFFF).astype(np.uint16).view(np.int16)
    np.testing.assert_array_equal(read_one(tmp_path, words, BitsStored=12, HighBit=11, RescaleIntercept=0), hu)


def test_signed_values_that_12_bits_can_not_hold(tmp_path):
    hu = stored_values()[0].astype(np.int16) % 2000
    hu[0, :3] = (5000, 4096, -5000)
    np.testing.assert_array_equal(read_one(tmp_path, hu, BitsStored=12, HighBit=11, RescaleIntercept=0), hu)


@SIGNED_OR_NOT
def test_values_in_the_upper_bits(tmp_path, signed):
    hu = np.random.default_rng(4).integers(-1024, 2047, (ROWS, COLUMNS))
    words = ((hu if signed else hu + 1024) << 4 & 0xFFFF).astype(np.uint16)
    rescale = {"BitsStored": 12, "HighBit": 15, "RescaleIntercept": 0 if signed else -1024}
    result = read_one(tmp_path, words.view(np.int16) if signed else words, **rescale)
    np.testing.assert_array_equal(result, hu)


def test_drawings_in_the_unused_bits(tmp_path):
    values = stored_values()[0]
    drawn = make_slice(values | 0x8000, ORIGIN, BitsStored=12, HighBit=11)
    drawn.add_new((0x6000, 0x0100), "US", 16)
    drawn.add_new((0x6000, 0x0102), "US", 15)
    save(drawn, tmp_path / "drawn")
    np.testing.assert_array_equal(read_series(tmp_path)[0][:, :, 0].T, values.astype(int) - 1024)


# Padding


def test_signed_pixels_and_padding(tmp_path):
    pixels = stored_values().astype(np.int16) - 1024
    pixels[:, 0, 0] = -2000
    array, _ = read_series(write_series(tmp_path, pixels, RescaleIntercept=0))
    np.testing.assert_array_equal(array, pixels.transpose(2, 1, 0))
    assert read_image(tmp_path).array.min() == -1024


@pytest.mark.parametrize("padding", [-2000, -3024])
@pytest.mark.parametrize("bits", [12, 16])
def test_padding_darker_than_air_becomes_air(tmp_path, padding, bits):
    words = (stored_values()[0] % 2048).astype(np.int16)
    words[:, :5] = padding  # 12 bits can't hold -3024, which is written nevertheless
    read_one(tmp_path, words, BitsStored=bits, HighBit=bits - 1, RescaleIntercept=-500)
    expected = words.T.astype(int) - 500
    expected[:5] = -1024
    np.testing.assert_array_equal(read_image(tmp_path).array[:, :, 0], np.maximum(expected, -1024))


@pytest.mark.parametrize(
    ("stored", "header"),
    [(63536, {"PixelPaddingValue": 63536}), (4095, {"PixelPaddingValue": 4090, "PixelPaddingRangeLimit": 4095})],
)
def test_padding_that_would_be_denser_than_metal_becomes_air(tmp_path, stored, header):
    words = stored_values()[0]
    words[3, 4] = stored
    result = read_one(tmp_path, words, RescaleIntercept=0, **header)
    assert result[3, 4] == -1024
    words[3, 4] = result[3, 4] = 0
    np.testing.assert_array_equal(result, words)


def test_padding_written_without_its_sign(tmp_path):
    words = stored_values()[0].astype(np.int16)
    words[3, 4] = -2000
    padded = make_slice(words, ORIGIN, RescaleSlope=-1, RescaleIntercept=3000)  # so that -2000 would be 5000 HU
    padded.add_new("PixelPaddingValue", "US", 63536)
    save(padded, tmp_path / "one")
    assert read_series(tmp_path)[0][4, 3, 0] == -1024


def test_padding_that_equals_tissue_makes_no_holes(tmp_path):
    words = stored_values()[0]
    words[10, 10] = 1024 + 60
    assert read_one(tmp_path, words, PixelPaddingValue=1024 + 60)[10, 10] == 60


# Rescaling


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


def test_small_and_huge_slopes_of_each_slice(tmp_path):
    slopes = [0.0123, 0.5, 37.25, 1e7]
    pixels = stored_values()
    for k, slope in enumerate(slopes):
        item = make_slice(pixels[k], at(0, 0, k * STEP), RescaleSlope=slope, RescaleIntercept=-1000.4)
        save(item, tmp_path / f"{k}")
    exact = pixels.transpose(2, 1, 0) * np.array(slopes) - 1000.4
    np.testing.assert_array_equal(read_series(tmp_path)[0], np.clip(np.rint(exact), -32768, 32767))
