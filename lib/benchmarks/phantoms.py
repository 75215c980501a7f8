"""Phantoms to measure with, rendered once and kept, as rendering a large one takes minutes."""

import hashlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lib.files import cache_folder
from lib.phantom import Phantom, PhantomSpec, draw_spec, render
from lib.training.cases import CaseFiles
from lib.volume import Volume
from lib.volume_io import read_label, write_image, write_label

_SEED = 117


def phantom_file(
    size: int, slices: int, folder: Path | None = None, spacing: tuple[float, float] | None = None
) -> Path:
    """A trunk CT of `size` x `size` x `slices` voxels as `.nii.gz`, rendered with a progress bar unless it is there.

    Args:
        size: columns and rows.
        slices: axial slices.
        folder: where phantoms are kept; by default `cache_folder()`.
        spacing: mm of a pixel and from slice to slice; by default the body and the liver just fit.

    Raises:
        BadInputError: a size or spacing that no phantom can have.
        StorageError: the folder can't be written.
    """
    spec, path = _kept(size, slices, folder, spacing)
    if not path.is_file():
        write_image(path, _rendered(spec, path).image)
    return path


def phantom_copies(count: int, size: int, slices: int, studies: Path, folder: Path | None = None) -> list[CaseFiles]:
    """Labelled cases as a studies folder has them: links to one phantom, with labels that differ by a voxel.

    Args:
        count: how many, `case_0` and so on.
        size: see `phantom_file`.
        slices: see there.
        studies: the folder; made.
        folder: see there.

    Raises:
        BadInputError: a size that no phantom can have.
        StorageError: a folder can't be written.
    """
    spec, image = _kept(size, slices, folder)
    label = image.parent / "labels" / image.name
    if not (image.is_file() and label.is_file()):
        phantom = _rendered(spec, image)
        write_image(image, phantom.image)
        write_label(label, phantom.label)
    volume = read_label(label)
    liver = np.flatnonzero(volume.array == 1)
    made = []
    for number in range(count):
        case = CaseFiles(studies / f"case_{number}.nii.gz", studies / "labels" / "final" / f"case_{number}.nii.gz")
        changed = volume.array.copy()
        changed.ravel()[liver[number]] = 0
        write_label(case.label, Volume(changed, volume.affine))
        case.image.symlink_to(image)
        made.append(case)
    return made


def _kept(
    size: int, slices: int, folder: Path | None, spacing: tuple[float, float] | None = None
) -> tuple[PhantomSpec, Path]:
    """A phantom and where its image is kept."""
    mm = None if spacing is None else (spacing[0], *spacing)
    spec = draw_spec(
        _SEED, shape=(size, size, slices), spacing=mm, phase="portal", tumors=5, orientation="LPS", tilt=0.0
    )
    key = hashlib.sha256(repr(spec).encode()).hexdigest()[:12]  # another generator draws another spec: no stale file
    return spec, (folder or cache_folder()) / f"phantom-{size}x{size}x{slices}-{key}.nii.gz"


def _rendered(spec: PhantomSpec, path: Path) -> Phantom:
    with tqdm(total=100, desc=f"rendering {path.name}", unit="%", leave=False) as bar:

        def progress(share: float) -> None:
            bar.update(round(100 * share) - bar.n)

        return render(spec, progress)
