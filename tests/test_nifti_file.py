"""A large `.nii.gz` is unpacked by several threads, and nothing else comes of it than of a small one."""

import numpy as np
import pytest
import rapidgzip
from isal import igzip

from lib import nifti_file
from lib.nifti_file import read_nifti
from lib.volume import Volume
from lib.volume_io import write_image

SHAPE = (300, 300, 200)  # 36 MB, packed 18


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "a.nii.gz"
    noise = np.random.default_rng(0).integers(-100, 100, SHAPE, np.int16)
    write_image(path, Volume(noise, np.diag([0.75, 0.5, 2.5, 1.0])))
    return path, noise


@pytest.fixture
def opened(monkeypatch):
    """How many threads each file that rapidgzip opens gets; two cores, whatever this machine has."""
    threads = []
    real = rapidgzip.RapidgzipFile

    def recorded(path, count):
        threads.append(count)
        return real(path, count)

    monkeypatch.setattr(rapidgzip, "RapidgzipFile", recorded)
    monkeypatch.setattr(nifti_file, "available_cores", lambda: 2)
    return threads


def test_a_large_file_is_unpacked_by_all_cores(large, opened):
    path, noise = large
    voxels, affine = read_nifti(path, compressed=True)
    assert opened == [2]
    assert voxels.dtype == np.int16
    assert voxels.flags.f_contiguous
    np.testing.assert_array_equal(voxels, noise)
    np.testing.assert_array_equal(affine, np.diag([0.75, 0.5, 2.5, 1.0]))


def test_one_thread_does_where_more_gain_nothing(large, opened, monkeypatch, tmp_path):
    small = tmp_path / "small.nii.gz"
    write_image(small, Volume(np.zeros((9, 9, 9), np.int16), np.eye(4)))
    read_nifti(small, compressed=True)
    monkeypatch.setattr(nifti_file, "available_cores", lambda: 1)
    np.testing.assert_array_equal(read_nifti(large[0], compressed=True)[0], large[1])
    assert opened == []


def test_never_more_threads_than_a_ct_has_pieces(large, opened, monkeypatch):
    monkeypatch.setattr(nifti_file, "available_cores", lambda: 64)
    np.testing.assert_array_equal(read_nifti(large[0], compressed=True)[0], large[1])
    assert opened == [16]


def test_what_several_threads_can_not_read_is_read_by_one(large, opened, monkeypatch):
    def fails(path, count):
        opened.append(count)
        raise RuntimeError(path)

    monkeypatch.setattr(rapidgzip, "RapidgzipFile", fails)
    np.testing.assert_array_equal(read_nifti(large[0], compressed=True)[0], large[1])
    assert opened == [2]


def test_several_gzips_one_after_the_other_are_one_file(large, opened, tmp_path):
    unpacked = igzip.open(large[0]).read()
    path, half = tmp_path / "a.nii.gz", len(unpacked) // 2
    path.write_bytes(igzip.compress(unpacked[:half]) + igzip.compress(unpacked[half:]))
    np.testing.assert_array_equal(read_nifti(path, compressed=True)[0], large[1])
    assert opened == [2]


@pytest.mark.parametrize("damage", ["cut off", "bytes missing", "bytes more", "zeros"])
@pytest.mark.parametrize("part", [0.2, 0.7, 0.98])
def test_a_damaged_large_file_fails_as_a_small_one_does(large, opened, monkeypatch, tmp_path, damage, part):
    content = bytearray(large[0].read_bytes())
    place = int(len(content) * part)
    if damage == "cut off":
        del content[place:]
        monkeypatch.setattr(nifti_file, "_LEAST_FOR_MANY", 1)
    elif damage == "bytes missing":
        del content[place : place + 1000]
    elif damage == "bytes more":
        content[place:place] = b"abc"
    else:
        content[place : place + 5000] = bytes(5000)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)

    def outcome():
        try:
            return read_nifti(path, compressed=True)[0].tobytes()
        except Exception as error:
            return type(error), str(error)

    several = outcome()
    assert opened == [2]
    monkeypatch.setattr(nifti_file, "available_cores", lambda: 1)
    assert several == outcome()
    assert opened == [2]
