"""A case with a large and a small lesion, and what two models made of it."""

import numpy as np

from lib.settings import Settings
from lib.training.comparison import Comparison, figures_of
from lib.training.gate import Compared
from lib.volume import Volume

SETTINGS = Settings()
AFFINE = np.diag([-2.0, -1.0, 5.0, 1.0])


def label():
    """60 x 80 x 12 voxels of 2 x 1 x 5 mm: a liver, a large lesion in slices 3 and 4, a small one in slice 8."""
    array = np.zeros((60, 80, 12), np.uint8)
    array[10:50, 10:70, 1:11] = 1
    array[15:25, 15:35, 3:5] = 2
    array[40:43, 50:54, 8] = 2
    return array


def without(array, slices, value=1):
    """The same label with the lesions of some slices gone."""
    changed = array.copy()
    changed[..., slices][changed[..., slices] == 2] = value
    return changed


def compared(candidate, published=None, reference=None, name="case", affine=AFFINE):
    reference = label() if reference is None else reference
    published = reference if published is None else published
    image = np.full(reference.shape, 30, np.int16)
    image[reference == 1] = 60
    volumes = [Volume(array, affine) for array in (image, reference, candidate, published)]
    names = SETTINGS.label_indices()
    figures = [figures_of(reference, array, volumes[0].voxel_ml, names) for array in (candidate, published)]
    return Compared(Comparison(name, *figures), *volumes)
