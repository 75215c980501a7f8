"""Drawing a phantom: all randomness that has a name, within the ranges seen in clinical CT."""

from typing import get_args

import numpy as np

from lib.anatomy.body import Anatomy, anatomy_of
from lib.anatomy.shapes import Triple
from lib.anatomy.spec import Body, Lesion, LesionKind, LiverShape, PhantomSpec, Phase, Scan, Tissue
from lib.errors import BadInputError

_LIVER_Z = (-125.0, 95.0)  # mm: the range that holds a common liver
_ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "LPI", "RAI", "PSL", "ASR", "SPL")
_ORIENTATION_SHARES = (0.4, 0.22, 0.14, 0.08, 0.04, 0.04, 0.03, 0.03, 0.02)
_KINDS = ("hypo", "iso", "hyper")
# Metastases and washed-out tumors are dark in most phases; those fed by arteries shine before the liver does.
_KIND_SHARES = {"native": (0.81, 0.05, 0.14), "arterial": (0.35, 0.05, 0.6), "portal": (0.81, 0.05, 0.14)}
_OTHER_KIND_SHARES = {"native": (0.72, 0.1, 0.18), "arterial": (0.4, 0.1, 0.5), "portal": (0.72, 0.1, 0.18)}
# HU by which lesions are darker and brighter than the parenchyma
_HYPODENSE = {"native": (9, 30), "arterial": (12, 45), "portal": (25, 75)}
_HYPERDENSE = {"native": (10, 28), "arterial": (25, 75), "portal": (18, 60)}


def draw_spec(
    seed: int,
    *,
    shape: tuple[int, int, int] | None = None,
    spacing: Triple | None = None,
    phase: Phase | None = None,
    tumors: int | None = None,
    orientation: str | tuple[str, str, str] | None = None,
    noise: float | None = None,
    tilt: float | None = None,
) -> PhantomSpec:
    """Draw all parameters of one phantom; the same arguments give the same phantom.

    Args:
        seed: any integer from 0.
        shape: voxels of the axial grid (columns, rows, slices); by default 512 x 512 and as many slices as a
            clinical scan would have.
        spacing: mm along that grid; by default a field of view of 320-500 mm, and slices such that the liver fits.
        phase: "native", "arterial" or "portal"; by default native or portal.
        tumors: how many; 0 for none; by default none in 3 of 10 phantoms, else 1 to 12.
        orientation: axis codes of the file such as "LPS"; by default any, mostly LPS, RAS or LAS.
        noise: standard deviation in HU; by default 5-25, mostly 12-21 for thin slices.
        tilt: degrees that the grid is tilted about the left-right axis; by default 0 and seldom up to 12.

    Raises:
        BadInputError: a value that no phantom can have.
    """
    _check(seed, shape, spacing, phase, tumors, orientation)
    rng = np.random.default_rng([seed, 0])
    body, liver = _draw_body(rng), _draw_liver(rng)
    tissue = _draw_tissue(rng, phase)
    scan = _draw_scan(rng, body, shape, spacing, orientation, noise, tilt)
    anatomy = anatomy_of(seed, body, liver)
    lesions = _draw_lesions(rng, anatomy, scan, tissue, tumors)
    return PhantomSpec(seed, scan, body, liver, tissue, lesions)


def _check(
    seed: int,
    shape: tuple[int, int, int] | None,
    spacing: Triple | None,
    phase: str | None,
    tumors: int | None,
    orientation: str | tuple[str, str, str] | None,
) -> None:
    if seed < 0:
        msg = f"the seed must be 0 or more, not {seed}"
        raise BadInputError(msg)
    if shape is not None and (len(shape) != 3 or min(shape[:2]) < 16 or shape[2] < 1):
        msg = f"a phantom needs at least 16 x 16 x 1 voxels, not {tuple(shape)}"
        raise BadInputError(msg)
    if spacing is not None and (len(spacing) != 3 or not all(0.1 <= step <= 20 for step in spacing)):
        msg = f"the spacing must be three lengths of 0.1 to 20 mm, not {tuple(spacing)}"
        raise BadInputError(msg)
    if phase is not None and phase not in get_args(Phase):
        msg = f"the phase must be 'native', 'arterial' or 'portal', not {phase!r}"
        raise BadInputError(msg)
    if tumors is not None and not 0 <= tumors <= 100:
        msg = f"the number of tumors must be 0 to 100, not {tumors}"
        raise BadInputError(msg)
    if orientation is not None:
        axes = sorted("LR" if c in "LR" else "AP" if c in "AP" else "IS" if c in "IS" else "?" for c in orientation)
        if axes != ["AP", "IS", "LR"]:
            msg = f"the orientation must name each axis once, like 'LPS' or 'RAS', not {orientation!r}"
            raise BadInputError(msg)


def _draw_body(rng: np.random.Generator) -> Body:
    half_width = float(np.clip(rng.normal(170, 19), 128, 222))
    big = (half_width - 170) / 19
    return Body(
        half_width=half_width,
        half_depth=half_width * rng.uniform(0.62, 0.78),
        squareness=rng.uniform(2.1, 2.7),
        height=float(np.clip(rng.normal(1.0, 0.09), 0.8, 1.22)),
        fat=float(np.clip(rng.normal(19 + 7 * big, 7), 5, 50)),
        muscle=float(np.clip(rng.normal(15, 3), 9, 22)),
        arms=bool(rng.random() < 0.12),
        ascites=float(rng.uniform(4, 16)) if rng.random() < 0.08 else 0.0,
        effusion=float(rng.uniform(15, 50)) if rng.random() < 0.12 else 0.0,
        gallbladder=0.0 if rng.random() < 0.15 else rng.uniform(0.55, 1.35),
        stomach_air=0.0 if rng.random() < 0.15 else rng.uniform(0.1, 0.6),
        oral_contrast=float(rng.uniform(80, 350)) if rng.random() < 0.25 else 0.0,
        spleen=0.0 + rng.uniform(0.7, 1.35),
        calcified=bool(rng.random() < 0.35),
        inspiration=float(rng.normal(0, 8)),
    )


def _draw_liver(rng: np.random.Generator) -> LiverShape:
    riedel = rng.random() < 0.12
    return LiverShape(
        tip=rng.uniform(-150, -130) if riedel else rng.uniform(-122, -78),
        undersurface=rng.uniform(0.35, 0.75),
        medial=rng.uniform(-40, -18),
        left_end=rng.uniform(28, 100),
        left_angle=rng.uniform(32, 62),
        left_depth=rng.uniform(-12, 10),
        left_low=rng.uniform(-50, -10),
        dome=rng.uniform(-10, 8),
        caudate=rng.uniform(0.7, 1.3),
        fissure=rng.uniform(1.5, 8) if rng.random() < 0.85 else 0.0,
        roughness=rng.uniform(1.5, 4.5),
        nodularity=rng.uniform(0.4, 1.1) if rng.random() < 0.15 else 0.0,
    )


def _draw_tissue(rng: np.random.Generator, phase: Phase | None) -> Tissue:
    native = rng.random() < 0.3
    if phase is None:
        phase = "native" if native else "portal"
    fatty = rng.random()
    steatosis = float(rng.uniform(15, 45)) if fatty < 0.12 else float(rng.uniform(3, 15)) if fatty < 0.3 else 0.0
    common = {
        "fat": rng.uniform(-115, -90),
        "bile": rng.uniform(2, 18),
        "marrow": rng.uniform(110, 230),
        "compacta": rng.uniform(280, 480),
        "mottling": rng.uniform(1.0, 4.0),
    }
    if phase == "native":
        blood = rng.uniform(32, 46)
        return Tissue(
            phase="native", steatosis=steatosis, parenchyma=rng.uniform(50, 64) - steatosis,
            hepatic_vein=blood, portal_vein=blood, vena_cava=blood, aorta=blood + rng.uniform(0, 4),
            spleen=rng.uniform(42, 54), cortex=rng.uniform(28, 38), medulla=rng.uniform(26, 36),
            pancreas=rng.uniform(28, 44), bowel_wall=rng.uniform(25, 42), muscle=rng.uniform(45, 60), **common,
        )  # fmt: skip
    if phase == "arterial":  # late: the portal vein begins to fill, the hepatic veins do not
        parenchyma = rng.uniform(62, 82)
        return Tissue(
            phase="arterial", steatosis=steatosis, parenchyma=parenchyma - steatosis,
            portal_vein=parenchyma + rng.uniform(15, 60), hepatic_vein=rng.uniform(42, 58),
            vena_cava=rng.uniform(55, 110), aorta=rng.uniform(230, 380), spleen=rng.uniform(95, 150),
            cortex=rng.uniform(150, 230), medulla=rng.uniform(50, 90), pancreas=rng.uniform(85, 125),
            bowel_wall=rng.uniform(65, 115), muscle=rng.uniform(50, 66), **common,
        )  # fmt: skip
    late = rng.beta(2.5, 1.2)  # 0 inflow phase, 1 late portal-venous phase
    parenchyma = 78 + 34 * late + rng.normal(0, 7)
    portal_vein = parenchyma + rng.uniform(30, 80)
    return Tissue(
        phase="portal", steatosis=steatosis, parenchyma=float(np.clip(parenchyma, 72, 125)) - steatosis,
        portal_vein=portal_vein, hepatic_vein=parenchyma + late * rng.uniform(25, 70) - 12 * (1 - late),
        vena_cava=parenchyma * 0.75 + late * rng.uniform(20, 70),
        aorta=portal_vein + rng.uniform(-15, 25) + 90 * (1 - late),
        spleen=parenchyma + rng.uniform(2, 35), cortex=rng.uniform(160, 225), medulla=rng.uniform(95, 150) + 50 * late,
        pancreas=rng.uniform(75, 110), bowel_wall=rng.uniform(60, 105), muscle=rng.uniform(52, 72), **common,
    )  # fmt: skip


def _draw_scan(
    rng: np.random.Generator,
    body: Body,
    shape: tuple[int, int, int] | None,
    spacing: Triple | None,
    orientation: str | tuple[str, str, str] | None,
    noise: float | None,
    tilt: float | None,
) -> Scan:
    columns, rows = shape[:2] if shape else (512, 512)
    view = float(np.clip(2 * body.half_width * rng.uniform(0.92, 1.35), 320, 500))
    cover = rng.uniform(235, 330) if rng.random() < 0.6 else rng.uniform(330, 520)
    step = float(
        rng.choice(
            [0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 5.0], p=[0.08, 0.12, 0.25, 0.1, 0.1, 0.1, 0.05, 0.05, 0.15]
        )
    )
    if spacing is None:
        if shape:
            step = cover / shape[2]
            step = float(np.clip(step, 0.7, 10.0))
        spacing = (view / columns, view / columns, step)
    else:
        step = spacing[2]
    slices = shape[2] if shape else round(cover / step)
    length = slices * step
    thickness = step * float(rng.choice([0.7, 1.0, 1.0, 1.3, 2.0], p=[0.05, 0.4, 0.35, 0.1, 0.1]))
    thickness = float(np.clip(thickness, 0.5, 10))
    drawn = str(rng.choice(_ORIENTATIONS, p=_ORIENTATION_SHARES))
    first, second, third = tuple(orientation or drawn)
    oblique = float(rng.uniform(-12, 12)) if rng.random() < 0.06 else 0.0
    level = rng.uniform(12, 21) * np.clip((1.5 / thickness) ** 0.3, 0.5, 1.15) * (0.6 if rng.random() < 0.12 else 1)
    level *= np.clip((0.75 / spacing[0]) ** 0.35, 0.5, 1.1)  # larger pixels average more
    level *= float(np.clip(body.half_width / 170, 0.8, 1.2))
    middle = 0.0 if rng.random() < 0.8 else rng.normal(0, 14)
    return Scan(
        shape=(columns, rows, slices),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        slice_thickness=thickness,
        center=(middle + rng.normal(0, 6), rng.normal(6, 8), _middle_height(rng, body, length)),
        roll=rng.normal(0, 2.5) if rng.random() < 0.92 else rng.uniform(-14, 14),
        tilt=oblique if tilt is None else tilt,
        orientation=(first, second, third),
        position=(rng.uniform(-20, 20), rng.uniform(-200, -100), rng.uniform(-900, 900)),
        noise=float(np.clip(level, 5, 25)) if noise is None else noise,
        noise_correlation=(rng.uniform(0.45, 0.95), rng.uniform(0.3, 1.2)),
        sharpness=max(rng.uniform(0.9, 1.8), 1.15 * max(spacing[:2])),
        shading=rng.uniform(0, 2.0),
        streaks=rng.uniform(2, 6) if rng.random() < 0.15 else 0.0,
        circular=bool(rng.random() < 0.3),
        table=rng.uniform(5, 35) if rng.random() < 0.9 else None,
    )


def _middle_height(rng: np.random.Generator, body: Body, length: float) -> float:
    """Z of the scan's middle: the liver whole if it fits, cut in some scans; somewhere in the liver if it doesn't."""
    low, high = (body.height * (z + body.inspiration) for z in _LIVER_Z)
    spare = length - (high - low)
    if spare < 0:
        return rng.uniform(low + 0.4 * length, high - 0.4 * length) if length < 0.9 * (high - low) else (low + high) / 2
    if rng.random() < 0.1:  # the scan begins or ends inside the liver
        cut = rng.uniform(20, 80)
        return high - cut - length / 2 if rng.random() < 0.5 else low + cut + length / 2
    # trunk above or below: more often below
    return (low + high) / 2 + spare * (0.5 - rng.beta(2.2, 1.4))


def _draw_lesions(
    rng: np.random.Generator, anatomy: Anatomy, scan: Scan, tissue: Tissue, tumors: int | None
) -> tuple[Lesion, ...]:
    if tumors is None:
        tumors = 0 if rng.random() < 0.3 else int(np.clip(np.ceil(rng.exponential(3.2)), 1, 12))
    if tumors == 0:
        return ()
    common = str(rng.choice(_KINDS, p=_KIND_SHARES[tissue.phase]))
    contrast = rng.uniform(0.7, 1.2)
    typical = np.exp(rng.uniform(np.log(8), np.log(45)))
    centers, depths = _candidates(rng, anatomy, scan)
    lesions: list[Lesion] = []
    for _ in range(tumors):
        if len(centers) == 0:
            break
        diameter = float(np.clip(typical * np.exp(rng.normal(0, 0.55)), 5, 60))
        radius = diameter / 2
        # most lie wholly inside; every fourth touches or bulges the surface
        near = rng.random() < 0.27
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
                continue
        center = centers[rng.choice(choice)]
        kind = common if rng.random() < 0.85 else str(rng.choice(_KINDS, p=_OTHER_KIND_SHARES[tissue.phase]))
        lesions.append(_draw_lesion(rng, center, radius, kind, contrast, tissue, near))  # type: ignore[arg-type]
    return tuple(lesions)


def _candidates(rng: np.random.Generator, anatomy: Anatomy, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
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


def _draw_lesion(
    rng: np.random.Generator,
    center: np.ndarray,
    radius: float,
    kind: LesionKind,
    contrast: float,
    tissue: Tissue,
    near: bool,
) -> Lesion:
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
