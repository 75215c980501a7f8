"""A file appears whole or not at all; memory is filled from one."""

import errno
import io
import os
import stat

import pytest

from lib.errors import StorageError
from lib.files import atomic_write, read_into


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_is_whole_once_its_name_exists(tmp_path):
    path = tmp_path / "new" / "out.nii.gz"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"all")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith("out.nii.gz")
    assert path.read_bytes() == b"all"
    assert names(path.parent) == ["out.nii.gz"]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out.json"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full; free space or choose another folder"),
        (errno.EDQUOT, "the disk quota is used up; free space or choose another folder"),
        (errno.EROFS, "the disk is read-only; choose another folder"),
        (errno.EACCES, "no permission; change the folder's permissions or choose another"),
    ],
)
def test_what_the_disk_refuses_is_a_storage_error(tmp_path, number, reason):
    path = tmp_path / "out.json"
    with pytest.raises(StorageError) as caught, atomic_write(path):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"can't write {path}: {reason}"
    assert names(tmp_path) == []


def test_a_failure_to_read_something_else_is_not_blamed_on_the_target(tmp_path):
    other = tmp_path / "source.nii"
    with pytest.raises(PermissionError), atomic_write(tmp_path / "out.nii"):
        raise PermissionError(errno.EACCES, "no", str(other))
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "out.nii"):
        other.read_bytes()


def test_impossible_targets_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"there is a folder of this name; choose another name$"):
        atomic_write(tmp_path / "folder").__enter__()
    with pytest.raises(StorageError, match="a part of the path is a file, not a folder"):
        atomic_write(tmp_path / "file" / "out.json").__enter__()
    with pytest.raises(StorageError, match="the name is too long"), atomic_write(tmp_path / ("x" * 300)):
        pass


def test_names_of_the_longest_kind_can_be_written(tmp_path):
    path = tmp_path / ("ä" * 120 + ".seg.nrrd")  # 249 bytes
    with atomic_write(path) as temporary:
        assert temporary.name.endswith(".seg.nrrd")
    assert path.exists()


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "out.json"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.json").stat().st_mode) == 0o640


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path):
    target, link = tmp_path / "original.nii", tmp_path / "link.nii"
    target.write_text("original")
    link.symlink_to(target)
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert not link.is_symlink()
    assert target.read_text() == "original"


@pytest.mark.parametrize("durable", [True, False])
def test_only_what_must_survive_a_power_cut_is_synced(tmp_path, monkeypatch, durable):
    synced = []
    monkeypatch.setattr("lib.files.os.fsync", synced.append)
    with atomic_write(tmp_path / "new" / "a.txt", durable=durable) as path:
        path.write_text("a")
    assert (tmp_path / "new" / "a.txt").read_text() == "a"
    assert bool(synced) is durable


class InPieces(io.BytesIO):
    """Gives less than it is asked for, as unpackers and pipes do."""

    def readinto(self, memory):
        return super().readinto(memory[:3])


@pytest.mark.parametrize(
    ("there", "expected"), [(b"", b"\0" * 7), (b"abcd", b"abcd\0\0\0"), (b"abcdefghi", b"abcdefg")]
)
def test_memory_is_filled_in_pieces(there, expected):
    memory = bytearray(7)
    assert read_into(memoryview(memory), InPieces(there)) == min(len(there), 7)
    assert memory == expected
