"""Real processes, one working for the other, and real kills."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lib import supervision
from lib.errors import GoneError

REPOSITORY = Path(__file__).resolve().parents[1]
# The parent starts a child in a thread, as MONAI Label does; the child works for it and has a PyTorch loader's workers
# as well as a fork of its own.
PARENT = """
import subprocess, sys, threading
child = lambda: subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]]).wait()
thread = threading.Thread(target=child)
thread.start()
thread.join()
"""
CHILD = """
import multiprocessing, os, sys, time
from lib import supervision
if sys.argv[1] == "looking":
    supervision._ask_the_system = lambda: False
supervision.end_with_parent(os.getppid())
if sys.argv[1] == "forking slowly":  # so that the parent ends before the fork has asked
    ask = supervision._ask_the_system
    supervision._ask_the_system = lambda: (time.sleep(1), ask())[1]
if sys.argv[1].startswith("forking"):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
if sys.argv[1] == "loading":
    from torch.utils.data import DataLoader
    loader = iter(DataLoader(list(range(1000)), num_workers=2))
    next(loader)
print("works", flush=True)
time.sleep(600)
"""


def alive(processes):
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("kind", "count", "number"),
    [
        ("alone", 1, signal.SIGKILL),
        ("alone", 1, signal.SIGTERM),
        ("alone", 1, signal.SIGSEGV),
        ("looking", 1, signal.SIGKILL),
        ("forking", 2, signal.SIGKILL),
        ("forking slowly", 2, signal.SIGKILL),
        ("loading", 3, signal.SIGKILL),
    ],
)
def test_all_end_with_the_parent(kind, count, number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, kind], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout.readline() == "works\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) == count
        parent.send_signal(number)
        parent.wait()
        end = time.monotonic() + 60  # PyTorch's own workers look every 5 s, on a busy machine later
        while alive(family) and time.monotonic() < end:
            time.sleep(0.01)
        assert not alive(family)
    finally:
        parent.kill()
        for one in alive(family):
            one.kill()


def test_a_parent_that_has_ended_already():
    child = "import sys; from lib.supervision import end_with_parent; end_with_parent(1 << 30); print('goes on')"
    done = subprocess.run([sys.executable, "-c", child], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the process 1073741824, which this one works for, has ended; it ends as well" in done.stderr


def test_nothing_is_published_for_a_parent_that_has_ended(monkeypatch):
    supervision.check_parent()  # nobody started this
    monkeypatch.setattr(supervision, "_parent", os.getppid())
    supervision.check_parent()
    monkeypatch.setattr(supervision, "_parent", 1 << 30)
    with pytest.raises(GoneError, match=r"^the server that started this has ended, so that nothing is published"):
        supervision.check_parent()
