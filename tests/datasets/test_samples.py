"""The samples folder: complete or not there, real or openly synthetic, and never in an annotator's way."""

import errno
import json

import numpy as np
import pytest

from lib.datasets import samples
from lib.datasets.samples import complete_kind, ensure_samples, sample_images
from lib.datasets.sources import NotReachableError
from lib.errors import BadInputError, NotFoundError, StorageError
from lib.volume import Volume, same_geometry
from lib.volume_io import read_image, read_label, write_image, write_label

REAL_NAMES = ["lits_117_crop", "totalsegmentator_dicom", "totalsegmentator_trunk"]


def write_case(folder, name, label_folder):
    array = np.full((6, 5, 4), -500, np.int16)
    array[1:3] = 60
    write_image(folder / f"{name}.nii.gz", Volume(array, np.eye(4)))
    write_label(folder / label_folder / f"{name}.nii.gz", Volume((array > 0).astype(np.uint8), np.eye(4)))


@pytest.fixture
def fetched(monkeypatch):
    """Stands in for pip and the conversions; returns what was downloaded."""
    downloads = []

    def download(package, folder):
        downloads.append(package.name)
        archive = folder / package.archive
        archive.write_bytes(b"archive")
        return archive

    def convert(name):
        return lambda _archive, folder: write_case(folder, name, "labels_reference")

    packages = list(samples._CONVERTERS)
    monkeypatch.setattr(samples, "download", download)
    monkeypatch.setattr(samples, "_CONVERTERS", dict(zip(packages, (convert("one"), convert("two")), strict=True)))
    return downloads


@pytest.fixture
def unreachable(monkeypatch):
    def download(package, _folder):
        raise NotReachableError(f"pip could not get {package}: no route to host")

    monkeypatch.setattr(samples, "download", download)


@pytest.fixture
def phantoms(tmp_path, monkeypatch):
    folder = tmp_path / "phantoms"
    folder.mkdir()
    for name in ("phantom_1", "phantom_2"):
        write_case(folder, name, "labels")
    (folder / "README.md").write_text("how they were made")
    monkeypatch.setattr(samples, "PHANTOMS_FOLDER", folder)
    return folder


def visible(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_fetching_gives_images_on_top_labels_aside_and_a_manifest(tmp_path, fetched):
    messages = []
    folder = ensure_samples(tmp_path / "ct", messages.append)
    assert visible(folder) == [
        "README.md", "labels_reference/one.nii.gz", "labels_reference/two.nii.gz", "manifest.json", "one.nii.gz",
        "two.nii.gz",
    ]  # fmt: skip
    assert [path.name for path in sample_images(folder)] == ["one.nii.gz", "two.nii.gz"]
    assert complete_kind(folder) == "real"
    assert fetched == ["TotalSegmentator", "liver-ct-segmentation-package"]
    assert "38.0 MB" in messages[0]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_complete_folder_returns_at_once(tmp_path, fetched):
    folder = ensure_samples(tmp_path / "ct", lambda _: None)
    fetched.clear()
    messages = []
    assert ensure_samples(folder, messages.append) == folder
    assert fetched == messages == []
    ensure_samples(folder, messages.append, force=True)
    assert len(fetched) == 2


@pytest.mark.parametrize("damage", ["missing", "changed", "older recipe", "no manifest", "broken manifest"])
def test_a_damaged_folder_is_not_complete_and_is_fetched_again(tmp_path, fetched, damage):
    folder = ensure_samples(tmp_path / "ct", lambda _: None)
    manifest = folder / "manifest.json"
    if damage == "missing":
        (folder / "one.nii.gz").unlink()
    elif damage == "changed":
        (folder / "labels_reference" / "one.nii.gz").write_bytes(b"half")
    elif damage == "older recipe":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"recipe": 0}))
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text('{"kind": "real", "fi')
    assert complete_kind(folder) is None
    fetched.clear()
    ensure_samples(folder, lambda _: None)
    assert len(fetched) == 2
    assert complete_kind(folder) == "real"


def test_an_interrupted_conversion_leaves_nothing(tmp_path, fetched, monkeypatch):
    _, second = samples._CONVERTERS

    def interrupt(_archive, _folder):
        raise KeyboardInterrupt

    monkeypatch.setitem(samples._CONVERTERS, second, interrupt)
    with pytest.raises(KeyboardInterrupt):
        ensure_samples(tmp_path / "ct", lambda _: None)
    assert list((tmp_path / "ct").iterdir()) == []
    assert complete_kind(tmp_path / "ct") is None


def test_an_annotators_work_in_the_folder_is_left_alone(tmp_path, fetched):
    folder = tmp_path / "ct"
    write_case(folder, "my_own", "labels/final")
    before = {name: (folder / name).read_bytes() for name in visible(folder)}
    ensure_samples(folder, lambda _: None)
    ensure_samples(folder, lambda _: None, force=True)
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.usefixtures("unreachable", "phantoms")
def test_without_a_registry_the_phantoms_stand_in_and_it_says_so(tmp_path):
    messages = []
    folder = ensure_samples(tmp_path / "ct", messages.append)
    assert [path.name for path in sample_images(folder)] == ["phantom_1.nii.gz", "phantom_2.nii.gz"]
    assert read_label(folder / "labels_reference" / "phantom_1.nii.gz").array.any()
    assert complete_kind(folder) == "synthetic"
    assert "pip could not get TotalSegmentator 2.18.0: no route to host" in messages
    assert "no real CT could be fetched: using 2 SYNTHETIC phantoms instead" in messages
    assert "**synthetic phantoms**" in (folder / "README.md").read_text()

    messages.clear()
    ensure_samples(folder, messages.append)
    assert messages == [
        f"{folder} holds synthetic phantoms; scripts/fetch_samples.py --force gets real CTs once pip can"
    ]


@pytest.mark.usefixtures("unreachable")
def test_with_neither_registry_nor_phantoms_it_names_the_way_out(tmp_path, phantoms):
    for path in phantoms.glob("*.nii.gz"):
        path.unlink()
    with pytest.raises(NotFoundError, match="give your own CTs with --studies DIR"):
        ensure_samples(tmp_path / "ct", lambda _: None)


@pytest.mark.usefixtures("phantoms")
def test_a_wrong_archive_is_an_error_not_a_reason_for_phantoms(tmp_path, monkeypatch):
    def download(package, _folder):
        raise BadInputError(f"{package.archive}: sha256 is wrong")

    monkeypatch.setattr(samples, "download", download)
    with pytest.raises(BadInputError, match="sha256 is wrong"):
        ensure_samples(tmp_path / "ct", lambda _: None)
    assert visible(tmp_path / "ct") == []


@pytest.mark.usefixtures("fetched")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_archive, _folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(samples._CONVERTERS, next(iter(samples._CONVERTERS)), full)
    with pytest.raises(StorageError, match=r"can't write .*ct: No space left on device; free space"):
        ensure_samples(tmp_path / "ct", lambda _: None)
    assert visible(tmp_path / "ct") == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "ct").write_text("")
    for folder in (tmp_path / "ct", tmp_path / "ct" / "below"):
        with pytest.raises(BadInputError, match=r"ct.* is a file; name a folder"):
            ensure_samples(folder, lambda _: None)


def test_the_real_samples_are_three_ct_with_labels_on_the_liver(real_samples):
    assert [path.name for path in sample_images(real_samples)] == [f"{name}.nii.gz" for name in REAL_NAMES]
    expected = {  # shape, liver mean HU, ml
        "lits_117_crop": ((128, 128, 128), 118, 1048),
        "totalsegmentator_dicom": ((512, 512, 20), 89, 699),
        "totalsegmentator_trunk": ((122, 101, 112), 44, 1126),
    }
    for name, (shape, mean, volume) in expected.items():
        image = read_image(real_samples / f"{name}.nii.gz")
        label = read_label(real_samples / "labels_reference" / f"{name}.nii.gz")
        assert same_geometry(image, label)
        assert image.shape == shape
        liver = label.array == 1
        assert image.array[liver].mean() == pytest.approx(mean, abs=2)
        assert image.array[liver].std() < 25  # a label beside the liver takes in fat, air or bone
        assert liver.sum() * label.voxel_ml == pytest.approx(volume, rel=0.01)


def test_the_real_livers_lie_in_front_and_to_the_right_of_the_spine(real_samples):
    for name in REAL_NAMES:
        liver = read_label(real_samples / "labels_reference" / f"{name}.nii.gz").axial() > 0
        bone = read_image(real_samples / f"{name}.nii.gz").axial() > 200
        bone[:, : np.nonzero(liver)[1].max() // 2] = False  # ribs in front
        spine = np.median(np.nonzero(bone), axis=1)
        center = np.mean(np.nonzero(liver), axis=1)
        assert center[1] < spine[1]
        assert center[2] < spine[2] - 10


def test_the_dicom_series_reads_as_the_nifti_beside_it(real_samples):
    series = read_image(real_samples / "dicom" / "totalsegmentator")
    nifti = read_image(real_samples / "totalsegmentator_dicom.nii.gz")
    assert same_geometry(series, nifti)
    np.testing.assert_array_equal(series.array, nifti.array)


def test_lits_crop_tumors_are_darker_than_the_liver(real_samples):
    image = read_image(real_samples / "lits_117_crop.nii.gz").array
    label = read_label(real_samples / "labels_reference" / "lits_117_crop.nii.gz").array
    assert image[label == 1].mean() - image[label == 2].mean() == pytest.approx(48, abs=2)
