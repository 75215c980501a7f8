"""SEGs that dcmqi writes, as MONAI Label and 3D Slicer's extension do, are read to the voxel."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from lib.dicom_seg.read import read_seg
from lib.dicom_seg.source import source_of
from lib.labels import DEFAULT_LABELS
from lib.volume import Volume
from lib.volume_io import write_label
from tests.dicom_seg.series import label_on, make_series

NAMES = {2: ("Leber", "85756007", "Tissue"), 5: ("x", "108369006", "Neoplasm")}  # told by name, and by code


def save_images(slices, folder):
    folder.mkdir()
    for k, one in enumerate(slices):
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.is_little_endian, one.is_implicit_VR = True, False
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PixelRepresentation = 1, "MONOCHROME2", 1
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
        one.InstanceNumber = k + 1
        one.PixelData = bytes(one.Rows * one.Columns * 2)
        one.save_as(folder / f"{k}.dcm", write_like_original=False)


def described(value):
    name, number, meaning = NAMES[value]
    kind = {"CodeValue": number, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}
    return {
        "labelID": value,
        "SegmentLabel": name,
        "SegmentDescription": name,
        "SegmentAlgorithmType": "MANUAL",
        "SegmentedPropertyCategoryCodeSequence": {**kind, "CodeValue": "85756007", "CodeMeaning": "Tissue"},
        "SegmentedPropertyTypeCodeSequence": kind,
        "recommendedDisplayRGBValue": [255, 0, 0],
    }


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize(
    ("orientation", "axes", "flips"),
    [
        ("oblique", (0, 1, 2), (1, 1, 1)),
        ("axial", (0, 1, 2), (-1, -1, 1)),
        ("sagittal", (0, 1, 2), (1, 1, -1)),
        ("axial", (1, 0, 2), (1, -1, 1)),
    ],
    ids=["as the image", "mirrored", "slices from the other end", "rows and columns exchanged"],
)
def test_what_dcmqi_writes(tmp_path, kind, orientation, axes, flips):
    slices = make_series(orientation)
    source = source_of(slices)
    save_images(slices, tmp_path / "images")
    label = label_on(source)
    names = np.array([0, 2, 5], np.uint8)[label.array]
    turn = np.column_stack([axes, flips])
    stored = Volume(apply_orientation(names, turn), label.affine @ inv_ornt_aff(turn, names.shape))
    write_label(tmp_path / "label.nrrd", stored)
    template = {
        "ContentCreatorName": "Reader1",
        "SeriesDescription": "From elsewhere",
        "SeriesNumber": "300",
        "InstanceNumber": "1",
        "segmentAttributes": [[described(value) for value in NAMES]],
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": "x",
    }
    (tmp_path / "meta.json").write_text(json.dumps(template))
    command = [
        Path(sys.executable).parent / "itkimage2segimage", "--inputImageList", tmp_path / "label.nrrd",
        "--inputDICOMDirectory", tmp_path / "images", "--outputDICOM", tmp_path / "seg.dcm",
        "--inputMetadata", tmp_path / "meta.json", "--segmentationType", kind,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.SegmentationType == kind.upper()
    found = read_seg(seg, source, DEFAULT_LABELS)
    np.testing.assert_array_equal(found.volume.array, label.array)
    assert (found.classes, found.unknown) == (("liver", "tumor"), ())
    assert found.author == "Reader1"
