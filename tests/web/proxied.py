"""Our proxy before a PACS, good or bad, in a server of its own."""

import json
import time

from fastapi import FastAPI
from monailabel.endpoints import proxy as of_monai_label

from lib.dicomweb.forwarding import Forwarder
from lib.dicomweb.settings import PacsSettings
from lib.web.answers import install_answers
from lib.web.guard.callers import SCOPE_KEY
from lib.web.pacs_proxy import install_proxy
from tests.web.serving import serving

LOGIN = {"user": "annotator", "password": "correct horse ü"}
STUDY = "/proxy/dicom/studies/1.2.3"
MULTIPART = 'multipart/related; type="application/dicom"; boundary=b'


def server_for(settings, told=None, on_stored=None, caller=None):
    """Our proxy before MONAI Label's own, as in the running server."""
    app = FastAPI()
    app.include_router(of_monai_label.router)
    install_answers(app)
    stored = on_stored or (lambda *stored: None if told is None else told.append(stored))
    install_proxy(app, Forwarder(settings) if settings else None, stored)

    async def logged_in(scope, receive, send):
        await app({**scope, SCOPE_KEY: caller}, receive, send)

    return serving(logged_in if caller else app)


def quick(server, **settings):
    """Settings for a bad PACS; other work on the machine makes no answer come too late."""
    return PacsSettings(server.url, connect_timeout_s=30, read_timeout_s=settings.pop("read_timeout_s", 30), **settings)


def detail(reply):
    return json.loads(reply.body)["detail"]


def wait_for(condition):
    """What follows an answer happens soon after it."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
