"""`/ohif/`: the OHIF viewer that comes with MONAI Label, set up for our proxy and our classes."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from monailabel import endpoints
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from lib.settings import Label
from lib.web.pacs_proxy import NO_PACS, ROOT

_FOLDER = Path(endpoints.__file__).parent / "static" / "ohif"
_CONFIGURATION = "app-config.js"
_PAGE = "index.html"
_TEMPLATE = files("lib.web") / "ohif_config.js"
_INLINE = re.compile(r"<script>(.+?)</script>", re.DOTALL)
_LOCKED = "base-uri 'self'; form-action 'self'; object-src 'none'; frame-ancestors 'self'"
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


def install_ohif(app: FastAPI, labels: Mapping[str, Label] | None) -> None:
    """Put our `/ohif/` before MONAI Label's.

    Args:
        app: the server.
        labels: the classes by their names; None if there is no PACS, which the viewer can't do without.
    """

    async def to_folder(_: Request) -> Response:
        return RedirectResponse("/ohif/")

    async def explain(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"detail": f"no viewer: {NO_PACS}"}, 404)
        return HTMLResponse(_explanation(NO_PACS), 404)

    routes: list[BaseRoute]
    if labels is None:
        routes = [Route("/ohif", explain), Route("/ohif/{path:path}", explain)]
    else:
        routes = [Route("/ohif", to_folder), Mount("/ohif", _Viewer(_configuration(labels)))]
    app.router.routes[:0] = routes  # the first route that matches answers


class _Viewer(StaticFiles):
    """The viewer's files; every other address below is a view of it and gets its page."""

    def __init__(self, configuration: str) -> None:
        super().__init__(directory=_FOLDER)
        self._configuration = configuration
        self._headers = {**_HEADERS, "Content-Security-Policy": _policy((_FOLDER / _PAGE).read_text("utf-8"))}

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path == _CONFIGURATION and scope["method"] in {"GET", "HEAD"}:
            return Response(self._configuration, media_type="text/javascript", headers=self._headers)
        try:
            response = await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404 or "." in path.rpartition("/")[2] not in {"", "."}:
                raise
            response = await super().get_response(_PAGE, scope)
        response.headers.update(self._headers)
        return response


def _policy(page: str) -> str:
    """The viewer talks to this server alone, runs its own files and the small scripts of its page, nothing else.

    It compiles WebAssembly and functions, as it opens a SEG, has styles in its pages, and begins workers from what it
    holds in memory.
    """
    digests = (hashlib.sha256(script.encode()).digest() for script in _INLINE.findall(page))
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'self' blob: data:; script-src 'self' {scripts} 'unsafe-eval' blob:; "
        f"style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; {_LOCKED}"
    )


def _configuration(labels: Mapping[str, Label]) -> str:
    colors = {name: list(label.color) for name, label in labels.items()}
    return _TEMPLATE.read_text("utf-8").replace("__COLORS__", json.dumps(colors)).replace("__ROOT__", json.dumps(ROOT))


def _explanation(text: str) -> str:
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>LiverLoop: no viewer</title>"
        f"<body style='font: 16px sans-serif; margin: 3em'><h1>The OHIF viewer needs a PACS</h1><p>{text}"
    )
