"""Who is logged in is the author, holder or actor of everything, whatever the request says."""

from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib.access.roles import Role
from lib.access.settings import AccessSettings
from lib.store import events, leases
from lib.web import ledger_requests, model_requests, removal_requests, requests
from lib.web.answers import install_answers
from lib.web.guard.callers import SCOPE_KEY, Caller
from lib.web.guard.handed_out import HandedOut
from lib.web.ledger_requests import install_ledger
from lib.web.model_requests import install_models
from lib.web.removal_requests import install_removals
from lib.web.requests import install_requests

ANN, ROB = Caller("ann", Role.ANNOTATOR), Caller("rob", Role.REVIEWER)


class Registry:
    """Says what it was asked."""

    def publish(self, version, by, reason):
        return SimpleNamespace(as_dict=lambda: {"version": version, "by": by, "reason": reason})


class Datastore:
    """Says who asked."""

    def __init__(self, store):
        self.store, self.removed = store, []

    def remove_image(self, image_id, by):
        self.removed.append((image_id, by))

    def remove_label(self, image_id, tag, by):
        self.removed.append((image_id, tag, by))

    def get_image_info(self, image_id):
        return {}


@pytest.fixture
def server(store, monkeypatch):
    """An application and what it works on; `as_who` gives a client of somebody's."""
    app, datastore = FastAPI(), Datastore(store)
    asked = []

    def next_sample(request):
        asked.append(request)
        return {"id": "a", "path": str(store.layout.image("a", ".nii.gz")), "strategy": request["strategy"]}

    running = SimpleNamespace(
        datastore=lambda: datastore,
        next_sample=next_sample,
        on_save_label=lambda *_: None,
        prefetch=lambda *_: None,
        settings=SimpleNamespace(access=AccessSettings()),
        handed_out=HandedOut(),
        check_training=lambda model, params: asked.append(params),
    )
    monkeypatch.setattr(ledger_requests, "_store", lambda: store)
    monkeypatch.setattr(model_requests, "_registry", Registry)
    monkeypatch.setattr(removal_requests, "_datastore", lambda: datastore)
    monkeypatch.setattr(requests, "_app", lambda: running)
    monkeypatch.setattr(requests, "started_alone", lambda method, start: {"started": method, "params": start.args[1]})
    for install in (install_requests, install_ledger, install_models, install_removals, install_answers):
        install(app)

    def as_who(caller):
        async def guarded(scope, receive, send):
            await app(scope | ({SCOPE_KEY: caller} if caller else {}), receive, send)

        return TestClient(guarded, raise_server_exceptions=False)

    return SimpleNamespace(as_who=as_who, store=store, datastore=datastore, asked=asked, running=running)


def lease(store, image_id, client_id):
    with store.ledger.writing() as connection:
        leases.acquire(connection, image_id, client_id, strategy="first", reason="why", score=None, seconds=60)


def actors(store, kind):
    with store.ledger.reading() as connection:
        return [event.actor for event in events.history(connection, kind=kind)]


def test_the_author_of_a_label(server, label_file):
    for client_id in ("bob", "user-xyz"):
        with label_file(10 if client_id == "bob" else 20).open("rb") as file:
            form = {"params": f'{{"client_id": "{client_id}"}}'}
            saved = server.as_who(ANN).put("/datastore/label", params={"image": "a"}, data=form, files={"label": file})
        assert saved.status_code == 200
    versions = server.as_who(ANN).get("/ledger/images/a/versions").json()
    assert [version["author"] for version in versions] == ["ann", "ann"]
    body = {"number": 1, "client_id": "bob"}
    assert server.as_who(ROB).post("/ledger/images/a/restore", json=body).json()["author"] == "rob"
    assert server.as_who(None).post("/ledger/images/a/restore", json=body).json()["author"] == "bob"


def test_the_holder_of_an_image(server):
    for client_id in ("bob", "user-xyz", None):
        server.as_who(ANN).post("/activelearning/first", json={"client_id": client_id} if client_id else None)
    assert [request["client_id"] for request in server.asked] == ["ann"] * 3


def test_what_was_given_may_be_fetched_without_a_login(server):
    server.as_who(None).post("/activelearning/first")
    assert server.running.handed_out.take("a", "testclient", "testserver") is None
    server.as_who(ANN).post("/activelearning/first", headers={"Authorization": "Bearer the token"})
    assert server.running.handed_out.take("a", "testclient", "testserver") == "the token"
    server.running.settings = SimpleNamespace(access=AccessSettings(slicer_images=False))
    server.running.handed_out = HandedOut()
    server.as_who(ANN).post("/activelearning/first", headers={"Authorization": "Bearer the token"})
    assert server.running.handed_out.take("a", "testclient", "testserver") is None


def test_who_decides(server):
    reason = {"reason": "noise", "client_id": "bob"}
    for decision in ("exclude", "include"):
        assert server.as_who(ROB).post(f"/ledger/images/b/{decision}", json=reason).status_code == 200
    assert actors(server.store, "image excluded") == actors(server.store, "image included") == ["rob"]
    assert server.as_who(ROB).post("/models/7/publish", json=reason).json()["by"] == "rob"
    assert server.as_who(None).post("/models/7/publish", json=reason).json()["by"] == "bob"


def test_who_starts_a_training(server):
    for caller, name in ((ROB, "rob"), (None, "bob")):
        started = server.as_who(caller).post("/train/liver_tumor", json={"client_id": "bob", "max_epochs": 1}).json()
        assert started["params"] == {"client_id": name, "max_epochs": 1}


def test_who_removes(server):
    for caller in (ROB, None):
        client = server.as_who(caller)
        assert client.delete("/datastore/image", params={"id": "a"}).json() == {}
        assert client.delete("/datastore/", params={"id": "a"}).json() == {}
        assert client.delete("/datastore/label", params={"id": "a", "tag": "final"}).json() == {}
        assert client.delete("/datastore/image", params={"id": "../a"}).status_code == 400
        assert client.delete("/datastore/label", params={"id": "a", "tag": "../b"}).status_code == 400
    assert server.datastore.removed == [
        ("a", "rob"), ("a", "rob"), ("a", "final", "rob"),
        ("a", "administrator"), ("a", "administrator"), ("a", "final", "administrator"),
    ]  # fmt: skip


def test_an_annotator_gives_back_what_is_his_own(server):
    lease(server.store, "a", "ann")
    lease(server.store, "b", "bob")
    ann = server.as_who(ANN)
    refused = ann.delete("/ledger/leases/b", params={"client_id": "bob"})
    assert refused.status_code == 403
    assert refused.json() == {"detail": "another has the image 'b'; a reviewer can take it back"}
    assert ann.delete("/ledger/leases/a").json()["client_id"] == "ann"
    assert ann.delete("/ledger/leases/a").status_code == 404
    assert server.as_who(ROB).delete("/ledger/leases/b").json()["client_id"] == "bob"
    lease(server.store, "a", "ann")
    assert server.as_who(None).delete("/ledger/leases/a").json()["client_id"] == "ann"
    assert actors(server.store, "lease freed") == ["anonymous@testclient", "rob", "ann"]
