"""The LiTS training set as a studies folder: find the pairs, check them, link them.

LiTS (Bilic et al., Medical Image Analysis 2023, doi:10.1016/j.media.2022.102680) comes as `volume-N.nii` and
`segmentation-N.nii` with 0 = background, 1 = liver, 2 = tumor. The archives and the Kaggle copy spread them over
folders in different ways; only the file names count here.
"""

import os
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from lib.errors import BadInputError, NotFoundError
from lib.files import atomic_write
from lib.volume import Volume, corner_distance
from lib.volume_io import IMAGE_SUFFIXES, read_label, suffix_of, write_label

LABELS_FOLDER = Path("labels") / "final"
SAME_GRID_MM = 0.01  # headers that agree to this are the same
_NAME = re.compile(r"(?P<kind>volume|segmentation)-(?P<number>\d+)\.nii(\.gz)?", re.IGNORECASE)
_VALUES = (0, 1, 2)


@dataclass(frozen=True)
class Pair:
    """An image and its segmentation."""

    number: int
    image: Path
    label: Path


@dataclass(frozen=True)
class Found:
    """What a folder holds: complete pairs by number, files without a partner, numbers that occur twice."""

    pairs: list[Pair]
    unpaired: list[Path]
    doubled: dict[str, list[Path]]


@dataclass(frozen=True)
class Prepared:
    """What was done with one pair.

    Args:
        image: in the studies folder.
        label: in the studies folder.
        done_before: nothing was written.
        how: "hard link", "symbolic link" or "copy" for the image, "label added" if only the label was missing; empty
            when done before.
        note: what the user should know about this pair, or empty.
    """

    image: Path
    label: Path
    done_before: bool
    how: str = ""
    note: str = ""


def find_pairs(source: str | Path, destination: str | Path | None = None) -> Found:
    """Search a folder and everything below it for LiTS files.

    Args:
        source: the unpacked LiTS training set, its Kaggle copy, or any folder with files of those names.
        destination: the studies folder to fill; what an earlier run put there is not taken for a source.

    Raises:
        NotFoundError: no such folder, or no LiTS file in it.
    """
    source = Path(source)
    if not source.is_dir():
        msg = f"{source}: there is no such folder"
        raise NotFoundError(msg)
    files: dict[tuple[str, int], list[Path]] = defaultdict(list)
    for path in sorted(source.rglob("*")):
        match = _NAME.fullmatch(path.name)
        # is_file: copies of LiTS exist where a folder has the name of the file in it.
        if match and path.is_file() and not _is_output(path, source, destination):
            files[match["kind"].lower(), int(match["number"])].append(path)
    files = {key: _distinct(paths) for key, paths in files.items()}
    if not files:
        msg = f"{source}: holds no volume-N.nii or segmentation-N.nii (.nii.gz), not even in its subfolders"
        raise NotFoundError(msg)
    doubled = {f"{kind}-{number}": paths for (kind, number), paths in files.items() if len(paths) > 1}
    pairs, unpaired = [], []
    for number in sorted({number for _, number in files}):
        images, labels = files.get(("volume", number), []), files.get(("segmentation", number), [])
        if len(images) == len(labels) == 1:
            pairs.append(Pair(number, images[0], labels[0]))
        elif not images or not labels:
            unpaired += images + labels
    return Found(pairs, unpaired, doubled)


def check_pair(pair: Pair, *, by_voxel: bool = False) -> float:
    """Compare the headers of an image and its segmentation, and the segmentation's values.

    Some LiTS segmentations carry a slightly different spacing or origin than their volume although voxel belongs to
    voxel. Headers may differ by as much as one voxel's diagonal at any corner of the grid: enough for rounded
    spacings and for origins at the voxel's corner instead of its center.

    Args:
        pair: the files.
        by_voxel: take the files' voxel order as the truth, however the headers differ.

    Returns:
        The largest distance in mm between the two headers' corners.

    Raises:
        BadInputError: not readable, another shape, a grossly different header, or a value other than 0, 1 and 2.
    """
    image, label = _header(pair.image), _header(pair.label)
    if image.shape != label.shape:
        msg = f"{pair.label.name}: shape {label.shape}, but {pair.image.name} has {image.shape}; they are no pair"
        raise BadInputError(msg)
    distance = corner_distance(image, label)
    tolerance = float(np.linalg.norm(image.spacing))
    if distance > tolerance and not by_voxel:
        msg = (
            f"{pair.label.name}: its header places voxels up to {distance:.1f} mm away from those of "
            f"{pair.image.name} (tolerated: {tolerance:.1f} mm, one voxel's diagonal); if voxel belongs to voxel all "
            "the same, use --by-voxel"
        )
        raise BadInputError(msg)
    unknown = [value for value in _values(read_label(pair.label)) if value not in _VALUES]
    if unknown:
        msg = f"{pair.label.name}: holds the values {unknown}; LiTS knows 0 (background), 1 (liver) and 2 (tumor)"
        raise BadInputError(msg)
    return distance


def prepare_pair(pair: Pair, destination: str | Path, *, by_voxel: bool = False) -> Prepared:
    """Put a pair into a MONAI Label studies folder, if it is not there yet.

    The image goes to the top, the label under the image's name to `labels/final`. Both are links to the originals
    where the file system can; a label whose header differs from the image's is written anew with the image's header,
    because everything downstream relies on equal geometry. What is there already is never replaced: the label may
    have been corrected since.

    Args:
        pair: the files.
        destination: the studies folder; made if missing.
        by_voxel: see `check_pair`.

    Raises:
        BadInputError: see `check_pair`; or the studies folder has another image of that name.
        StorageError: the folder can't be written.
    """
    destination = Path(destination)
    image = destination / pair.image.name
    stem = pair.image.name.removesuffix(suffix_of(pair.image, IMAGE_SUFFIXES))
    for other in (destination / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES):
        if os.path.lexists(other) and not _is_same_file(pair.image, other):
            msg = f"{other}: is there already and is not {pair.image}; move it away or choose another folder"
            raise BadInputError(msg)
    # Looked for under each suffix, as the two files may be packed differently.
    labels = [destination / LABELS_FOLDER / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES]
    present = next((label for label in labels if label.is_file()), None)
    if image.is_file() and present:
        return Prepared(image, present, done_before=True)

    distance = check_pair(pair, by_voxel=by_voxel)
    note = ""
    label = present or destination / LABELS_FOLDER / (stem + suffix_of(pair.label, IMAGE_SUFFIXES))
    if present is None:
        if distance > SAME_GRID_MM:
            label = destination / LABELS_FOLDER / f"{stem}.nii.gz"
            write_label(label, Volume(read_label(pair.label).array, _header(pair.image).affine))
            note = f"{pair.label.name}: header off by {distance:.2f} mm; written anew with the volume's header"
        else:
            link_or_copy(pair.label, label)
    # The image last: an image without its label would be offered to annotators as unlabeled.
    how = "label added" if image.is_file() else link_or_copy(pair.image, image)
    return Prepared(image, label, done_before=False, how=how, note=note)


def link_or_copy(source: Path, target: Path) -> str:
    """Make `target` a hard link to `source`, else a symbolic link, else a copy; say which.

    Raises:
        StorageError: none of them could be written.
    """
    source = source.resolve()
    for link, name in ((os.link, "hard link"), (os.symlink, "symbolic link")):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            link(source, target)
        except OSError:  # another file system, or one without links: try the next way
            continue
        return name
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)
    return "copy"


def _header(path: Path) -> Volume:
    """Shape and affine without the voxels."""
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image) or len(image.shape) != 3:
            msg = f"{path.name}: not a NIfTI file with one 3D volume (shape {getattr(image, 'shape', 'unknown')})"
            raise BadInputError(msg)
        return Volume(np.broadcast_to(np.uint8(0), image.shape), image.affine)
    except (OSError, EOFError, ImageFileError, nib.spatialimages.HeaderDataError) as error:
        msg = f"{path.name}: not a readable NIfTI file ({' '.join(str(error).split())})"
        raise BadInputError(msg) from error


def _values(label: Volume) -> list[int]:
    """The values that occur, slice by slice: counting converts to 64 bits."""
    counts = np.zeros(256, np.intp)
    for z in range(label.shape[2]):
        counts += np.bincount(label.array[:, :, z].ravel(order="K"), minlength=256)
    return [int(value) for value in np.flatnonzero(counts)]


def _distinct(paths: list[Path]) -> list[Path]:
    """The paths without further links to the same file."""
    found: dict[tuple[int, int], Path] = {}
    for path in paths:
        status = path.stat()
        found.setdefault((status.st_dev, status.st_ino), path)
    return list(found.values())


def _is_output(path: Path, source: Path, destination: str | Path | None) -> bool:
    if path.parent.parts[-2:] == LABELS_FOLDER.parts and path.name.lower().startswith("volume"):
        return True  # a label, named after its image by an earlier run into another folder
    if destination is None:
        return False
    path, source, destination = path.absolute(), source.absolute(), Path(destination).absolute()
    # SRC may be DST itself: its images then are the source, the labels already put in place are not.
    return path.is_relative_to(destination / "labels" if destination == source else destination)


def _is_same_file(source: Path, target: Path) -> bool:
    """Whether `target` is a link to `source` or a copy of it (told by name and size; reading both takes too long)."""
    if not target.exists():
        return False
    return target.samefile(source) or (target.name == source.name and target.stat().st_size == source.stat().st_size)
