"""What pages of other servers get to read in a browser."""

import pytest
from fastapi.testclient import TestClient
from monailabel.app import app as server
from monailabel.config import settings
from pydantic import TypeAdapter
from starlette.middleware.cors import CORSMiddleware

from lib.web.origins import install_origins

EVIL, OURS = "https://evil.example", "https://viewer.example:8443"


@pytest.fixture
def app():
    """MONAI Label's own server, as it was afterwards."""
    (middleware,) = [one for one in server.user_middleware if one.cls is CORSMiddleware]
    before = dict(middleware.kwargs)
    yield server
    middleware.kwargs.clear()
    middleware.kwargs.update(before)
    server.middleware_stack = None


def allowed(app, origin):
    """To which origin the browser gives an answer, and whether another kind of request may be sent."""
    client = TestClient(app)
    answer = client.get("/openapi.json", headers={"Origin": origin, "Cookie": "a=b"})
    asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    return answer.headers.get("Access-Control-Allow-Origin"), client.options(
        "/datastore/label", headers=asked
    ).is_success


def test_no_page_of_another_server_reads_anything(app):
    assert allowed(app, EVIL) == (EVIL, True)  # as MONAI Label has it
    install_origins(app)
    assert allowed(app, EVIL) == (None, False)


def test_who_is_named_is_let_in(app, monkeypatch):
    named = TypeAdapter(type(settings).model_fields["MONAI_LABEL_CORS_ORIGINS"].annotation).validate_python([OURS])
    monkeypatch.setattr(settings, "MONAI_LABEL_CORS_ORIGINS", named)
    install_origins(app)
    assert allowed(app, OURS) == (OURS, True)
    assert allowed(app, EVIL) == (None, False)
