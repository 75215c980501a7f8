"""Model versions over HTTP, in a real folder with a real ledger."""

import io
import tempfile
import zipfile
from types import SimpleNamespace

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib.inference.model import new_network
from lib.settings import Settings
from lib.store import events
from lib.training.publish import describe, publish
from lib.training.registry import Registry
from lib.web import model_requests
from lib.web.answers import install_answers
from lib.web.model_requests import install_models


@pytest.fixture
def registry(store, tmp_path):
    """The starter, and v1 that was made by a script without the ledger."""
    settings = Settings.model_validate({"network": {"arguments": {"filters": [4] * 5}}})
    publish(tmp_path / "app" / "starter.pt", new_network(settings), describe(settings, "first-day"))
    Registry(tmp_path / "app", settings).add(new_network(settings), describe(settings, "v1", reason="worse"))
    return Registry(tmp_path / "app", settings, store.ledger)


@pytest.fixture
def client(registry, monkeypatch):
    app = FastAPI()
    monkeypatch.setattr(model_requests, "_registry", lambda: registry)
    install_models(app)
    install_answers(app)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def happened(store):
    with store.ledger.reading() as connection:
        found = events.history(connection)
    return [(event.kind, event.actor, event.detail["version"]) for event in reversed(found)]


def test_all_versions(client, store, tmp_path):
    answer = client.get("/models")
    first, starter = answer.json()
    assert (first["id"], first["is_published"], first["reason"], first["is_starter"]) == ("v1", False, "worse", False)
    assert (starter["id"], starter["is_published"], starter["is_starter"]) == ("first-day", True, True)
    assert str(tmp_path) not in answer.text
    assert happened(store) == [("model added", "server", "v1"), ("model added", "server", "first-day")]


def test_one_version(client, tmp_path):
    answer = client.get("/models/v1")
    assert answer.json()["manifest"]["labels"] == {"liver": 1, "tumor": 2}
    assert str(tmp_path) not in answer.text
    assert client.get("/models/published").json()["id"] == client.get("/models/starter").json()["id"] == "first-day"


def test_two_versions_side_by_side(client):
    answer = client.get("/models/compare", params={"first": "v1", "second": "starter"}).json()
    assert (answer["first"], answer["second"], answer["same_validation_cases"]) == ("v1", "first-day", False)
    assert client.get("/models/compare", params={"first": "v1"}).status_code == 422


def test_publishing_and_going_back(client, store, registry):
    answer = client.post("/models/v1/publish", json={"client_id": "anna", "reason": "  looks better\n"})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["id"], told["is_published"], told["published_by"], told["reason"]) == (
        "v1", True, "anna", "looks better",
    )  # fmt: skip
    assert registry.source.version == "v1"
    assert client.get("/models/published").json()["id"] == "v1"
    assert client.post("/models/starter/publish", json={"reason": "back"}).json()["published_by"] == (
        "anonymous@testclient"
    )
    assert registry.source.version == "first-day"
    assert happened(store)[-2:] == [
        ("model published", "anna", "v1"), ("model published", "anonymous@testclient", "first-day"),
    ]  # fmt: skip


def test_export(client, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def told(kind):
        answer = client.get("/models/v1/export", params={"format": kind})
        assert answer.status_code == 200, answer.text
        return answer.headers["content-disposition"], io.BytesIO(answer.content)

    name, file = told("torchscript")
    assert name == 'attachment; filename="v1.ts"'
    assert torch.jit.load(file)(torch.zeros(1, 1, 20, 30)).shape == (1, 3, 20, 30)
    name, file = told("bundle")
    assert name == 'attachment; filename="v1.zip"'
    assert {"configs/inference.json", "models/model.pt"} <= set(zipfile.ZipFile(file).namelist())
    assert client.get("/models/v1/export").status_code == 422
    assert client.get("/models/v1/export", params={"format": "keras"}).status_code == 422
    registry.get("v1").weights.write_bytes(b"damaged")
    assert client.get("/models/v1/export", params={"format": "torchscript"}).status_code == 503
    assert not list((tmp_path / "temporary").iterdir())


def test_the_page_of_a_training(client, registry, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<!doctype html><p>Grüße</p>", encoding="utf-8")
    assert not client.get("/models/v1").json()["has_report"]
    registry.keep_report("v1", page)
    assert client.get("/models/v1").json()["has_report"]
    answer = client.get("/models/v1/report")
    assert (answer.status_code, answer.content) == (200, page.read_bytes())
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert answer.headers["cache-control"] == "no-store"
    assert "content-disposition" not in answer.headers  # it is shown, not saved


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("v1", "the model version v1 has no report: it was made without one, or it is missing"),
        ("starter", "the model version first-day has no report: it came with the app"),
        ("published", "the model version first-day has no report: it came with the app"),
    ],
)
def test_a_version_without_a_page(client, version, why):
    answer = client.get(f"/models/{version}/report")
    assert (answer.status_code, answer.json()["detail"]) == (404, why)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/models/v9", None, 404),
        ("GET", "/models/v9/report", None, 404),
        ("GET", "/models/v9/export?format=onnx", None, 404),
        ("GET", "/models/..%2F..%2Fstarter.pt", None, 404),
        ("GET", "/models/compare?first=v1&second=v9", None, 404),
        ("POST", "/models/v9/publish", {"reason": "x"}, 404),
        ("POST", "/models/first-day/publish", {"reason": "x"}, 400),  # is published already
        ("POST", "/models/v1/publish", None, 422),
        ("POST", "/models/v1/publish", {"reason": " "}, 422),
        ("POST", "/models/v1/publish", {"reason": "x" * 501}, 422),
        ("POST", "/models/v1/publish", {"reason": "x", "client_id": "a\n"}, 422),
    ],
)
def test_what_can_not_be_done_is_refused(client, registry, method, path, body, status):
    answer = client.request(method, path, json=body)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert registry.source.version == "first-day"


def test_damaged_weights(client, registry):
    registry.get("v1").weights.write_bytes(b"damaged")
    answer = client.post("/models/v1/publish", json={"reason": "x"})
    assert (answer.status_code, answer.json()["detail"]) == (
        503, "the weights of the model version v1 are damaged or missing; choose another version",
    )  # fmt: skip


def test_the_endpoints_find_the_running_app(monkeypatch, registry):
    from monailabel.interfaces.utils import app as running

    monkeypatch.setattr(running, "app_instance", lambda: SimpleNamespace(registry=registry))
    assert model_requests._registry() is registry
