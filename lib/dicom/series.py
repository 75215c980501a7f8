"""A CT series as one volume: by its headers where it lies and which slices it has, with its files the voxels.

Slices are ordered by their position in the patient, never by file name or number.
"""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from lib.cores import available_cores
from lib.dicom.enhanced_ct import frames_of, is_enhanced
from lib.dicom.geometry import SamePixels, affine_of, stack
from lib.dicom.pixels import damage_explained, planes, read_file
from lib.dicom.slices import Slice, is_slice, slice_of
from lib.errors import BadInputError
from lib.limits import DEFAULT_LIMITS, Limits
from lib.volume import LPS_TO_RAS, Grid, checked_shape

_CT_KINDS = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_MOST_THREADS = 4  # for decoding; each holds a slice, or a whole multi-frame file
_PREAMBLE = 128  # bytes before the letters DICM
_ASKED_FOR = ("Modality", "ImageType", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImagePositionPatient")
_ONE_EACH = {"PatientID": "patients", "StudyInstanceUID": "studies", "FrameOfReferenceUID": "frames of reference"}


@dataclass(frozen=True, eq=False)
class Series:
    """Identity and geometry of a CT series, without its voxels.

    Args:
        series_uid: Series Instance UID.
        study_uid: Study Instance UID; empty where the headers have none or each its own, as the next two.
        frame_of_reference_uid: the coordinate system that positions are in.
        patient_id: as the hospital gave it; never for messages, and not shown by `repr`.
        grid: shape `(X, Y, Z)` (X from column to column, Y from row to row, Z along the slice normal) and the RAS+
            affine, sheared where the gantry was tilted.
        slices: in the order of Z.
    """

    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    patient_id: str = field(repr=False)
    grid: Grid
    slices: tuple[Slice, ...] = field(repr=False)


def read_series(folder: str | Path, limits: Limits = DEFAULT_LIMITS) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Read the one CT series in a folder.

    Args:
        folder: holds a single series, one file per slice or multi-frame; files that are not DICOM, hidden files,
            localizers, reports, pictures and other modalities are left out, copies of a slice count once.
        limits: what is taken.

    Returns:
        int16 HU `(X, Y, Z)` and the RAS+ affine, as in `Series`.

    Raises:
        BadInputError: no CT slices, several series, slices missing, unevenly spaced or different at one position,
            differing sizes, orientations or pixel spacings, a damaged file, or pixels that can't be decoded.
    """
    _, series = read_geometry(folder, limits)
    return read_voxels(series), series.grid.affine


def read_geometry(folder: str | Path, limits: Limits = DEFAULT_LIMITS) -> tuple[list[FileDataset], Series]:
    """The headers of the DICOM files in a folder, and the one CT series they make; see `read_series`."""
    headers = read_headers(folder)
    return headers, series_grid(headers, str(folder), _have_same_pixels, limits)


def read_voxels(series: Series) -> NDArray[np.int16]:
    """int16 HU `(X, Y, Z)` of a series whose slices lie in files.

    Raises:
        BadInputError: a damaged file, or pixels that can't be decoded.
    """
    array = np.empty(series.grid.shape, np.int16, order="F")
    by_file: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(series.slices):
        by_file[item.source].append(index)

    def read(indices: list[int]) -> None:
        for index, plane in zip(indices, planes([series.slices[index] for index in indices]), strict=True):
            array[:, :, index] = plane.T

    with ThreadPoolExecutor(min(_MOST_THREADS, available_cores())) as pool:
        done = [pool.submit(read, indices) for indices in by_file.values()]
        try:
            for one in done:
                one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return array


def read_headers(folder: str | Path) -> list[FileDataset]:
    """The headers of all DICOM files in a folder, hidden files and folders below left out.

    Raises:
        BadInputError: a damaged file.
    """
    headers = []
    for path in sorted(Path(folder).iterdir()):
        if path.is_file() and not path.name.startswith(".") and _is_dicom(path):
            header = read_file(str(path), pixels=False)
            with damage_explained(str(path)):
                if "Modality" not in header and header.file_meta.get("MediaStorageSOPClassUID") in _CT_KINDS:
                    msg = f"{path}: damaged DICOM file (its header ends early); copy it again"
                    raise BadInputError(msg)
                for name in (*_ASKED_FOR, *_ONE_EACH):  # pydicom reads elements when they are asked for, and fails then
                    header.get(name)
            headers.append(header)
    return headers


def series_grid(
    headers: Iterable[Dataset], name: str, same_pixels: SamePixels | None = None, limits: Limits = DEFAULT_LIMITS
) -> Series:
    """Identity and geometry of the one CT series among some headers.

    Args:
        headers: with or without pixels, in any order, from files or a PACS (`Dataset.from_json`); what is no CT
            slice is left out.
        name: of the folder or series, for messages.
        same_pixels: tells whether two slices at one position are copies of each other; without it only copies with
            the same SOP Instance UID are taken for such, others are refused.
        limits: what is taken.

    Raises:
        BadInputError: as for `read_series`.
    """
    headers = list(headers)
    found = [header for header in headers if is_enhanced(header) or is_slice(header)]
    proper = [header for header in found if header.get("SOPClassUID") in _CT_KINDS]
    found = proper or found  # secondary captures with a position count only where there is nothing better
    series: dict[str, list[Slice]] = defaultdict(list)
    for header in found:
        series[str(header.get("SeriesInstanceUID"))] += _slices_of(header, name)
    series = {key: slices for key, slices in series.items() if slices}
    if not series:
        left_out = f" among {len(headers)} DICOM objects" if headers else ""
        msg = f"{name}: no CT slices found{left_out}; give a folder with the DICOM files of one CT series"
        raise BadInputError(msg)
    if len(series) > 1:
        counts = ", ".join(f"{len(slices)} slices" for slices in series.values())
        msg = f"{name}: {len(series)} CT series found ({counts}); give a folder with one"
        raise BadInputError(msg)
    patient, study, frame_of_reference = (_only(found, attribute, name) for attribute in _ONE_EACH)
    ((series_uid, slices),) = series.items()
    for size in {item.size for item in slices}:  # before copies of a slice are told by their pixels
        checked_shape((*size, 1), name, limits=limits)
    slices = stack(slices, name, same_pixels)
    rows, columns = slices[0].size
    shape = checked_shape((columns, rows, len(slices)), name, limits=limits)
    grid = Grid(shape, LPS_TO_RAS @ affine_of(slices, name))
    return Series(series_uid, study, frame_of_reference, patient, grid, tuple(slices))


def _slices_of(header: Dataset, name: str) -> list[Slice]:
    path = getattr(header, "filename", None)
    source = path if isinstance(path, str) else f"{name}, SOP instance {header.get('SOPInstanceUID')}"
    with damage_explained(source):
        return frames_of(header, source) if is_enhanced(header) else [slice_of(header, source)]


def _only(headers: list[Dataset], attribute: str, name: str) -> str:
    """The value that all headers share, empty where there is none; patients are counted, never named."""
    values = {str(header.get(attribute)) for header in headers if header.get(attribute)}
    if len(values) == len(headers) and attribute != "PatientID" and len(values) > 1:
        return ""  # converters such as ITK's invent one for each slice
    if len(values) > 1:
        msg = f"{name}: slices of {len(values)} {_ONE_EACH[attribute]} are mixed in one series; export it again"
        raise BadInputError(msg)
    return next(iter(values), "")


def _have_same_pixels(first: Slice, second: Slice) -> bool:
    (one,), (other,) = planes([first]), planes([second])
    return np.array_equal(one, other)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(_PREAMBLE)
        return file.read(4) == b"DICM"
