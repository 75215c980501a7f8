"""Versions, leases and exclusions over HTTP, on a real ledger."""

from datetime import datetime
from hashlib import sha256

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib.errors import BadInputError
from lib.store import images, leases
from lib.web import ledger_requests
from lib.web.answers import install_answers
from lib.web.ledger_requests import install_ledger


@pytest.fixture
def client(store, monkeypatch):
    app = FastAPI()
    monkeypatch.setattr(ledger_requests, "_store", lambda: store)
    install_ledger(app)
    install_answers(app)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def saved(store, label_file):
    """Two versions of the final label of a, with 10 and 20 voxels of liver."""
    return [store.labels.save("a", label_file(voxels), "final", {}, author="anna") for voxels in (10, 20)]


def lease(store, image_id, client_id, strategy="random"):
    with store.ledger.writing() as connection:
        leases.acquire(connection, image_id, client_id, strategy=strategy, reason="why", score=None, seconds=60)


def detail(answer):
    return answer.status_code, answer.json()["detail"]


def test_status(client, store, saved):
    lease(store, "b", "anna")
    with store.ledger.writing() as connection:
        images.exclude(connection, "c", "why", "me")
    answer = client.get("/ledger/status").json()
    assert answer == {
        "images": {"total": 3, "completed": 1, "open": 1, "excluded": 1, "unfit": 0},
        "leases": 1, "clients": 1, "database": "sqlite",
    }  # fmt: skip


def test_versions_the_newest_first(client, store, saved):
    second, first = client.get("/ledger/images/a/versions").json()
    assert (first["number"], second["number"]) == (1, 2)
    assert (first["current"], second["current"]) == (False, True)
    assert (second["author"], second["source"], second["tag"], second["image"]) == ("anna", "client", "final", "a")
    assert second["voxels"] == {"liver": 20, "tumor": 0}
    assert second["against_previous"]["liver"]["dice"] == pytest.approx(2 * 10 / 30)
    assert datetime.fromisoformat(second["saved_at"]).tzinfo is not None
    for version in (first, second):
        file = store.layout.studies / version["file"]
        assert not version["file"].startswith("/")
        assert sha256(file.read_bytes()).hexdigest() == version["sha256"]
    assert client.get("/ledger/images/a/versions", params={"tag": "original"}).json() == []
    assert client.get("/ledger/images/b/versions").json() == []


def test_a_version_can_be_downloaded(client, store, saved):
    answer = client.get("/ledger/images/a/versions/final/1")
    assert answer.status_code == 200
    assert answer.content == store.labels.path(saved[0]).read_bytes()
    assert 'filename="a-final-1.nii.gz"' in answer.headers["content-disposition"]


def test_a_version_whose_file_is_gone(client, store, saved):
    store.labels.path(saved[0]).unlink()
    assert detail(client.get("/ledger/images/a/versions/final/1")) == (
        404, "the file of version 1 of 'a' is missing; run scripts/ledger.py check",
    )  # fmt: skip


def test_diff(client, saved):
    answer = client.get("/ledger/images/a/diff", params={"first": 1, "second": 2}).json()
    assert (answer["image"], answer["tag"], answer["first"], answer["second"]) == ("a", "final", 1, 2)
    assert answer["classes"]["liver"] == pytest.approx(
        {"dice": 2 * 10 / 30, "changed_ml": 0.02, "ml_first": 0.02, "ml_second": 0.04}
    )


def test_restore_makes_a_new_version(client, store, saved):
    answer = client.post("/ledger/images/a/restore", json={"number": 1, "client_id": "bob"}).json()
    assert (answer["number"], answer["restored_from"], answer["author"], answer["source"]) == (3, 1, "bob", "restored")
    assert answer["voxels"]["liver"] == 10
    assert [version["number"] for version in client.get("/ledger/images/a/versions").json()] == [3, 2, 1]


def test_who_gives_no_name_is_known_by_the_address(client, saved):
    answer = client.post("/ledger/images/a/restore", json={"number": 1, "tag": "final"}).json()
    assert answer["author"] == "anonymous@testclient"


def test_leases_are_listed_and_released(client, store):
    lease(store, "b", "anna")
    (found,) = client.get("/ledger/leases").json()
    assert (found["image_id"], found["client_id"], found["strategy"], found["reason"]) == ("b", "anna", "random", "why")
    assert 0 < found["seconds"] <= 60
    assert datetime.fromisoformat(found["expires_at"]) > datetime.fromisoformat(found["acquired_at"])
    assert client.delete("/ledger/leases/b", params={"client_id": "bob"}).json()["client_id"] == "anna"
    assert client.get("/ledger/leases").json() == []
    assert detail(client.delete("/ledger/leases/b")) == (404, "nobody has the image 'b'")
    event = client.get("/ledger/events", params={"image": "b"}).json()[0]
    assert (event["kind"], event["actor"]) == ("lease freed", "bob")
    assert event["detail"] == {"client_id": "anna", "strategy": "random", "why": "released on request"}


def test_excluded_and_taken_back_in(client, store):
    lease(store, "b", "anna")
    answer = client.post("/ledger/images/b/exclude", json={"reason": "  motion \n", "client_id": "bob"})
    assert answer.json() == {"image": "b", "excluded": "motion"}
    assert client.get("/ledger/excluded").json() == [{"image": "b", "reason": "motion"}]
    assert client.get("/ledger/leases").json() == []
    answer = client.post("/ledger/images/b/include", json={"reason": "looked again", "client_id": "bob"})
    assert answer.json() == {"image": "b", "excluded": None}
    assert client.get("/ledger/excluded").json() == []
    kinds = [(event["kind"], event["actor"]) for event in client.get("/ledger/events").json()]
    assert kinds == [
        ("image included", "bob"), ("lease freed", "bob"), ("image excluded", "bob"), ("image handed out", "anna"),
    ]  # fmt: skip


@pytest.mark.parametrize("reason", [None, "", "   ", "x" * 501, "a\x00b", 5, "\ud800"])
def test_a_decision_needs_a_reason(client, reason):
    content = '{"reason": "\\ud800"}' if reason == "\ud800" else None
    for action in ("exclude", "include"):
        path = f"/ledger/images/b/{action}"
        answer = client.post(path, content=content) if content else client.post(path, json={"reason": reason})
        assert answer.status_code == 422
    assert client.post("/ledger/images/b/exclude").status_code == 422
    assert client.get("/ledger/events").json() == []


def test_what_was_refused(client, store, label_file):
    sent = label_file(7, shape=(3, 3, 3))
    with pytest.raises(BadInputError):
        store.labels.save("a", sent, "final", {}, author="anna")
    (found,) = client.get("/ledger/refused").json()
    assert (found["image"], found["tag"], found["sent_by"]) == ("a", "final", "anna")
    assert "(3, 3, 3) voxels, its image (6, 5, 4)" in found["reason"]
    assert (store.layout.studies / found["file"]).read_bytes() == sent.read_bytes()
    assert str(store.layout.studies) not in str(found)
    assert client.get("/ledger/refused", params={"image": "b"}).json() == []


def test_events_page_by_page(client, store):
    for name in ("a", "b", "c"):
        lease(store, name, "anna")
    found = client.get("/ledger/events").json()
    assert [event["image"] for event in found] == ["c", "b", "a"]
    assert client.get("/ledger/events", params={"limit": 1}).json() == found[:1]
    assert client.get("/ledger/events", params={"after": found[1]["id"]}).json() == found[:1]
    assert client.get("/ledger/events", params={"image": "b"}).json() == found[1:2]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/ledger/images/nobody/versions", None),
        ("GET", "/ledger/images/a/versions/final/9", None),
        ("GET", "/ledger/images/a/diff?first=1&second=9", None),
        ("POST", "/ledger/images/a/restore", {"number": 9}),
        ("POST", "/ledger/images/nobody/restore", {"number": 1}),
        ("POST", "/ledger/images/nobody/exclude", {"reason": "x"}),
        ("DELETE", "/ledger/leases/nobody", None),
    ],
)
def test_what_is_not_there_is_not_found(client, saved, method, path, body):
    status, reason = detail(client.request(method, path, json=body))
    assert status == 404
    assert " " in reason


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/ledger/images/.a/versions", None, 400),
        ("GET", "/ledger/images/a%5C..%5Cb/versions", None, 400),
        ("GET", "/ledger/images/a%00/versions", None, 400),
        ("GET", "/ledger/images/..%2F..%2Fetc/versions", None, 404),  # no such address
        ("GET", "/ledger/images/a/versions?tag=..", None, 400),
        ("GET", "/ledger/images/a/versions/refused/1", None, 400),
        ("GET", "/ledger/images/a/versions/final/x", None, 422),
        ("GET", f"/ledger/images/a/versions/final/{2**63}", None, 422),
        ("GET", "/ledger/images/a/diff?first=1", None, 422),
        ("GET", f"/ledger/images/a/diff?first=1&second={2**80}", None, 422),
        ("POST", "/ledger/images/a/restore", {"number": 1, "tag": "../x"}, 422),
        ("POST", "/ledger/images/a/restore", {"number": 0}, 422),
        ("POST", "/ledger/images/a/restore", {"number": 1, "client_id": "x\n"}, 422),
        ("POST", "/ledger/images/a/restore", {"number": 1, "client_id": 5}, 422),
        ("DELETE", "/ledger/leases/.a", None, 400),
        ("DELETE", f"/ledger/leases/a?client_id={'x' * 121}", None, 400),
        ("GET", "/ledger/events?image=a%2Fb", None, 400),
        ("GET", f"/ledger/events?after={2**63}", None, 422),
        ("GET", "/ledger/events?limit=100000", None, 422),
        ("GET", "/ledger/refused?limit=0", None, 422),
    ],
)
def test_what_can_not_be_a_name_or_number_is_refused(client, saved, method, path, body, status):
    answer = client.request(method, path, json=body)
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_images_that_can_not_be_used_are_listed(client, store):
    with store.ledger.writing() as connection:
        images.note_problem(connection, "b", "b.nii.gz: the file is empty")
    assert client.get("/ledger/unfit").json() == [{"image": "b", "reason": "b.nii.gz: the file is empty"}]
