"""`/ohif/`: the OHIF viewer that comes with MONAI Label, set up for our proxy and our classes."""

import json
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
_TEMPLATE = files("lib.web") / "ohif_config.js"
# The viewer talks to this server alone. It compiles WebAssembly, and has styles and small scripts in its pages.
_POLICY = (
    "default-src 'self' blob: data:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; frame-ancestors 'self'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


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
        return HTMLResponse(_page(NO_PACS), 404)

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

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path == _CONFIGURATION and scope["method"] in {"GET", "HEAD"}:
            return Response(self._configuration, media_type="text/javascript", headers=_HEADERS)
        try:
            response = await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404 or "." in path.rpartition("/")[2] not in {"", "."}:
                raise
            response = await super().get_response("index.html", scope)
        response.headers.update(_HEADERS)
        return response


def _configuration(labels: Mapping[str, Label]) -> str:
    colors = {name: list(label.color) for name, label in labels.items()}
    return _TEMPLATE.read_text("utf-8").replace("__COLORS__", json.dumps(colors)).replace("__ROOT__", json.dumps(ROOT))


def _page(text: str) -> str:
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>LiverLoop: no viewer</title>"
        f"<body style='font: 16px sans-serif; margin: 3em'><h1>The OHIF viewer needs a PACS</h1><p>{text}"
    )
