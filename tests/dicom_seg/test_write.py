"""What a written SEG says, and that other programs read the same."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pydicom_seg
import pytest
from pydicom.uid import UID, LegacyConvertedEnhancedCTImageStorage

from lib.dicom_seg.codes import cielab
from lib.dicom_seg.read import read_seg
from lib.dicom_seg.source import SourceSeries
from lib.dicom_seg.write import Provenance, write_seg
from lib.errors import BadInputError
from lib.labels import DEFAULT_LABELS, NOT_LOOKED_AT, Label
from lib.volume import Volume
from lib.volume_io import read_label
from tests.dicom_seg.series import PATIENT, label_on, make_series, make_source

PROVENANCE = Provenance(
    "LiverLoop final v3", "SEMIAUTOMATIC", model_version="v0007", author="jänne.doe", version=3, identity="case 5 v3"
)
THREE = {**DEFAULT_LABELS, "gallbladder": Label(index=3, color=(0, 255, 0))}
CONTENTS = {
    "all classes": (0, 1, 2),
    "no tumor": (0, 1),
    "nothing": (0,),
    "partly looked at": (0, 1, 2, NOT_LOOKED_AT),
}


def written(tmp_path, source, label, labels=DEFAULT_LABELS, provenance=PROVENANCE):
    path = tmp_path / "seg.dcm"
    write_seg(label, source, labels, provenance).save_as(path, write_like_original=False)
    return path


def concept(sequence):
    assert len(sequence) == 1
    return sequence[0].CodeValue, sequence[0].CodingSchemeDesignator, sequence[0].CodeMeaning


def test_the_segments_say_what_they_are(tmp_path):
    source = make_source()
    seg = pydicom.dcmread(written(tmp_path, source, label_on(source), THREE))
    liver, tumor, other = seg.SegmentSequence
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["liver", "tumor", "gallbladder"]
    assert concept(liver.SegmentedPropertyCategoryCodeSequence) == ("123037004", "SCT", "Anatomical Structure")
    assert concept(liver.SegmentedPropertyTypeCodeSequence) == ("10200004", "SCT", "Liver")
    assert "AnatomicRegionSequence" not in liver
    assert concept(tumor.SegmentedPropertyCategoryCodeSequence)[:2] == ("49755003", "SCT")
    assert concept(tumor.SegmentedPropertyTypeCodeSequence) == ("108369006", "SCT", "Neoplasm")
    assert concept(tumor.AnatomicRegionSequence) == ("10200004", "SCT", "Liver")
    assert concept(other.SegmentedPropertyTypeCodeSequence) == ("85756007", "SCT", "Tissue")
    for item in seg.SegmentSequence:
        assert (item.SegmentAlgorithmType, item.SegmentAlgorithmName) == ("SEMIAUTOMATIC", "LiverLoop")
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "v0007"


def test_classes_named_as_ours_have_our_codes_also_without_their_own(tmp_path):
    source = make_source()
    labels = {"Leber": Label(index=1), "lesion": Label(index=2)}
    liver, tumor = pydicom.dcmread(written(tmp_path, source, label_on(source), labels)).SegmentSequence
    assert concept(liver.SegmentedPropertyTypeCodeSequence)[0] == "10200004"
    assert concept(tumor.SegmentedPropertyTypeCodeSequence)[0] == "108369006"


def test_where_it_comes_from(tmp_path):
    source = make_source()
    seg = pydicom.dcmread(written(tmp_path, source, label_on(source)))
    assert (seg.SeriesDescription, seg.SeriesNumber, seg.ContentCreatorName) == (
        "LiverLoop final v3",
        7003,
        "jänne.doe^",
    )
    assert (seg.SegmentationType, seg.SegmentsOverlap, seg.Modality) == ("BINARY", "NO", "SEG")
    assert seg.PatientName == PATIENT
    assert seg.StudyInstanceUID == source.header.StudyInstanceUID
    assert seg.FrameOfReferenceUID == source.frame_of_reference_uid
    references = seg.ReferencedSeriesSequence[0]
    assert references.SeriesInstanceUID == source.series_uid
    referred = [item.ReferencedSOPInstanceUID for item in references.ReferencedInstanceSequence]
    assert referred == [one.sop_instance_uid for one in source.slices]


def test_what_a_person_drew_names_no_algorithm(tmp_path):
    source = make_source()
    seg = pydicom.dcmread(written(tmp_path, source, label_on(source), provenance=Provenance("x", "MANUAL")))
    assert not any("SegmentationAlgorithmIdentificationSequence" in item for item in seg.SegmentSequence)
    assert not seg.ContentCreatorName


def test_every_version_is_a_new_object_and_a_second_try_is_not():
    source = make_source()

    def uids(**changed):
        seg = write_seg(label_on(source), source, DEFAULT_LABELS, Provenance("x", **changed))
        return seg.SOPInstanceUID, seg.SeriesInstanceUID

    first, second = uids(identity="case v1"), uids(identity="case v2")
    assert uids(identity="case v1") == first
    assert len({*first, *second, *uids(), *uids()}) == 8
    assert all(UID(uid).is_valid for uid in (*first, *uids()))


@pytest.mark.parametrize("enhanced", [False, True])
def test_each_frame_refers_to_its_slice(tmp_path, enhanced):
    source = make_source(enhanced=enhanced)
    array = np.zeros(source.grid.shape, np.uint8)
    array[1, 2, 3] = 1
    array[2, 2, 1] = 2
    seg = pydicom.dcmread(written(tmp_path, source, Volume(array, source.grid.affine)))
    assert seg.NumberOfFrames == 2  # empty slices have none
    for group, (number, z) in zip(seg.PerFrameFunctionalGroupsSequence, [(1, 3), (2, 1)], strict=True):
        assert group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.slices[z].sop_instance_uid
        assert reference.get("ReferencedFrameNumber") == source.slices[z].frame_number
        assert group.PlanePositionSequence[0].ImagePositionPatient == list(source.slices[z].position)


def test_frames_of_several_multi_frame_images_are_told_apart():
    source = make_source(enhanced=True, SOPClassUID=LegacyConvertedEnhancedCTImageStorage)
    two = [
        replace(one, sop_instance_uid=f"1.2.{z // 2}", frame_number=z % 2 + 1) for z, one in enumerate(source.slices)
    ]
    source = SourceSeries(source.header, source.grid, tuple(two))
    label = label_on(source)
    seg = write_seg(label, source, DEFAULT_LABELS, PROVENANCE)
    references = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert [item.ReferencedSOPInstanceUID for item in references] == ["1.2.0", "1.2.1"]
    assert {item.ReferencedSOPClassUID for item in references} == {LegacyConvertedEnhancedCTImageStorage}
    for group in seg.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence  # so that the reference alone tells
    np.testing.assert_array_equal(read_seg(seg, source, DEFAULT_LABELS).volume.array, label.array)


@pytest.mark.parametrize("values", [(0, 1), (0, 2), (0,), (0, 1, NOT_LOOKED_AT)])
def test_an_empty_class_is_a_segment_of_one_empty_frame(tmp_path, values, caplog):
    """OHIF 3.10 can't load a SEG in which a segment has no frame."""
    source = make_source()
    label = label_on(source, values=values)
    label.array[:, :, 0] = 0
    seg = pydicom.dcmread(written(tmp_path, source, label))
    groups = seg.PerFrameFunctionalGroupsSequence
    numbers = [group.SegmentIdentificationSequence[0].ReferencedSegmentNumber for group in groups]
    assert numbers == [group.FrameContentSequence[0].DimensionIndexValues[0] for group in groups]
    assert seg.NumberOfFrames == len(numbers)
    frames = dict(zip(numbers, seg.pixel_array, strict=True))
    for number in {1, 2} - set(values):
        assert numbers.count(number) == 1
        assert not frames[number].any()
    assert not caplog.records
    found = read_seg(seg, source, DEFAULT_LABELS)
    np.testing.assert_array_equal(found.volume.array, label.array)
    assert found.classes == ("liver", "tumor")


def test_what_nobody_looked_for_has_no_segment():
    source = make_source()
    seg = write_seg(label_on(source, values=(0, 1)), source, {"liver": DEFAULT_LABELS["liver"]}, PROVENANCE)
    assert read_seg(seg, source, DEFAULT_LABELS).classes == ("liver",)


def test_slices_not_looked_at_are_a_segment_of_their_own(tmp_path):
    source = make_source()
    label = label_on(source)
    label.array[:, :, 2:] = NOT_LOOKED_AT
    seg = pydicom.dcmread(written(tmp_path, source, label))
    last = seg.SegmentSequence[2]
    assert (last.SegmentLabel, last.SegmentAlgorithmType) == ("not looked at", "MANUAL")
    assert concept(last.SegmentedPropertyTypeCodeSequence) == ("373121007", "SCT", "Not Evaluated")
    last.SegmentLabel = "renamed by a viewer"
    np.testing.assert_array_equal(read_seg(seg, source, DEFAULT_LABELS).volume.array, label.array)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_headers_with_gaps_suffice():
    slices = make_series()
    for one in slices:
        one.PatientSex, one.StudyDate = "female", "in May"
        for keyword in (
            "PatientBirthDate",
            "ReferringPhysicianName",
            "StudyID",
            "AccessionNumber",
            "StudyTime",
            "PatientName",
        ):
            delattr(one, keyword)
    source = make_source()
    source.header.clear()
    source.header.update(slices[0])
    seg = write_seg(label_on(source), source, DEFAULT_LABELS, PROVENANCE)
    assert (seg.PatientSex, seg.StudyDate) == (None, None)


def test_what_can_not_be_written_is_refused():
    source = make_source()
    with pytest.raises(BadInputError) as caught:
        write_seg(label_on(source, values=(0, 1, 7)), source, DEFAULT_LABELS, PROVENANCE)
    assert str(caught.value) == "the label holds the values [7], but only {'liver': 1, 'tumor': 2} are known"
    del source.header.FrameOfReferenceUID
    with pytest.raises(BadInputError) as caught:
        write_seg(label_on(source), source, DEFAULT_LABELS, PROVENANCE)
    ending = ", so that a SEG can't refer to it; fetch it from a PACS"
    assert str(caught.value) == f"the image series names no frame of reference{ending}"
    source = make_source(StudyInstanceUID="", SOPClassUID="")
    with pytest.raises(BadInputError) as caught:
        write_seg(label_on(source), source, DEFAULT_LABELS, PROVENANCE)
    assert str(caught.value) == f"the image series names no study and no SOP instance or class of an image{ending}"


def test_odd_text_does_no_harm(tmp_path):
    source = make_source()
    odd = Provenance("a\\b\n" + "x" * 100, model_version="1\\2", author="Doe^Jane=\\" + "y" * 100)
    seg = pydicom.dcmread(written(tmp_path, source, label_on(source), provenance=odd))
    assert seg.SeriesDescription == "a b " + "x" * 60
    assert seg.SoftwareVersions == "1 2"
    assert seg.ContentCreatorName == "Doe Jane  " + "y" * 53 + "^"


def test_the_name_of_the_patient_is_not_shown():
    assert "Muster" not in repr(make_source())


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools is not installed")
@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("content", CONTENTS)
def test_dciodvfy_has_nothing_to_say(tmp_path, content, enhanced):
    source = make_source("oblique", enhanced=enhanced)
    path = written(tmp_path, source, label_on(source, values=CONTENTS[content]), THREE)
    told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert (told.stdout + told.stderr).split() == ["Segmentation"]


@pytest.mark.parametrize(
    ("orientation", "content"), zip(["axial", "oblique", "sagittal", "oblique"], CONTENTS, strict=True)
)
def test_dcmqi_reads_the_same(tmp_path, orientation, content):
    source = make_source(orientation)
    label = label_on(source, values=CONTENTS[content])
    label.array[:, :, 0] = 0
    path = written(tmp_path, source, label)
    tool = Path(sys.executable).parent / "segimage2itkimage"
    command = [tool, "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    told = [group[0] for group in json.loads((tmp_path / "meta.json").read_text())["segmentAttributes"]]
    assert [item["SegmentedPropertyTypeCodeSequence"]["CodeValue"] for item in told][:2] == ["10200004", "108369006"]
    assert [tuple(item["recommendedDisplayRGBValue"]) for item in told][:2] == [
        known.color for known in DEFAULT_LABELS.values()
    ]
    assert len(told) == 3 if NOT_LOOKED_AT in CONTENTS[content] else 2
    for number, value in enumerate((1, 2, NOT_LOOKED_AT)[: len(told)], start=1):
        part = read_label(tmp_path / f"{number}.nrrd")  # from the first to the last slice with a frame
        index = np.linalg.inv(source.grid.affine) @ part.affine
        np.testing.assert_allclose(index[:3, :3], np.eye(3), atol=1e-3)
        first = round(index[2, 3])
        whole = np.zeros(source.grid.shape, bool)
        whole[:, :, first : first + part.shape[2]] = part.array > 0
        np.testing.assert_array_equal(whole, label.array == value)


def test_monai_labels_own_reader_reads_the_same(tmp_path):
    source = make_source()
    label = label_on(source)
    read = pydicom_seg.MultiClassReader().read(pydicom.dcmread(written(tmp_path, source, label)))
    np.testing.assert_array_equal(read.data.transpose(2, 1, 0), label.array)


@pytest.mark.parametrize(
    ("color", "expected"),
    [((255, 255, 255), [65535, 32896, 32896]), ((0, 0, 0), [0, 32896, 32896]), ((255, 0, 0), [34885, 53485, 50171])],
)
def test_colors(color, expected):
    """CIE 1976 L*a*b* of sRGB red is 53.24, 80.09, 67.20; 32896 is zero."""
    np.testing.assert_allclose(cielab(color), expected, atol=60)
