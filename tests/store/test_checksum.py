import hashlib
import os

from lib.store.checksum import checksum_of


def test_it_is_that_of_the_files_content_and_follows_it(tmp_path):
    path = tmp_path / "a.nii.gz"
    for content in (b"one", b"other"):
        path.write_bytes(content)
        assert checksum_of(path, ".nii.gz") == f"SHA256:{hashlib.sha256(content).hexdigest()}"


def test_the_same_file_is_read_once(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"one")
    before = path.stat()
    first = checksum_of(path, ".nii.gz")
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checksum_of(path, ".nii.gz") == first
    path.touch()
    assert checksum_of(path, ".nii.gz") != first


def test_a_file_that_is_gone_has_none(tmp_path):
    assert checksum_of(tmp_path / "a.nii.gz", ".nii.gz") is None
