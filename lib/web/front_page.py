"""`/` and `/docs`: one small page that says what the server is and where to go.

MONAI Label's own pages there run scripts of a public network, which an annotator's browser has no business to run and
a closed network does not have. Their document, `/openapi.json`, can be opened with any viewer of one's own.
"""

import base64
import hashlib
from html import escape

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from lib.web.guard.callers import caller_of

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em}"
    "h1{line-height:1.2}li{margin:.5em 0}code{background:#8883;padding:0 .25em;border-radius:.25em}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>LiverLoop</title>
<style>{_STYLE}</style>
<h1>LiverLoop</h1>{{who}}
<p>A server for segmenting livers and liver tumors in CT, with 3D Slicer, OHIF or Python.
Research software: not for diagnosis or treatment.</p>
<ul>
<li><a href="/ohif/">The viewer OHIF</a>, for a server that works on a PACS
<li>3D Slicer: install the extension MONAILabel, open the module MONAI Label, and enter this server's address
<li>Programs: <a href="/openapi.json">what can be asked for</a> (OpenAPI), and the class <code>MONAILabelClient</code>
of the package <code>monailabel</code>
</ul>
<p>More stands in <code>README.md</code> and the folder <code>docs</code> of the program.</p>
"""
_WHO = """
<p>You are logged in as {name} ({role}). <a href="/logout">Log out</a></p>"""


def install_front_page(app: FastAPI) -> None:
    """Put our page before MONAI Label's.

    Args:
        app: the server.
    """

    async def page(request: Request) -> Response:
        caller = caller_of(request)
        who = "" if caller.name is None else _WHO.format(name=escape(caller.name), role=caller.role)
        return HTMLResponse(_PAGE.replace("{who}", who), headers={"Content-Security-Policy": _POLICY})

    routes = [Route(path, page, include_in_schema=False) for path in ("/", "/docs")]
    app.router.routes[:0] = routes  # the first route that matches answers
