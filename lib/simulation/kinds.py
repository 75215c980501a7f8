"""The kinds of patients of a simulated hospital, and the phantom of a patient of one kind.

Shares, sizes and contrasts are assumptions, not figures from any hospital's statistics: most patients have come for the
same routine scan and look alike, and what differs from them differs in one thing, in a few of a hundred patients each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lib.anatomy.body import Anatomy, anatomy_of
from lib.anatomy.draw import draw_body, draw_liver, draw_scan, draw_tissue
from lib.anatomy.lesions import draw_lesion, find_place, liver_points
from lib.anatomy.shapes import Triple, triple
from lib.anatomy.spec import Body, Lesion, LesionKind, LiverShape, PhantomSpec, Phase, Resection, Scan, Tissue

_BODY, _TISSUE, _SCAN, _LESIONS, _LESION = range(20, 25)  # streams of random numbers, apart from those of lib.anatomy
# mm of the trunk, its stretch, and the liver's lower tip: the liver must lie in the field of view
_HALF_WIDTHS, _HEIGHTS, _LOWEST_TIP = (145.0, 195.0), (0.8, 1.1), -122.0
_CLOSE_TO_SURFACE = 0.2  # share of lesions


@dataclass(frozen=True)
class Further:
    """What a patient's further series is.

    Args:
        phase: of contrast medium.
        thin: whether its slices lie closer together than those of the first.
        kind: what it then counts as, if not as the patient's kind.
    """

    phase: Phase
    thin: bool
    kind: str | None = None


@dataclass(frozen=True)
class Kind:
    """What patients of one kind have in common.

    Args:
        name: of the kind.
        share: of all patients.
        phase: of the first series.
        further: what further series there may be, likeliest first.
        healthy: share of the patients without a lesion.
        lesions: fewest and most lesions of the others.
        diameters: smallest and largest lesion in mm.
        densities: shares of lesions darker than the parenchyma, as dark, and brighter.
        contrast: least and largest factor of a lesion's usual difference to the parenchyma.
        steatosis: least and largest HU by which fat lowers the parenchyma.
        resected: whether a part of the liver was taken out.
    """

    name: str
    share: float
    phase: Phase = "portal"
    further: tuple[Further, ...] = (Further("portal", thin=True),)
    healthy: float = 0.0
    lesions: tuple[int, int] = (1, 4)
    diameters: tuple[float, float] = (18.0, 48.0)
    densities: Mapping[LesionKind, float] = field(default_factory=lambda: {"hypo": 1.0})
    contrast: tuple[float, float] = (0.9, 1.2)
    steatosis: tuple[float, float] = (0.0, 0.0)
    resected: bool = False


KINDS = (
    Kind("ordinary", 0.74, healthy=0.25, further=(Further("portal", thin=True), Further("native", False, "native"))),
    Kind("small", 0.06, lesions=(2, 6), diameters=(10.0, 16.0)),
    Kind(
        "hyperdense", 0.05, phase="arterial", further=(Further("arterial", thin=True),), diameters=(14.0, 40.0),
        densities={"hyper": 1.0},
    ),
    Kind("native", 0.03, phase="native", further=(Further("native", thin=True),)),
    Kind("postsurgical", 0.06, lesions=(1, 3), diameters=(14.0, 40.0), resected=True),
    Kind(
        "steatotic", 0.06, diameters=(16.0, 45.0), densities={"iso": 0.3, "hyper": 0.7}, contrast=(0.6, 1.0),
        steatosis=(45.0, 60.0),
    ),
)  # fmt: skip
KIND_NAMES = tuple(kind.name for kind in KINDS)
# The middle of the cut face and the direction of what is missing, in mm of a patient of average size. Nothing moves
# into the place of what was taken out: fat lies there.
OPERATIONS: dict[str, tuple[Triple, Triple]] = {
    "right hepatectomy": ((-26.0, -10.0, 0.0), (-0.97, 0.1, 0.2)),
    "left lateral sectionectomy": ((6.0, -40.0, 5.0), (0.97, 0.1, 0.0)),
    "right posterior sectionectomy": ((-80.0, 15.0, -10.0), (-0.6, 0.8, -0.1)),
    "bisegmentectomy 5 and 6": ((-80.0, -20.0, -30.0), (-0.2, -0.2, -0.96)),
}


@dataclass(frozen=True)
class Grid:
    """The voxels of a first series.

    Args:
        size: columns and rows.
        slices: axial slices.
        slice_mm: from one slice to the next.
        field_mm: what the columns cover.
    """

    size: int = 128
    slices: int = 24
    slice_mm: float = 8.5
    field_mm: float = 360.0

    def thinner(self) -> "Grid":
        """As much of the patient in slices that are three quarters as thick."""
        return replace(self, slices=round(self.slices / 0.75), slice_mm=self.slice_mm * 0.75)


def phantom_of(
    kind: Kind, seed: int, lesions: int, phase: Phase, grid: Grid, *, thin: bool = False, series: int = 0
) -> PhantomSpec:
    """One series of one patient.

    Args:
        kind: of the patient.
        seed: of the patient: with the same one, body, liver and lesions are the same in each series.
        lesions: how many the patient has.
        phase: of this series.
        grid: of the patient's first series; lesions lie where that one sees them.
        thin: whether the slices of this series lie closer together than those of the first.
        series: number of this series, from 0: each has noise of its own.
    """
    body, liver = _patient(kind, seed)
    anatomy = anatomy_of(seed, body, liver)
    tissue = _tissue(kind, seed, phase)
    height = _middle_height(anatomy)
    scan = _scan(seed, body, height, grid.thinner() if thin else grid, series)
    tumors = _lesions(kind, seed, lesions, anatomy, tissue, _scan(seed, body, height, grid, 0))
    return PhantomSpec(seed, scan, body, liver, tissue, tumors)


def _patient(kind: Kind, seed: int) -> tuple[Body, LiverShape]:
    rng = np.random.default_rng([seed, _BODY])
    body, liver = draw_body(rng), draw_liver(rng)
    half_width = float(np.clip(body.half_width, *_HALF_WIDTHS))
    body = replace(
        body, half_width=half_width, half_depth=body.half_depth * half_width / body.half_width,
        height=float(np.clip(body.height, *_HEIGHTS)), arms=False, ascites=0.0, effusion=0.0,
    )  # fmt: skip
    liver = replace(liver, tip=max(liver.tip, _LOWEST_TIP), nodularity=0.0)
    if not kind.resected:
        return body, liver
    middle, normal = OPERATIONS[list(OPERATIONS)[int(rng.integers(len(OPERATIONS)))]]
    turned = np.array(normal) + rng.normal(0, 0.08, 3)
    turned /= np.linalg.norm(turned)
    resection = Resection(
        middle=triple(np.array(middle) + rng.normal(0, 3, 3)),
        normal=triple(turned),
        clips=int(rng.integers(4, 12)),
        seroma=float(rng.uniform(12, 24)) if rng.random() < 0.7 else 0.0,
    )
    body = replace(body, gallbladder=0.0)
    # what is left grows, and who has a small left lobe has none of it taken out
    return body, replace(
        liver, left_end=max(liver.left_end, 75.0), left_low=min(liver.left_low, -30.0), resection=resection
    )


def _tissue(kind: Kind, seed: int, phase: Phase) -> Tissue:
    rng = np.random.default_rng([seed, _TISSUE])
    steatosis = float(rng.uniform(*kind.steatosis))
    drawn = draw_tissue(rng, phase)
    return replace(drawn, steatosis=steatosis, parenchyma=drawn.parenchyma + drawn.steatosis - steatosis)


def _scan(seed: int, body: Body, height: float, grid: Grid, series: int) -> Scan:
    rng = np.random.default_rng([seed, _SCAN, series])
    pixel = grid.field_mm / grid.size
    scan = draw_scan(rng, body, (grid.size, grid.size, grid.slices), (pixel, pixel, grid.slice_mm), "LPS", None, 0.0)
    return replace(scan, center=(0.0, scan.center[1], height), circular=False, series=series)


def _middle_height(anatomy: Anatomy) -> float:
    """Z in mm half way between the liver's lower and upper end, to some mm."""
    low, high = np.array([-125, -95, -160]) * anatomy.scale, np.array([95, 80, 100]) * anatomy.scale
    shift = anatomy.body.inspiration * anatomy.scale[2]
    axes = (np.linspace(start, end, count) for start, end, count in zip(low, high, (14, 11, 60), strict=True))
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) + np.array([0, 0, shift])
    inside = points[anatomy.liver_at(points) < 0, 2]
    return float(inside.min() + inside.max()) / 2


def _lesions(kind: Kind, seed: int, count: int, anatomy: Anatomy, tissue: Tissue, first: Scan) -> tuple[Lesion, ...]:
    rng = np.random.default_rng([seed, _LESIONS])
    contrast = float(rng.uniform(*kind.contrast))
    names = tuple(kind.densities)
    centers, depths = liver_points(rng, anatomy, first)
    lesions: list[Lesion] = []
    for number in range(count):
        radius = float(np.exp(rng.uniform(*np.log(kind.diameters)))) / 2
        near = bool(rng.random() < _CLOSE_TO_SURFACE)
        density = names[int(rng.choice(len(names), p=list(kind.densities.values())))]
        place = find_place(rng, centers, depths, lesions, radius, near)
        if place is None:
            continue
        # a stream for each lesion, of which every phase takes the same numbers: only HU are another
        look = np.random.default_rng([seed, _LESION, number])
        lesions.append(draw_lesion(look, *place, density, contrast, tissue, near))
    return tuple(lesions)
