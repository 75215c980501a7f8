"""What clients get that stop background work."""

from collections import deque

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.endpoints import batch_infer, scoring, train

from lib.web.job_records import JobRecords
from lib.web.job_requests import install_jobs


@pytest.fixture
def client(tmp_path):
    app = FastAPI()
    for router in (train.router, scoring.router, batch_infer.router):
        app.include_router(router)
    install_jobs(app, JobRecords(tmp_path), {tmp_path: "(app folder)"})
    return TestClient(app)


@pytest.mark.parametrize(("said", "expected"), [([], "stopped at its beginning"), (["epoch 1"], "epoch 1")])
def test_a_training_that_is_stopped_has_a_last_line(client, monkeypatch, said, expected):
    monkeypatch.setattr(train, "stop", lambda: {"status": "STOPPED", "details": deque(said)})
    assert client.delete("/train/").json() == {"status": "STOPPED", "details": [expected]}
    monkeypatch.setattr(train, "stop", lambda: None)
    assert client.delete("/train/").json() is None


@pytest.mark.parametrize(("path", "module"), [("/scoring/", scoring), ("/batch/infer", batch_infer)])
def test_others_are_stopped_as_well(client, monkeypatch, path, module):
    monkeypatch.setattr(module, "stop", lambda: {"status": "STOPPED"})
    assert client.delete(path).json() == {"status": "STOPPED"}


@pytest.mark.parametrize(
    ("path", "module"), [("/train/", train), ("/scoring/", scoring), ("/batch/infer", batch_infer)]
)
def test_the_status_holds_no_trace_and_no_folder(client, monkeypatch, tmp_path, path, module):
    lines = ["Traceback (most recent call last):", '  File "/x/y.py", line 7', "KeyError: 'Doe'", f"in {tmp_path}/runs"]
    task = {"id": "7", "status": "ERROR", "start_ts": "today", "details": deque(lines)}
    asked = []
    monkeypatch.setattr(module, "status", lambda *given: asked.append(given) or ([task] if given[0] else task))
    shown = {
        **task,
        "details": ["unforeseen error: KeyError; look for KeyError in the server's log", "in (app folder)/runs"],
    }
    assert client.get(path).json() == shown
    assert client.get(path, params={"all": True, "check_if_running": True}).json() == [shown]
    assert asked == [(False, False), (True, True)]


def test_where_there_is_no_job_that_is_told(client):
    for path in ("/train/", "/scoring/", "/batch/infer"):
        answer = client.get(path, params={"check_if_running": True})
        assert answer.status_code == 404
        assert answer.json()["detail"].endswith("Tasks are currently Running")
