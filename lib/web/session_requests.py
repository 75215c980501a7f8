"""`/session/`: a client sends an image that is not one of the studies, and has it segmented as often as it likes."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from lib.errors import BadInputError, GoneError, NotFoundError
from lib.limits import MEGABYTE
from lib.web.guard.callers import caller_of
from lib.web.sent_files import SentFiles
from lib.web.sessions import Session, Sessions

_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        }
    },
}


def install_sessions(app: FastAPI) -> None:
    """Put our endpoints before MONAI Label's."""
    user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))

    def create_session(
        request: Request,
        sent: Annotated[SentFiles, Depends(_received)],
        uncompress: bool = False,
        expiry: int = 0,
        _: User = user,
    ) -> dict[str, Any]:
        """Keep an image: one file, the DICOM files of one series, or with `uncompress` one archive of those."""
        files = sent.finish()
        owner = caller_of(request).name
        session = _sessions().add(files[0].parent, files, owner, expiry, uncompress=uncompress)
        return {"session_id": session.name, "session_info": session.to_json()}

    def get_session(
        request: Request, session_id: str, update_ts: bool = False, image: bool = False, _: User = user
    ) -> Any:
        """What is known of a session, or its image."""
        session = session_of(_sessions(), session_id, request, update_ts=update_ts)
        if not image:
            return session.to_json()
        if not session.is_file():
            msg = "the image of this session is a series of DICOM files, which are not sent back"
            raise BadInputError(msg)
        return FileResponse(session.image, filename=session.to_json()["image"])

    def remove_session(request: Request, session_id: str, _: User = user) -> dict[str, Any]:
        """Remove a session and its image."""
        session = session_of(_sessions(), session_id, request)
        _sessions().remove_session(session_id)
        return session.to_json()

    ours = APIRouter(prefix=settings.MONAI_LABEL_API_STR)
    ours.put("/session/", tags=["Session"], openapi_extra={"requestBody": _BODY})(create_session)
    ours.get("/session/{session_id}", tags=["Session"])(get_session)
    ours.delete("/session/{session_id}", tags=["Session"])(remove_session)
    app.include_router(ours)
    app.router.routes.insert(0, app.router.routes.pop())  # the first route that matches answers


def session_of(sessions: Sessions | None, session_id: str, request: Request, *, update_ts: bool = False) -> Session:
    """A session that the caller may use.

    Raises:
        NotFoundError: there is none, it has expired, or it is somebody else's, of which nothing is said.
    """
    session = sessions.get_session(session_id, update_ts=update_ts) if sessions is not None else None
    if session is None or not session.is_of(caller_of(request).name):
        msg = f"there is no session {session_id[:80]!r}; it may have expired, send the image again"
        raise NotFoundError(msg)
    return session


async def _received(request: Request) -> AsyncIterator[SentFiles]:
    """The files of the request on the disk, in a folder that is gone after the answer."""
    sessions = _sessions()
    limits = sessions.limits
    with sessions.staging() as folder:
        most = int(limits.upload_mb * MEGABYTE)
        sent = SentFiles(folder, request.headers.get("content-type", ""), limits.archive_files, most)
        try:
            async for chunk in request.stream():
                if chunk:
                    await run_in_threadpool(sent.feed, chunk)
            yield sent
        except ClientDisconnect as error:
            msg = "the client has gone before all was sent"
            raise GoneError(msg) from error
        finally:
            with suppress(OSError):
                sent.close()


def _sessions() -> Sessions:
    from monailabel.interfaces.utils.app import app_instance

    sessions = app_instance().sessions()
    if sessions is None:
        msg = "sessions are switched off here (MONAI_LABEL_SESSIONS); add the image to the studies"
        raise NotFoundError(msg)
    return sessions
