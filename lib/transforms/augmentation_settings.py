"""How strongly training slices are varied: the keys of the augmentation part of `app.yaml`."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lib.transforms.ranges import Probability, in_order

_Factor = Annotated[float, Field(ge=0.5, le=2)]
_Factors = Annotated[tuple[_Factor, _Factor], AfterValidator(in_order)]


class AugmentationSettings(BaseModel):
    """Probabilities and ranges; every effect is drawn by itself, uniformly in its range.

    Lengths in pixels are meant for a matrix of 512 and scale with the matrix: the same settings deform a slice of 256
    as they deform that slice at 512.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    coarse_probability: Probability = Field(
        default=0.1, description="how often a slice is shrunk to pixels of about 3 mm, at which livers are located"
    )
    elastic_probability: Probability = Field(default=0.5, description="how often a slice is deformed elastically")
    elastic_alpha: float = Field(default=120.0, ge=0, le=1000, description="strength of the elastic deformation")
    elastic_sigma: float = Field(
        default=6.0, ge=2, le=100, description="smoothness of the elastic deformation, px at 512"
    )
    elastic_affine: float = Field(default=3.6, ge=0, le=50, description="largest shift of its three anchors, px at 512")
    grid_probability: Probability = Field(default=0.5, description="how often a slice is stretched cell by cell")
    grid_cells: int = Field(default=5, ge=2, le=32, description="cells along each axis")
    grid_limit: float = Field(default=0.3, ge=0, le=0.9, description="largest relative change of a cell's width")
    affine_probability: Probability = Field(default=0.5, description="how often a slice is rotated, scaled and moved")
    rotation_degrees: float = Field(default=10.0, ge=0, le=180, description="largest rotation to either side")
    scale: _Factors = Field(default=(0.85, 1.2), description="smallest and largest magnification")
    translation: float = Field(default=0.03, ge=0, le=0.5, description="largest shift as a part of the matrix")
    flip_probability: Probability = Field(
        default=0.0, description="how often left and right are swapped; the liver is on one side"
    )
    hu_probability: Probability = Field(default=0.5, description="how often HU are shifted and multiplied")
    hu_shift: float = Field(default=15.0, ge=0, le=200, description="largest shift in HU")
    hu_gain: _Factors = Field(default=(0.9, 1.1), description="smallest and largest factor")
    noise_probability: Probability = Field(default=0.5, description="how often noise is added")
    noise_hu: float = Field(default=15.0, ge=0, le=200, description="largest standard deviation of the noise in HU")
