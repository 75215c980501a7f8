"""LiTS pairs: found in any layout, checked, and linked without ever touching what is there."""

import errno
import os

import nibabel as nib
import numpy as np
import pytest

from lib.datasets import lits
from lib.datasets.lits import Pair, check_pair, find_pairs, link_or_copy, prepare_pair
from lib.errors import BadInputError, NotFoundError, StorageError
from lib.volume import same_geometry
from lib.volume_io import read_image, read_label

SHAPE = (8, 7, 5)
AFFINE = np.diag([-0.75, -0.75, 2.0, 1.0])
DIAGONAL_MM = float(np.linalg.norm([0.75, 0.75, 2.0]))


def write_nifti(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def write_volume(path, affine=AFFINE, shape=SHAPE):
    array = np.linspace(-1000, 900, int(np.prod(shape))).reshape(shape).astype(np.int16)
    return write_nifti(path, array, affine)


def write_segmentation(path, affine=AFFINE, shape=SHAPE, highest=2):
    array = np.zeros(shape, np.uint8)
    array[2:6, 2:6, 1:4] = 1
    array[3, 3, 2] = highest
    return write_nifti(path, array, affine)


def make_pair(folder, number=0, suffix=".nii", **segmentation):
    image = write_volume(folder / f"volume-{number}{suffix}")
    return Pair(number, image, write_segmentation(folder / f"segmentation-{number}{suffix}", **segmentation))


def shifted(millimeters):
    affine = AFFINE.copy()
    affine[2, 3] += millimeters
    return affine


def test_pairs_are_found_in_the_archives_and_in_the_kaggle_layout(tmp_path):
    for number in (0, 2):
        make_pair(tmp_path / "Training Batch 1", number)
    make_pair(tmp_path / "media" / "nas" / "Training_Batch2", 10, ".nii.gz")
    write_volume(tmp_path / "volume_pt1" / "volume-28.nii" / "volume-28.nii")  # a folder named like the file
    write_segmentation(tmp_path / "segmentations" / "segmentation-28.nii")
    write_volume(tmp_path / "volume_pt2" / "._volume-29.nii")  # macOS litter
    (tmp_path / "lits_train.csv").write_text("")
    found = find_pairs(tmp_path)
    assert [pair.number for pair in found.pairs] == [0, 2, 10, 28]
    assert found.pairs[-1].image == tmp_path / "volume_pt1" / "volume-28.nii" / "volume-28.nii"
    assert found.unpaired == []
    assert found.doubled == {}


def test_files_without_a_partner_and_doubled_ones_are_told_apart(tmp_path):
    volume = write_volume(tmp_path / "volume-1.nii")
    segmentation = write_segmentation(tmp_path / "segmentation-2.nii")
    make_pair(tmp_path, 3)
    again = write_volume(tmp_path / "again" / "volume-3.nii.gz")
    found = find_pairs(tmp_path)
    assert found.pairs == []
    assert found.unpaired == [volume, segmentation]
    assert found.doubled == {"volume-3": [again, tmp_path / "volume-3.nii"]}


def test_a_folder_without_lits_files_or_a_missing_one_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match=r"holds no volume-N\.nii or segmentation-N\.nii"):
        find_pairs(tmp_path)
    with pytest.raises(NotFoundError, match="there is no such folder"):
        find_pairs(tmp_path / "missing")


@pytest.mark.parametrize("inside", ["studies", "."])
def test_an_earlier_result_inside_the_source_is_no_source(tmp_path, inside):
    make_pair(tmp_path)
    before = find_pairs(tmp_path)
    destination = tmp_path / inside
    prepare_pair(before.pairs[0], destination)
    assert find_pairs(tmp_path, destination) == before


@pytest.mark.parametrize("destination", [".", "elsewhere"])
def test_links_that_an_earlier_run_left_in_the_source_are_one_file(tmp_path, destination):
    make_pair(tmp_path / "archive" / "part")
    prepare_pair(find_pairs(tmp_path / "archive").pairs[0], tmp_path / "archive")
    found = find_pairs(tmp_path / "archive", tmp_path / "archive" / destination)
    assert (len(found.pairs), found.unpaired, found.doubled) == (1, [], {})
    assert found.pairs[0].label.name == "segmentation-0.nii"
    assert prepare_pair(found.pairs[0], tmp_path / "archive").done_before


def test_equal_headers_are_zero_apart(tmp_path):
    assert check_pair(make_pair(tmp_path)) == 0


def test_small_header_differences_are_tolerated_and_measured(tmp_path):
    pair = make_pair(tmp_path, affine=shifted(0.9 * DIAGONAL_MM))
    assert check_pair(pair) == pytest.approx(0.9 * DIAGONAL_MM, abs=1e-4)


def test_gross_header_differences_are_refused_unless_voxels_are_trusted(tmp_path):
    pair = make_pair(tmp_path, affine=shifted(1.1 * DIAGONAL_MM))
    message = (
        r"segmentation-0\.nii: its header places voxels up to 2\.5 mm away from those of volume-0\.nii \(tolerated: "
        r"2\.3 mm, one voxel's diagonal\).*--by-voxel"
    )
    with pytest.raises(BadInputError, match=message):
        check_pair(pair)
    assert check_pair(pair, by_voxel=True) == pytest.approx(1.1 * DIAGONAL_MM, abs=1e-4)


def test_another_shape_is_refused_even_when_voxels_are_trusted(tmp_path):
    pair = make_pair(tmp_path, shape=(8, 7, 6))
    with pytest.raises(BadInputError, match=r"shape \(8, 7, 6\), but volume-0\.nii has \(8, 7, 5\)"):
        check_pair(pair, by_voxel=True)


def test_unknown_values_are_refused_by_value(tmp_path):
    with pytest.raises(BadInputError, match=r"segmentation-0\.nii: holds the values \[7\]"):
        check_pair(make_pair(tmp_path, highest=7))


def test_unreadable_files_are_refused_by_name(tmp_path):
    pair = make_pair(tmp_path)
    pair.image.write_bytes(b"not a NIfTI")
    with pytest.raises(BadInputError, match=r"volume-0\.nii: not a readable NIfTI file"):
        check_pair(pair)
    pair.image.write_bytes(b"")
    with pytest.raises(BadInputError, match=r"volume-0\.nii: not a readable NIfTI file"):
        check_pair(pair)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_pair_becomes_links_in_a_studies_folder(tmp_path, suffix):
    pair = make_pair(tmp_path / "lits", 4, suffix)
    prepared = prepare_pair(pair, tmp_path / "studies")
    assert prepared.image == tmp_path / "studies" / f"volume-4{suffix}"
    assert prepared.label == tmp_path / "studies" / "labels" / "final" / f"volume-4{suffix}"
    assert prepared.image.samefile(pair.image)
    assert prepared.label.samefile(pair.label)
    assert (prepared.how, prepared.note, prepared.done_before) == ("hard link", "", False)
    assert prepare_pair(pair, tmp_path / "studies").done_before


def test_a_label_with_an_inexact_header_gets_the_images_header(tmp_path):
    pair = make_pair(tmp_path / "lits", affine=shifted(1.0))
    original = pair.label.read_bytes()
    prepared = prepare_pair(pair, tmp_path / "studies")
    label = read_label(prepared.label)
    assert prepared.label.name == "volume-0.nii.gz"
    assert "header off by 1.00 mm; written anew with the volume's header" in prepared.note
    assert same_geometry(label, read_image(prepared.image))
    np.testing.assert_array_equal(label.array, read_label(pair.label).array)
    assert pair.label.read_bytes() == original
    assert prepare_pair(pair, tmp_path / "studies").done_before


def test_a_corrected_label_is_never_replaced(tmp_path):
    pair = make_pair(tmp_path / "lits")
    corrected = tmp_path / "studies" / "labels" / "final" / "volume-0.nii.gz"
    write_segmentation(corrected, highest=1)
    content = corrected.read_bytes()
    prepared = prepare_pair(pair, tmp_path / "studies")
    assert prepared.label == corrected
    assert corrected.read_bytes() == content
    assert [path.name for path in corrected.parent.iterdir()] == ["volume-0.nii.gz"]


@pytest.mark.parametrize("name", ["volume-0.nii", "volume-0.nii.gz"])
def test_another_image_of_that_name_is_not_replaced(tmp_path, name):
    pair = make_pair(tmp_path / "lits")
    other = write_volume(tmp_path / "studies" / name, shape=(3, 3, 3))
    content = other.read_bytes()
    with pytest.raises(BadInputError, match="is there already and is not"):
        prepare_pair(pair, tmp_path / "studies")
    assert other.read_bytes() == content
    assert not (tmp_path / "studies" / "labels").exists()


def test_a_refused_pair_leaves_nothing(tmp_path):
    with pytest.raises(BadInputError):
        prepare_pair(make_pair(tmp_path / "lits", highest=3), tmp_path / "studies")
    assert not (tmp_path / "studies").exists()


def refuse(*_):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_another_file_system_gets_symbolic_links_then_copies(tmp_path, monkeypatch):
    source = write_volume(tmp_path / "volume-0.nii")
    monkeypatch.setattr(os, "link", refuse)
    assert link_or_copy(source, tmp_path / "linked" / "a.nii") == "symbolic link"
    assert (tmp_path / "linked" / "a.nii").is_symlink()
    monkeypatch.setattr(os, "symlink", refuse)
    assert link_or_copy(source, tmp_path / "copied" / "a.nii") == "copy"
    assert (tmp_path / "copied" / "a.nii").read_bytes() == source.read_bytes()
    assert not (tmp_path / "copied" / "a.nii").samefile(source)


def test_copies_count_as_done(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "symlink", refuse)
    pair = make_pair(tmp_path / "lits")
    assert prepare_pair(pair, tmp_path / "studies").how == "copy"
    assert prepare_pair(pair, tmp_path / "studies").done_before


def test_a_full_disk_is_a_storage_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(lits.shutil, "copyfile", full)
    with pytest.raises(StorageError, match="the disk is full"):
        prepare_pair(make_pair(tmp_path / "lits"), tmp_path / "studies")
    assert not list((tmp_path / "studies").rglob("*.nii"))
