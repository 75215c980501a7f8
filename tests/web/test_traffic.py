"""Every request is seen once, by its template, and none is taken once the server stops."""

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient

from lib.web.traffic import Traffic, TrafficMiddleware


@pytest.fixture
def seen():
    return []


@pytest.fixture
def traffic(seen):
    return Traffic(lambda *figures: seen.append(figures[:3]))


@pytest.fixture
def client(traffic, tmp_path):
    app, router = FastAPI(), APIRouter(prefix="/train")

    @router.get("/{model}")
    def train(model: str):
        assert traffic.running() == {"GET /train/{model}": 1}
        return model

    @app.get("/healthz")
    def healthz():
        assert not traffic.running()

    @app.get("/fail")
    def fail():
        raise ValueError("bad")

    app.include_router(router)
    app.mount("/static", StaticFiles(directory=tmp_path))
    app.add_middleware(TrafficMiddleware, traffic=traffic)
    return TestClient(app, raise_server_exceptions=False)


def test_requests_are_named_by_their_route(client, traffic, seen):
    client.get("/train/patient-7")
    client.get("/healthz")
    client.get("/patient-7")
    client.get("/static/patient-7")
    client.post("/train/patient-7")
    client.request("PATIENT", "/train/patient-7")
    client.get("/fail")
    assert seen == [
        ("GET", "/train/{model}", 200),
        ("GET", "/healthz", 200),
        ("GET", "(other)", 404),
        ("GET", "(other)", 404),
        ("POST", "/train/{model}", 405),
        ("(other)", "/train/{model}", 405),
        ("GET", "/fail", 500),
    ]
    assert not traffic.running()


def test_a_server_that_stops_takes_nothing_but_questions_about_it(client, traffic, seen):
    traffic.close()
    answer = client.get("/train/m")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json() == {"detail": "the server is being stopped; ask again when it runs"}
    assert client.get("/healthz").status_code == 200
    assert seen == [("GET", "(other)", 503), ("GET", "/healthz", 200)]
