"""What makes an image or its prediction doubtful, in words that tell an annotator where to look first.

Flags are hints, no verdicts: nothing is refused for them.
"""

import numpy as np
from numpy.typing import NDArray

from lib.transforms.components import FACES_EDGES_CORNERS, label_components

NOT_CT, NOISY = "not_ct", "noisy"
NO_LIVER, LIVER_CUT, SMALL_LIVER, SEVERAL_LIVERS = "no_liver", "liver_cut", "small_liver", "several_livers"

SENTENCES: dict[str, str] = {
    NOT_CT: "the gray values don't look like a CT's HU; was it rescaled, or is it another kind of image?",
    NOISY: "the image is very noisy",
    NO_LIVER: "no liver was found",
    LIVER_CUT: "the liver goes on beyond the first or last slice",
    SMALL_LIVER: "the liver found is small for an adult's; a part may be missing",
    SEVERAL_LIVERS: "several large pieces of liver were found, of which the largest was kept; look at the others",
}

# HU of CT: between fat and contrast medium lies most of what is not air.
_BODY_HU = -500
_SOFT_HU = (-200, 300)
_DARK_HU = -20  # fat and air are below, in every CT; MR, and values from 0, have next to nothing there
_AIR_HU = -700  # where much is dark, much of that is air
_LEAST_BODY, _LEAST_SOFT, _LEAST_DARK, _MUCH_DARK, _LEAST_AIR = 0.02, 0.5, 0.01, 0.5, 0.05  # shares
_NOISY_HU = 40.0  # standard deviation; abdominal CT as it is read has 10 to 20, thin slices up to about 30
_TISSUE_HU = (-50, 200)
_FINE_MM = 1.5
_BLOCK = 4  # pixels: where tissue is homogeneous, what differs in a block of this size is noise
_MOST_SLICES = 16
_CUT_MM2 = 500.0  # of the outermost slice; the tip of a liver is less
# Of 369 adults, in whom CT showed 594 to 2250 ml, only one had less (Feng et al., World J Gastroenterol 2017;23:4968).
_SMALL_ML = 600.0
_PIECE_ML, _PIECE_SHARE = 50.0, 0.1  # of a second piece: more than a false find, and a share of the largest


def image_flags(hu: NDArray[np.int16], pixel_mm: float) -> tuple[str, ...]:
    """Doubts about an image, from a few of its slices.

    Args:
        hu: axial `(Z, Y, X)`.
        pixel_mm: length of a pixel; noise is judged only where it is that of a common CT.
    """
    chosen = np.unique(np.linspace(0, len(hu) - 1, min(len(hu), _MOST_SLICES)).round().astype(int))
    counts, deviations = np.zeros(5, np.int64), []
    for z in chosen:
        values = np.ascontiguousarray(hu[z])
        low, high = _SOFT_HU
        counts += [
            values.size,
            np.count_nonzero(values < _AIR_HU),
            np.count_nonzero(values < _DARK_HU),
            np.count_nonzero(values > _BODY_HU),
            np.count_nonzero((values >= low) & (values <= high)),
        ]
        if pixel_mm <= _FINE_MM:
            deviations.append(_deviations(values))
    everything, air, dark, body, soft = (int(count) for count in counts)
    airless = dark > _MUCH_DARK * everything and air < _LEAST_AIR * everything
    few = dark < _LEAST_DARK * everything or body < _LEAST_BODY * everything or soft < _LEAST_SOFT * body
    if airless or few:
        return (NOT_CT,)
    homogeneous = np.concatenate([np.zeros(0, np.float32), *deviations])
    # The lower quartile: most blocks lie within one organ, and those at an edge differ by more than noise.
    return (NOISY,) if homogeneous.size and float(np.quantile(homogeneous, 0.25)) > _NOISY_HU else ()


def _deviations(values: NDArray[np.int16]) -> NDArray[np.float32]:
    """Standard deviation in each block of one slice that is tissue by its mean."""
    height, width = (size // _BLOCK for size in values.shape)
    blocks = values[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK)
    means = blocks.mean(axis=(1, 3), dtype=np.float32)
    tissue = (means > _TISSUE_HU[0]) & (means < _TISSUE_HU[1])
    deviations: NDArray[np.float32] = blocks.transpose(0, 2, 1, 3)[tissue].std(axis=(1, 2), dtype=np.float32, ddof=1)
    return deviations


def liver_flags(
    cleaned: NDArray[np.uint8], ml: float, pixel_mm2: float, found: NDArray[np.bool_], found_ml: float
) -> tuple[str, ...]:
    """Doubts about a predicted liver.

    Args:
        cleaned: class indices `(Z, Y, X)` after post-processing; all that is not background is liver or in it.
        ml: of all that.
        pixel_mm2: area of a pixel of it.
        found: liver before post-processing, bool `(Z', Y', X')` of a coarser grid of the same volume.
        found_ml: volume of a voxel of `found`.
    """
    if not ml:
        return (NO_LIVER,)
    flags = []
    ends = max(int(np.count_nonzero(cleaned[end])) for end in (0, -1))
    if ends * pixel_mm2 >= _CUT_MM2:
        flags.append(LIVER_CUT)
    elif ml < _SMALL_ML:
        flags.append(SMALL_LIVER)
    pieces, count = label_components(found, FACES_EDGES_CORNERS)
    if count > 1:
        largest, second = np.sort(np.bincount(pieces.ravel())[1:])[::-1][:2] * found_ml
        if second >= max(_PIECE_ML, _PIECE_SHARE * largest):
            flags.append(SEVERAL_LIVERS)
    return tuple(flags)
