"""SEGs of other programs: which segment is what, where its frames lie, and what is refused."""

from contextlib import suppress
from copy import deepcopy

import numpy as np
import pytest
from highdicom.frame import encode_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, JPEG2000Lossless, JPEGLSLossless, RLELossless

from lib.dicom_seg.read import read_seg
from lib.errors import BadInputError
from lib.labels import DEFAULT_LABELS, NOT_LOOKED_AT, Label
from tests.dicom_seg.series import (
    PATIENT,
    code,
    dataset,
    foreign_seg,
    label_on,
    make_source,
    segment,
)

KIDNEY = code("64033007", "Kidney")
RESAMPLE = "resample it to the image"
PLACES = [("image",), ("position",), ("image", "position")]


def two_segments(source, kind="BINARY", **options):
    """Tumor first, liver second: as numbers they would be exchanged."""
    label = label_on(source)
    segments = [segment(1, "a", "tumor"), segment(2, "b", "liver")]
    if kind == "LABELMAP":
        masks = {0: np.array([0, 2, 1], np.uint8)[label.array]}
    else:
        high, low = (100, 99) if kind == "FRACTIONAL" else (1, 0)  # the maximum is 200
        masks = {1: np.where(label.array == 2, high, low), 2: np.where(label.array == 1, high, low)}
    return foreign_seg(source, segments, masks, kind=kind, **options), label


def one_segment(item, **options):
    """A SEG with one segment, and what it is taken for."""
    source = make_source()
    mask = label_on(source, values=(0, 1)).array
    found = read_seg(
        foreign_seg(source, [item], {item.SegmentNumber: mask}), source, options.get("labels", DEFAULT_LABELS)
    )
    values = set(np.unique(found.volume.array[mask > 0]))
    assert not found.volume.array[mask == 0].any()
    return found, int(values.pop())


def refused(seg, source, labels=DEFAULT_LABELS):
    with pytest.raises(BadInputError) as caught:
        read_seg(seg, source, labels)
    assert PATIENT.split("^")[0] not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("placed_by", PLACES, ids="+".join)
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("enhanced", [False, True])
def test_all_kinds_and_places(kind, placed_by, enhanced):
    source = make_source("oblique", tilt=0.7, enhanced=enhanced)
    seg, label = two_segments(source, kind, placed_by=placed_by)
    found = read_seg(seg, source, DEFAULT_LABELS)
    np.testing.assert_array_equal(found.volume.array, label.array)
    assert (found.classes, found.unknown, found.marked, found.notes) == (("liver", "tumor"), (), None, ())


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_compressed_frames(kind, syntax):
    source = make_source(shape=(40, 36, 3))  # JPEG 2000 takes no smaller images
    seg, label = two_segments(source, kind)
    compress(seg, syntax)
    np.testing.assert_array_equal(read_seg(seg, source, DEFAULT_LABELS).volume.array, label.array)


def compress(seg, syntax):
    frames = np.frombuffer(seg.PixelData, np.uint8).reshape(-1, seg.Rows, seg.Columns)
    if syntax == JPEG2000Lossless:
        packed = [encode_array(frame, bits_stored=8) for frame in frames]
    else:
        packed = [encode_frame(frame, syntax, 8, 8, "MONOCHROME2") for frame in frames]
    seg.PixelData = encapsulate(packed)
    seg["PixelData"].is_undefined_length = True
    seg.file_meta.TransferSyntaxUID = syntax


def test_sixteen_bits():
    source = make_source()
    seg, label = two_segments(source, "LABELMAP")
    seg.SegmentSequence[0].SegmentNumber, seg.SegmentSequence[1].SegmentNumber = 300, 2
    words = np.array([0, 300, 2], "<u2")[np.frombuffer(seg.PixelData, np.uint8)[: label.array.size]]
    seg.BitsAllocated, seg.PixelData = 16, words.tobytes()
    np.testing.assert_array_equal(read_seg(seg, source, DEFAULT_LABELS).volume.array, label.array)


def test_missing_frames_are_background():
    source = make_source()
    seg, label = two_segments(source, "LABELMAP")
    seg.NumberOfFrames = 2
    del seg.PerFrameFunctionalGroupsSequence[2:]
    found = read_seg(seg, source, DEFAULT_LABELS).volume.array
    np.testing.assert_array_equal(found[:, :, :2], label.array[:, :, :2])
    assert found.shape == label.shape
    assert not found[:, :, 2:].any()


# What a segment is


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (segment(1, "Segment 1", "tumor"), 2),  # only a tumor, numbered 1
        (segment(1, "Segment 1", "tumor", code("10200004", "Liver")), 2),
        (segment(1, "liver", "tumor"), 2),
        (segment(7, "x", "liver"), 1),
        (segment(1, "x", "liver in SRT"), 1),
        (segment(1, "Foie", "tissue"), 1),
        (segment(1, "tumor", "tissue in SRT"), 2),  # as OHIF stores everything
        (segment(1, "LIVER_tumour"), 2),
        (segment(1, "Tumor", "gallbladder"), 2),
        (segment(1, "unreviewed", "tissue"), NOT_LOOKED_AT),
        (segment(1, "Background", "tissue"), 0),
        (segment(1, "x", "background"), 0),
    ],
)
def test_segments_are_told_by_code_then_by_name(item, expected):
    found, value = one_segment(item)
    assert value == expected
    assert found.unknown == ()


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (segment(3, "Segment 3", "gallbladder"), "segment 3 'Segment 3' (Gallbladder, 28231008 SCT)"),
        (segment(3, "Segment 3", "tissue"), "segment 3 'Segment 3' (Tissue, 85756007 SCT)"),
        (segment(3, "Segment 3"), "segment 3 'Segment 3' (no code)"),
        (segment(3, "tumor", "tumor", KIDNEY), "segment 3 'tumor' (Neoplasm, 108369006 SCT)"),
    ],
)
def test_what_we_do_not_know_is_reported(item, expected):
    found, value = one_segment(item)
    assert value == 0
    assert found.classes == ()
    assert [one.number for one in found.unknown] == [3]
    assert found.notes == (f"{expected} is none of ['liver', 'tumor'] and was left out",)


def test_a_name_that_contradicts_its_code_is_said():
    found, _ = one_segment(segment(1, "Leber", "tumor"))
    assert found.notes == (
        "segment 1 'Leber' (Neoplasm, 108369006 SCT) is taken as tumor, by its code and not by its name",
    )


def test_classes_with_one_code_are_told_apart_by_region_or_name():
    codes = DEFAULT_LABELS["tumor"].codes
    elsewhere = codes.model_copy(update={"region": codes.region.model_copy(update={"value": "64033007"})})
    labels = {"hepatic": Label(index=1, codes=codes), "renal": Label(index=2, codes=elsewhere)}
    assert one_segment(segment(1, "x", "tumor", KIDNEY), labels=labels)[1] == 2
    assert one_segment(segment(1, "Renal", "tumor"), labels=labels)[1] == 2
    assert one_segment(segment(1, "x", "tumor"), labels=labels)[0].unknown[0].name == "x"


def test_several_segments_of_one_class_are_one():
    source = make_source()
    label = label_on(source)
    segments = [segment(1, "Lesion 1", "tumor"), segment(2, "Lesion 2", "tumor")]
    found = read_seg(foreign_seg(source, segments, {1: label.array == 1, 2: label.array == 2}), source, DEFAULT_LABELS)
    np.testing.assert_array_equal(found.volume.array, np.where(label.array, 2, 0))
    assert found.notes == ()


@pytest.mark.parametrize("tumor_first", [False, True])
def test_a_tumor_within_a_liver_stays(tumor_first):
    source = make_source()
    label = label_on(source, values=(0, 1, 2, NOT_LOOKED_AT))
    masks = {1: label.array > 0, 2: label.array == 2, 3: np.isin(label.array, (2, NOT_LOOKED_AT))}
    masks[1][label.array == NOT_LOOKED_AT] = 0
    segments = [segment(1, "liver"), segment(2, "tumor"), segment(3, "not looked at")]
    order = [3, 2, 1] if tumor_first else [1, 2, 3]
    found = read_seg(foreign_seg(source, segments, {n: masks[n] for n in order}), source, DEFAULT_LABELS)
    np.testing.assert_array_equal(found.volume.array, label.array)
    count = (label.array == 2).sum()
    assert f"{count} voxels are both tumor and liver; they count as tumor" in found.notes
    assert f"{count} voxels are both tumor and not looked at; they count as tumor" in found.notes


def test_a_marker_tells_which_slices_were_looked_at():
    source = make_source()
    label = label_on(source, values=(0, 1))
    mark = np.zeros(label.shape, np.uint8)
    mark[2, 3, 1] = 1
    segments = [segment(1, "liver"), segment(2, "Looked at", "tissue")]
    found = read_seg(foreign_seg(source, segments, {1: label.array, 2: mark}), source, DEFAULT_LABELS)
    np.testing.assert_array_equal(found.volume.array, label.array)
    np.testing.assert_array_equal(found.marked, mark > 0)
    assert found.unknown == ()


def test_who_and_what():
    source = make_source()
    seg, _ = two_segments(source, ContentCreatorName="Doe^Jane", SeriesDescription="Mine")
    seg.SegmentSequence[0].SegmentAlgorithmType = "AUTOMATIC"
    seg.SegmentSequence[0].SegmentAlgorithmName = "Net"
    seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence = [dataset(AlgorithmVersion="3")]
    found = read_seg(seg, source, DEFAULT_LABELS)
    assert (found.author, found.description) == ("Doe^Jane", "Mine")
    assert [(one.algorithm_type, one.algorithm) for one in found.segments] == [("AUTOMATIC", "Net 3"), ("MANUAL", "")]


# What is refused


def test_a_seg_of_another_series():
    source, other = make_source(), make_source()
    seg, _ = two_segments(source)
    assert refused(seg, other) == (
        f"the SEG has the frame of reference {source.frame_of_reference_uid}, its image series "
        f"{other.frame_of_reference_uid}; make it on this series"
    )
    other.header.FrameOfReferenceUID = source.frame_of_reference_uid  # such as the next phase of the same scan
    assert refused(seg, other) == (
        f"the SEG was made for the series {source.series_uid}, not for {other.series_uid}; make it on this one"
    )
    del seg.ReferencedSeriesSequence
    assert refused(seg, other) == (
        "frame 1 of the SEG refers to an image that is not in the series; make it on this series"
    )
    del seg.FrameOfReferenceUID
    assert refused(seg, other) == (
        "the SEG names neither an image series nor a frame of reference, so nothing tells where it belongs"
    )


def changed(seg, keyword, value):
    if value is None:
        delattr(seg, keyword)
    else:
        setattr(seg, keyword, value)


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("SOPClassUID", CTImageStorage, "the object is no DICOM SEG (its SOP class is CT Image Storage); choose a SEG"),
        (
            "SegmentationType",
            "SURFACE",
            "a SEG of the type SURFACE is not read; store it as BINARY, FRACTIONAL or LABELMAP",
        ),
        ("Rows", 4, "the SEG has frames of 4x7, its image series slices of 5x7; resample it to the image"),
        ("Columns", 60000, "the SEG has frames of 5x60000, its image series slices of 5x7; resample it to the image"),
        ("NumberOfFrames", None, "the SEG announces 0 frames and describes 8; store it again"),
        ("NumberOfFrames", 2_000_000_000, "the SEG announces 2000000000 frames and describes 8; store it again"),
        ("PerFrameFunctionalGroupsSequence", None, "the SEG announces 8 frames and describes 0; store it again"),
        ("PixelData", None, "the SEG has no pixel data; store it again"),
        ("PixelData", b"\x01\x02", "the SEG announces 8 frames but holds 2 bytes; store it again"),
        ("SegmentSequence", None, "the SEG describes 0 segments with 0 numbers; store it again"),
        (
            "SegmentSequence",
            [segment(1, "liver"), segment(1, "tumor")],
            "the SEG describes 2 segments with 1 numbers; store it again",
        ),
        (
            "SegmentSequence",
            [segment(1, "liver"), segment(3, "tumor")],
            "a frame of the SEG belongs to segment 2, which is not described; store it again",
        ),
        (
            "SegmentSequence",
            [segment(1, "liver")],
            "the SEG has 8 frames, more than 1 segments in 4 slices can have; store it again",
        ),
        ("BitsAllocated", 32, "the SEG has 1 samples of 32 bits; one of 1, 8 or 16 bits is read"),
        ("BitsAllocated", None, "the SEG is damaged or lacks what a SEG must have (AttributeError); store it again"),
        (
            "SharedFunctionalGroupsSequence",
            [dataset(PlaneOrientationSequence=[dataset(ImageOrientationPatient=[0.8, 0.6, 0, -0.6, 0.8, 0])])],
            "frame 1 of the SEG has 5x7 pixels, up to 2.66 mm from those of its image series of 5x7; resample it to "
            "the image",
        ),
        (
            "SharedFunctionalGroupsSequence",
            [dataset(PlaneOrientationSequence=[dataset(ImageOrientationPatient=[0, 1, 0, 1, 0, 0])])],
            "frame 1 of the SEG has 7x5 pixels, up to 0.60 mm from those of its image series of 5x7; resample it to "
            "the image",
        ),
        (
            "SharedFunctionalGroupsSequence",
            [dataset(PixelMeasuresSequence=[dataset(PixelSpacing=[0.8, 0.9])])],
            "frame 1 of the SEG has 5x7 pixels, up to 1.20 mm from those of its image series of 5x7; resample it to "
            "the image",
        ),
    ],
)  # fmt: skip
def test_damaged_and_misleading(keyword, value, expected):
    source = make_source()
    seg, _ = two_segments(source)
    changed(seg, keyword, value)
    assert refused(seg, source) == expected


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        ((0.5, 0, 0), "frame 1 of the SEG lies 0.50 mm beside the nearest slice of its image series; " + RESAMPLE),
        ((0, 0, 1.25), "frame 1 of the SEG lies 1.25 mm beside the nearest slice of its image series; " + RESAMPLE),
        ((0, 0, 2.5), "frame 1 of the SEG refers to slice 0 but lies in slice 1 (counted from 0)"),
        ((0, 0, 0.1), None),
    ],
)  # fmt: skip
def test_where_a_frame_lies(moved, expected):
    source = make_source()
    seg, label = two_segments(source)
    plane = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    plane.ImagePositionPatient = list(np.add(plane.ImagePositionPatient, moved))
    if expected is None:
        np.testing.assert_array_equal(read_seg(seg, source, DEFAULT_LABELS).volume.array, label.array)
    else:
        assert refused(seg, source) == expected


def test_frames_that_tell_no_place():
    source = make_source()
    seg, _ = two_segments(source, placed_by=())
    assert refused(seg, source) == (
        "frame 1 of the SEG tells neither one image nor a position, so its slice is unknown"
    )


def test_a_labelmap_with_values_without_segments():
    source = make_source()
    seg, label = two_segments(source, "LABELMAP")
    data = bytearray(seg.PixelData)
    data[0] = 9
    seg.PixelData = bytes(data)
    assert refused(seg, source) == "the SEG holds the value 9, which none of its segments has; store it again"
    seg.PixelPaddingValue = 9
    expected = label.array.copy()
    expected[0, 0, 0] = 0
    np.testing.assert_array_equal(read_seg(seg, source, DEFAULT_LABELS).volume.array, expected)


def test_compressed_frames_that_lie():
    source = make_source(shape=(40, 36, 3))
    seg, _ = two_segments(source, "LABELMAP")
    compress(seg, JPEG2000Lossless)
    large = encode_array(np.zeros((300, 300), np.uint8), bits_stored=8)
    seg.PixelData = encapsulate([large] * 3)
    assert refused(seg, source) == "frame 1 of the SEG is 300x300, not 36x40 as it says"
    seg.PixelData = encapsulate([large[:50]] * 3)
    assert refused(seg, source).startswith("the SEG is damaged or lacks what a SEG must have")
    seg.file_meta.TransferSyntaxUID = JPEGLSLossless
    assert refused(seg, source) == (
        "the SEG is stored as JPEG-LS Lossless Image Compression with 8 bits, which is not read; store it uncompressed "
        "(Explicit VR Little Endian)"
    )


def test_fractions_without_a_maximum():
    source = make_source()
    seg, _ = two_segments(source, "FRACTIONAL")
    del seg.MaximumFractionalValue
    assert refused(seg, source) == "the FRACTIONAL SEG lacks MaximumFractionalValue; store it again"


def elements(data):
    """Each element of a dataset and of the first items of its sequences, with the dataset that holds it."""
    for element in list(data):
        yield data, element.keyword
        if element.VR == "SQ" and element.value:
            yield from elements(element.value[0])


@pytest.mark.parametrize("damage", ["removed", "empty", "nonsense"])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_damage_is_a_reason(kind, damage):
    source = make_source()
    seg, _ = two_segments(source, kind)
    reasons = []
    for place, (_, keyword) in enumerate(list(elements(seg))):
        copy = deepcopy(seg)
        holder, _ = list(elements(copy))[place]
        if damage == "removed":
            delattr(holder, keyword)
        elif damage == "empty":
            holder[keyword].value = None
        else:  # past the checks that pydicom makes when a value is set
            holder[keyword]._value = [Dataset()] if holder[keyword].VR == "SQ" else "-7"
        try:
            read_seg(copy, source, DEFAULT_LABELS)
        except BadInputError as error:
            reasons.append(str(error))
    assert len(reasons) > 8
    assert PATIENT.split("^")[0] not in "".join(reasons)


@settings(max_examples=30, deadline=None)
@given(syntax=st.sampled_from([RLELossless, JPEG2000Lossless]), data=st.data())
def test_damaged_compressed_frames_are_a_reason(syntax, data):
    source = make_source(shape=(40, 36, 1))
    seg, _ = two_segments(source, "LABELMAP")
    compress(seg, syntax)
    stored = bytearray(seg.PixelData)
    for _ in range(3):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    seg.PixelData = bytes(stored[: data.draw(st.integers(1, len(stored)))])
    with suppress(BadInputError):
        read_seg(seg, source, DEFAULT_LABELS)


def test_fractions_that_are_all_low_are_said():
    source = make_source()
    mask = label_on(source, values=(0, 99)).array
    found = read_seg(foreign_seg(source, [segment(1, "liver")], {1: mask}, kind="FRACTIONAL"), source, DEFAULT_LABELS)
    assert not found.volume.array.any()
    assert found.notes == ("no voxel of segment 1 'liver' (no code) is half full",)


def test_the_grid_is_checked_before_memory_is_taken():
    with pytest.raises(BadInputError, match=r"the image series: shape .* is larger than any CT we take"):
        make_source(Rows=60000, Columns=60000)


def test_headers_without_geometry():
    with pytest.raises(BadInputError) as caught:
        make_source(PixelSpacing=None)
    assert str(caught.value) == (
        "the headers of the image series don't tell its geometry (TypeError); copy the series again"
    )
