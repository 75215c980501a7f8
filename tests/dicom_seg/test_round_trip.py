"""Image grid, NIfTI, SEG and NIfTI again: no voxel moves, however the series and the file are oriented."""

import io

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff

from lib.dicom_seg.read import read_seg
from lib.dicom_seg.source import onto_grid
from lib.dicom_seg.write import Provenance, write_seg
from lib.errors import BadInputError
from lib.labels import DEFAULT_LABELS, NOT_LOOKED_AT
from lib.volume import Volume
from tests.dicom_seg.series import ORIENTATIONS, label_on, make_source

PROVENANCE = Provenance("LiverLoop final v1", model_version="1")


def through_a_file(dataset):
    file = io.BytesIO()
    dataset.save_as(file, write_like_original=False)
    return pydicom.dcmread(io.BytesIO(file.getvalue()))


def through_nifti(volume):
    """As a NIfTI file gives it back, whose affine has single precision."""
    image = nib.Nifti1Image.from_bytes(nib.Nifti1Image(volume.array, volume.affine).to_bytes())
    return Volume(np.asarray(image.dataobj), image.affine)


def turned(volume, axes, flips):
    """Another order and direction of the file's axes, such as RAS or LPI; the voxels stay where they are."""
    orientation = np.column_stack([axes, np.where(flips, -1, 1)])
    affine = volume.affine @ inv_ornt_aff(orientation, volume.shape)
    return Volume(apply_orientation(volume.array, orientation), affine)


@settings(max_examples=40, deadline=None)
@given(
    orientation=st.sampled_from(sorted(ORIENTATIONS)),
    tilt=st.sampled_from([0.0, 0.9, -1.3]),
    shape=st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(1, 6)),
    enhanced=st.booleans(),
    axes=st.permutations(range(3)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    values=st.sampled_from([(0, 1, 2), (0, 2), (0,), (1,), (0, 1, 2, NOT_LOOKED_AT), (0, NOT_LOOKED_AT)]),
    seed=st.integers(0, 1000),
)
def test_nothing_moves(orientation, tilt, shape, enhanced, axes, flips, values, seed):
    source = make_source(orientation, tilt=tilt, shape=shape, enhanced=enhanced)
    label = label_on(source, seed, values)
    if seed % 3 == 0:
        label.array[:, :, :: 1 + seed % 2] = 0  # some or all slices are empty
    from_a_file = through_nifti(turned(label, axes, flips))
    seg = through_a_file(write_seg(from_a_file, source, DEFAULT_LABELS, PROVENANCE))
    found = read_seg(seg, source, DEFAULT_LABELS)
    np.testing.assert_array_equal(found.volume.array, label.array)
    np.testing.assert_array_equal(found.volume.affine, source.grid.affine)
    assert (found.classes, found.unknown, found.notes) == (("liver", "tumor"), (), ())
    again = onto_grid(through_nifti(found.volume), from_a_file.grid)
    np.testing.assert_array_equal(again.array, from_a_file.array)


def test_a_label_of_another_grid_is_refused():
    source = make_source()
    label = label_on(source)
    with pytest.raises(BadInputError) as caught:
        onto_grid(Volume(label.array[:-1], label.affine), source.grid)
    assert str(caught.value) == (
        "a label of (6, 5, 4) voxels does not have the grid of its image series, (7, 5, 4); resample it to the image"
    )
    shifted = label.affine.copy()
    shifted[2, 3] += 0.75
    with pytest.raises(BadInputError) as caught:
        onto_grid(Volume(label.array, shifted), source.grid)
    assert str(caught.value) == (
        "the label lies 0.75 mm beside its image series (0.5 mm are allowed); resample it to the image"
    )
    between = np.array([[1.0, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # along no axis
    with pytest.raises(BadInputError, match="does not have the grid of its image series"):
        onto_grid(Volume(label.array, between), source.grid)
