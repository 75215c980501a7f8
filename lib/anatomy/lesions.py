"""Drawing a phantom's tumors: where in the liver they lie, and what they look like."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.anatomy.body import Anatomy
from lib.anatomy.spec import Lesion, LesionKind, Scan, Tissue

_KINDS = ("hypo", "iso", "hyper")
# Metastases and washed-out tumors are dark in most phases; those fed by arteries shine before the liver does.
_KIND_SHARES = {"native": (0.81, 0.05, 0.14), "arterial": (0.35, 0.05, 0.6), "portal": (0.81, 0.05, 0.14)}
_OTHER_KIND_SHARES = {"native": (0.72, 0.1, 0.18), "arterial": (0.4, 0.1, 0.5), "portal": (0.72, 0.1, 0.18)}
# HU by which lesions are darker and brighter than the parenchyma
_HYPODENSE = {"native": (9, 30), "arterial": (12, 45), "portal": (25, 75)}
_HYPERDENSE = {"native": (10, 28), "arterial": (25, 75), "portal": (18, 60)}


def draw_lesions(
    rng: np.random.Generator, anatomy: Anatomy, scan: Scan, tissue: Tissue, tumors: int | None
) -> tuple[Lesion, ...]:
    """As many tumors as find a place, of kinds and sizes as clinical CT has them; None draws how many, too."""
    if tumors is None:
        tumors = 0 if rng.random() < 0.3 else int(np.clip(np.ceil(rng.exponential(3.2)), 1, 12))
    if tumors == 0:
        return ()
    common = str(rng.choice(_KINDS, p=_KIND_SHARES[tissue.phase]))
    contrast = rng.uniform(0.7, 1.2)
    typical = np.exp(rng.uniform(np.log(8), np.log(45)))
    centers, depths = liver_points(rng, anatomy, scan)
    lesions: list[Lesion] = []
    for _ in range(tumors):
        diameter = float(np.clip(typical * np.exp(rng.normal(0, 0.55)), 5, 60))
        radius = diameter / 2
        near = rng.random() < 0.27  # most lie wholly inside; every fourth touches or bulges the surface
        place = find_place(rng, centers, depths, lesions, radius, near)
        if place is None:
            continue
        center, radius = place
        kind = common if rng.random() < 0.85 else str(rng.choice(_KINDS, p=_OTHER_KIND_SHARES[tissue.phase]))
        lesions.append(draw_lesion(rng, center, radius, kind, contrast, tissue, near))  # type: ignore[arg-type]
    return tuple(lesions)


def liver_points(
    rng: np.random.Generator, anatomy: Anatomy, scan: Scan
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Points in the liver and in the scan, with their depths under the liver's surface in mm."""
    matrix, origin = scan.index_to_patient()
    index = rng.uniform(0.04, 0.96, (6000, 3)) * (np.array(scan.shape) - 1)
    # half of the points in the box of the whole liver, so that scans of the whole trunk have enough of them
    points = index @ matrix.T + origin
    low, high = np.array([-125, -95, -140]) * anatomy.scale, np.array([95, 80, 90]) * anatomy.scale
    more = rng.uniform(low, high, (9000, 3))
    at = np.linalg.solve(matrix, (more - origin).T).T / np.maximum(np.array(scan.shape) - 1, 1)
    points = np.concatenate([points, more[((at > 0.03) & (at < 0.97)).all(axis=1)]])
    depths = -anatomy.liver_at(points)
    return points[depths > 1], depths[depths > 1]


def find_place(
    rng: np.random.Generator,
    centers: NDArray[np.float64],
    depths: NDArray[np.float32],
    lesions: Sequence[Lesion],
    radius: float,
    near: bool,
) -> tuple[NDArray[np.float64], float] | None:
    """Where a further tumor can lie.

    Args:
        rng: draws one of the places.
        centers: `(N, 3)` mm, as `liver_points` gives them.
        depths: `(N,)` mm under the liver's surface.
        lesions: those that lie there already; it keeps away from them.
        radius: of the tumor in mm.
        near: whether it should touch the surface.

    Returns:
        Its center and its radius, which is smaller than asked for where the liver is too thin; None where no place is
        left.
    """
    fits = depths > (0.2 * radius if near else 0.75 * radius)
    apart = np.ones(len(centers), bool)
    for other in lesions:
        apart &= np.linalg.norm(centers - np.array(other.center), axis=1) > 0.8 * (radius + max(other.radii))
    choice = np.flatnonzero(fits & apart)
    if near and len(choice):
        choice = choice[depths[choice] < 0.9 * radius + 2] if (depths[choice] < 0.9 * radius + 2).any() else choice
    if len(choice) == 0:
        choice = np.flatnonzero(apart & (depths > 1.5))
        radius = min(radius, 6.0)
        if len(choice) == 0:
            return None
    return centers[rng.choice(choice)], radius


def draw_lesion(
    rng: np.random.Generator,
    center: np.ndarray,
    radius: float,
    kind: LesionKind,
    contrast: float,
    tissue: Tissue,
    near: bool,
) -> Lesion:
    """Everything about one tumor but its place and size.

    Args:
        rng: draws it.
        center: `(3,)` mm.
        radius: mean of its half axes in mm; an isodense one is made no larger than 14.
        kind: hypo-, iso- or hyperdense.
        contrast: factor of its difference to the parenchyma.
        tissue: the parenchyma and the phase.
        near: whether it lies at the surface, and may bulge.
    """
    if kind == "iso":
        radius = min(radius, 14.0)  # larger ones show by what they push aside, which a phantom does not have
    small = radius < 6
    strength = 0.5 if tissue.phase == "native" else 1.0  # of what contrast medium shows
    if kind == "hypo":
        difference = -contrast * rng.uniform(*_HYPODENSE[tissue.phase])
        # fat can't make a lesion darker than water is; a fatty liver shows them less or as bright
        difference = max(difference, -5 - tissue.parenchyma) if tissue.parenchyma > 5 else -4.0
    elif kind == "hyper":
        difference = contrast * rng.uniform(*_HYPERDENSE[tissue.phase])
    else:
        difference = rng.uniform(-6, 6)
    radii = rng.uniform(0.75, 1.25, 3)
    radii *= radius / radii.mean()
    rim = 0.0
    if rng.random() < (0.9 if kind == "iso" else 0.25):
        rim = float(rng.uniform(12, 45) * (1 if rng.random() < 0.75 else -0.8))
        rim *= strength
    necrotic = kind != "iso" and not small and rng.random() < 0.3
    core = float(-rng.uniform(8, 45) * strength) if necrotic else 0.0
    core = max(core, 2 - tissue.parenchyma - difference) if core and tissue.parenchyma + difference > 2 else 0.0
    calcified = rng.random() < 0.05
    return Lesion(
        center=(float(center[0]), float(center[1]), float(center[2])),
        radii=(float(radii[0]), float(radii[1]), float(radii[2])),
        kind=kind,
        difference=float(difference),
        irregularity=float(rng.uniform(0.04, 0.22)),
        softness=float(rng.uniform(1.0, 4.5) if rng.random() < 0.8 else rng.uniform(4, 9)),
        heterogeneity=float(rng.uniform(6 if kind == "iso" else 1, 9) * strength),
        rim=rim,
        rim_width=float(rng.uniform(1.5, 4)),
        core=core,
        calcification=float(rng.uniform(180, 500)) if calcified else 0.0,
        bulges=bool(near and rng.random() < 0.5),
    )
