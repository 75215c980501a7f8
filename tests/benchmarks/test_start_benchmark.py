import argparse
import sys

import pytest

from lib.benchmarks import start
from lib.errors import LiverLoopError
from lib.inference.command_line import DEFAULT_APP

ANSWERS_LATE = """
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

time.sleep(float(sys.argv[1]))
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def arguments(**changed):
    return argparse.Namespace(**{"repeat": 2, "app": DEFAULT_APP, "conf": [], **changed})


def test_both_sides_are_started_in_turn_until_they_answer(monkeypatch):
    sides = {name: (sys.executable, "-c", ANSWERS_LATE, wait) for name, wait in (("quick", "0"), ("slow", "1.5"))}
    monkeypatch.setattr(start, "_SIDES", sides)
    result = start.measure(arguments())
    assert [len(side["seconds"]) for side in result["sides"].values()] == [2, 2]
    assert min(result["sides"]["slow"]["seconds"]) >= 1.5
    assert result["ratio"] > 1
    assert all(seconds > 0 for side in result["sides"].values() for seconds in side["cpu_seconds"])
    text = start.as_text(result)
    assert f"plain MONAI Label takes {result['ratio']:.2f} times as long" in text
    assert "quick " in text


def test_a_server_that_does_not_start_is_told_with_its_last_words(monkeypatch):
    monkeypatch.setattr(start, "_SIDES", {"broken": (sys.executable, "-c", "raise SystemExit('no such app')")})
    with pytest.raises(LiverLoopError, match="does not start: no such app"):
        start.measure(arguments(repeat=1))


def test_no_rounds_are_refused():
    with pytest.raises(LiverLoopError, match="--repeat must be at least 1, not 0"):
        start.measure(arguments(repeat=0))
