"""Lookups, while one of them takes long."""

import threading

import pytest
from fastapi import FastAPI
from monailabel.endpoints import datastore

from lib.web.answers import install_answers
from lib.web.lookup_requests import install_lookups
from tests.web.serving import ask, serving


@pytest.fixture
def port():
    app = FastAPI()
    app.include_router(datastore.router)
    install_answers(app)
    install_lookups(app)
    with serving(app) as number:
        yield number


def test_who_waits_for_an_image_keeps_nobody_else_waiting(port, monkeypatch):
    begun, goes_on = threading.Event(), threading.Event()

    def slow(image, **_):
        begun.set()
        assert goes_on.wait(30)
        return {"slow": image}

    monkeypatch.setattr(datastore, "download_image", slow)
    monkeypatch.setattr(datastore, "get_image_info", lambda image: {"quick": image})
    slow_reply = []
    waiting = threading.Thread(target=lambda: slow_reply.append(ask(port, "GET", "/datastore/image?image=a")))
    waiting.start()
    try:
        assert begun.wait(30)
        assert ask(port, "GET", "/datastore/image/info?image=b").body == b'{"quick":"b"}'
        assert not slow_reply
    finally:
        goes_on.set()
        waiting.join()
    assert slow_reply[0].body == b'{"slow":"a"}'


@pytest.mark.parametrize("target", ["image?image=..%2fa", "image/info?image=.a", "label/info?label=a%00&tag=final"])
def test_ids_that_are_paths(port, target):
    reply = ask(port, "GET", f"/datastore/{target}")
    assert reply.status == 400
    assert b"is not allowed; it must have 1 to 240 bytes" in reply.body
