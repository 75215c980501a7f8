"""JPEG frames: as others decode them, and never more than an error where they are damaged."""

import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_pixel_data_frame
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessP14,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from lib.dicom import read_series
from lib.errors import BadInputError
from tests.dicom.written import (
    COLUMNS,
    ORIGIN,
    ROWS,
    frame,
    make_slice,
    message,
    recompress,
    save,
    stored_values,
    write_enhanced,
)  # fmt: skip

LOSSLESS = [JPEGLosslessP14, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]


def test_lossy_jpeg_of_12_bits(tmp_path):
    real = pydicom.dcmread(get_testdata_file("JPGExtended.dcm", download=False))
    blank = np.zeros((real.Rows, real.Columns), np.uint16)
    item = make_slice(blank, ORIGIN, syntax=JPEGExtended12Bit, BitsStored=12, HighBit=11)
    item.PixelData, item["PixelData"].is_undefined_length = real.PixelData, True
    save(item, tmp_path / "one")
    stored = read_series(tmp_path)[0][:, :, 0].T.astype(int) + 1024
    places = [(512, 128), (100, 100), (300, 150), (423, 143), (420, 143), (421, 143)]
    by_libjpeg = [14, 1, 58, 255, 260, 264]
    assert [int(stored[place]) for place in places] == pytest.approx(by_libjpeg, abs=1)
    assert stored.sum() == pytest.approx(3770427, rel=0.01)


def test_lossy_jpeg_of_8_bits(tmp_path):
    pixels = np.add.outer(np.arange(ROWS), 2 * np.arange(COLUMNS)).astype(np.uint8)
    save(make_slice(pixels, ORIGIN, BitsAllocated=8, BitsStored=8, HighBit=7, RescaleSlope=8), tmp_path / "one")
    recompress(tmp_path / "one", JPEGBaseline8Bit)
    hu = read_series(tmp_path)[0][:, :, 0].T
    assert abs(hu - (pixels.astype(int) * 8 - 1024)).max() <= 3 * 8


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless], ids=lambda syntax: syntax.name)
def test_a_jpeg_of_another_size_than_announced(tmp_path, syntax):
    save(make_slice(stored_values()[0], ORIGIN), tmp_path / "one")
    recompress(tmp_path / "one", syntax)
    dataset = pydicom.dcmread(tmp_path / "one")
    header = b"\x10" + ROWS.to_bytes(2, "big") + COLUMNS.to_bytes(2, "big")
    assert header in dataset.PixelData
    dataset.PixelData = dataset.PixelData.replace(header, b"\x10\xff\xff\xff\xff")  # would take 8 GB
    dataset.save_as(tmp_path / "one")
    assert "an image of 65535x65535 where 40x36 are announced" in message(tmp_path)


def test_a_damaged_jpeg(tmp_path):
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


def test_a_jpeg_2000_of_another_size_than_announced(tmp_path):
    save(make_slice(stored_values()[0], ORIGIN), tmp_path / "one")
    recompress(tmp_path / "one", JPEG2000Lossless)
    dataset = pydicom.dcmread(tmp_path / "one")
    size = COLUMNS.to_bytes(4, "big") + ROWS.to_bytes(4, "big")
    assert size in dataset.PixelData
    dataset.PixelData = dataset.PixelData.replace(size, bytes([0, 0, 255, 255] * 2), 1)
    dataset.save_as(tmp_path / "one")
    assert "an image of 65535x65535 where 40x36 are announced" in message(tmp_path)


def test_a_jpeg_2000_whose_sign_lies_below_its_word(tmp_path):
    """Two's complement of 12 bits that was encoded as unsigned, in a dataset of 16 bits with signs."""
    pixels = stored_values()[0].astype(np.int16) % 2048 - 1024
    dataset = make_slice(pixels, ORIGIN, syntax=JPEG2000Lossless, RescaleIntercept=0)
    dataset.PixelData = encapsulate([encode_array(pixels.astype(np.uint16) & np.uint16(0xFFF), bits_stored=12)])
    dataset["PixelData"].is_undefined_length = True
    save(dataset, tmp_path / "one")
    np.testing.assert_array_equal(read_series(tmp_path)[0][:, :, 0].T, pixels)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
def test_a_compressed_image_cut_short(tmp_path, syntax):
    save(make_slice(stored_values()[0], ORIGIN), tmp_path / "cut")
    recompress(tmp_path / "cut", syntax)
    dataset = pydicom.dcmread(tmp_path / "cut")
    stream = next(generate_pixel_data_frame(dataset.PixelData, 1))
    dataset.PixelData = encapsulate([stream[: len(stream) * 2 // 3 // 2 * 2]])
    dataset.save_as(tmp_path / "cut")
    assert message(tmp_path).startswith("/cut: the pixels can't be decoded (JPEG")


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=lambda syntax: syntax.name)
def test_wrong_bytes_give_pixels_or_an_error_and_nothing_worse(tmp_path, syntax):
    path, random = tmp_path / "one", np.random.default_rng(1)
    save(make_slice(stored_values()[0], ORIGIN), path)
    recompress(path, syntax)
    dataset = pydicom.dcmread(path)
    stream = next(generate_pixel_data_frame(dataset.PixelData, 1))
    refused = 0
    for _ in range(40):
        damaged = np.frombuffer(stream, np.uint8).copy()
        damaged[random.integers(0, 300, 4)] = random.integers(0, 256, 4)
        dataset.PixelData = encapsulate([damaged.tobytes()])
        dataset.save_as(path)
        try:
            read_series(tmp_path)
        except BadInputError:
            refused += 1
    assert refused > 5


def test_frames_that_are_not_there(tmp_path):
    write_enhanced(tmp_path / "all", [frame(stored_values()[k], np.add(ORIGIN, (0, 0, k))) for k in range(3)])
    recompress(tmp_path / "all", JPEGLosslessSV1)
    dataset = pydicom.dcmread(tmp_path / "all")
    streams = [next(generate_pixel_data_frame(dataset.PixelData, 3))] * 2
    dataset.PixelData = encapsulate(streams)
    dataset.save_as(tmp_path / "all")
    assert message(tmp_path).startswith("/all: the pixels can't be decoded (JPEG Lossless")
