from itertools import islice

import numpy as np
import pytest

from lib.benchmarks.shifted_cases import arterial_specs, cut_into_slabs, make_arterial_phantoms
from lib.errors import BadInputError
from lib.volume import Volume, same_geometry
from lib.volume_io import read_image, read_label, write_image, write_label

TINY = {"size": 32, "slices": 6, "slice_mm": 20.0}


def numbers(image):
    """The number of the slice that each voxel is of."""
    return (image.array + 1000) // 20


@pytest.fixture
def ct(tmp_path):
    """Writes a CT of 26 axial slices whose HU is 20 times their number less 1000, and whose label is its parity."""

    def make(affine):
        order = np.abs(np.asarray(affine)[:3, :3]).argmax(axis=1)  # which file axis runs along x, y and z
        shape = [0, 0, 0]
        for axis, size in zip(order, (5, 6, 26), strict=True):
            shape[axis] = size
        volume = Volume(np.zeros(shape, np.int16), affine)
        levels = np.broadcast_to(np.arange(26, dtype=np.int16)[:, None, None], (26, 6, 5))
        image = volume.with_axial(levels * 20 - 1000)
        write_image(tmp_path / "ct.nii.gz", image)
        write_label(tmp_path / "label.nii.gz", Volume((numbers(image) % 2).astype(np.uint8), image.affine))
        return tmp_path / "ct.nii.gz", tmp_path / "label.nii.gz", image

    return make


def test_arterial_patients_have_a_large_bright_tumor():
    specs = list(islice(arterial_specs(3001, 64, 20, 8.0), 4))
    assert len({spec.seed for spec in specs}) == 4
    for spec in specs:
        assert spec.tissue.phase == "arterial"
        assert spec.scan.spacing == (6.25, 6.25, 8.0)
        assert any(lesion.kind == "hyper" and np.mean(lesion.radii) >= 12 for lesion in spec.lesions)


def test_phantoms_to_train_with_and_others(tmp_path):
    done = []
    cases = make_arterial_phantoms(tmp_path, 2, 1, **TINY, progress=lambda: done.append(1))
    assert (len(cases.corrected), len(cases.unseen), len(done)) == (2, 1, 3)
    names = {case.name for case in (*cases.corrected, *cases.unseen)}
    assert len(names) == 3
    for case in (*cases.corrected, *cases.unseen):
        assert case.label.parent == tmp_path / "labels" / "final"
        image, label = read_image(case.image), read_label(case.label)
        assert image.shape == (32, 32, 6)
        assert same_geometry(image, label)
        assert case.side is None  # the training decides


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([-1.0, -1.0, 2.0, 1.0]),
        np.diag([1.0, -1.0, -2.0, 1.0]),
        np.array([[0, 0, 1.0, 4], [-1.0, 0, 0, 5], [0, 2.0, 0, 6], [0, 0, 0, 1]]),
    ],
    ids=["feet first", "head first", "permuted"],
)
def test_slabs_are_disjoint_lie_where_they_lay_and_keep_a_gap(ct, tmp_path, affine):
    image, label, whole = ct(affine)
    cases = cut_into_slabs(image, label, tmp_path / "slabs", slabs=5, gap=2)
    corrected, unseen = (
        [sorted(set(numbers(read_image(case.image)).ravel().tolist())) for case in side]
        for side in (cases.corrected, cases.unseen)
    )
    assert corrected == [[0, 1, 2], [10, 11, 12], [15, 16, 17]]
    assert unseen == [[5, 6, 7], [20, 21, 22]]
    assert [case.name for case in cases.unseen] == ["ct_005-007", "ct_020-022"]
    for case in (*cases.corrected, *cases.unseen):
        part, truth = read_image(case.image), read_label(case.label)
        assert same_geometry(part, truth)
        np.testing.assert_array_equal(truth.array, numbers(part) % 2)
        # a voxel's value in the whole CT at the same place in the patient
        index = np.linalg.inv(whole.affine) @ part.affine @ np.array([0, 0, 0, 1])
        assert whole.array[tuple(np.rint(index[:3]).astype(int))] == part.array[0, 0, 0]


@pytest.mark.parametrize("division", [{"slabs": 2}, {"slabs": 20, "gap": 4}, {"gap": -1}])
def test_too_few_slices(ct, tmp_path, division):
    image, label, _ = ct(np.diag([-1.0, -1.0, 2.0, 1.0]))
    with pytest.raises(BadInputError, match=r"^ct\.nii\.gz: 26 slices can't be divided into \d+ slabs \(3 or more\)"):
        cut_into_slabs(image, label, tmp_path / "slabs", **division)
    assert not (tmp_path / "slabs").exists()
