"""Paint tumors into healthy livers while training, so that labels of healthy livers train the tumor class too.

After Hu et al., "Label-Free Liver Tumor Segmentation" (CVPR 2023, doi:10.48550/arXiv.2303.14869): lesions of four sizes
or a mix of them, with a noisy texture and soft borders, darken the liver. Otherwise than there,

- sizes are in mm and thick slices average what they hold, so that any spacing is served;
- lesions may lie at any height of the liver, since a stack of slices shows only a part of it, and mostly away from
  its surface;
- the lesions of a patient resemble each other, a few are iso- or hyperdense, have a rim or calcifications;
- contrast shrinks with the parenchyma's HU, as without contrast medium, and in a very fatty liver lesions are brighter;
- vessels don't shine through.
"""

from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from scipy.ndimage import gaussian_filter, minimum_filter

from lib.box import bounding_box
from lib.errors import BadInputError
from lib.transforms.ranges import Probability, in_order
from lib.transforms.synthetic_lesion import SmoothNoise, SyntheticLesion, lesion_box, render_lesion
from lib.volume import AIR_HU

Size = Literal["tiny", "small", "medium", "large"]
Kind = Literal[Size, "mix"]
Density = Literal["hypodense", "isodense", "hyperdense"]

SIZES: tuple[Size, ...] = get_args(Size)
RADII_MM: dict[Size, float] = {"tiny": 4.0, "small": 8.0, "medium": 16.0, "large": 32.0}
RADIUS_FACTORS = (0.75, 1.25)  # of each half axis
COUNTS: dict[Kind, tuple[int, int]] = {
    "tiny": (3, 10), "small": (3, 10), "medium": (2, 5), "large": (1, 3), "mix": (2, 8)
}  # fmt: skip
_MIX_SHARES = (0.35, 0.35, 0.2, 0.1)  # small ones are more frequent, as in patients

_HIGHEST_HU = 3071
_FULL_CONTRAST_HU = 100.0  # parenchyma in the portal-venous phase, which the ranges of HU are meant for
_LEAST_CONTRAST = 0.3
_FATTY_HU = 25.0  # below, a hypodense lesion would be darker than water
_ISODENSE_HU = 5.0
_ODD_ONES = 0.15  # lesions of another density than the patient's others
_LARGEST_SHARE = 1 / 3  # of the largest liver slice that one lesion may fill
_MOST_TUMOR = 0.5  # of the liver's voxels
_SITE_TRIES = 8
_VESSEL_HU = (12.0, 25.0)  # above the parenchyma, smoothed: perhaps and certainly a vessel
_VESSEL_MM = (1.3, 0.6)  # standard deviations of the smoothing that finds vessels and of that which measures them
_SEEDS = 2**63 - 1


_Contrast = Annotated[float, Field(ge=0, le=200)]
_Contrasts = Annotated[tuple[_Contrast, _Contrast], AfterValidator(in_order)]


class SyntheticTumorSettings(BaseModel):
    """How often tumors are painted and what they look like; all ranges are drawn from uniformly.

    HU are meant for a parenchyma of 100 HU or more and shrink with a darker one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: Probability = Field(default=0.0, description="how often a case without tumors gets some")
    kinds: tuple[Kind, ...] = Field(
        default=(*SIZES, "mix"), min_length=1, description="kinds to choose from: tiny, small, medium, large, mix"
    )
    hypodense_hu: _Contrasts = Field(default=(25.0, 75.0), description="how much darker than the liver tumors are, HU")
    hyperdense_hu: _Contrasts = Field(default=(15.0, 50.0), description="how much brighter hyperdense tumors are, HU")
    isodense_probability: Probability = Field(default=0.04, description="how often tumors are as bright as the liver")
    hyperdense_probability: Probability = Field(default=0.1, description="how often tumors are brighter")
    rim_probability: Probability = Field(default=0.2, description="how often a tumor has a rim; isodense ones always")
    calcification_probability: Probability = Field(default=0.04, description="how often a tumor has calcified specks")


class TumorPainter:
    """Paints tumors; made once per process, for its noise takes a tenth of a second and 11 MB.

    Args:
        settings: what to paint. `settings.probability` is the caller's to ask, before it reads the volume.
        seed: what the noise is made from.
    """

    def __init__(self, settings: SyntheticTumorSettings | None = None, seed: int = 0) -> None:
        self.settings = settings or SyntheticTumorSettings()
        self._noise = SmoothNoise(seed)

    def paint(
        self,
        hu: NDArray[np.int16],
        label: NDArray[np.uint8],
        spacing: tuple[float, float, float],
        liver_index: int,
        tumor_index: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """Paint tumors into the liver of a volume or of a stack of its slices.

        Only voxels labelled as liver change. A voxel becomes tumor where at least half of it is lesion; HU also change
        a little way around, where borders are soft. Tumors that are there already stay as they are.

        Args:
            hu: axial `(Z, Y, X)` int16 HU (LPS) before any windowing. Not changed.
            label: uint8 class indices of the same shape. Not changed.
            spacing: voxel size in mm along `(Z, Y, X)`, see `Volume.axial_spacing`.
            liver_index: the liver's class index.
            tumor_index: the tumors' class index.
            rng: the only source of randomness.

        Returns:
            New image and label; the given ones themselves where there is no liver, or too little for the smallest
            lesion.

        Raises:
            BadInputError: shapes, dtypes, spacing or indices do not fit.
        """
        spacing = _check(hu, label, spacing, liver_index, tumor_index)
        box = bounding_box(label == liver_index)
        if box is None:
            return hu, label
        liver, region = label[box] == liver_index, hu[box]
        lesions = draw_lesions(rng, self.settings, liver, spacing, _median(region, liver))
        change, tumor = self._compose(lesions, region, liver, spacing)
        if not tumor.any():
            return hu, label
        new_hu, new_label = np.array(hu, order="K"), np.array(label, order="K")
        changed = change != 0
        painted = np.rint(region[changed] + change[changed]).clip(AIR_HU, _HIGHEST_HU)
        new_hu[box][changed] = painted.astype(np.int16)
        new_label[box][tumor] = tumor_index
        return new_hu, new_label

    def _compose(
        self,
        lesions: tuple[SyntheticLesion, ...],
        hu: NDArray[np.int16],
        liver: NDArray[np.bool_],
        spacing: tuple[float, float, float],
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """HU to add, and which voxels are tumor, in the liver's box; later lesions lie over earlier ones."""
        change, tumor = np.zeros(hu.shape, np.float32), np.zeros(hu.shape, bool)
        room = int(_MOST_TUMOR * np.count_nonzero(liver))
        for lesion in lesions:
            box = lesion_box(lesion, liver.shape, spacing)
            inside = liver[box]
            coverage, added = render_lesion(lesion, box, spacing, self._noise)
            coverage *= inside
            added *= inside
            is_lesion = coverage >= 0.5
            size = int(np.count_nonzero(is_lesion))
            if size == 0 or size > room:
                continue
            room -= size
            added -= coverage * _vessels(hu[box], inside, spacing)
            change[box] += added - coverage * change[box]
            tumor[box] |= is_lesion
        return change, tumor


def draw_lesions(
    rng: np.random.Generator,
    settings: SyntheticTumorSettings,
    liver: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    parenchyma_hu: float,
) -> tuple[SyntheticLesion, ...]:
    """Draw the lesions of one patient.

    Args:
        rng: the only source of randomness.
        settings: what to draw from.
        liver: bool `(Z, Y, X)`, not empty.
        spacing: voxel size in mm along `(Z, Y, X)`.
        parenchyma_hu: the liver's HU.

    Returns:
        As many lesions as the drawn kind has; none where no liver slice has three times the area of a tiny lesion.
        Where the liver is small, lesions are smaller than their kind's.
    """
    areas = np.count_nonzero(liver, axis=(1, 2))
    largest_mm = float(np.sqrt(_LARGEST_SHARE * areas.max() * spacing[1] * spacing[2] / np.pi))
    if largest_mm < RADII_MM["tiny"]:
        return ()
    kind = settings.kinds[int(rng.integers(len(settings.kinds)))]
    count = int(rng.integers(*COUNTS[kind], endpoint=True))
    common = _draw_density(rng, settings, parenchyma_hu)
    contrast = rng.random()
    lesions: list[SyntheticLesion] = []
    for _ in range(count):
        size = SIZES[int(rng.choice(len(SIZES), p=_MIX_SHARES))] if kind == "mix" else kind
        factors = rng.uniform(*RADIUS_FACTORS, 3)
        radii = min(RADII_MM[size], largest_mm) * factors
        center = _draw_site(rng, liver, areas, spacing, float(radii.mean()), lesions)
        density = _draw_density(rng, settings, parenchyma_hu) if rng.random() < _ODD_ONES else common
        place = float(np.clip(contrast + rng.uniform(-0.2, 0.2), 0, 1))
        lesions.append(_draw_lesion(rng, settings, center, radii, density, place, parenchyma_hu))
    return tuple(lesions)


def _draw_density(rng: np.random.Generator, settings: SyntheticTumorSettings, parenchyma_hu: float) -> Density:
    draw = rng.random()
    if draw < settings.isodense_probability:
        return "isodense"
    if draw < settings.isodense_probability + settings.hyperdense_probability or parenchyma_hu < _FATTY_HU:
        return "hyperdense"
    return "hypodense"


def _draw_site(
    rng: np.random.Generator,
    liver: NDArray[np.bool_],
    areas: NDArray[np.intp],
    spacing: tuple[float, float, float],
    radius: float,
    others: list[SyntheticLesion],
) -> tuple[int, int, int]:
    """A liver voxel, half a radius inside its slice where the slice is that wide, and apart from others if it can be.

    After some tries lesions may touch, as they do in full livers.
    """
    shares = areas / areas.sum()
    site = (0, 0, 0)
    for _ in range(_SITE_TRIES):
        z = int(rng.choice(len(areas), p=shares))
        candidates = np.flatnonzero(liver[z])
        for margin in (0.5 * radius, 0.25 * radius):
            window = [2 * round(margin / step) + 1 for step in spacing[1:]]
            deep = np.flatnonzero(minimum_filter(liver[z].view(np.uint8), window, mode="constant"))
            if len(deep):
                candidates = deep
                break
        y, x = divmod(int(candidates[rng.integers(len(candidates))]), liver.shape[2])
        site = (z, y, x)
        distances = [float(np.linalg.norm(np.subtract(site, other.center) * spacing)) for other in others]
        if all(gap > radius + other.radius for gap, other in zip(distances, others, strict=True)):
            break
    return site


def _draw_lesion(
    rng: np.random.Generator,
    settings: SyntheticTumorSettings,
    center: tuple[int, int, int],
    radii: NDArray[np.float64],
    density: Density,
    place: float,
    parenchyma_hu: float,
) -> SyntheticLesion:
    """All else about a lesion; `place`, 0 to 1, is where in the range of HU it lies."""
    scale = float(np.clip(parenchyma_hu / _FULL_CONTRAST_HU, _LEAST_CONTRAST, 1))
    if density == "isodense":
        difference = _ISODENSE_HU * (2 * place - 1)
    else:
        sign, limits = (-1, settings.hypodense_hu) if density == "hypodense" else (1, settings.hyperdense_hu)
        difference = sign * (limits[0] + place * (limits[1] - limits[0]))
    radius = float(radii.mean())
    # Everything is drawn every time, so that one chance set to 0 leaves the rest as it was.
    has_core, has_rim, has_specks = rng.random(3) < (0.35, settings.rim_probability, settings.calcification_probability)
    core, rim, specks = rng.uniform(0.3, 0.9), rng.uniform(15, 50), rng.uniform(150, 500)
    return SyntheticLesion(
        center=center,
        radii=(float(radii[0]), float(radii[1]), float(radii[2])),
        difference=difference * scale,
        core=core if has_core and radius > RADII_MM["tiny"] else 0.0,
        irregularity=rng.uniform(0.05, 0.22),
        softness=min(rng.uniform(1.5, 5), radius),
        texture_hu=scale * rng.uniform(3, 16),
        texture_grain=float(np.exp(rng.uniform(np.log(1.5), np.log(10)))),
        # A capsule is darker than a bright lesion and brighter than a dark one.
        rim_hu=scale * (-rim if density == "hyperdense" else rim) if has_rim or density == "isodense" else 0.0,
        rim_width=min(rng.uniform(1.5, 4), 0.5 * radius),
        calcification_hu=specks if has_specks else 0.0,
        seed=int(rng.integers(_SEEDS)),
    )


def _vessels(
    hu: NDArray[np.int16], liver: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> NDArray[np.float32]:
    """By how many HU vessels are brighter than the liver around: what a lesion would replace, not overlay."""
    parenchyma = _median(hu, liver)
    # What surrounds the liver must not reach into it.
    brighter = np.where(liver, hu, np.float32(parenchyma)) - np.float32(parenchyma)
    # Noise is smoothed away to find vessels, and mostly kept where they are taken out.
    found, measured = (
        gaussian_filter(brighter, [sigma / step if step < 2 * sigma else 0 for step in spacing], truncate=2.5)
        for sigma in _VESSEL_MM
    )
    perhaps, certainly = _VESSEL_HU
    is_vessel = np.clip((found - np.float32(perhaps)) * np.float32(1 / (certainly - perhaps)), 0, 1)
    return is_vessel * np.maximum(measured, 0)


def _median(hu: NDArray[np.int16], liver: NDArray[np.bool_]) -> float:
    """The liver's median HU, from enough of its voxels."""
    values = hu[liver]
    return float(np.median(values[:: max(1, len(values) // 5000)])) if len(values) else 0.0


def _check(
    hu: NDArray[np.int16],
    label: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    liver_index: int,
    tumor_index: int,
) -> tuple[float, float, float]:
    """The spacing as plain numbers, after everything has been looked at."""
    if hu.ndim != 3 or hu.shape != label.shape or 0 in hu.shape:
        msg = (
            f"synthetic tumors need an image (Z, Y, X) and a label of the same shape, not {hu.shape} and {label.shape}"
        )
        raise BadInputError(msg)
    if hu.dtype != np.int16 or label.dtype != np.uint8:
        msg = f"synthetic tumors need int16 HU and a uint8 label, not {hu.dtype} and {label.dtype}"
        raise BadInputError(msg)
    if len(spacing) != 3 or not all(0 < length < float("inf") for length in spacing):
        msg = f"spacing must be three positive lengths in mm along (Z, Y, X), not {tuple(spacing)}"
        raise BadInputError(msg)
    if liver_index == tumor_index or not (0 < liver_index < 256 and 0 < tumor_index < 256):
        msg = f"liver and tumor must be two indices of 1 to 255, not {liver_index} and {tumor_index}"
        raise BadInputError(msg)
    return float(spacing[0]), float(spacing[1]), float(spacing[2])
