"""What is let in: identifiers and labels."""

import itertools

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from lib.errors import BadInputError
from lib.labels import DEFAULT_LABELS
from lib.store.door import checked_identifier, checked_label, named_in_errors
from lib.volume import Volume
from lib.volume_io import write_image, write_label, write_planes

SHAPE = (6, 5, 4)
SUFFIXES = (".nii", ".nii.gz", ".nrrd")


def affine_of(tilt=(0, 0, 0)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ np.diag([-0.7, -0.8, 2.5])
    affine[:3, 3] = (100, 90, -300)
    return affine


def image(affine=None, shape=SHAPE):
    return Volume(np.zeros(shape, np.int16), affine_of() if affine is None else affine)


def classes(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)


def check(path, target, label_info=None, tolerance_mm=1.0):
    return checked_label(path, target, label_info, DEFAULT_LABELS, tolerance_mm)


def refused(*arguments, **options):
    with pytest.raises(BadInputError) as caught:
        check(*arguments, **options)
    return str(caught.value)


def turned(volume, codes):
    """The same voxels in the same places, stored along other axes."""
    turn = ornt_transform(io_orientation(volume.affine), axcodes2ornt(codes))
    return Volume(apply_orientation(volume.array, turn), volume.affine @ inv_ornt_aff(turn, volume.shape))


# Identifiers


@pytest.mark.parametrize(
    "name",
    [
        "case_1",
        "case.1.2",
        "1.2.840.113619",
        "Case 1 (a)",
        "Müller & Söhne",
        "50%",
        "a..b",
        "#1",
        "it's",
        "x" * 240,
        "肝臓",
    ],
)
def test_any_file_name_is_an_identifier(name):
    assert checked_identifier(name, "image id") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "\x7f", "x" * 241, "ä" * 121],
)
def test_what_could_lead_elsewhere_is_refused(name):
    with pytest.raises(BadInputError) as caught:
        checked_identifier(name, "label tag")
    assert str(caught.value) == (
        f"label tag {name[:80]!r} is not allowed; it must have 1 to 240 bytes, not begin with a dot and hold no slash, "
        "backslash or control character"
    )


def test_a_name_that_is_no_unicode_is_an_identifier_or_refused_but_no_crash():
    assert checked_identifier("a\udcff", "image id") == "a\udcff"


def test_errors_name_what_the_sender_knows(tmp_path):
    path = tmp_path / "tmpabc.nii.gz"
    with pytest.raises(BadInputError) as caught, named_in_errors(path, "the image sent"):
        raise BadInputError(f"{path}: damaged, and {path.name} is short")
    assert str(caught.value) == "the image sent: damaged, and the image sent is short"


# Labels


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("tilt", [(0, 0, 0), (10, 20, 30), (45, 0, 0), (0, 45, 45)])
def test_a_label_gets_exactly_the_geometry_of_its_image(tmp_path, suffix, tilt):
    target = image(affine_of(tilt))
    write_label(tmp_path / f"a{suffix}", Volume(classes(), target.affine))
    label = check(tmp_path / f"a{suffix}", target)
    np.testing.assert_array_equal(label.array, classes())
    np.testing.assert_array_equal(label.affine, target.affine)
    assert label.array.dtype == np.uint8


ALL_CODES = [codes for order in itertools.permutations(("LR", "PA", "SI")) for codes in itertools.product(*order)]


@pytest.mark.parametrize("codes", ALL_CODES, ids="".join)
@pytest.mark.parametrize("tilt", [(0, 0, 0), (10, 20, 30), (45, 0, 0)])
def test_other_orders_and_directions_of_axes_are_turned_back(tmp_path, codes, tilt):
    target = image(affine_of(tilt))
    write_label(tmp_path / "a.nrrd", turned(Volume(classes(), target.affine), codes))
    label = check(tmp_path / "a.nrrd", target)
    np.testing.assert_array_equal(label.array, classes())
    np.testing.assert_array_equal(label.affine, target.affine)


def test_turning_works_for_cubes_and_single_slices(tmp_path):
    for shape in ((5, 5, 5), (5, 5, 1)):
        target = image(shape=shape)
        write_label(tmp_path / "a.nii", turned(Volume(classes(shape), target.affine), ("S", "R", "A")))
        np.testing.assert_array_equal(check(tmp_path / "a.nii", target).array, classes(shape))


def test_small_differences_of_affines_are_taken_and_larger_ones_refused(tmp_path):
    moved = affine_of()
    moved[2, 3] += 0.9
    write_label(tmp_path / "a.nii", Volume(classes(), moved))
    np.testing.assert_array_equal(check(tmp_path / "a.nii", image()).affine, affine_of())
    assert refused(tmp_path / "a.nii", image(), tolerance_mm=0.5) == (
        "the label lies up to 0.9 mm away from its image (allowed 0.5 mm); it belongs to another image or was moved"
    )


def test_another_shape_is_refused(tmp_path):
    write_label(tmp_path / "a.nii", Volume(classes((6, 5, 3)), affine_of()))
    assert refused(tmp_path / "a.nii", image()) == (
        "the label has (6, 5, 3) voxels, its image (6, 5, 4); save it on the image's grid"
    )


def test_names_are_mapped(tmp_path):
    write_label(tmp_path / "a.nii", Volume(classes(), affine_of()))
    info = [{"name": "Tumour", "idx": 1}, {"name": "Liver", "idx": 2}]
    np.testing.assert_array_equal(check(tmp_path / "a.nii", image(), info).array, np.array([0, 2, 1])[classes()])
    assert "the segment 'spleen' is not one of" in refused(
        tmp_path / "a.nii", image(), [{"name": "spleen", "idx": 1}, {"name": "Liver", "idx": 2}]
    )


@pytest.mark.parametrize("write", [write_label, write_planes])
def test_names_in_the_file_come_before_label_info(tmp_path, write):
    swapped = {"Tumour": DEFAULT_LABELS["liver"], "LIVER": DEFAULT_LABELS["tumor"]}  # by their indices 1 and 2
    write(tmp_path / "a.seg.nrrd", Volume(classes(), affine_of()), swapped)
    info = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
    label = check(tmp_path / "a.seg.nrrd", image(), info)
    np.testing.assert_array_equal(label.array, np.array([0, 2, 1])[classes()])


def test_a_seg_nrrd_without_segments_is_a_plain_label(tmp_path):
    write_label(tmp_path / "a.nrrd", Volume(classes(), affine_of()))
    (tmp_path / "a.nrrd").rename(tmp_path / "a.seg.nrrd")
    np.testing.assert_array_equal(check(tmp_path / "a.seg.nrrd", image()).array, classes())


def test_an_image_is_not_a_label(tmp_path):
    write_image(tmp_path / "a.nii", Volume(np.linspace(-1000, 500, 120).reshape(SHAPE).astype(np.int16), affine_of()))
    assert refused(tmp_path / "a.nii", image()) == (
        "a.nii: label values run from -1000 to 500; expected whole numbers from 0 to 255"
    )
