"""Alive is not ready."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib.errors import ModelError, UnavailableError
from lib.web.health import install_health


@pytest.mark.parametrize("error", [ModelError("no weights"), UnavailableError("the ledger is locked")])
def test_not_ready(error):
    app = FastAPI()

    def check():
        raise error

    install_health(app, check)
    client = TestClient(app)
    assert client.get("/healthz").json() == {"status": "alive"}
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "reason": str(error)})


def test_ready():
    app = FastAPI()
    install_health(app, lambda: None)
    assert TestClient(app).get("/readyz").json() == {"status": "ready"}
