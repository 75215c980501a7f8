"""Which pages of other servers may read this one's answers in a browser: none, unless somebody names them.

MONAI Label lets all of them, so that any page that an annotator opens could read the PACS through this server, which
has no login, though it listens on 127.0.0.1 alone.
"""

from fastapi import FastAPI
from monailabel.config import settings
from starlette.middleware.cors import CORSMiddleware


def install_origins(app: FastAPI) -> None:
    """Let in only what `MONAI_LABEL_CORS_ORIGINS` names; the server's own pages need no leave.

    Args:
        app: the server, before the first request.
    """
    for middleware in app.user_middleware:
        if middleware.cls is CORSMiddleware:
            # MONAI Label writes each with a slash at its end, which no browser sends.
            middleware.kwargs["allow_origins"] = [str(one).rstrip("/") for one in settings.MONAI_LABEL_CORS_ORIGINS]
    app.middleware_stack = None  # made anew with the next request
