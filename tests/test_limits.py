"""Headers that announce more than there is, or more than is taken, cost neither memory nor disk."""

import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from lib.dicom import deflated, jpeg, read_series
from lib.errors import BadInputError
from lib.labels import DEFAULT_LABELS
from lib.limits import Limits
from lib.settings import LimitSettings
from lib.store.door import checked_label
from lib.volume import Grid, Volume, checked_size
from lib.volume_io import read_grid, read_image, read_label, read_segments
from tests.dicom.written import ORIGIN, make_slice, save, stored_values, write_series

AFFINE = np.diag([-0.7, -0.8, 2.5, 1.0])
BIG = (1000, 1000, 1000)


def refused(function, *arguments):
    with pytest.raises(BadInputError) as caught:
        function(*arguments)
    return str(caught.value)


def nifti(shape, dtype=np.int16, content=b"", offset=352, kind=nib.Nifti1Header):
    header = kind()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_sform(AFFINE, code=1)
    header["vox_offset"] = offset
    header["magic"] = b"n+1" if kind is nib.Nifti1Header else b"n+2\0\r\n\x1a\n"
    return header.binaryblock.ljust(352, b"\0") + content


def nrrd(sizes="4 5 6", content=b"", **fields):
    header = {"type": "uint8", "dimension": 3, "sizes": sizes, "encoding": "raw", "endian": "little"}
    header |= {name.replace("_", " "): value for name, value in fields.items()}
    return ("NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in header.items()) + "\n").encode() + content


def cheaply(function, *arguments):
    """The refusal of a call that takes no memory for what was announced."""
    tracemalloc.start()
    try:
        return refused(function, *arguments)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30_000_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nii", nifti(BIG)),
        ("a.nii.gz", gzip.compress(nifti(BIG))),
        ("a.nrrd", nrrd("1000 1000 1000")),
        ("a.nrrd", nrrd("1000 1000 1000", gzip.compress(bytes(9)), encoding="gzip")),
        ("a.nrrd", nrrd("1000 1000 1000", b"1 2 3", encoding="ascii")),
    ],
)
def test_sizes_that_the_file_can_not_have_take_no_memory(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_image, read_label):
        reason = cheaply(read, path)
        assert reason.endswith("file (truncated or damaged); copy or export it again"), reason


def test_what_is_behind_the_voxels_is_not_unpacked(tmp_path):
    label = np.zeros((4, 5, 6), np.uint8)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti(label.shape, np.uint8, label.tobytes() + bytes(60_000_000)), 1))
    tracemalloc.start()
    np.testing.assert_array_equal(read_label(path).array, label)
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
def test_what_is_before_the_voxels_is_limited(tmp_path, kind):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nifti((4, 5, 6), offset=65_000_000, kind=kind) + bytes(65_001_000), 1))
    for read in (read_grid, read_label):
        assert cheaply(read, path) == (
            "a.nii.gz: not a readable .nii.gz file (its voxels can't begin at byte 65000000); copy or export it again"
        )


def test_nifti_extensions_are_passed_over(tmp_path):
    label = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    extension = b"\1\0\0\0" + np.array([2**30, 2], "<i4").tobytes() + bytes(20)  # of DICOM, and longer than the file
    header = nifti(label.shape, np.uint8, offset=384)[:348]
    (tmp_path / "a.nii").write_bytes(header + extension.ljust(36, b"\0") + label.tobytes(order="F"))
    np.testing.assert_array_equal(read_label(tmp_path / "a.nii").array, label)


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
def test_voxels_without_a_place_follow_the_header(tmp_path, kind):
    label = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    content = nifti(label.shape, np.uint8, offset=0, kind=kind)
    (tmp_path / "a.nii").write_bytes(content.ljust(kind.sizeof_hdr + 4, b"\0") + label.tobytes(order="F"))
    np.testing.assert_array_equal(read_label(tmp_path / "a.nii").array, label)


def test_a_header_that_is_cut_off(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(nifti((4, 5, 6))[:347].replace(b"n+1", b"n+1"))
    assert refused(read_grid, path) == "a.nii: not a readable .nii file (truncated or damaged); copy or export it again"


@pytest.mark.parametrize(
    ("name", "content"), [("a.nii", nifti((10, 10, 10), np.float64)), ("a.nrrd", nrrd("10 10 10", type="double"))]
)
def test_a_site_sets_limits(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_grid, read_image, read_label):
        assert refused(read, path, Limits(voxels=999)) == (
            f"{name}: shape (10, 10, 10) is larger than any CT we take (in plane 2048, 4096 slices, 999 voxels)"
        )
        assert refused(read, path, Limits(unpacked_bytes=7_999)) == (
            f"{name}: its voxels take 0 MB, and 0 MB are taken (limits.unpacked_mb); save it with smaller numbers, a "
            "CT as int16 and a label as uint8"
        )
    read_grid(path, Limits(voxels=1000, unpacked_bytes=8_000))
    assert "999 voxels" in refused(
        lambda: checked_label(path, Grid((1, 1, 1), AFFINE), None, DEFAULT_LABELS, 1.0, limits=Limits(voxels=999))
    )


def test_the_settings_give_the_limits():
    assert LimitSettings().of_files() == Limits()
    assert LimitSettings(voxels=5, unpacked_mb=0.5, archive_files=2).of_files() == Limits(5, 500_000, 2)


def test_a_long_ct_is_within_the_limits():
    shape = (512, 512, 2000)
    assert checked_size(shape, np.dtype(np.float64), "a") == 4_194_304_000
    assert np.prod(shape) <= Limits().voxels


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (nrrd(dimension=4), "not a readable .nrrd file (it announces 4 axes and gives the sizes of 3); copy"),
        (nrrd("1 " * 300_000, dimension=300_000), "has 300000 axes; expected one 3D volume"),
        (nrrd(type="block"), "holds voxels of the type 'block'; expected one gray value per voxel"),
        (
            nrrd(type="int16", endian="middle"),
            "not a readable .nrrd file (its byte order is neither little nor big); copy",
        ),
        (nrrd(encoding="hex"), "the NRRD encoding 'hex' is not supported; save it as raw or gzip"),
        (nrrd(line_skip=1), "skips a part of the file before its voxels; save it without 'line skip' and 'byte skip'"),
        (nrrd(byte_skip=-1, encoding="gzip"), "skips a part of the file before its voxels; save it without"),
        (nrrd(content=bytes(121)), "not a readable .nrrd file (121 bytes of voxels where 120 are announced); copy"),
        (nrrd(data_file="LIST"), "keeps its voxels in another file; save it as one attached .nrrd"),
        (nrrd(datafile="a%03d.raw 1 9 1"), "keeps its voxels in another file; save it as one attached .nrrd"),
        (nrrd(comment="x" * 1_000_001), "not a readable .nrrd file (its header does not end); copy"),
        (b"NRRD0004\n" + b"#\n" * 10_001, "not a readable .nrrd file (its header does not end); copy"),
        (b"NRRD0004\n" + (b"#" * 900_000 + b"\n") * 9, "not a readable .nrrd file (its header does not end); copy"),
    ],
)
def test_nrrd_headers_that_are_not_taken(tmp_path, content, expected):
    path = tmp_path / "a.nrrd"
    path.write_bytes(content)
    assert refused(read_label, path).startswith(f"a.nrrd: {expected}")


@pytest.mark.parametrize("count", [255, 256, 3000])
def test_a_header_of_many_segments_costs_one_mask_at_a_time(tmp_path, count):
    fields = "".join(f"Segment{i}_Name:=looked at\nSegment{i}_LabelValue:={i + 1}\n" for i in range(count))
    head, _, _ = nrrd("50 50 50", encoding="gzip").rpartition(b"\n")
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(head + fields.encode() + b"\n" + gzip.compress(bytes(125_000)))
    if count > 255:
        assert cheaply(read_segments, path) == f"a.seg.nrrd: has {count} segments; at most 255 are taken"
        return
    segments = read_segments(path)
    assert (len(segments), len(segments[3:5]), segments[-1][0]) == (255, 2, "looked at")
    image = Grid((50, 50, 50), segments[0][1].affine)
    tracemalloc.start()
    checked_label(path, image, None, DEFAULT_LABELS, 1.0)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1e7, 1, 1, 1]),
        np.diag([1e154, 1e154, 1e154, 1]),
        np.diag([1, np.inf, 1, 1]),
        np.array([[1e5, 1e5, 0, 0], [1e5, 1e5 + 1e-3, 0, 0], [0, 0, 1e5, 0], [0, 0, 0, 1.0]]),
    ],
)
def test_affines_that_place_nothing(affine):
    assert refused(Volume, np.zeros((2, 2, 2)), affine).startswith(
        "the affine must be an invertible, finite 4x4 matrix"
    )


# DICOM


def test_an_image_of_many_components_is_not_decoded(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "series", syntax=JPEG2000Lossless)
    for path in folder.iterdir():
        item = pydicom.dcmread(path)
        at = item.PixelData.index(b"\xff\x4f\xff\x51") + 40
        assert item.PixelData[at : at + 2] == b"\0\1"
        item.PixelData = item.PixelData[:at] + b"\x40\0" + item.PixelData[at + 2 :]
        item.save_as(path)
    monkeypatch.setattr(jpeg.imagecodecs, "jpeg2k_decode", lambda _: pytest.fail("decoded"))
    assert "an image of 16384 components" in refused(read_series, folder)


@pytest.mark.parametrize(
    ("element", "bytes_of_it"),
    [
        (b"\x20\x00\x37\x00DS", b"\x20\x00\x37\x00ZZ"),  # a kind of value that there is not
        (b"\x20\x00\x32\x00DS", b"\x20\x00\x32\x00FD"),  # numbers of eight bytes in as many as there are
        (b"\x28\x00\x10\x00US\x02", b"\x28\x00\x10\x00US\x03"),  # a number of three bytes
        (b"\x08\x00\x16\x00UI", b"\x08\x00\x16\x00SQ"),
        (b"\x28\x00\x00\x01US", b"\x28\x00\x00\x01UT"),
    ],
)
def test_damaged_elements_are_explained(tmp_path, element, bytes_of_it):
    save(make_slice(stored_values()[0], ORIGIN), tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    assert element in content
    (tmp_path / "a.dcm").write_bytes(content.replace(element, bytes_of_it, 1))
    assert refused(read_series, tmp_path).startswith(str(tmp_path))


def test_copies_of_a_slice_are_decoded_only_if_they_are_no_larger_than_a_ct(tmp_path):
    for number in range(2):
        item = make_slice(stored_values()[0], ORIGIN, Rows=65535, Columns=65535)
        save(item, tmp_path / f"{number}.dcm")
    assert "shape (65535, 65535, 1) is larger than any CT we take" in refused(read_series, tmp_path)


def test_a_deflated_slice_that_would_fill_the_memory_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr(deflated.check_inflatable, "__defaults__", (50_000,))
    item = make_slice(np.zeros((300, 300), np.uint16), ORIGIN, syntax=DeflatedExplicitVRLittleEndian)
    save(item, tmp_path / "a.dcm")
    assert "damaged DICOM file (an object of more than" in refused(read_series, tmp_path)
