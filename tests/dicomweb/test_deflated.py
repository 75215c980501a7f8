"""Objects that are stored deflated are fetched; one that would fill the memory, or is damaged, is not opened."""

import random
import zlib
from io import BytesIO

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from lib.dicomweb import client
from lib.dicomweb.deflated import check_inflatable
from lib.errors import UnavailableError
from tests.dicomweb.bad_pacs import BOUNDARY, MULTIPART, SERIES, STUDY, BadPacs, instance, listed, says


def deflated(text=b""):
    """A file with some text in it."""
    dataset = instance("1.2.5")
    dataset.add_new(0x00204000, "LT", text.decode())
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, write_like_original=False)
    return buffer.getvalue()


def deflated_part(content):
    length = int.from_bytes(content[140:144], "little")  # of the file meta information after this
    return content[144 + length :]


def fetch(content, folder):
    body = b"--%s\r\n\r\n%s\r\n--%s--\r\n" % (BOUNDARY.encode(), content, BOUNDARY.encode())
    with BadPacs(says(listed("SOPInstanceUID", "1.2.5")), says([]), says(body, kind=MULTIPART)) as pacs:
        pacs.pacs().fetch(STUDY, SERIES, folder)


def test_a_deflated_object_is_fetched(tmp_path):
    content = deflated(b"a" * 5_000_000)
    assert len(content) < 50_000
    fetch(content, tmp_path)
    assert pydicom.dcmread(tmp_path / "1.2.5.dcm").ImageComments == b"a" * 5_000_000


def test_one_that_would_fill_the_memory_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "check_inflatable", lambda path: check_inflatable(path, 4_000_000))
    monkeypatch.setattr(zlib, "decompress", lambda *_: pytest.fail("inflated at once"))
    with pytest.raises(UnavailableError, match=r"an object of more than 0.00373 GiB when inflated"):
        fetch(deflated(b"a" * 5_000_000), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda content: content.replace(deflated_part(content), b"\xff" * 2000), "a damaged object"),
        (lambda content: content[:-40], "an object without its end"),
    ],
)
def test_a_damaged_one_is_said_to_be(tmp_path, spoil, what):
    with pytest.raises(UnavailableError, match=what):
        fetch(spoil(deflated(random.Random(1).randbytes(2000).hex().encode())), tmp_path)


def test_others_are_not_read(tmp_path):
    path = tmp_path / "plain.dcm"
    pydicom.dcmwrite(path, instance("1.2.5"), write_like_original=False)
    check_inflatable(path, 0)
