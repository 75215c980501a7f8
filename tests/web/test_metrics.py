"""What Prometheus reads."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from lib.store.figures import Figures
from lib.store.scores import Counts
from lib.web.metrics import Metrics, State, install_metrics

STATE = State(
    ready=True,
    model="m-1",
    inference={"waiting": 2, "kept_results": 3, "kept_mb": 1.5},
    requests=4,
    jobs={"train": 1},
    ledger=Figures(
        images={"total": 9, "completed": 5, "open": 2, "excluded": 1, "unfit": 1},
        leases=2,
        labels={"client": 6},
        trainings={"published": 1, "failed": 2},
        segs={"waiting": 3},
    ),
    scored=Counts(current=1, earlier=3, none=5),
)


@pytest.fixture
def figures():
    """Counts what happened and gives all samples by name and labels."""

    def read(metrics):
        app = FastAPI()
        install_metrics(app, metrics)
        text = TestClient(app).get("/metrics").text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return {
            (
                sample.name.removeprefix("liverloop_"),
                *[sample.labels[name] for name in sorted(sample.labels)],
            ): sample.value
            for sample in samples
        }

    return read


def test_what_happened(figures):
    metrics = Metrics()
    for seconds in (0.01, 3.0):
        metrics.request_done("GET", "/info/", 200, seconds)
    metrics.inference_done({"total": 2.0, "pre": 0.1, "steps": {"read": 0.5, "network": 1.0}})
    metrics.inference_done({})
    found = figures(metrics)
    assert found[("requests_total", "GET", "/info/", "200")] == 2
    assert found[("request_seconds_sum", "GET", "/info/")] == pytest.approx(3.01)
    assert found[("request_seconds_bucket", "2.5", "GET", "/info/")] == 1
    stages = {key[1]: value for key, value in found.items() if key[0] == "inference_seconds_sum"}
    assert stages == {"read": 0.5, "network": 1.0, "total": 2.0}
    assert found[("process_resident_memory_bytes",)] > 0


def test_how_the_server_stands(figures):
    metrics = Metrics()
    metrics.watch(lambda: STATE)
    found = figures(metrics)
    expected = {
        ("ready",): 1, ("model_info", "m-1"): 1, ("requests_running",): 4, ("inference_waiting",): 2,
        ("results_kept",): 3, ("results_kept_bytes",): 1.5e6, ("jobs", "train"): 1, ("ledger_up",): 1,
        ("images", "labelled"): 5, ("images", "open"): 2, ("images", "excluded"): 1, ("images", "unfit"): 1,
        ("leases",): 2, ("label_versions_total", "client"): 6, ("trainings", "failed"): 2, ("segs", "waiting"): 3,
        ("images_scored", "current"): 1, ("images_scored", "earlier"): 3, ("images_scored", "none"): 5,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected


def test_without_a_ledger_and_a_model(figures):
    metrics = Metrics()
    metrics.watch(lambda: State(ready=False, model=None))
    found = figures(metrics)
    assert (found[("ready",)], found[("ledger_up",)]) == (0, 0)
    assert not [key for key in found if key[0] in {"model_info", "images", "leases"}]
