"""A server that uvicorn runs in a process of its own, and real signals."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER = """
import contextlib, logging, pathlib, sys, time
import uvicorn
from fastapi import FastAPI
from lib.web.health import install_health
from lib.web.stopping import Stopping
from lib.web.traffic import Traffic, TrafficMiddleware

logging.basicConfig(level=logging.INFO, format="%(message)s")
traffic = Traffic(lambda *seen: None)
ended = []

def end_jobs():
    ended.append("training interrupted")
    return ended

stopping = Stopping(traffic, float(sys.argv[2]), end_jobs, lambda: print("closed", flush=True))

@contextlib.asynccontextmanager
async def lifespan(app):
    assert stopping.install()
    yield

app = FastAPI(lifespan=lifespan)
app.add_middleware(TrafficMiddleware, traffic=traffic)
install_health(app, lambda: None)

@app.get("/metrics")  # which is answered while the server stops, and is no work
def state():
    return {"running": sum(traffic.running().values()), "is_stopping": bool(ended)}

@app.get("/wait/{seconds}")
def work(seconds: float):
    end, may_go = time.monotonic() + seconds, pathlib.Path(sys.argv[3])
    while time.monotonic() < end and not may_go.exists():
        time.sleep(0.01)
    return seconds

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None)
print("stopped", flush=True)
"""


class Server:
    """Runs it; asks are answered in threads."""

    def __init__(self, limit_s, may_go):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.answers, self.threads, self.may_go = f"http://127.0.0.1:{port}", [], [], may_go
        command = [sys.executable, "-c", SERVER, str(port), str(limit_s), str(may_go)]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_until(lambda: self.status("/healthz") == 200)

    def status(self, path):
        try:
            return requests.get(self.url + path, timeout=30).status_code
        except requests.ConnectionError:
            return None

    def ask(self, path):
        """Returns when the server is at work on it."""
        thread = threading.Thread(target=lambda: self.answers.append(self.status(path)))
        thread.start()
        self.threads.append(thread)
        wait_until(lambda: self.state()["running"] == len(self.threads))

    def signal(self, number):
        """Returns when the server knows of it, or has ended."""
        self.process.send_signal(number)
        wait_until(lambda: self.process.poll() is not None or self.state().get("is_stopping"))

    def state(self):
        try:
            return requests.get(self.url + "/metrics", timeout=30).json()
        except requests.RequestException:
            return {}

    def ended(self):
        """Exit code, what it printed, and the statuses of the answers."""
        output, _ = self.process.communicate(timeout=60)
        for thread in self.threads:
            thread.join()
        return self.process.returncode, output, self.answers


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path):
    servers = []

    def started(limit_s=30):
        servers.append(Server(limit_s, tmp_path / "go"))
        return servers[-1]

    yield started
    for server in servers:
        server.process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_what_runs_is_finished_and_nothing_new_begins(start, number):
    server = start()
    server.ask("/wait/60")
    server.signal(number)
    assert server.status("/wait/0") == 503
    assert requests.get(server.url + "/wait/0", timeout=30).json() == {
        "detail": "the server is being stopped; ask again when it runs"
    }
    assert server.status("/healthz") == 200
    server.may_go.touch()
    code, output, answers = server.ended()
    assert (code, answers) == (0, [200])
    assert "stopping: no more requests are taken, 1 x GET /wait/{seconds} get at most 30 s" in output
    assert "ended with the server: training interrupted" in output
    assert output.endswith("closed\nstopped\n") or re.search(r"closed\n(.*\n)+stopped\n$", output)
    assert "dropped" not in output


def test_with_nothing_to_do_it_ends_at_once(start):
    server = start()
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    code, output, _ = server.ended()
    assert code == 0
    assert time.monotonic() - began < 25  # the limit is 30
    assert "stopped:" not in output  # by force


def test_what_takes_longer_than_the_limit_is_dropped_and_named(start):
    server = start(limit_s=0.5)
    server.ask("/wait/60")
    server.ask("/wait/60")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    code, output, answers = server.ended()
    assert (code, answers) == (0, [None, None])
    assert time.monotonic() - began < 30
    assert "stopped: the limit of 0.5 s is over; dropped: 2 x GET /wait/{seconds}" in output


def test_who_asks_twice_does_not_wait(start):
    server = start()
    server.ask("/wait/60")
    server.signal(signal.SIGINT)
    assert server.process.poll() is None
    server.signal(signal.SIGINT)
    code, output, answers = server.ended()
    assert (code, answers) == (130, [None])
    assert "stopped: asked twice to stop; dropped: 1 x GET /wait/{seconds}" in output
