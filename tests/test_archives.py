"""Archives are unpacked within limits, and leave nothing behind where they are refused."""

import gzip
import io
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import archives
from lib.archives import unpack
from lib.errors import BadInputError, StorageError
from lib.limits import Limits

DICOM = bytes(128) + b"DICM" + bytes(5000)
SMALL = bytes(128) + b"DICM"


def tarred(*entries, form=tarfile.PAX_FORMAT, **attributes):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def gzipped(*entries, **options):
    return gzip.compress(tarred(*entries, **options))


def zipped(*entries, mode=0, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, method
            archive.writestr(info, content)
    return buffer.getvalue()


PACKERS = [zipped, tarred, gzipped]


@pytest.fixture
def unpacked(tmp_path):
    """Unpacks, and makes sure that a refusal leaves nothing behind."""

    def run(content, **limits):
        archive = tmp_path / "sent"
        archive.write_bytes(content)
        try:
            count = unpack(archive, tmp_path / "out", Limits(**limits))
        except Exception:
            assert sorted(tmp_path.iterdir()) == [archive]
            raise
        found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert len(found) == count
        return found

    return run


def refused(unpacked, content, **limits):
    with pytest.raises(BadInputError) as caught:
        unpacked(content, **limits)
    return str(caught.value)


@pytest.mark.parametrize("pack", PACKERS)
def test_dicom_files_get_numbers_and_the_rest_is_left_out(unpacked, pack):
    large = DICOM + bytes(3_000_000)
    content = pack(
        ("CT/IM 1", DICOM), ("CT/IM 2", large), ("README", b"x" * 9000), ("evil.zip", zipped(("a", DICOM))),
        ("sitecustomize.py", b""), ("ü/IM1", SMALL),
    )  # fmt: skip
    assert unpacked(content) == {"1.dcm": DICOM, "2.dcm": large, "3.dcm": SMALL}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_folders_and_long_names(unpacked, form):
    long = "/".join(["n" * 60] * 3)
    folder = tarred(("CT", b""), type=tarfile.DIRTYPE, form=form)[: tarfile.BLOCKSIZE]
    assert unpacked(folder + tarred((long, DICOM), ("ü" * 40, SMALL), form=form)) == {"1.dcm": DICOM, "2.dcm": SMALL}


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/a", "a/..", "\\a", "a\\..\\b", "C:a", "C:\\a", "a\nb", "n" * 5000]
)
def test_names_that_lead_out_are_refused(unpacked, pack, name):
    assert refused(unpacked, pack(("ok", DICOM), (name, DICOM))) == (
        "entry 2 of the archive has a name that leads out of its folder; pack files under plain names"
    )


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_are_refused(unpacked, pack):
    assert refused(unpacked, pack(("CT/a", DICOM), ("CT/./a", DICOM))) == (
        "entry 2 of the archive has the name of another one; give each file a name of its own"
    )


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE,
        tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGLINK, b"Z",
    ],
)  # fmt: skip
def test_links_and_devices_in_a_tar_are_refused(unpacked, kind):
    for pack in (tarred, gzipped):
        assert refused(unpacked, pack(("a", b""), type=kind, linkname="/etc/passwd", form=tarfile.GNU_FORMAT)) == (
            "entry 1 of the archive is a link, a device or encrypted; pack plain files alone"
        )


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(unpacked, mode):
    assert "is a link, a device or encrypted" in refused(unpacked, zipped(("a", b"/etc/passwd"), mode=mode | 0o777))


def test_an_encrypted_zip_is_refused(unpacked):
    content = bytearray(zipped(("a", DICOM)))
    content[content.index(b"PK\1\2") + 8] |= 1
    assert "is a link, a device or encrypted" in refused(unpacked, bytes(content))


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_packed_in_an_unusual_way_is_refused(unpacked, method):
    assert refused(unpacked, zipped(("a", DICOM), method=method)) == (
        "the archive is packed in an unusual way; pack it as a common zip (deflate)"
    )


@pytest.mark.parametrize("pack", PACKERS)
def test_bombs_are_stopped_while_unpacking(unpacked, pack):
    content = pack(("a", DICOM), ("b", DICOM + bytes(40_000_000)))
    tracemalloc.start()
    assert refused(unpacked, content, unpacked_bytes=2_000_000) == (
        "the archive holds more than 2 MB when unpacked (limits.unpacked_mb); send one series"
    )
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("pack", PACKERS)
def test_files_are_counted(unpacked, pack):
    entries = [(str(number), SMALL) for number in range(4)]
    assert refused(unpacked, pack(*entries), archive_files=3) == (
        "the archive holds more than 3 files (limits.archive_files); send one series"
    )
    assert len(unpacked(pack(*entries), archive_files=4)) == 4


def test_a_table_of_contents_of_any_length_is_not_read(unpacked):
    content = zipped(*[(f"{number:0200}", b"") for number in range(7000)])
    tracemalloc.start()
    assert refused(unpacked, content, archive_files=10) == "the archive is damaged or not complete; pack it again"
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_long_extended_header_is_not_read(unpacked, kind):
    content = gzipped(("a", bytes(30_000_000)), type=kind)
    tracemalloc.start()
    assert refused(unpacked, content) == "the archive is damaged or not complete; pack it again"
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "record",
    [b"12 size=100\n", b"22 GNU.sparse.major=1\n", b"3 x\n", b"0 a=b\n", b"-5 a=b\n", b"a=b\n", b"5 a=b\n 9", b"99"],
)
def test_extended_headers_that_change_what_follows_are_refused(unpacked, record):
    head = tarred(("x", record), type=tarfile.XHDTYPE)[: 2 * tarfile.BLOCKSIZE]
    assert "is damaged or not complete" in refused(unpacked, head + tarred(("a", DICOM)))


@pytest.mark.parametrize("pack", PACKERS)
def test_an_archive_without_dicom_is_refused(unpacked, pack):
    expected = "the archive holds no DICOM file; send the files of one CT series"
    assert refused(unpacked, pack(("a.dcm", b"no"), ("b.nii", bytes(400)))) == expected
    assert refused(unpacked, pack(("a.dcm", b""))) == expected


def test_what_is_no_archive_is_refused(unpacked):
    for content in (b"", b"Rar!", DICOM, gzip.compress(DICOM)):
        assert refused(unpacked, content) == (
            "the archive is not a .zip, .tar or .tar.gz by its content; pack the files as one of those"
        )


@pytest.mark.parametrize("pack", PACKERS)
def test_a_full_disk_is_said_to_be_full(unpacked, pack, monkeypatch):
    full = Path("/dev/full")
    monkeypatch.setattr(archives, "open", lambda _, mode: full.open("wb"), raising=False)
    for content in (SMALL, DICOM + bytes(3_000_000)):
        with pytest.raises(StorageError, match=r"can't write into .*/out: the disk is full; free space"):
            unpacked(pack(("a", content)))


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    (tmp_path / "sent").write_bytes(zipped(("a", DICOM)))
    with pytest.raises(StorageError, match="can't write into"):
        unpack(tmp_path / "sent", tmp_path / "out")
    assert (tmp_path / "out" / "mine").exists()


@pytest.mark.parametrize("pack", PACKERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_is_unpacked_or_refused(pack, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(pack(("CT/a", DICOM), ("b", b"text"), ("n" * 120, SMALL)))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[at] = data.draw(st.integers(0, 255))
    (folder / "sent").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        unpack(folder / "sent", folder / "out")
    except BadInputError:
        assert not (folder / "out").exists()
    else:
        assert {path.name for path in (folder / "out").iterdir()} <= {"1.dcm", "2.dcm", "3.dcm"}
