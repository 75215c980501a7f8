"""Drawing a phantom: all randomness that has a name, within the ranges seen in clinical CT."""

from typing import get_args

import numpy as np

from lib.anatomy.body import anatomy_of
from lib.anatomy.lesions import draw_lesions
from lib.anatomy.shapes import Triple
from lib.anatomy.spec import Body, LiverShape, PhantomSpec, Phase, Scan, Tissue
from lib.errors import BadInputError

_LIVER_Z = (-125.0, 95.0)  # mm: the range that holds a common liver
_ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "LPI", "RAI", "PSL", "ASR", "SPL")
_ORIENTATION_SHARES = (0.4, 0.22, 0.14, 0.08, 0.04, 0.04, 0.03, 0.03, 0.02)


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
    body, liver = draw_body(rng), draw_liver(rng)
    tissue = draw_tissue(rng, phase)
    scan = draw_scan(rng, body, shape, spacing, orientation, noise, tilt)
    anatomy = anatomy_of(seed, body, liver)
    lesions = draw_lesions(rng, anatomy, scan, tissue, tumors)
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


def draw_body(rng: np.random.Generator) -> Body:
    """A trunk."""
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


def draw_liver(rng: np.random.Generator) -> LiverShape:
    """A liver of which nothing was taken out."""
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


def draw_tissue(rng: np.random.Generator, phase: Phase | None) -> Tissue:
    """HU in a phase; None draws native or portal."""
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


def draw_scan(
    rng: np.random.Generator,
    body: Body,
    shape: tuple[int, int, int] | None,
    spacing: Triple | None,
    orientation: str | tuple[str, str, str] | None,
    noise: float | None,
    tilt: float | None,
) -> Scan:
    """How a body is scanned; what is None is drawn. The arguments are those of `draw_spec`."""
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
