"""Phantoms to measure with, rendered once and kept, as rendering a large one takes minutes."""

import hashlib
import os
from pathlib import Path

from tqdm import tqdm

from lib.phantom import draw_spec, render
from lib.volume_io import write_image

_SEED = 117


def cache_folder() -> Path:
    """`liverloop/` in the user's cache folder (`XDG_CACHE_HOME`, by default `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverloop"


def phantom_file(size: int, slices: int, folder: Path | None = None) -> Path:
    """A trunk CT of `size` x `size` x `slices` voxels as `.nii.gz`, rendered with a progress bar unless it is there.

    Args:
        size: columns and rows.
        slices: axial slices.
        folder: where phantoms are kept; by default `cache_folder()`.

    Raises:
        BadInputError: a size that no phantom can have.
        StorageError: the folder can't be written.
    """
    spec = draw_spec(_SEED, shape=(size, size, slices), phase="portal", tumors=5, orientation="LPS", tilt=0.0)
    key = hashlib.sha256(repr(spec).encode()).hexdigest()[:12]  # another generator draws another spec: no stale file
    path = (folder or cache_folder()) / f"phantom-{size}x{size}x{slices}-{key}.nii.gz"
    if not path.is_file():
        with tqdm(total=100, desc=f"rendering {path.name}", unit="%", leave=False) as bar:

            def progress(share: float) -> None:
                bar.update(round(100 * share) - bar.n)

            phantom = render(spec, progress)
        write_image(path, phantom.image)
    return path
