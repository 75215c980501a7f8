"""A large file leaves in few pieces, whole, and a label as gzip."""

import asyncio
import gzip

import numpy as np
import pytest
from fastapi.responses import FileResponse
from starlette.requests import Request

from lib.volume import Volume
from lib.volume_io import write_label
from lib.web.file_answers import label_answer, send_large_pieces


def asking(accepted):
    headers = [] if accepted is None else [(b"accept-encoding", accepted.encode())]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers})


@pytest.fixture
def label(tmp_path):
    """The answer with a label file."""

    def write(name="a.nrrd", *, compress=False):
        write_label(tmp_path / name, Volume(np.zeros((64, 64, 20), np.uint8), np.eye(4)), compress=compress)
        return FileResponse(tmp_path / name, media_type="application/octet-stream", filename=name)

    return write


@pytest.mark.parametrize(("size", "pieces"), [(0, 1), (10, 1), (1_000_000, 2), (2_500_000, 3)])
def test_a_large_file_leaves_in_few_pieces(monkeypatch, tmp_path, size, pieces):
    monkeypatch.setattr(FileResponse, "chunk_size", FileResponse.chunk_size)  # as it was, afterwards
    path, content = tmp_path / "ct.nii.gz", bytes(range(250)) * (size // 250) + bytes(size % 250)
    path.write_bytes(content)
    sent = []

    async def receive():
        await asyncio.Event().wait()  # the client stays

    async def send(message):
        if message["type"] == "http.response.body":
            sent.append(message["body"])

    send_large_pieces()
    asyncio.run(FileResponse(path)({"type": "http", "method": "GET", "headers": []}, receive, send))
    assert b"".join(sent) == content
    assert len(sent) <= pieces
    assert max(map(len, sent)) <= 1_000_000


@pytest.mark.parametrize(
    "accepted", ["gzip", "gzip, deflate, br, zstd", "br;q=1.0, GZIP ; q=0.8", "deflate,gzip;q=0.001"]
)
@pytest.mark.parametrize("name", ["a.nrrd", "a.nii"])
def test_a_raw_label_leaves_as_gzip(label, accepted, name):
    file = label(name)
    answer = label_answer(file, asking(accepted))
    assert gzip.decompress(answer.body) == file.path.read_bytes()
    assert len(answer.body) < 1000
    assert dict(answer.headers) == {
        "content-encoding": "gzip", "vary": "Accept-Encoding", "content-length": str(len(answer.body)),
        "content-disposition": f'attachment; filename="{name}"', "content-type": "application/octet-stream",
    }  # fmt: skip


@pytest.mark.parametrize("accepted", [None, "", "deflate", "gzip;q=0", "gzip; q=0.00", "xgzip", "br, identity"])
def test_who_does_not_take_gzip_gets_the_file(label, accepted):
    file = label()
    assert label_answer(file, asking(accepted)) is file


@pytest.mark.parametrize(("name", "compress"), [("a.nrrd", True), ("a.nii.gz", False)])
def test_what_is_packed_is_not_packed_again(label, name, compress):
    file = label(name, compress=compress)
    assert label_answer(file, asking("gzip")) is file


def test_other_answers_stay_as_they_are(tmp_path):
    (tmp_path / "planes.zip").write_bytes(b"PK")
    for answer in ({"latencies": {}}, FileResponse(tmp_path / "planes.zip")):
        assert label_answer(answer, asking("gzip")) is answer
