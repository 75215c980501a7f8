"""A large file leaves in few pieces, whole."""

import asyncio

import pytest
from fastapi.responses import FileResponse

from lib.web.file_answers import send_large_pieces


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
