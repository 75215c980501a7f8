"""Which slice of its series a frame of a SEG belongs to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lib.dicom_seg.source import SourceSeries
from lib.errors import BadInputError

# As part of the smallest edge of a voxel: writers round, and no two slices are so near.
_TOLERANCE = 0.25


class Placing:
    """Finds the slice of each frame: by the image it refers to, or by its place in the patient.

    Where a frame tells both, they must agree.
    """

    def __init__(self, dataset: Dataset, source: SourceSeries) -> None:
        self._shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        self._source = source
        self._positions = np.array([one.position for one in source.slices])
        self._by_image = {(one.sop_instance_uid, one.frame): z for z, one in enumerate(source.slices)}
        self._images = {one.sop_instance_uid for one in source.slices}
        self._tolerance = _TOLERANCE * float(min(np.linalg.norm(source.grid.affine[:3, :3], axis=0)))

    def slice_of(self, group: Dataset, number: int) -> int:
        """Index along Z.

        Args:
            group: the frame's item of the PerFrameFunctionalGroupsSequence.
            number: of the frame from 1, for messages.

        Raises:
            BadInputError: it tells no slice of the series, several, or lies on another grid.
        """
        by_image = self._by_reference(group, number)
        position = self._position(group)
        if position is None:
            if by_image is None:
                msg = f"frame {number} of the SEG tells neither one image nor a position, so its slice is unknown"
                raise BadInputError(msg)
            return by_image
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
        self._check_in_plane(group, number)
        return nearest

    def _by_reference(self, group: Dataset, number: int) -> int | None:
        found, strange = set(), False
        for reference in self._references(group):
            uid, frames = str(reference.get("ReferencedSOPInstanceUID") or ""), reference.get("ReferencedFrameNumber")
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

    def _position(self, group: Dataset) -> NDArray[np.float64] | None:
        items = _group(group, self._shared, "PlanePositionSequence")
        return np.array(items[0].ImagePositionPatient, np.float64).reshape(3) if items else None

    def _check_in_plane(self, group: Dataset, number: int) -> None:
        """Make sure that rows and columns run as the image's do."""
        orientations = _group(group, self._shared, "PlaneOrientationSequence")
        measures = _group(group, self._shared, "PixelMeasuresSequence")
        directions, spacing = self._source.orientation, self._source.pixel_spacing
        if orientations:
            directions = np.array(orientations[0].ImageOrientationPatient, np.float64).reshape(2, 3)
        if measures and measures[0].get("PixelSpacing"):
            spacing = (float(measures[0].PixelSpacing[0]), float(measures[0].PixelSpacing[1]))
        ours = self._source.orientation * np.array(self._source.pixel_spacing)[::-1, None]
        theirs = directions * np.array(spacing)[::-1, None]
        columns, rows, _ = self._source.grid.shape
        # How far apart the far ends of the first row and of the first column are.
        distance = float((np.linalg.norm(ours - theirs, axis=1) * (columns - 1, rows - 1)).max())
        if not distance <= self._tolerance:
            msg = (
                f"the pixels of frame {number} of the SEG lie up to {distance:.2f} mm from those of its image series "
                "(turned, mirrored or of another size); resample it to the image"
            )
            raise BadInputError(msg)


def _group(own: Dataset, shared: Dataset, keyword: str) -> Sequence[Any] | None:
    """A functional group of a frame, which may stand with those that all frames share."""
    return own.get(keyword) or shared.get(keyword)
