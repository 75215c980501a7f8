"""A large gzip stream is unpacked by several threads, and nothing else comes of it than of a small one."""

import numpy as np
import pytest
import rapidgzip
from isal import igzip

from lib import gzip_file
from lib.gzip_file import unpack_into
from lib.volume import Volume
from lib.volume_io import read_image, write_image

SHAPE = (300, 300, 200)  # 36 MB, packed 18
SKIP = 352  # bytes before the voxels of a NIfTI file
NOISE = np.random.default_rng(0).integers(-100, 100, SHAPE, np.int16)


@pytest.fixture(scope="module")
def packed():
    """A stream of what is left out and of what is wanted."""
    return igzip.compress(bytes(SKIP) + NOISE.tobytes(), compresslevel=1)


@pytest.fixture(params=[0, 100], ids=["whole file", "behind a header"])
def start(request):
    return request.param


@pytest.fixture
def large(start, packed, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"x" * start + packed)
    return path


@pytest.fixture
def opened(monkeypatch):
    """How many threads each file that rapidgzip opens gets; two cores, whatever this machine has."""
    threads = []
    real = rapidgzip.RapidgzipFile

    def recorded(source, count):
        threads.append(count)
        return real(source, count)

    monkeypatch.setattr(rapidgzip, "RapidgzipFile", recorded)
    monkeypatch.setattr(gzip_file, "available_cores", lambda: 2)
    return threads


def unpacked(path, start):
    """The wanted part, as far as it is there."""
    wanted = bytearray(NOISE.nbytes)
    return bytes(wanted[: unpack_into(memoryview(wanted), path, start, SKIP)])


def is_noise(content):
    return content == NOISE.tobytes()  # pytest would show how 36 MB differ


def test_a_large_stream_is_unpacked_by_all_cores(large, start, opened):
    assert is_noise(unpacked(large, start))
    assert opened == [2]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_images_are_read_that_way(opened, tmp_path, name):
    affine = np.diag([0.75, 0.5, 2.5, 1.0])
    write_image(tmp_path / name, Volume(NOISE, affine))
    image = read_image(tmp_path / name)
    assert opened == [2]
    assert image.array.dtype == np.int16
    assert image.array.flags.f_contiguous
    np.testing.assert_array_equal(image.array, NOISE)
    np.testing.assert_array_equal(image.affine, affine)


def test_one_thread_does_where_more_gain_nothing(large, start, opened, monkeypatch, tmp_path):
    small = tmp_path / "small"
    small.write_bytes(igzip.compress(bytes(SKIP) + b"abc"))
    assert unpacked(small, 0) == b"abc"
    monkeypatch.setattr(gzip_file, "available_cores", lambda: 1)
    assert is_noise(unpacked(large, start))
    assert opened == []


def test_what_comes_before_a_stream_makes_it_no_larger(opened, tmp_path):
    path = tmp_path / "small"
    path.write_bytes(bytes(16_000_000) + igzip.compress(bytes(SKIP) + b"abc"))
    assert unpacked(path, 16_000_000) == b"abc"
    assert opened == []


def test_never_more_threads_than_a_ct_has_pieces(large, start, opened, monkeypatch):
    monkeypatch.setattr(gzip_file, "available_cores", lambda: 64)
    assert is_noise(unpacked(large, start))
    assert opened == [16]


def test_what_several_threads_can_not_read_is_read_by_one(large, start, opened, monkeypatch):
    def fails(source, count):
        opened.append(count)
        raise RuntimeError(source)

    monkeypatch.setattr(rapidgzip, "RapidgzipFile", fails)
    assert is_noise(unpacked(large, start))
    assert opened == [2]


def test_several_gzips_one_after_the_other_are_one_stream(packed, start, opened, tmp_path):
    whole, path = igzip.decompress(packed), tmp_path / "two"
    half = len(whole) // 2
    path.write_bytes(b"x" * start + igzip.compress(whole[:half]) + igzip.compress(whole[half:]))
    assert is_noise(unpacked(path, start))
    assert opened == [2]


@pytest.mark.parametrize("many", [True, False])
def test_no_more_is_unpacked_than_is_asked_for(large, start, opened, monkeypatch, many):
    monkeypatch.setattr(gzip_file, "available_cores", lambda: 2 if many else 1)
    memory = bytearray(1000)
    assert unpack_into(memoryview(memory), large, start, SKIP) == 1000
    assert bytes(memory) == NOISE.tobytes()[:1000]


@pytest.mark.parametrize("damage", ["cut off", "bytes missing", "bytes more", "zeros"])
@pytest.mark.parametrize("part", [0.2, 0.7, 0.98])
def test_a_damaged_large_stream_fails_as_a_small_one_does(packed, start, opened, monkeypatch, tmp_path, damage, part):
    content = bytearray(b"x" * start + packed)
    place = int(len(content) * part)
    if damage == "cut off":
        del content[place:]
        monkeypatch.setattr(gzip_file, "_LEAST_FOR_MANY", 1)
    elif damage == "bytes missing":
        del content[place : place + 1000]
    elif damage == "bytes more":
        content[place:place] = b"abc"
    else:
        content[place : place + 5000] = bytes(5000)
    path = tmp_path / "damaged"
    path.write_bytes(content)

    def outcome():
        try:
            return unpacked(path, start)
        except Exception as error:
            return type(error), str(error)

    several = outcome()
    assert opened == [2]
    monkeypatch.setattr(gzip_file, "available_cores", lambda: 1)
    same = several == outcome()  # pytest would show how megabytes differ
    assert same
    assert opened == [2]
