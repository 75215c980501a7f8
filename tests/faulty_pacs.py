"""A real Orthanc behind a proxy of ours that is down, slow, refuses or breaks off when it is told to."""

import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

from tests.orthanc import Orthanc

FETCH = re.compile(r"/studies/[0-9.]+/series/[0-9.]+$")  # of a whole series, by WADO-RS
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "server", "date"}
_LONGEST_S = 60.0


class FaultyPacs:
    """Passes everything on to an Orthanc; use it as a context manager.

    Args:
        orthanc: whose first user it is there.
        token: a bearer token that clients must have; None: they must be a user of the Orthanc.
    """

    def __init__(self, orthanc: Orthanc, token: str | None = None) -> None:
        self._orthanc, self._token = orthanc, token
        self._fault: Callable[[_Handler], bool] | None = None
        self._stopped = threading.Event()
        self.requests: list[tuple[float, str, str]] = []  # when, method and path with its query
        self._server = self._listening(0)
        self.port = self._server.server_address[1]
        self.name = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.name}/dicom-web"

    def __enter__(self) -> "FaultyPacs":
        self._serve()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def works(self) -> None:
        """No fault any more."""
        self._fault = None
        if self._stopped.is_set():
            self._server = self._listening(self.port)
            self._serve()

    def down(self) -> None:
        """Nobody listens."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._server.shutdown()
            self._server.server_close()

    def slow(self, seconds: float) -> None:
        """Each answer comes so much later."""

        def fault(_: "_Handler") -> bool:
            self._stopped.wait(seconds)
            return False

        self._fault = fault

    def fails(self, status: int) -> None:
        """Each request is refused with an HTTP status."""

        def fault(handler: "_Handler") -> bool:
            handler.answer(status, {"Content-Type": "text/plain"}, b"")
            return True

        self._fault = fault

    def breaks_off(self) -> None:
        """Of each series that is fetched, half comes, and then the connection ends."""
        self._fault = lambda handler: (
            bool(FETCH.search(handler.path)) and handler.pass_on(lambda content: len(content) // 2)
        )

    def keeps_answers(self) -> None:
        """What it is sent it stores, and never says so."""

        def fault(handler: "_Handler") -> bool:
            if handler.command != "POST":
                return False
            handler.ask_orthanc()
            self._stopped.wait(_LONGEST_S)
            return True

        self._fault = fault

    def asked(self, method: str, pattern: str = "", since: float = 0.0) -> list[float]:
        """When requests came, in seconds of the monotonic clock, whose path holds a pattern."""
        return [at for at, how, path in self.requests if how == method and at >= since and re.search(pattern, path)]

    def _listening(self, port: int) -> ThreadingHTTPServer:
        server = _Quiet(("127.0.0.1", port), _Handler)
        server.pacs = self
        return server

    def _serve(self) -> None:
        self._stopped.clear()
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    pacs: FaultyPacs

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    server: _Quiet

    def do_GET(self) -> None:
        pacs = self.server.pacs
        self._content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pacs.requests.append((time.monotonic(), self.command, self.path))
        if pacs._token is not None and self.headers.get("Authorization") != f"Bearer {pacs._token}":
            self.answer(401, {"Content-Type": "text/plain"}, b"")
            return
        fault = pacs._fault
        if fault is None or not fault(self):
            self.pass_on()

    do_POST = do_GET  # noqa: N815 - the name that http.server looks for

    def pass_on(self, length: Callable[[bytes], int] = len) -> bool:
        """Answer as the Orthanc does, but for what is to be cut off."""
        answer = self.ask_orthanc()
        if answer is None:
            self.close_connection = True
            return True
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() not in _HOP and name.lower() != "content-encoding"
        }
        self.answer(answer.status_code, kept, answer.content, length(answer.content))
        return True

    def ask_orthanc(self) -> requests.Response | None:
        """What the Orthanc answers, None if it is down."""
        pacs = self.server.pacs
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        login = None
        if pacs._token is not None:
            del headers["Authorization"]
            login = pacs._orthanc._login
        try:
            return requests.request(
                self.command, pacs._orthanc.api + self.path, data=self._content, headers=headers, auth=login,
                timeout=_LONGEST_S,
            )  # fmt: skip
        except requests.ConnectionError:
            return None

    def answer(self, status: int, headers: dict[str, str], content: bytes, length: int | None = None) -> None:
        """All of it, or only the first bytes although all are announced."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:length])

    def log_message(self, *_: object) -> None: ...
