"""A web server that answers what it is told, wrong things too, on a loopback port."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from lib.dicomweb.client import Pacs
from lib.dicomweb.settings import PacsSettings
from tests.orthanc import new_dataset

STUDY, SERIES = "1.2.3", "1.2.3.4"
Answer = Callable[[BaseHTTPRequestHandler], None]
BOUNDARY = "a-boundary"
MULTIPART = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'


class BadPacs:
    """Gives its answers one after the other, the last for ever; use it as a context manager.

    Args:
        answers: what to do with the first request, the second ...
        context: for HTTPS.
    """

    def __init__(self, *answers: Answer, context: Any = None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.ports: list[int] = []  # of the client, for each request
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append((self.command, self.path, dict(self.headers)))
                outer.ports.append(self.client_address[1])
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                answer(self)

            do_POST = do_GET  # noqa: N815 - the name that http.server looks for

            def log_message(self, *_: object) -> None: ...

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._scheme = "http"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self.name = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self._scheme}://{self.name}/dicom-web"

    def __enter__(self) -> "BadPacs":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def pacs(self, **settings: Any) -> Pacs:
        """A client of ours that tries again at once; other work on the machine makes no answer come too late."""
        quick = {"connect_timeout_s": 30, "read_timeout_s": 30, "backoff_s": 0.001, "retries": 2}
        return Pacs(PacsSettings(self.url, **{**quick, **settings}))


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what tests want."""


def says(
    body: Any = "",
    status: int = 200,
    kind: str = "application/dicom+json",
    cut: int = 0,
    reason: str | None = None,
    **headers: str,
) -> Answer:
    """A whole answer; of `body` (JSON unless text or bytes) the last `cut` bytes never come."""
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status, reason)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data[: len(data) - cut])
        if cut:
            request.close_connection = True

    return answer


def hangs_up(request: BaseHTTPRequestHandler) -> None:
    """No answer at all."""
    request.close_connection = True


def waits(seconds: float) -> Answer:
    """Nothing for some time, then an empty list."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        says([])(request)

    return answer


def listed(keyword: str, *uids: str, **more: Any) -> list[dict[str, Any]]:
    """QIDO's answer: one item for each UID."""
    items = []
    for uid in uids:
        dataset = Dataset()
        setattr(dataset, keyword, uid)
        for name, value in more.items():
            setattr(dataset, name, value)
        items.append(dataset.to_json_dict())
    return items


def instance(sop_uid: str, series_uid: str = SERIES) -> Dataset:
    """Hardly a slice."""
    dataset = new_dataset(CTImageStorage, STUDY, series_uid)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = sop_uid
    return dataset


def multipart(*datasets: Dataset, closed: bool = True) -> bytes:
    """WADO's answer."""
    parts = []
    for dataset in datasets:
        buffer = BytesIO()
        pydicom.dcmwrite(buffer, dataset, write_like_original=False)
        parts.append(b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (BOUNDARY.encode(), buffer.getvalue()))
    return b"".join(parts) + (b"--%s--\r\n" % BOUNDARY.encode() if closed else b"")
