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
    install_jobs(app, JobRecords(tmp_path))
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
