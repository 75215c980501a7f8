"""`/proxy/dicom/...`: the PACS for the viewer in the browser, in place of MONAI Label's own proxy.

The browser never learns the PACS's login, and may query, retrieve and store, nothing else.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route
from starlette.types import Send

from lib.dicomweb.forwarding import FailedForwardingError, Forwarder, InterruptedForwardingError, stored_segs
from lib.errors import BadInputError, NotFoundError
from lib.web.guard.callers import caller_of

logger = logging.getLogger(__name__)

OnStored = Callable[[str, Mapping[str, str]], object]

ROOT = "/proxy/dicom"
NO_PACS = "this server has a folder of files; start it with --studies http://HOST:PORT/dicom-web to work on a PACS"
_PREFIX = "/proxy"
_PATHS = _PREFIX + "/{path:path}"
# A PACS's answer stands under our address now: no page of it may run there.
_SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
_CLIENT_LEFT = 499  # as nginx logs it; nobody gets this answer


def install_proxy(
    app: FastAPI,
    forwarder: Forwarder | None,
    on_stored: OnStored = lambda study_uid, authors: None,
) -> None:
    """Put our proxy before MONAI Label's, no route of which can be reached any more.

    Args:
        app: the server.
        forwarder: to the PACS; None if there is none.
        on_stored: called in a thread, after a viewer has stored SEGs in the PACS, with the Study Instance UID and,
            where people log in, with who stored them by their SOP Instance UIDs.
    """

    async def proxy(request: Request) -> Response:
        path = request.scope.get("raw_path", b"").decode("latin-1").partition("?")[0]
        if forwarder is None:
            raise NotFoundError(NO_PACS)
        if not path.startswith(f"{ROOT}/"):
            msg = f"{path[:80]!r} is not below {ROOT}/"
            raise BadInputError(msg)
        path = path[len(ROOT) + 1 :]
        try:
            return await (_store if request.method == "POST" else _get)(forwarder, request, path, on_stored)
        except FailedForwardingError as error:
            logger.log(logging.ERROR if error.status >= 500 else logging.WARNING, "%s", error)
            return JSONResponse({"detail": str(error)}, error.status, headers=_SAFE)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_LEFT)

    async def refuse(request: Request) -> Response:
        msg = f"the PACS is open for GET and POST here, not for {request.method}; change or delete in the PACS itself"
        raise HTTPException(405, msg, headers={"Allow": "GET, POST"})

    others = ["PUT", "DELETE", "PATCH", "HEAD"]  # the last is nothing that a DICOMweb resource knows
    # Where MONAI Label asks for a login, it is asked for here as well.
    may = {"GET": settings.MONAI_LABEL_AUTH_ROLE_USER, "POST": settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR}
    routes: list[BaseRoute] = [
        APIRoute(
            _PATHS, proxy, methods=[method], dependencies=[Depends(RBAC(role))], include_in_schema=False,
            dependency_overrides_provider=app,
        )
        for method, role in may.items()
    ]  # fmt: skip
    refusal = Route(_PATHS, refuse, methods=others, include_in_schema=False)
    app.router.routes[:0] = [*routes, refusal]  # the first route that matches answers
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(one, _WithoutQueries) for one in access.filters):
        access.addFilter(_WithoutQueries())


async def _get(forwarder: Forwarder, request: Request, path: str, _: OnStored) -> Response:
    query = request.scope["query_string"].decode("latin-1")
    answer = await forwarder.get(path, query, request.headers, own_root=ROOT)
    return _Relayed(answer.content, answer.status, headers={**answer.headers, **_SAFE})


async def _store(forwarder: Forwarder, request: Request, path: str, on_stored: OnStored) -> Response:
    status, content = await forwarder.store(path, request.headers, request.stream(), own_root=ROOT)
    studies, name = stored_segs(content), caller_of(request).name
    authors = {study: dict.fromkeys(uids, name) if name else {} for study, uids in studies.items()}
    task = BackgroundTask(partial(_tell, authors, on_stored)) if studies else None
    return Response(content, status, headers=_SAFE, media_type="application/dicom+json", background=task)


def _tell(authors: Mapping[str, Mapping[str, str]], on_stored: OnStored) -> None:
    for study, of_study in authors.items():
        try:
            on_stored(study, of_study)
        except Exception as error:  # whatever became of it, the SEG is in the PACS
            logger.warning("a SEG stored by a viewer is not looked at yet: %s", error)


class _Relayed(StreamingResponse):
    """An answer as it comes; one that breaks off has no end for the client either, so that it doesn't seem whole."""

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for chunk in self.body_iterator:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except InterruptedForwardingError as error:
            logger.error("%s", error)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _WithoutQueries(logging.Filter):
    """What a viewer searches for may be a patient's name, which is not for the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and len(record.args) == 5 and str(record.args[2]).startswith(_PREFIX):
            client, method, path, version, status = record.args
            record.args = (client, method, str(path).partition("?")[0], version, status)
        return True
