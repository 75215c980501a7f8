"""Where the real sample CTs come from, and how their files become volumes with the right geometry.

Two published Python packages carry CT data. pip gets them, so that the user's own index, mirror, proxy and
certificates apply; their archives are read, never installed. Only members named here are read, as streams, into file
names chosen here: no path in an archive is ever used as a path on disk.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import mrcfile
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from lib.errors import BadInputError, LiverLoopError
from lib.volume import Volume
from lib.volume_io import read_image, read_label, write_image, write_label

PIP_TIMEOUT_S = 600
_REFERENCE_FILES = "tests/reference_files/"
_TOTALSEGMENTATOR_LIVER = 5  # its class number in the task "total"

# The spacing of the LiTS crop is lost: 128 voxels span the liver's bounding box on each axis. Estimated from the first
# lumbar vertebrae in it: body 37 x 28 voxels, taken as 44 x 33 mm; disc to disc 22.5 voxels, taken as 34 mm.
LITS_CROP_SPACING_MM = (1.2, 1.2, 1.5)


class NotReachableError(LiverLoopError, RuntimeError):
    """pip could not get a package: no registry in reach, or it does not have it."""


@dataclass(frozen=True)
class Package:
    """One archive on the package index.

    Args:
        name: as pip knows it.
        version: the exact one.
        archive: file name of the source archive or wheel.
        sha256: of the archive.
        megabytes: size of the download, for the progress message.
        source: True for a source archive, False for a wheel.
    """

    name: str
    version: str
    archive: str
    sha256: str
    megabytes: float
    source: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


TOTALSEGMENTATOR = Package(
    name="TotalSegmentator",
    version="2.18.0",
    archive="totalsegmentator-2.18.0.tar.gz",
    sha256="5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
    megabytes=38.0,
    source=True,
)
LITS_CROP = Package(
    name="liver-ct-segmentation-package",
    version="1.6.0",
    archive="liver_ct_segmentation_package-1.6.0-py2.py3-none-any.whl",
    sha256="67ffa526d8500ce5e3d9f2c96c1690543d811d352d93d531301d35791b9d6bba",
    megabytes=4.5,
    source=False,
)


def download(package: Package, folder: Path) -> Path:
    """Get one archive through pip and check it.

    pip compares the hash before it does anything with the archive; only then it asks a source archive's build backend
    for metadata, which can't be switched off. That runs without build isolation, as it needs nothing but setuptools
    and would otherwise fetch it again.

    Args:
        package: what to get.
        folder: existing folder for the archive.

    Returns:
        Path of the archive.

    Raises:
        NotReachableError: pip could not get it; the message ends with pip's reason.
        BadInputError: the registry gave an archive with another sha256.
    """
    requirements = folder / f"{package.name}.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = "--no-binary" if package.source else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", kind, package.name]
    command += ["--progress-bar", "off", "--retries", "2", "--timeout", "30", "--no-input"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        msg = f"pip could not get {package} within {PIP_TIMEOUT_S} s"
        raise NotReachableError(msg) from error
    output = done.stdout + done.stderr
    if "DO NOT MATCH THE HASHES" in output:
        found = next((line.split()[-1] for line in output.splitlines() if line.split()[:1] == ["Got"]), "another one")
        raise BadInputError(_hash_message(package, found))
    archive = folder / package.archive
    if done.returncode or not archive.is_file():
        msg = f"pip could not get {package}: {_reason(output)}"
        raise NotReachableError(msg)
    check_archive(archive, package)
    return archive


def check_archive(archive: Path, package: Package) -> None:
    """Compare an archive's sha256 with the published one.

    Raises:
        BadInputError: they differ.
    """
    found = sha256_of(archive)
    if found != package.sha256:
        raise BadInputError(_hash_message(package, found))


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert_totalsegmentator(archive: Path, folder: Path) -> None:
    """Write the two CTs, the DICOM series and the liver labels of the TotalSegmentator source archive.

    The reference labels of the DICOM series are stored flipped in y against it; they are brought onto the image's
    grid by their affines.

    Args:
        archive: the source archive (`.tar.gz`).
        folder: receives `totalsegmentator_dicom.nii.gz`, `totalsegmentator_trunk.nii.gz`, the original slices in
            `dicom/totalsegmentator/`, and the labels (1 = liver) under the images' names in `labels_reference/`.

    Raises:
        BadInputError: a file is missing in the archive or is not what it should be.
    """
    series = folder / "dicom" / "totalsegmentator"
    series.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        wanted = {
            _REFERENCE_FILES + "example_ct.nii.gz": scratch / "trunk.nii.gz",
            _REFERENCE_FILES + "example_seg_fast_force_split.nii.gz": scratch / "trunk_label.nii.gz",
            _REFERENCE_FILES + "example_seg_dicom.nii.gz": scratch / "dicom_label.nii.gz",
        }

        def target(path: PurePosixPath) -> Path | None:
            inside = PurePosixPath(*path.parts[1:])  # without the folder "totalsegmentator-2.18.0"
            if str(inside.parent) == _REFERENCE_FILES + "example_ct_dicom" and inside.name.startswith("CT."):
                return series / inside.name
            return wanted.get(str(inside))

        _extract(archive, target)
        for member, path in wanted.items():
            if not path.is_file():
                msg = f"{archive.name}: holds no {member}; it is not the archive this was written for"
                raise BadInputError(msg)
        for stem, image_path, label_path in (
            ("totalsegmentator_dicom", series, scratch / "dicom_label.nii.gz"),
            ("totalsegmentator_trunk", scratch / "trunk.nii.gz", scratch / "trunk_label.nii.gz"),
        ):
            image = read_image(image_path)
            organs = read_label(label_path)
            liver = Volume((organs.array == _TOTALSEGMENTATOR_LIVER).astype(np.uint8), organs.affine)
            write_image(folder / f"{stem}.nii.gz", image)
            write_label(folder / "labels_reference" / f"{stem}.nii.gz", resample_nearest(liver, image))


def convert_lits_crop(archive: Path, folder: Path) -> None:
    """Write the LiTS crop as `lits_117_crop.nii.gz` and its label (1 = liver, 2 = tumor) in `labels_reference/`.

    Anatomy fixes the axes: in the array, axis 0 runs from the patient's right (liver, vena cava) to the left (aorta),
    axis 1 from the abdominal wall to the spine, axis 2 from the kidneys to the dome of the diaphragm: LPS. The origin
    is lost like the spacing; the crop's center becomes the origin.

    Args:
        archive: the wheel.
        folder: where to write.

    Raises:
        BadInputError: a file is missing in the wheel or is not what it should be.
    """
    stem = "lits_117_crop"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = {file: Path(name) / file for file in ("img_117.mrc", "lab_117.mrc")}
        _extract(archive, lambda path: scratch.get(path.name) if path.parent.name == "data" else None)
        arrays = [_read_mrc(path, archive) for path in scratch.values()]
    image, label = arrays
    if image.shape != label.shape or not np.isin(label, (0, 1, 2)).all():
        msg = (
            f"{archive.name}: image {image.shape} and label {label.shape} with the values {np.unique(label)[:9]} do "
            "not fit; expected one shape and the values 0, 1, 2"
        )
        raise BadInputError(msg)
    affine = np.diag([*LITS_CROP_SPACING_MM, 1.0])
    affine[:3, 3] = -np.array(LITS_CROP_SPACING_MM) * (np.array(image.shape) - 1) / 2
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS+
    write_image(folder / f"{stem}.nii.gz", Volume(np.rint(image).astype(np.int16), affine))
    write_label(folder / "labels_reference" / f"{stem}.nii.gz", Volume(label.astype(np.uint8), affine))


def resample_nearest(label: Volume, image: Volume) -> Volume:
    """Bring a label onto an image's grid by the affines of both, nearest neighbor.

    Args:
        label: class indices on any grid.
        image: gives shape and affine.

    Returns:
        uint8 label of the image's shape and affine; 0 where `label` does not reach.
    """
    to_label = np.linalg.inv(label.affine) @ image.affine
    array = affine_transform(
        label.array, to_label, output_shape=image.shape, output=np.uint8, order=0, mode="grid-constant", cval=0
    )
    return Volume(array, image.affine)


def _read_mrc(path: Path, archive: Path) -> NDArray:
    if not path.is_file():
        msg = f"{archive.name}: holds no data/{path.name}; it is not the archive this was written for"
        raise BadInputError(msg)
    try:
        with mrcfile.open(path) as file:
            return np.array(file.data)
    except ValueError as error:
        msg = f"{archive.name}: {path.name} is not a readable MRC file ({error})"
        raise BadInputError(msg) from error


def _extract(archive: Path, target: Callable[[PurePosixPath], Path | None]) -> None:
    """Write each regular file of a `.tar.gz` or `.whl` to `target(its path in the archive)`; None leaves it out."""
    members = _wheel_members(archive) if archive.suffix == ".whl" else _tar_members(archive)
    try:
        for path, open_member in members:
            place = target(path)
            if place is not None:
                with open_member() as content, place.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        msg = f"{archive.name}: not a readable archive ({error})"
        raise BadInputError(msg) from error


def _wheel_members(archive: Path) -> Iterator[tuple[PurePosixPath, Callable[[], IO[bytes]]]]:
    with zipfile.ZipFile(archive) as wheel:
        for entry in wheel.infolist():
            if not entry.is_dir():
                yield PurePosixPath(entry.filename), partial(wheel.open, entry)


def _tar_members(archive: Path) -> Iterator[tuple[PurePosixPath, Callable[[], IO[bytes]]]]:
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            if member.isreg():  # extractfile gives None for anything else
                yield PurePosixPath(member.name), partial(tar.extractfile, member)  # type: ignore[misc]


def _hash_message(package: Package, found: str) -> str:
    return (
        f"{package.archive}: sha256 is {found}, expected {package.sha256}; it is not the published archive and was "
        "not used. Clear pip's cache (pip cache purge) or check your package mirror"
    )


def _reason(output: str) -> str:
    """The most telling line of what pip wrote."""
    if "Retrying (" in output:  # its last line would then only say that it found no such version
        return "no package registry can be reached"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if "error" in line.lower()]
    return (errors or lines or ["it gave no reason"])[-1]
