"""Background work ends with its server and is shown by the next one; the server tells how it is, and stops in order.

The tests build on each other.
"""

import re
import signal
import threading
import time

import psutil
import pytest

from lib.settings import load_settings
from lib.training.registry import Registry
from lib.web.job_records import JobRecords
from tests.loop.running_server import MODEL, RunningServer, epoch_lines, make_app, wait_until
from tests.loop.studies import write_studies

pytestmark = pytest.mark.server

_SOON_S = 60.0  # a training that went on would have published its model by then, or removed its state
_EPOCHS = 3000  # more than any machine does before it is ended
_RECIPE = {
    "training.patch_size": 64,
    "training.slices_per_case": 4,
    "training.threads": 1,
    "training.cross_validate_below": 0,
    "training.by_itself.niceness": 0,
    "training.max_epochs": _EPOCHS,
    "training.validation_fraction": 0.5,
}


@pytest.fixture(scope="module")
def site(warm, tmp_path_factory):
    """Starts servers, one after the other, on the same two labelled phantoms and the same app."""
    folder = tmp_path_factory.mktemp("supervised")
    write_studies(folder / "studies", range(40, 42), labelled=True)
    app = make_app(folder / "app")

    def start(name):
        return RunningServer(warm, folder / "studies", folder / name, app=app, conf=_RECIPE)

    return start


@pytest.fixture(scope="module")
def second(site):
    """The server that is started after the first was killed."""
    with site("second") as running:
        yield running


def versions(server):
    return [version.id for version in Registry(server.app, load_settings(server.app / "app.yaml")).list()]


def wait_for_epoch(server):
    """Until a training of this server has done its first epoch."""
    client = server.client()

    def done():
        stats = client.info()["train_stats"].get(MODEL, {})
        return epoch_lines(client.train_status().get("details", [])) and 1 <= stats.get("epoch", 0) < _EPOCHS

    wait_until(done, "the first epoch")


def has_ended(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def metrics(server):
    """Of the server: values by name and labels as they stand there."""
    answer = server.ask("GET", "/metrics")
    assert answer.status == 200
    lines = (line for line in answer.reason.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_a_killed_server_takes_its_training_along(site):
    with site("first") as first:
        assert first.ask("GET", "/healthz") == (200, {"status": "alive"})
        assert first.ask("GET", "/readyz") == (200, {"status": "ready"})
        assert "interrupted" not in first.client().info()
        before = versions(first)
        first.client().train_start(MODEL, {})
        wait_for_epoch(first)
        (job,) = first.children()
        first.process.kill()
        end = time.monotonic() + _SOON_S
        while not has_ended(job) and time.monotonic() < end:
            time.sleep(0.02)
        assert has_ended(job)
        assert versions(first) == before
        assert list(first.app.glob("model/runs/*/state.pt"))


def test_the_next_server_shows_it_as_interrupted(second):
    client = second.client()
    (run,) = second.app.glob("model/runs/*")
    status = client.train_status()
    told = status["details"][-1]
    assert status["status"] == "INTERRUPTED"
    assert re.fullmatch(
        rf"interrupted after epoch \d+ of {_EPOCHS}, last heard of at [\d-]+ [\d:]+; resumable: start a training "
        rf'with {{"resume": "{run.name}"}}',
        told,
    )
    assert not client.train_status(check_if_running=True)
    info = client.info()
    assert info["interrupted"] == {"train": told}
    assert info["retraining"]["last"]["result"] == told
    assert info["retraining"]["last"]["ended"]
    assert f"training {told}" in second.log()


def test_it_goes_on_where_it_was(second):
    (run,) = second.app.glob("model/runs/*")
    done = len((run / "history.csv").read_text().splitlines())
    second.client().train_start(MODEL, {"resume": run.name})
    wait_until(lambda: len((run / "history.csv").read_text().splitlines()) > done, "the next epoch")
    assert "interrupted" not in second.client().info()
    assert second.client().train_status(check_if_running=True)
    assert [path.name for path in second.app.glob("model/runs/*")] == [run.name]
    assert len(list(second.app.glob("model/jobs/*"))) == 1


def test_figures_for_prometheus(second):
    second.infer("case_40", output="json")
    assert second.ask("GET", "/no/such/route").status == 404
    wait_until(lambda: metrics(second)['liverloop_trainings{outcome="failed"}'] == 1, "newer figures")
    found = metrics(second)
    assert found['liverloop_requests_total{method="POST",route="/infer/{model}",status="200"}'] == 1
    assert found['liverloop_requests_total{method="GET",route="(other)",status="404"}'] == 1
    assert found['liverloop_request_seconds_count{method="POST",route="/infer/{model}"}'] == 1
    assert found['liverloop_inference_seconds_count{stage="network"}'] == 1
    assert found['liverloop_images{state="labelled"}'] == 2
    assert found['liverloop_images{state="open"}'] == 0
    assert found['liverloop_label_versions_total{source="found"}'] == 2
    assert found["liverloop_ready"] == found["liverloop_ledger_up"] == 1
    version = second.infer("case_40", output="json").reason["model_version"]
    assert found[f'liverloop_model_info{{version="{version}"}}'] == 1
    assert "case_4" not in second.ask("GET", "/metrics").reason


def test_sigterm_finishes_a_request_and_says_what_became_of_the_training(second):
    (job,) = second.children()
    answers = []

    def infer():
        answers.append(second.infer("case_41"))

    asking = threading.Thread(target=infer)
    asking.start()
    wait_until(lambda: metrics(second)["liverloop_requests_running"] == 1 or answers, "the request", pause_s=0.005)
    assert second.interrupt(signal.SIGTERM) == 0
    asking.join()
    assert [answer.status for answer in answers] == [200]
    assert has_ended(job)
    assert re.search(
        rf"ended with the server: training interrupted after epoch \d+ of {_EPOCHS}, .*; resumable: start", second.log()
    )
    (again,) = JobRecords(second.app / "model").interrupted()  # what the next server shows
    assert again.told in second.log()
