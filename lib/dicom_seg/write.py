"""From a label volume to a DICOM SEG of its CT series."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import fastremap
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM, PersonName

from lib.dicom_seg.codes import NOT_LOOKED_AT_CODES, NOT_LOOKED_AT_COLOR, UNSPECIFIED, cielab, codes_of, concept
from lib.dicom_seg.source import UNREADABLE, SourceSeries, SourceSlice, onto_grid
from lib.errors import BadInputError
from lib.labels import NOT_LOOKED_AT, NOT_LOOKED_AT_NAME, Code, Codes, Label, indices
from lib.volume import Volume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

# Tells of each group of attributes that it copies.
logging.getLogger("highdicom").setLevel(logging.WARNING)

PROGRAM = "LiverLoop"
_FAMILY = Code(value="123110", scheme="DCM", meaning="Artificial Intelligence")  # of algorithms
_FIRST_SERIES_NUMBER = 7000  # beyond those that scanners give
# What a SEG has from the study it belongs to; needed, even if empty.
_STUDY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


@dataclass(frozen=True)
class Provenance:
    """Where a label comes from, as its SEG tells it.

    Args:
        description: of the series, such as "LiverLoop final v3".
        kind: whether a model made the label, a person corrected a model's, or drew it.
        model_version: of the model that made or began it; not used for `MANUAL`.
        author: login of who submitted it, or empty.
        version: number of the label's version from 1.
        identity: text that no other version has. The same text gives the same UIDs, so that a second try to store
            a version makes no second SEG; None: new ones each time.
        made_at: when the label was made, local time; None: now.
    """

    description: str
    kind: Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"] = "AUTOMATIC"
    model_version: str = ""
    author: str = ""
    version: int = 1
    identity: str | None = None
    made_at: datetime | None = None


def write_seg(label: Volume, source: SourceSeries, labels: Mapping[str, Label], provenance: Provenance) -> Dataset:
    """Make a BINARY SEG of a label.

    Each class is a segment, also where the label has no voxel of it: a segment of one empty frame was looked for and
    is not there, whereas what nobody looked for has no segment. Voxels that nobody judged are a segment "not looked
    at".

    Args:
        label: uint8 class indices and `NOT_LOOKED_AT`, in any order of axes on the grid of the series.
        source: the series that was labelled.
        labels: names, indices, colors and codes of the classes that were looked for.
        provenance: who or what made it.

    Returns:
        A dataset with file meta information (Explicit VR Little Endian), ready to be saved or sent.

    Raises:
        BadInputError: the label has another grid or unknown values, or the series lacks what a SEG needs.
    """
    from highdicom.seg import Segmentation  # a second, which scripts that write none need not wait for

    voxels = onto_grid(label, source.grid).array
    planes = voxels.transpose(2, 1, 0)  # (Z, Y, X)
    used = np.flatnonzero([plane.any() for plane in planes])
    chosen = planes[used] if len(used) else planes[:1]
    slices = [source.slices[z] for z in used] or [source.slices[0]]
    numbers, described = _segments(chosen, labels, provenance)
    uids = seg_uids(provenance.identity)
    images = _images(source, slices)
    description = _text(provenance.description)
    try:
        dataset = Segmentation(
            source_images=images,
            pixel_array=numbers[chosen],
            segmentation_type="BINARY",
            segment_descriptions=described,
            series_instance_uid=uids[0],
            sop_instance_uid=uids[1],
            series_number=_FIRST_SERIES_NUMBER + provenance.version,
            instance_number=1,
            manufacturer=PROGRAM,
            manufacturer_model_name=PROGRAM,
            software_versions=_text(provenance.model_version) or PROGRAM,
            device_serial_number="1",
            content_label="SEGMENTATION",
            content_description=description,
            series_description=description,
            omit_empty_frames=len(used) > 0,
        )
    except UNREADABLE as error:
        # Not the error's own words: they can hold the patient's name.
        msg = f"the headers of the image series don't suffice for a SEG ({type(error).__name__}); copy it again"
        raise BadInputError(msg) from error
    _add_empty_frames(dataset)
    _complete(dataset, source, provenance)
    return dataset


def _segments(
    planes: NDArray[np.uint8], labels: Mapping[str, Label], provenance: Provenance
) -> tuple[NDArray[np.uint8], list["SegmentDescription"]]:
    """Segment number of each value, and the segments in the order of their numbers."""
    names = list(indices(labels))
    found = {int(value) for value in fastremap.unique(planes)}
    unknown = sorted(found - {0, NOT_LOOKED_AT, *indices(labels).values()})
    if unknown:
        msg = f"the label holds the values {unknown}, but only {indices(labels)} are known"
        raise BadInputError(msg)
    numbers = np.zeros(256, np.uint8)
    described = []
    for number, name in enumerate(names, start=1):
        label = labels[name]
        numbers[label.index] = number
        described.append(_described(number, name, codes_of(name, label) or UNSPECIFIED, label.color, provenance))
    if NOT_LOOKED_AT in found:
        number = len(names) + 1
        numbers[NOT_LOOKED_AT] = number
        # No program looked for it: a person said so.
        by_hand = Provenance(provenance.description, "MANUAL")
        described.append(_described(number, NOT_LOOKED_AT_NAME, NOT_LOOKED_AT_CODES, NOT_LOOKED_AT_COLOR, by_hand))
    return numbers, described


def _described(
    number: int, name: str, codes: Codes, color: tuple[int, int, int], provenance: Provenance
) -> "SegmentDescription":
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription

    algorithm = None
    if provenance.kind != "MANUAL":
        version = _text(provenance.model_version) or "unknown"
        algorithm = AlgorithmIdentificationSequence(name=PROGRAM, family=concept(_FAMILY), version=version)
    described = SegmentDescription(
        segment_number=number,
        segment_label=_text(name),
        segmented_property_category=concept(codes.category),
        segmented_property_type=concept(codes.type),
        algorithm_type=provenance.kind,
        algorithm_identification=algorithm,
        anatomic_regions=[concept(codes.region)] if codes.region else None,
    )
    described.RecommendedDisplayCIELabValue = cielab(color)
    return described


def seg_uids(identity: str | None) -> tuple[str, str]:
    """Of the series and of its one instance, for `Provenance.identity`."""
    if identity is None:
        return generate_uid(), generate_uid()
    return generate_uid(entropy_srcs=[PROGRAM, "series", identity]), generate_uid(entropy_srcs=[PROGRAM, identity])


def _images(source: SourceSeries, slices: list[SourceSlice]) -> list[Dataset]:
    """The slices as highdicom wants them: single images with what it needs, and no more.

    Frames of a multi-frame image are given as single images too, so that only those that hold something are written;
    `_complete` then says which frames they are.
    """
    needed = (
        ("StudyInstanceUID", "study"),
        ("SeriesInstanceUID", "series"),
        ("FrameOfReferenceUID", "frame of reference"),
    )
    missing = [name for keyword, name in needed if not source.header.get(keyword)]
    if not all(one.sop_instance_uid and one.sop_class_uid for one in source.slices):
        missing.append("SOP instance or class of an image")
    if missing:
        names = " and no ".join(missing)
        msg = f"the image series names no {names}, so that a SEG can't refer to it; fetch it from a PACS"
        raise BadInputError(msg)
    header = source.header
    common = Dataset()
    for keyword in _STUDY:
        setattr(common, keyword, _plain(header, keyword))
    common.Modality, common.SeriesInstanceUID = "CT", source.series_uid
    common.FrameOfReferenceUID = source.frame_of_reference_uid
    common.PositionReferenceIndicator = header.get("PositionReferenceIndicator")
    if all(keyword in header for keyword in _LOSSY):
        for keyword in _LOSSY:
            setattr(common, keyword, header[keyword].value)
    columns, common.Rows, _ = source.grid.shape
    common.Columns = columns
    common.ImageOrientationPatient = [_decimal(value) for value in source.orientation.reshape(-1)]
    common.PixelSpacing = [_decimal(value) for value in source.pixel_spacing]
    # So that a SEG of a single slice, too, tells how far it is to the next; along the normal, if the gantry was tilted.
    common.SliceThickness = common.SpacingBetweenSlices = _decimal(source.slice_distance)
    images = []
    for one in slices:
        image = Dataset()
        image.update(common)
        image.SOPClassUID = one.sop_class_uid
        image.SOPInstanceUID = one.sop_instance_uid
        image.ImagePositionPatient = [_decimal(value) for value in one.position]
        images.append(image)
    return images


def _plain(header: Dataset, keyword: str) -> str | None:
    """A value as text, so that names are encoded anew; None where it is missing, or no date, time or sex."""
    value = str(header.get(keyword) or "")
    try:
        if keyword.endswith("Date"):
            DA(value)
        elif keyword.endswith("Time"):
            TM(value)
    except ValueError:
        return None
    return None if keyword == "PatientSex" and value not in ("M", "F", "O") else value or None


def _text(value: str) -> str:
    """Within a DICOM string: 64 characters, no backslash, which would part it in two, no control characters."""
    return "".join(" " if character == "\\" or not character.isprintable() else character for character in value)[:64]


def _decimal(value: float) -> float:
    """Within the 16 characters of a DICOM decimal."""
    return float(f"{value:.9g}")


def _add_empty_frames(dataset: Dataset) -> None:
    """Give each segment a frame: OHIF 3.10 fails to load a SEG in which a segment has none."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    with_frames = {group.SegmentIdentificationSequence[0].ReferencedSegmentNumber for group in groups}
    empty = [item.SegmentNumber for item in dataset.SegmentSequence if item.SegmentNumber not in with_frames]
    bits = dataset.Rows * dataset.Columns
    stored = dataset.PixelData[: (dataset.NumberOfFrames * bits + 7) // 8]  # highdicom pads with the letter 0
    for number in empty:
        group = deepcopy(groups[0])
        content = group.FrameContentSequence[0]
        content.DimensionIndexValues = [number, *content.DimensionIndexValues[1:]]
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
        groups.append(group)
    dataset.NumberOfFrames += len(empty)
    size = (dataset.NumberOfFrames * bits + 7) // 8
    dataset.PixelData = stored.ljust(size + size % 2, b"\0")


def _complete(dataset: Dataset, source: SourceSeries, provenance: Provenance) -> None:
    """What highdicom leaves out."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    if provenance.author:
        plain = _text(provenance.author.translate(dict.fromkeys(map(ord, "^="), " ")))  # they part names
        dataset.ContentCreatorName = PersonName(f"{plain[:63]}^")  # the caret says that this is the whole name
    if provenance.made_at:
        dataset.ContentDate, dataset.ContentTime = DA(provenance.made_at.date()), TM(provenance.made_at.time())
    # All slices were looked at, not only those that hold a segment.
    everything = {one.sop_instance_uid: one.sop_class_uid for one in source.slices}
    references = []
    for uid, kind in everything.items():
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = kind, uid
        references.append(reference)
    dataset.SourceImageSequence = references
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references
    _number_frames(dataset, source)


def _number_frames(dataset: Dataset, source: SourceSeries) -> None:
    """Say of each frame which frame of a multi-frame image it belongs to."""
    if source.slices[0].frame_number is None:
        return
    frames = {tuple(_decimal(value) for value in one.position): one.frame_number for one in source.slices}
    for group in dataset.PerFrameFunctionalGroupsSequence:
        position = tuple(float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient)
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = frames[position]
