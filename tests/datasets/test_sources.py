"""The sample packages: what pip gives is checked, and voxels end up where they lie in the patient."""

import gzip
import hashlib
import io
import socket
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import mrcfile
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from lib.datasets import sources
from lib.datasets.sources import (
    LITS_CROP,
    TOTALSEGMENTATOR,
    NotReachableError,
    check_archive,
    convert_lits_crop,
    convert_totalsegmentator,
    download,
    resample_nearest,
)
from lib.errors import BadInputError
from lib.volume import Volume, same_geometry
from lib.volume_io import read_image, read_label

SHAPE = (12, 10, 4)
ORGAN = (slice(2, 5), slice(1, 4), slice(1, 3))  # in the images' voxels, off-center on each axis
LPS_AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
REFERENCE = "totalsegmentator-2.18.0/tests/reference_files/"


@pytest.fixture
def unreachable_registry(monkeypatch):
    """Pip's configuration points at a port of this machine where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        yield


def ct_with_organ():
    array = np.full(SHAPE, -1000, np.int16)
    array[1:-1, 1:-1] = 0
    array[ORGAN] = 100
    return array


def organ_label(value=5):
    array = np.ones(SHAPE, np.uint8)  # another organ everywhere else
    array[ORGAN] = value
    return array


def nifti_bytes(array, affine):
    return nib.Nifti1Image(array, affine).to_bytes()


def gzip_nifti(array, affine):
    return gzip.compress(nifti_bytes(array, affine))


def dicom_slice(pixels, z, number):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID = ""  # as in the real archive
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [0.0, 0.0, z]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [2.0, 2.0]
    dataset.SliceThickness = 3.0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = pixels.astype("<i2").tobytes()
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, write_like_original=False)
    return file.getvalue()


def totalsegmentator_archive(folder, extra=None, leave_out=""):
    """A source archive of the real one's layout; the DICOM labels are flipped in y, affine and voxels alike."""
    image = ct_with_organ()
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = SHAPE[1] - 1
    members = {
        f"{REFERENCE}example_ct.nii.gz": gzip_nifti(image.astype(np.int32), np.diag([3.0, 3.0, 3.0, 1.0])),
        f"{REFERENCE}example_seg_fast_force_split.nii.gz": gzip_nifti(organ_label(), np.diag([3.0, 3.0, 3.0, 1.0])),
        f"{REFERENCE}example_seg_dicom.nii.gz": gzip_nifti(organ_label()[:, ::-1], LPS_AFFINE @ flip),
        "totalsegmentator-2.18.0/README.md": b"not wanted",
    }
    for z in range(SHAPE[2]):
        # The real series is named and numbered from head to feet.
        members[f"{REFERENCE}example_ct_dicom/CT.{9 - z}"] = dicom_slice(image[:, :, z].T, 3.0 * z, 9 - z)
    members |= extra or {}
    path = Path(folder) / TOTALSEGMENTATOR.archive
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if name != REFERENCE + leave_out:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def mrc_bytes(array, folder):
    path = Path(folder) / "scratch.mrc"
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(array)
    return path.read_bytes()


def lits_archive(folder, label=None):
    label = np.zeros(SHAPE, np.uint16) if label is None else label
    path = Path(folder) / LITS_CROP.archive
    with zipfile.ZipFile(path, "w") as wheel:
        data = "liver_ct_segmentation_package/data/"
        wheel.writestr(data + "img_117.mrc", mrc_bytes(ct_with_organ().astype(np.float32) + 0.25, folder))
        wheel.writestr(data + "lab_117.mrc", mrc_bytes(label.astype(np.uint16), folder))
        wheel.writestr("liver_ct_segmentation_package/other/img_117.mrc", b"not wanted")
    return path


def test_flipped_labels_are_brought_onto_the_dicom_images_grid(tmp_path):
    convert_totalsegmentator(totalsegmentator_archive(tmp_path), tmp_path)
    image = read_image(tmp_path / "totalsegmentator_dicom.nii.gz")
    label = read_label(tmp_path / "labels_reference" / "totalsegmentator_dicom.nii.gz")
    assert same_geometry(image, label)
    np.testing.assert_array_equal(label.array, image.array == 100)
    np.testing.assert_allclose(image.affine, LPS_AFFINE)


def test_trunk_keeps_its_geometry_and_only_the_liver_class(tmp_path):
    convert_totalsegmentator(totalsegmentator_archive(tmp_path), tmp_path)
    image = read_image(tmp_path / "totalsegmentator_trunk.nii.gz")
    label = read_label(tmp_path / "labels_reference" / "totalsegmentator_trunk.nii.gz")
    assert same_geometry(image, label)
    assert image.spacing == (3.0, 3.0, 3.0)
    assert nib.load(tmp_path / "totalsegmentator_trunk.nii.gz").get_data_dtype() == np.int16
    np.testing.assert_array_equal(label.array, image.array == 100)


def test_dicom_slices_are_kept_as_they_are_and_nothing_else_remains(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    convert_totalsegmentator(totalsegmentator_archive(source), target)
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert files == [
        *(f"dicom/totalsegmentator/CT.{number}" for number in (6, 7, 8, 9)),
        "labels_reference/totalsegmentator_dicom.nii.gz",
        "labels_reference/totalsegmentator_trunk.nii.gz",
        "totalsegmentator_dicom.nii.gz",
        "totalsegmentator_trunk.nii.gz",
    ]


def test_members_with_hostile_paths_are_never_written(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    hostile = {
        "../escaped.nii.gz": b"x",
        f"{REFERENCE}example_ct_dicom/../../../../escaped": b"x",
        "/tmp/totalsegmentator-escaped": b"x",
    }
    convert_totalsegmentator(totalsegmentator_archive(tmp_path, extra=hostile), target)
    assert not list(tmp_path.rglob("*escaped*"))
    assert len(list((target / "dicom" / "totalsegmentator").iterdir())) == SHAPE[2]


def test_an_archive_without_a_file_is_refused_by_name(tmp_path):
    archive = totalsegmentator_archive(tmp_path, leave_out="example_seg_dicom.nii.gz")
    with pytest.raises(BadInputError, match=r"holds no tests/reference_files/example_seg_dicom\.nii\.gz"):
        convert_totalsegmentator(archive, tmp_path)


def test_a_truncated_archive_is_refused(tmp_path):
    archive = totalsegmentator_archive(tmp_path)
    archive.write_bytes(archive.read_bytes()[:600])
    with pytest.raises(BadInputError, match="not a readable archive"):
        convert_totalsegmentator(archive, tmp_path)


def test_lits_crop_axes_run_to_left_posterior_and_superior(tmp_path):
    label = np.zeros(SHAPE, np.uint16)
    label[0, 1, 2], label[3, 4, 1] = 1, 2
    convert_lits_crop(lits_archive(tmp_path, label), tmp_path)
    image = read_image(tmp_path / "lits_117_crop.nii.gz")
    written = read_label(tmp_path / "labels_reference" / "lits_117_crop.nii.gz")
    assert same_geometry(image, written)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.spacing, sources.LITS_CROP_SPACING_MM, rtol=1e-6)
    np.testing.assert_array_equal(written.array, label)
    np.testing.assert_array_equal(image.array, ct_with_organ())  # quarters of a HU are rounded
    center = image.affine @ [*((np.array(SHAPE) - 1) / 2), 1]
    np.testing.assert_allclose(center[:3], 0, atol=1e-5)


def test_lits_crop_with_an_unknown_value_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"the values \[0 3\] do not fit"):
        convert_lits_crop(lits_archive(tmp_path, np.eye(12, 10)[:, :, None].repeat(4, 2) * 3), tmp_path)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_resampling_a_flipped_label_gives_it_back(axis):
    label = Volume(organ_label(), np.diag([0.7, 0.8, 2.5, 1.0]))
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, SHAPE[axis] - 1
    flipped = Volume(np.flip(label.array, axis), label.affine @ flip)
    np.testing.assert_array_equal(resample_nearest(flipped, label).array, label.array)


def test_resampling_gives_zero_where_the_label_does_not_reach():
    label = Volume(np.ones((3, 3, 3), np.uint8), np.eye(4))
    image = Volume(np.zeros((5, 5, 5), np.int16), np.eye(4))
    resampled = resample_nearest(label, image)
    assert resampled.array.dtype == np.uint8
    assert resampled.array.sum() == 27
    assert resampled.array[:3, :3, :3].all()


def test_another_sha256_is_refused_with_both_values(tmp_path):
    archive = tmp_path / LITS_CROP.archive
    archive.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    message = f"{LITS_CROP.archive}: sha256 is {found}, expected {LITS_CROP.sha256}; it is not the published archive"
    with pytest.raises(BadInputError, match=message):
        check_archive(archive, LITS_CROP)


def test_pip_gets_a_package_and_refuses_another_hash(tmp_path, monkeypatch):
    """A folder of archives stands in for the registry."""
    wheel = tmp_path / "sample_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(
            "sample_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: sample-package\nVersion: 1.0"
        )
        file.writestr("sample_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        file.writestr("sample_package-1.0.dist-info/RECORD", "")
    for name, value in (("CONFIG_FILE", "/dev/null"), ("NO_INDEX", "1"), ("FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(f"PIP_{name}", value)
    target = tmp_path / "target"
    target.mkdir()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    package = replace(LITS_CROP, name="sample-package", version="1.0", archive=wheel.name, sha256=digest)
    assert download(package, target).read_bytes() == wheel.read_bytes()

    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(BadInputError, match=f"sha256 is {digest}, expected {'0' * 64}"):
        download(replace(package, sha256="0" * 64), other)
    assert not list(other.glob("*.whl"))


@pytest.mark.usefixtures("unreachable_registry")
def test_no_registry_in_reach_says_so(tmp_path):
    with pytest.raises(NotReachableError, match=r"package 1\.6\.0: no package registry can be reached"):
        download(LITS_CROP, tmp_path)


def test_no_pip_says_so(tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(NotReachableError, match="No module named pip"):
        download(LITS_CROP, tmp_path)
