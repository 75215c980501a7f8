"""Headers of made-up CT series in every orientation, and label volumes on their grids."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from lib.dicom_seg.source import source_of
from lib.volume import Volume

COLUMNS, ROWS, SLICES = 7, 5, 4  # 35 pixels: frames don't begin with a byte
SPACING, STEP = (0.8, 0.7), 2.5  # rows apart, columns apart, slices apart
ORIGIN = (-120.5, -90.25, 300.0)
PATIENT = "Muster^Änne"
TURNED = Rotation.from_euler("xyz", (20, -15, 35), degrees=True).as_matrix()
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "rows flipped": (1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "rows and columns exchanged": (0, 1, 0, 1, 0, 0),
    "oblique": tuple(np.round(TURNED[:, :2].T.reshape(-1), 7)),
}


def make_series(orientation="axial", *, shape=(COLUMNS, ROWS, SLICES), tilt=0.0, enhanced=False, **attributes):
    """Datasets without pixels, in the order of their positions.

    Args:
        tilt: mm that each slice is shifted against the last, along its columns.
    """
    row, column = np.reshape(ORIENTATIONS[orientation], (2, 3)).astype(float)
    step = np.cross(row, column) * STEP + column * tilt
    positions = [[round(float(x), 5) for x in np.add(ORIGIN, k * step)] for k in range(shape[2])]
    common = {
        "PatientName": PATIENT, "PatientID": "4711", "PatientBirthDate": "19700101", "PatientSex": "F",
        "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(),
        "StudyDate": "20260101", "StudyTime": "120000", "StudyID": "1", "AccessionNumber": "2", "Modality": "CT",
        "ReferringPhysicianName": "Muster^Max", "PositionReferenceIndicator": "", "SpecificCharacterSet": "ISO_IR 100",
        "Rows": shape[1], "Columns": shape[0],
    }  # fmt: skip
    if enhanced:
        return [_enhanced({**common, **attributes}, [*row, *column], positions)]
    plane = {"ImageOrientationPatient": [*row, *column], "PixelSpacing": list(SPACING), "SliceThickness": STEP}
    single = {"SOPClassUID": CTImageStorage, **common, **plane, **attributes}
    return [dataset(**single, SOPInstanceUID=generate_uid(), ImagePositionPatient=position) for position in positions]


def _enhanced(common, orientation, positions):
    shared = dataset(
        PlaneOrientationSequence=[dataset(ImageOrientationPatient=orientation)],
        PixelMeasuresSequence=[dataset(PixelSpacing=list(SPACING), SliceThickness=STEP)],
    )
    frames = [dataset(PlanePositionSequence=[dataset(ImagePositionPatient=position)]) for position in positions]
    return dataset(
        **{"SOPClassUID": EnhancedCTImageStorage, **common},
        SOPInstanceUID=generate_uid(),
        NumberOfFrames=len(positions),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames[::-1],  # not in the order of their positions
    )


def dataset(**attributes):
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def make_source(*arguments, **options):
    return source_of(make_series(*arguments, **options))


def label_on(source, seed=0, values=(0, 1, 2)):
    """A label on the grid of a series in which every voxel is drawn by chance."""
    array = np.random.default_rng(seed).choice(np.array(values, np.uint8), source.grid.shape)
    return Volume(np.asfortranarray(array), source.grid.affine)


def code(value, meaning, scheme="SCT"):
    return dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


CODES = {
    "liver": (code("123037004", "Anatomical Structure"), code("10200004", "Liver")),
    "tumor": (code("49755003", "Morphologically Altered Structure"), code("108369006", "Neoplasm")),
    "tissue": (code("85756007", "Tissue"), code("85756007", "Tissue")),
    "tissue in SRT": (code("T-D0050", "Tissue", "SRT"), code("T-D0050", "Tissue", "SRT")),
    "liver in SRT": (code("T-D000A", "Anatomical Structure", "SRT"), code("T-62000", "Liver", "SRT")),
    "gallbladder": (code("123037004", "Anatomical Structure"), code("28231008", "Gallbladder")),
    "background": (code("85756007", "Tissue"), code("125040", "Background", "DCM")),
}


def segment(number, name, codes=None, region=None):
    item = dataset(SegmentNumber=number, SegmentLabel=name, SegmentAlgorithmType="MANUAL")
    if codes:
        category, kind = CODES[codes]
        item.SegmentedPropertyCategoryCodeSequence, item.SegmentedPropertyTypeCodeSequence = [category], [kind]
    if region:
        item.AnatomicRegionSequence = [region]
    return item


def foreign_seg(source, segments, masks, *, kind="BINARY", placed_by=("image", "position"), **attributes):
    """A SEG as another program may write it, uncompressed, a frame for each slice of each mask.

    Args:
        segments: items of the SegmentSequence.
        masks: `{segment number: (X, Y, Z)}` of 0 and 1, for FRACTIONAL of 0 to 200; for LABELMAP
            `{0: segment numbers}`.
        placed_by: what each frame tells of its place.
    """
    groups, frames = [], []
    for number, mask in masks.items():
        for z, one in enumerate(source.slices):
            group = dataset()
            if kind != "LABELMAP":
                group.SegmentIdentificationSequence = [dataset(ReferencedSegmentNumber=number)]
            if "image" in placed_by:
                reference = dataset(ReferencedSOPInstanceUID=one.sop_instance_uid)
                if one.frame_number:
                    reference.ReferencedFrameNumber = one.frame_number
                group.DerivationImageSequence = [dataset(SourceImageSequence=[reference])]
            if "position" in placed_by:
                group.PlanePositionSequence = [dataset(ImagePositionPatient=list(one.position))]
            groups.append(group)
            frames.append(mask[:, :, z].T)
    pixels = np.array(frames)
    bits = 1 if kind == "BINARY" else 8
    data = np.packbits(pixels.reshape(-1) > 0, bitorder="little") if bits == 1 else pixels.astype(np.uint8)
    shared = dataset()
    if "position" in placed_by:
        directions = [float(value) for value in source.orientation.reshape(-1)]
        shared.PlaneOrientationSequence = [dataset(ImageOrientationPatient=directions)]
        shared.PixelMeasuresSequence = [dataset(PixelSpacing=list(source.pixel_spacing), SliceThickness=STEP)]
    made = dataset(
        SOPClassUID=f"1.2.840.10008.5.1.4.1.1.66.{7 if kind == 'LABELMAP' else 4}",
        SOPInstanceUID=generate_uid(),
        PatientName=PATIENT,
        SegmentationType=kind,
        FrameOfReferenceUID=source.frame_of_reference_uid,
        ReferencedSeriesSequence=[dataset(SeriesInstanceUID=source.series_uid)],
        SegmentSequence=segments,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups,
        NumberOfFrames=len(frames),
        Rows=pixels.shape[1],
        Columns=pixels.shape[2],
        SamplesPerPixel=1,
        BitsAllocated=bits,
        BitsStored=bits,
        PixelRepresentation=0,
        PixelData=data.tobytes(),
    )
    if kind == "FRACTIONAL":
        made.MaximumFractionalValue = 200
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.is_little_endian, made.is_implicit_VR = True, False
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made
