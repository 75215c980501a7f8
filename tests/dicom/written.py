"""DICOM CTs as scanners write them, for the tests: slices, series of files, multi-frame objects, compressed copies."""

import imagecodecs
import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessP14,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    generate_uid,
)

from lib.dicom import read_series
from lib.errors import BadInputError

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
        dataset.PixelData = (pixels.byteswap() if syntax == ExplicitVRBigEndian else pixels).tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def at(x, y, z):
    """A position relative to the first slice's."""
    return np.add(ORIGIN, (x, y, z))


def save(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.is_little_endian = dataset.file_meta.TransferSyntaxUID != ExplicitVRBigEndian
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


def write_enhanced(path, frames, *, shared=(), kind=EnhancedCTImageStorage, **attributes):
    """A multi-frame CT; each frame is a dict of functional group attributes and its stored `pixels`.

    Args:
        path: of the file.
        frames: in their stored order.
        shared: names of the attributes that stand, as in the first frame, in the shared groups.
        kind: SOP class.
        attributes: of the whole object.
    """
    stored = np.stack([frame["pixels"] for frame in frames])
    dataset = make_slice(stored[0], ORIGIN, SOPClassUID=kind, **attributes)
    dataset.file_meta.MediaStorageSOPClassUID = kind
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, name)
    del dataset.RescaleSlope, dataset.RescaleIntercept
    dataset.NumberOfFrames, dataset.PixelData = len(frames), stored.tobytes()
    dataset.SharedFunctionalGroupsSequence = [_groups(frames[0], lambda name: name in shared)]
    dataset.PerFrameFunctionalGroupsSequence = [_groups(frame, lambda name: name not in shared) for frame in frames]
    save(dataset, path)


def frame(pixels, position, **attributes):
    """What `write_enhanced` takes for one frame."""
    usual = {
        "ImagePositionPatient": list(map(float, position)), "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": list(SPACING), "SliceThickness": STEP, "RescaleSlope": 1, "RescaleIntercept": -1024,
        "RescaleType": "HU", "StackID": "1", "FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
    }  # fmt: skip
    return {"pixels": pixels} | usual | attributes


_GROUP_OF = {
    "ImagePositionPatient": "PlanePositionSequence", "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence", "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence", "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence", "StackID": "FrameContentSequence",
    "FrameType": "CTImageFrameTypeSequence",
}  # fmt: skip


def _groups(values, is_meant):
    groups = Dataset()
    for name, value in values.items():
        if name in _GROUP_OF and value is not None and is_meant(name):
            if _GROUP_OF[name] not in groups:
                setattr(groups, _GROUP_OF[name], [Dataset()])
            setattr(groups[_GROUP_OF[name]].value[0], name, value)
    return groups


def _jpeg(words, bits, predictor):
    return imagecodecs.jpeg8_encode(words, lossless=True, predictor=predictor, bitspersample=bits)


_ENCODERS = {
    JPEGBaseline8Bit: lambda words, bits: imagecodecs.jpeg8_encode(words.astype(np.uint8), level=95),
    JPEGExtended12Bit: lambda words, bits: imagecodecs.jpeg8_encode(words, level=98, bitspersample=12),
    JPEGLosslessP14: lambda words, bits: _jpeg(words, bits, predictor=6),
    JPEGLosslessSV1: lambda words, bits: _jpeg(words, bits, predictor=1),
    JPEGLSLossless: lambda words, bits: imagecodecs.jpegls_encode(words),
    JPEGLSNearLossless: lambda words, bits: imagecodecs.jpegls_encode(words, level=2),
    JPEG2000: lambda words, bits: encode_array(words, bits_stored=bits, compression_ratios=[1.1]),
}


def recompress(path, syntax):
    """Rewrite an uncompressed file in another transfer syntax."""
    dataset = pydicom.dcmread(path)
    bits, pixels = dataset.BitsStored, dataset.pixel_array
    words = pixels.astype(np.uint16) & np.uint16((1 << bits) - 1)  # as the standard has it: no sign in unused bits
    frames = words if words.ndim == 3 else [words]
    if syntax == JPEG2000Lossless:
        streams = [encode_array(plane, bits_stored=bits) for plane in np.atleast_3d(pixels.T).T]
    else:
        streams = [_ENCODERS[syntax](np.ascontiguousarray(plane), bits) for plane in frames]
    dataset.PixelData, dataset["PixelData"].is_undefined_length = encapsulate(streams), True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
