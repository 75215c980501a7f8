"""Small phantoms for a soak, and the labels that annotators make of them."""

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from lib.files import file_sha256
from lib.phantom import make_phantom
from lib.volume import Volume
from lib.volume_io import write_image

_RENDERED = 8  # the others are these with other noise
_NOISE_HU = 3
_CHANGED = 40  # voxels at most of an answer that is corrected


class Cases:
    """Images in a studies folder, none like another, with their true labels.

    Args:
        studies: the folder, made.
        count: how many images.
        size: columns and rows of each.
        slices: of each.
    """

    def __init__(self, studies: Path, count: int, size: int, slices: int) -> None:
        self.studies = studies
        self.names = [f"case_{number:03d}" for number in range(count)]
        self._serial = itertools.count(1)
        rendered = [
            make_phantom(seed, shape=(size, size, slices), tumors=2, orientation="LPS", tilt=0.0)
            for seed in range(min(count, _RENDERED))
        ]
        self._truth: dict[str, Volume] = {}
        self.sha256: dict[str, str] = {}
        for number, name in enumerate(self.names):
            phantom = rendered[number % len(rendered)]
            noise = np.random.default_rng(number).integers(-_NOISE_HU, _NOISE_HU + 1, phantom.image.shape)
            image = Volume((phantom.image.array + noise).astype(np.int16), phantom.image.affine)
            write_image(self.path(name), image)
            self._truth[name] = phantom.label
            self.sha256[name] = file_sha256(self.path(name))

    def path(self, name: str) -> Path:
        """The file of an image."""
        return self.studies / f"{name}.nii.gz"

    def truth(self, name: str) -> Volume:
        """The true label of an image."""
        return self._truth[name]

    def fits(self, name: str, label: Volume) -> bool:
        """Whether a label has the image's voxels and only our classes."""
        truth = self._truth[name]
        same = label.shape == truth.shape and np.allclose(label.affine, truth.affine, atol=1e-3)
        return bool(same and label.array.max(initial=0) <= 2)

    def corrected(self, name: str, answer: Volume, chance: np.random.Generator) -> Volume:
        """An automatic label with some of its wrong voxels put right, and something in it in any case."""
        truth = self._truth[name].array.ravel()
        array: NDArray[np.uint8] = np.array(answer.array, order="C")
        flat = array.reshape(-1)
        wrong = np.flatnonzero(flat != truth)
        chosen = chance.choice(wrong, min(len(wrong), _CHANGED), replace=False) if len(wrong) else wrong
        flat[chosen] = truth[chosen]
        if not flat.any():
            flat[:] = truth
        return Volume(array, answer.affine)

    def content(self, name: str, label: Volume) -> bytes:
        """A label as a `.nii.gz` file that no other submission equals."""
        volume = nib.Nifti1Image(label.array, self._truth[name].affine)
        return gzip.compress(volume.to_bytes(), compresslevel=1, mtime=next(self._serial))
