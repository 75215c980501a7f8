"""Which slice of its series a frame of a SEG belongs to, and which way its rows and columns run there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lib.dicom_seg.source import SourceSeries
from lib.errors import BadInputError

# As part of the smallest edge of a voxel: writers round, and no two slices are so near.
_TOLERANCE = 0.25


@dataclass(frozen=True)
class Turn:
    """How a frame is turned to lie on the image's pixels; nothing is interpolated."""

    exchanged: bool = False
    rows_flipped: bool = False
    columns_flipped: bool = False

    def __call__(self, frame: NDArray) -> NDArray:
        """A view of a frame `(Y, X)` as the image has it."""
        frame = frame.T if self.exchanged else frame
        return frame[:: -1 if self.rows_flipped else 1, :: -1 if self.columns_flipped else 1]


class Placing:
    """Finds the slice of each frame: by the image it refers to, or by its place in the patient.

    Where a frame tells both, they must agree.
    """

    def __init__(self, dataset: Dataset, source: SourceSeries) -> None:
        self._shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        self._source = source
        self._size = int(dataset.Columns), int(dataset.Rows)
        self._positions = np.array([one.position for one in source.slices])
        self._by_image = {(one.sop_instance_uid, one.frame_number): z for z, one in enumerate(source.slices)}
        self._images = {one.sop_instance_uid for one in source.slices}
        self._tolerance = _TOLERANCE * float(min(np.linalg.norm(source.grid.affine[:3, :3], axis=0)))

    def place(self, group: Dataset, number: int) -> tuple[int, Turn]:
        """Index along Z, and how to turn the frame.

        Args:
            group: the frame's item of the PerFrameFunctionalGroupsSequence.
            number: of the frame from 1, for messages.

        Raises:
            BadInputError: it tells no slice of the series, several, or lies on another grid.
        """
        turn, corner = self._turn(group, number)  # from its first pixel to the one that lies on the image's first
        by_image = self._by_reference(group, number)
        items = _group(group, self._shared, "PlanePositionSequence")
        if not items:
            if by_image is None:
                msg = f"frame {number} of the SEG tells neither one image nor a position, so its slice is unknown"
                raise BadInputError(msg)
            return by_image, turn
        position = np.array(items[0].ImagePositionPatient, np.float64).reshape(3) + corner
        distances = np.linalg.norm(self._positions - position, axis=1)
        nearest = int(distances.argmin())
        if not distances[nearest] <= self._tolerance:
            msg = (
                f"frame {number} of the SEG lies {distances[nearest]:.2f} mm beside the nearest slice of its image "
                "series; resample it to the image"
            )
            raise BadInputError(msg)
        if by_image is not None and by_image != nearest:
            msg = f"frame {number} of the SEG refers to slice {by_image} but lies in slice {nearest} (counted from 0)"
            raise BadInputError(msg)
        return nearest, turn

    def _by_reference(self, group: Dataset, number: int) -> int | None:
        found, strange = set(), False
        for reference in self._references(group):
            uid, frames = str(reference.get("ReferencedSOPInstanceUID") or ""), reference.get("ReferencedFrameNumber")
            if not uid:
                continue
            strange |= uid not in self._images
            numbers = [None] if frames is None else [int(frame) for frame in np.atleast_1d(frames)]
            found |= {self._by_image[uid, frame] for frame in {None, *numbers} if (uid, frame) in self._by_image}
        if strange and not found:
            msg = f"frame {number} of the SEG refers to an image that is not in the series; make it on this series"
            raise BadInputError(msg)
        return found.pop() if len(found) == 1 else None

    def _references(self, group: Dataset) -> list[Dataset]:
        derived = _group(group, self._shared, "DerivationImageSequence") or ()
        return [reference for item in derived for reference in item.get("SourceImageSequence") or ()]

    def _turn(self, group: Dataset, number: int) -> tuple[Turn, NDArray[np.float64]]:
        """How rows and columns run, and the way in mm from the frame's first pixel to the image's."""
        orientations = _group(group, self._shared, "PlaneOrientationSequence")
        measures = _group(group, self._shared, "PixelMeasuresSequence")
        directions, (row_spacing, column_spacing) = self._source.orientation, self._source.pixel_spacing
        ours = directions * np.array([[column_spacing], [row_spacing]])  # from column to column, from row to row
        if orientations:
            directions = np.array(orientations[0].ImageOrientationPatient, np.float64).reshape(2, 3)
        if measures and measures[0].get("PixelSpacing"):
            row_spacing, column_spacing = (float(value) for value in measures[0].PixelSpacing)
        theirs = directions * np.array([[column_spacing], [row_spacing]])
        size = self._size
        exchanged = bool(abs(theirs[0] @ ours[1]) > abs(theirs[0] @ ours[0]))
        if exchanged:
            theirs, size = theirs[::-1], size[::-1]
        flips = [bool(there @ here < 0) for there, here in zip(theirs, ours, strict=True)]
        ends = np.array(size) - 1
        corner = sum((theirs[axis] * ends[axis] for axis in (0, 1) if flips[axis]), np.zeros(3))
        along = theirs * np.where(flips, -1, 1)[:, None]
        # How far apart the far ends of the first row and of the first column are.
        distance = float((np.linalg.norm(ours - along, axis=1) * ends).max())
        if size != self._source.grid.shape[:2] or not distance <= self._tolerance:
            columns, rows = size
            msg = (
                f"frame {number} of the SEG has {rows}x{columns} pixels, up to {distance:.2f} mm from those of its "
                f"image series of {self._source.grid.shape[1]}x{self._source.grid.shape[0]}; resample it to the image"
            )
            raise BadInputError(msg)
        return Turn(exchanged, flips[1], flips[0]), corner


def _group(own: Dataset, shared: Dataset, keyword: str) -> Sequence[Any] | None:
    """A functional group of a frame, which may stand with those that all frames share."""
    return own.get(keyword) or shared.get(keyword)
