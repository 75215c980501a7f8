"""CT series in DICOM: their geometry and identity by the headers, their voxels in HU."""

from lib.dicom.series import Series, read_headers, read_series, series_grid
from lib.dicom.slices import Slice

__all__ = ["Series", "Slice", "read_headers", "read_series", "series_grid"]
