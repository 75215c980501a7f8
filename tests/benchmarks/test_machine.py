import json

import numpy as np
import torch

from lib.benchmarks.machine import (
    cpu_model,
    describe_machine,
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
