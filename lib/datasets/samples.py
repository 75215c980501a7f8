"""A studies folder with real sample CTs, or with synthetic phantoms where no package registry is in reach.

The folder is complete when its manifest says so: everything is downloaded and converted in a hidden folder inside it,
then moved into place file by file, the manifest last. Nothing else in the folder (labels of annotators above all) is
ever touched.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lib.datasets.sources import (
    LITS_CROP,
    LITS_CROP_SPACING_MM,
    TOTALSEGMENTATOR,
    NotReachableError,
    Package,
    convert_lits_crop,
    convert_totalsegmentator,
    download,
    sha256_of,
)
from lib.errors import BadInputError, LiverLoopError, NotFoundError, StorageError
from lib.files import atomic_write
from lib.volume_io import IMAGE_SUFFIXES

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_FOLDER = REPOSITORY / "sample-data" / "ct"
PHANTOMS_FOLDER = REPOSITORY / "sample-data"
MANIFEST = "manifest.json"
RECIPE = 1  # raise it when a conversion changes, so that folders of an older one are made anew

REAL, SYNTHETIC = "real", "synthetic"
_CONVERTERS: dict[Package, Callable[[Path, Path], None]] = {
    TOTALSEGMENTATOR: convert_totalsegmentator,
    LITS_CROP: convert_lits_crop,
}


def ensure_samples(directory: Path, log: Callable[[str], None] = print, *, force: bool = False) -> Path:
    """Make sure that a studies folder with sample CTs is there.

    Args:
        directory: the studies folder; made if missing. Images lie at its top, reference labels in
            `labels_reference/` (they do not count as annotated cases), DICOM slices in `dicom/`.
        log: receives one line per step.
        force: fetch again, even if the folder is complete.

    Returns:
        `directory`, ready to be served.

    Raises:
        BadInputError: an archive is not the published one.
        NotFoundError: no registry is in reach and there are no phantoms either.
        StorageError: the folder can't be written.
    """
    directory = Path(directory)
    kind = None if force else complete_kind(directory)
    if kind == REAL:
        return directory
    if kind == SYNTHETIC:
        log(f"{directory} holds synthetic phantoms; scripts/fetch_samples.py --force gets real CTs once pip can")
        return directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".fetching-") as name:
            _fill(directory, Path(name), log)
    except LiverLoopError:
        raise
    except (FileExistsError, NotADirectoryError) as error:
        msg = f"{error.filename} is a file; name a folder for the sample CTs"
        raise BadInputError(msg) from error
    except OSError as error:
        msg = f"can't write {directory}: {error.strerror}; free space or choose another folder"
        raise StorageError(msg) from error
    log(f"{directory} is ready: {', '.join(image.name for image in sample_images(directory))}")
    return directory


def sample_images(directory: Path) -> list[Path]:
    """The sample CTs at the top of a folder that `ensure_samples` made, sorted by name."""
    files = _read_manifest(directory).get("files", {})
    return sorted(directory / name for name in files if "/" not in name and name.endswith(IMAGE_SUFFIXES))


def complete_kind(directory: Path) -> str | None:
    """`"real"` or `"synthetic"` when every file of the manifest is there with its sha256, else None."""
    manifest = _read_manifest(directory)
    files = manifest.get("files")
    if manifest.get("recipe") != RECIPE or not isinstance(files, dict) or not files:
        return None
    for name, digest in files.items():
        path = directory / name
        if not path.is_file() or sha256_of(path) != digest:
            return None
    kind = manifest.get("kind")
    return kind if kind in {REAL, SYNTHETIC} else None


def _fill(directory: Path, staging: Path, log: Callable[[str], None]) -> None:
    try:
        kind = _fetch(staging, log)
    except NotReachableError as error:
        log(str(error))
        kind = _copy_phantoms(staging, log)
    _publish(staging, directory, kind)


def _fetch(staging: Path, log: Callable[[str], None]) -> str:
    # Before the first conversion, so that a registry which has only one of them costs no work.
    with tempfile.TemporaryDirectory(dir=staging) as name:
        archives: dict[Package, Path] = {}
        for package in _CONVERTERS:
            log(f"{package}: getting {package.megabytes:.1f} MB with pip")
            start = time.perf_counter()
            archives[package] = download(package, Path(name))
            log(f"{package}: downloaded and checked in {time.perf_counter() - start:.1f} s")
        for package, archive in archives.items():
            start = time.perf_counter()
            _CONVERTERS[package](archive, staging)
            log(f"{package}: converted in {time.perf_counter() - start:.1f} s")
    (staging / "README.md").write_text(_README_REAL, encoding="utf-8")
    return REAL


def _copy_phantoms(staging: Path, log: Callable[[str], None]) -> str:
    images = [path for path in sorted(PHANTOMS_FOLDER.glob("*")) if path.name.endswith(IMAGE_SUFFIXES)]
    if not images:
        msg = (
            f"no package registry is in reach and {PHANTOMS_FOLDER} holds no phantoms; give your own CTs with "
            "--studies DIR"
        )
        raise NotFoundError(msg)
    for image in images:
        shutil.copyfile(image, staging / image.name)
        for labels in (PHANTOMS_FOLDER / "labels", PHANTOMS_FOLDER / "labels" / "final"):
            if (labels / image.name).is_file():
                (staging / "labels_reference").mkdir(exist_ok=True)
                shutil.copyfile(labels / image.name, staging / "labels_reference" / image.name)
    (staging / "README.md").write_text(_README_SYNTHETIC, encoding="utf-8")
    log(f"no real CT could be fetched: using {len(images)} SYNTHETIC phantoms instead")
    return SYNTHETIC


def _publish(staging: Path, directory: Path, kind: str) -> None:
    names = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
    files = {name: sha256_of(staging / name) for name in names}
    (directory / MANIFEST).unlink(missing_ok=True)  # from here on the folder is incomplete until the last line
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(directory / name)
    with atomic_write(directory / MANIFEST) as temporary:
        content = {"kind": kind, "recipe": RECIPE, "files": files}
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_manifest(directory: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


_README_REAL = f"""\
# Sample CTs

Made by `scripts/fetch_samples.py`; not part of the repository, and to be made again at any time. They are for trying
the software out and for its tests, for nothing clinical. `manifest.json` holds the sha256 of each file.

- `totalsegmentator_dicom.nii.gz`: contrast CT, 20 slices of 512x512 through the liver, 0.98 x 0.98 x 2 mm. Reference:
  liver, **model output**.
- `totalsegmentator_trunk.nii.gz`: native CT of the trunk, 122x101x112 voxels of 3 mm; the dome of the liver is cut off.
  Reference: liver, **model output**.
- `lits_117_crop.nii.gz`: case 117 of LiTS with many metastases, cropped to the liver and resampled to 128x128x128.
  Reference: liver and tumors, drawn by humans.

Reference labels lie in `labels_reference/` under the images' names: 1 = liver, 2 = tumor. They lie outside `labels/`
so that the server does not take them for an annotator's work. `dicom/totalsegmentator/` holds the untouched DICOM
slices of the first image (JPEG 2000 lossless; their study, series and instance UIDs are empty, so a PACS refuses them
as they are).

## {TOTALSEGMENTATOR}

`tests/reference_files/` of the source archive `{TOTALSEGMENTATOR.archive}` (sha256 `{TOTALSEGMENTATOR.sha256}`).
License of the package: Apache-2.0; it makes no other statement about its test files. Please cite Wasserthal et al.,
Radiology: Artificial Intelligence 2023, doi:10.1148/ryai.230024. Its labels are what the TotalSegmentator model
predicted, not what a human drew: agreement with them is not accuracy. Tumors are not labeled there, whether or not
there are any. Only the class liver (5) was kept. The labels of the DICOM series are stored flipped in y against it and
were brought onto the image's grid by their affines.

## {LITS_CROP}

`data/img_117.mrc` and `data/lab_117.mrc` of the wheel `{LITS_CROP.archive}` (sha256 `{LITS_CROP.sha256}`). License of
the package: MIT, which is about its code; it makes no statement about the data. The case is from the Liver Tumor
Segmentation Benchmark (Bilic et al., Medical Image Analysis 2023, doi:10.1016/j.media.2022.102680). LiTS is given out
for research; its data set is commonly listed as CC BY-NC-ND 4.0. Treat this image as for non-commercial research only,
and do not pass it on.

Hounsfield units were kept by the package (as fractions; rounded here to whole numbers), but geometry was lost. The axes
were found by anatomy. The spacing of {" x ".join(str(value) for value in LITS_CROP_SPACING_MM)} mm is an **estimate**:
lumbar vertebral bodies of 37 x 28 voxels taken as 44 x 33 mm, and 22.5 voxels from disc to disc taken as 34 mm.
Volumes in ml and distances in mm on this image can be off by a tenth and more.
"""

_README_SYNTHETIC = """\
# Sample CTs: synthetic

No package registry could be reached when this folder was made, so it holds **synthetic phantoms**: computed images of
no patient, copied from `sample-data/`, with their exact labels in `labels_reference/`. `scripts/fetch_samples.py
--force` adds real CTs when pip can reach a registry. `manifest.json` holds the sha256 of each file.
"""
