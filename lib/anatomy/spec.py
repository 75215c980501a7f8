"""Everything that is drawn about a phantom: the scan, the body, the tissues' HU, the lesions.

Lengths are mm, intensities HU. Patient axes are left, posterior, superior (LPS); the origin lies in the middle of
the trunk at the height of the liver's hilum.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lib.anatomy.shapes import Triple

Phase = Literal["native", "arterial", "portal"]
LesionKind = Literal["hypo", "iso", "hyper"]


@dataclass(frozen=True)
class Scan:
    """How the scanner sees the patient.

    Args:
        shape: voxels of the axial grid (columns, rows, slices), before `orientation` is applied.
        spacing: distance of voxels along that grid.
        slice_thickness: extent along z over which a slice averages.
        center: what lies in the middle of the grid.
        roll: rotation of the patient about z in degrees.
        tilt: rotation of the grid about the left-right axis in degrees; not 0 makes the affine oblique.
        orientation: axis codes of the file, such as ("L", "P", "S").
        position: scanner coordinates (LPS) of the grid's middle.
        noise: standard deviation in the middle of the body.
        noise_correlation: (in plane, along z) standard deviation of the noise's smoothing in mm.
        sharpness: width of an edge in plane.
        shading: low-frequency drift's standard deviation.
        streaks: standard deviation of horizontal streaks through the widest, densest slices.
        circular: whether pixels outside the circle of reconstruction are padded with -1024.
        table: height of the table's curve over 200 mm, or None without a table.
        series: which of the patient's series it is; each has noise of its own.
    """

    shape: tuple[int, int, int]
    spacing: Triple
    slice_thickness: float
    center: Triple
    roll: float
    tilt: float
    orientation: tuple[str, str, str]
    position: Triple
    noise: float
    noise_correlation: tuple[float, float]
    sharpness: float
    shading: float
    streaks: float
    circular: bool
    table: float | None
    series: int = 0

    def index_to_patient(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`matrix`, `origin` with patient LPS mm = `matrix @ (column, row, slice) + origin`."""
        matrix = _about_z(-self.roll) @ _about_x(self.tilt) @ np.diag(self.spacing)
        return matrix, np.array(self.center) - matrix @ self._middle()

    def affine(self) -> NDArray[np.float64]:
        """The (4, 4) affine of the axial grid to RAS+ scanner mm, before `orientation` is applied."""
        affine = np.eye(4)
        affine[:3, :3] = _about_x(self.tilt) @ np.diag(self.spacing)
        affine[:3, 3] = np.array(self.position) - affine[:3, :3] @ self._middle()
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    def _middle(self) -> NDArray[np.float64]:
        return (np.array(self.shape) - 1) / 2


@dataclass(frozen=True)
class Body:
    """The trunk's size and contents.

    Args:
        half_width: of the trunk, skin to skin, at the height of the liver.
        half_depth: likewise, front to back.
        squareness: exponent of the trunk's superellipse; 2 is an ellipse.
        height: stretch of all organs along z; 1 is an average adult.
        fat: thickness of the fat under the skin.
        muscle: thickness of the trunk's wall.
        arms: whether the arms lie beside the trunk.
        ascites: width of the fluid between liver and wall, 0 without.
        effusion: depth of fluid behind the right lung, 0 without.
        gallbladder: size factor, 0 when it was removed.
        stomach_air: share of the stomach's depth that is air.
        oral_contrast: HU added to what stomach and bowel hold.
        spleen: size factor.
        calcified: whether the aorta's wall is.
        inspiration: shift of the diaphragm and all under it along z.
    """

    half_width: float
    half_depth: float
    squareness: float
    height: float
    fat: float
    muscle: float
    arms: bool
    ascites: float
    effusion: float
    gallbladder: float
    stomach_air: float
    oral_contrast: float
    spleen: float
    calcified: bool
    inspiration: float


@dataclass(frozen=True)
class Resection:
    """A part of the liver that a surgeon took out, on one side of a plane (mm in a patient of average size).

    Args:
        middle: of the cut face.
        normal: unit vector to the side that is missing.
        clips: metal clips that are left on the cut face.
        seroma: half axis of the fluid that is left at the cut face, 0 without.
    """

    middle: Triple
    normal: Triple
    clips: int
    seroma: float


@dataclass(frozen=True)
class LiverShape:
    """What makes one liver unlike another (mm in a patient of average size).

    Args:
        tip: z of the right lobe's lower tip; -150 is a Riedel lobe.
        undersurface: slope of the lower face, mm up per mm to the left.
        medial: x of the right lobe's medial border at the hilum.
        left_end: x of the left lobe's end.
        left_angle: direction of the left lobe's back face, degrees.
        left_depth: shift of that face to the back.
        left_low: z of the left lobe's lower border.
        dome: z of the right dome above its average.
        caudate: size factor of the caudate lobe.
        fissure: width of the fissure of the round ligament.
        roughness: standard deviation of the surface's smooth irregularity.
        nodularity: standard deviation of small nodules at the surface (cirrhosis), 0 without.
        resection: what was taken out, or None.
    """

    tip: float
    undersurface: float
    medial: float
    left_end: float
    left_angle: float
    left_depth: float
    left_low: float
    dome: float
    caudate: float
    fissure: float
    roughness: float
    nodularity: float
    resection: Resection | None = None


@dataclass(frozen=True)
class Tissue:
    """Mean HU of tissues in one phase.

    Args:
        phase: native, or late arterial or portal-venous after contrast.
        steatosis: HU by which fat lowers the parenchyma, 0 without.
        mottling: standard deviation of the parenchyma's own texture.
    """

    phase: Phase
    steatosis: float
    mottling: float
    parenchyma: float
    hepatic_vein: float
    portal_vein: float
    vena_cava: float
    aorta: float
    spleen: float
    cortex: float
    medulla: float
    pancreas: float
    bowel_wall: float
    muscle: float
    fat: float
    bile: float
    marrow: float
    compacta: float


@dataclass(frozen=True)
class Lesion:
    """One tumor.

    Args:
        center: in the patient.
        radii: half axes before deformation.
        kind: hypo-, iso- or hyperdense against the parenchyma.
        difference: HU against the parenchyma.
        irregularity: deviation of the border as a share of the mean radius.
        softness: width of the border's transition.
        heterogeneity: standard deviation of the texture inside.
        rim: HU of an outer ring against the lesion, 0 without.
        rim_width: its width.
        core: HU of a necrotic core against the lesion, 0 without.
        calcification: HU of calcified specks, 0 without.
        bulges: whether the lesion may bulge beyond the liver's surface.
    """

    center: Triple
    radii: Triple
    kind: LesionKind
    difference: float
    irregularity: float
    softness: float
    heterogeneity: float
    rim: float
    rim_width: float
    core: float
    calcification: float
    bulges: bool


@dataclass(frozen=True)
class PhantomSpec:
    """All that is drawn about one phantom. `seed` fixes the textures and branchings that are too many to list."""

    seed: int
    scan: Scan
    body: Body
    liver: LiverShape
    tissue: Tissue
    lesions: tuple[Lesion, ...]


def _about_z(degrees: float) -> NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _about_x(degrees: float) -> NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
