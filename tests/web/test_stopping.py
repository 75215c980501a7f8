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
import contextlib, logging, sys, time
import uvicorn
from fastapi import FastAPI
from lib.web.health import install_health
from lib.web.stopping import Stopping
from lib.web.traffic import Traffic, TrafficMiddleware

logging.basicConfig(level=logging.INFO, format="%(message)s")
traffic = Traffic(lambda *seen: None)
stopping = Stopping(traffic, float(sys.argv[2]), lambda: ["training interrupted"], lambda: print("closed", flush=True))

@contextlib.asynccontextmanager
async def lifespan(app):
    assert stopping.install()
    yield

app = FastAPI(lifespan=lifespan)
app.add_middleware(TrafficMiddleware, traffic=traffic)
install_health(app, lambda: None)

@app.get("/wait/{seconds}")
def work(seconds: float):
    time.sleep(seconds)
    return seconds

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None)
print("stopped", flush=True)
"""


class Server:
    """Runs it; asks are answered in threads."""

    def __init__(self, limit_s):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.answers, self.threads = f"http://127.0.0.1:{port}", [], []
        command = [sys.executable, "-c", SERVER, str(port), str(limit_s)]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        end = time.monotonic() + 60
        while self.status("/healthz") != 200:
            assert time.monotonic() < end
            time.sleep(0.05)

    def status(self, path):
        try:
            return requests.get(self.url + path, timeout=30).status_code
        except requests.ConnectionError:
            return None

    def ask(self, path):
        thread = threading.Thread(target=lambda: self.answers.append(self.status(path)))
        thread.start()
        self.threads.append(thread)
        time.sleep(0.3)

    def signal(self, number):
        self.process.send_signal(number)
        time.sleep(0.3)

    def ended(self):
        """Exit code, what it printed, and the statuses of the answers."""
        output, _ = self.process.communicate(timeout=60)
        for thread in self.threads:
            thread.join()
        return self.process.returncode, output, self.answers


@pytest.fixture
def start():
    servers = []

    def started(limit_s=30):
        servers.append(Server(limit_s))
        return servers[-1]

    yield started
    for server in servers:
        server.process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_what_runs_is_finished_and_nothing_new_begins(start, number):
    server = start()
    server.ask("/wait/1.5")
    server.signal(number)
    assert server.status("/wait/0") == 503
    assert requests.get(server.url + "/wait/0", timeout=5).json() == {
        "detail": "the server is being stopped; ask again when it runs"
    }
    assert server.status("/healthz") == 200
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
    assert server.ended()[0] == 0
    assert time.monotonic() - began < 5


def test_what_takes_longer_than_the_limit_is_dropped_and_named(start):
    server = start(limit_s=0.5)
    server.ask("/wait/60")
    server.ask("/wait/60")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    code, output, answers = server.ended()
    assert (code, answers) == (0, [None, None])
    assert time.monotonic() - began < 5
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
