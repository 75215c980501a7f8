"""Damaged images, labels and archives are read or refused: no crash, no hang, no memory beyond what a file may have.

`LIVERLOOP_FUZZ=10` reads ten times as many; `python -m tests.fuzz.reading FOLDER FIRST COUNT` reads some again.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.fuzz.inputs import seeds
from tests.fuzz.reading import PATIENCE_S, made

INPUTS = 20_000 * max(int(os.environ.get("LIVERLOOP_FUZZ", "1")), 1)
MOST_MB = 600  # of the whole process, in which Python and its libraries have 100
ROOT = Path(__file__).resolve().parents[2]
MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a folder: each input makes and removes files, and a disk would be waited for."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(prefix="liverloop-fuzz-", dir=MEMORY) as made_there:
        yield Path(made_there)


@pytest.mark.timeout(60 * INPUTS // 1000)
def test_damaged_uploads_are_read_or_refused(folder):
    def limit():
        # Whatever a header announces may be asked for, but no more than the limits let through.
        resource.setrlimit(resource.RLIMIT_AS, (32 << 30, 32 << 30))

    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.reading", str(folder), "0", str(INPUTS)],
        cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, f"crashed, or hung for {PATIENCE_S} s:\n{ran.stderr[-6000:]}"
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["faults"] == []
    assert told["left"] == []
    assert told["peak_mb"] < MOST_MB, ran.stderr
    assert told["read"] + told["refused"] == INPUTS
    # Neither so damaged that nothing gets past the first bytes, nor so little that nothing is refused.
    assert min(told["read"], told["refused"]) > INPUTS // 20


def test_the_same_number_makes_the_same_input(monkeypatch):
    files = seeds()
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert seeds() == files
    assert [made(number, files) for number in range(60)] == [made(number, files) for number in range(60)]
    assert len({made(number * len(files), files)[1] for number in range(60)}) > 55
