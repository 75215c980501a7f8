import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lib.benchmarks.machine import (
    cpu_model,
    describe_machine,
    drop_from_page_cache,
    memory_mb,
    peak_gpu_memory_mb,
    peak_memory_mb,
    reset_peak_memory,
)


def test_the_machine_in_plain_values():
    machine = describe_machine(torch.device("cpu"))
    assert json.loads(json.dumps(machine)) == machine
    assert machine["threads"] == torch.get_num_threads()
    assert machine["cpu"] == cpu_model() != ""
    assert machine["device"] == "cpu"
    assert machine["load"] >= 0


def test_peak_memory_sees_what_was_freed_again():
    fresh = reset_peak_memory()
    before = peak_memory_mb()
    array = np.ones(30_000_000)  # 240 MB
    del array
    after = peak_memory_mb()
    assert after >= before > 0
    if fresh:  # where the system can't reset it, an earlier test may have taken more
        assert after - before > 100


def test_gpu_memory_is_a_number_everywhere():
    assert peak_gpu_memory_mb() >= 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells it of another process")
def test_memory_of_another_process():
    program = "held = bytearray(150_000_000); print(flush=True); held = None; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.readline()
        assert peak_memory_mb(process.pid) > memory_mb(process.pid) + 100
        if reset_peak_memory(process.pid):
            assert peak_memory_mb(process.pid) < memory_mb(process.pid) + 100
        process.communicate("\n")
    assert memory_mb(process.pid) == 0  # it has ended


def test_files_leave_the_page_cache_and_stay_as_they_are(tmp_path):
    (tmp_path / "series").mkdir()
    for name in ("one", "two"):
        (tmp_path / "series" / name).write_bytes(b"x" * 10_000)
    can = hasattr(os, "posix_fadvise")
    assert drop_from_page_cache(tmp_path) is can
    assert drop_from_page_cache(tmp_path / "series" / "one") is can
    assert (tmp_path / "series" / "two").read_bytes() == b"x" * 10_000
