"""How files are sent: in large pieces, and labels as gzip."""

import re
from pathlib import Path
from typing import Any

from fastapi.responses import FileResponse, Response
from isal import igzip
from starlette.requests import Request

from lib.volume_io import is_packed

_PIECE = 1_000_000  # bytes; held in memory for each file that is being sent
_MAY_BE_RAW = {".nrrd", ".nii"}
_NEVER = re.compile(r"\s*q\s*=\s*0(\.0*)?\s*")


def send_large_pieces() -> None:
    """From here on, whoever answers with a file.

    Starlette takes 64 kB at a time, each read in another thread: 850 times for a CT of 55 MB, which then takes up to
    four times as long to send to a client on the same machine.
    """
    FileResponse.chunk_size = _PIECE


def label_answer(answer: Any, request: Request) -> Any:
    """An answer that is a label file, as gzip on its way where it is not packed and the client takes that (RFC 9110).

    OHIF can read raw NRRD alone, 52 MB of mostly background for 512 x 512 x 200 voxels; its browser unpacks a
    four-hundredth of that.

    Args:
        answer: of an endpoint; anything else than a file comes back as it is.
        request: says what the client takes.
    """
    if not isinstance(answer, FileResponse) or not _takes_gzip(request):
        return answer
    path = Path(answer.path)
    if path.suffix not in _MAY_BE_RAW or is_packed(path):
        return answer
    content = igzip.compress(path.read_bytes(), compresslevel=1)
    headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    headers |= {"Content-Disposition": answer.headers["Content-Disposition"]}
    return Response(content, headers=headers, media_type=answer.media_type)


def _takes_gzip(request: Request) -> bool:
    for each in request.headers.get("Accept-Encoding", "").lower().split(","):
        name, _, weight = each.partition(";")
        if name.strip() == "gzip":
            return not _NEVER.fullmatch(weight)
    return False
