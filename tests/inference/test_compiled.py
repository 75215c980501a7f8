"""PyTorch with a compiled network: the same labels, and the network as it is where compiling fails."""

import logging

import numpy as np
import pytest
import torch

from lib.inference.agreement import probe_cases
from lib.inference.engine import TorchEngine
from lib.inference.stopwatch import Stopwatch


class Threshold(torch.nn.Module):
    """Two classes by the first channel."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        first = inputs[:, :1] * self.weight
        return torch.cat([0.5 - first, first - 0.5], 1)


def test_a_compiled_network_gives_the_same_labels_for_every_size(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda network, **options: asked.append(options) or network)
    network = Threshold().eval()
    plain, compiled = (TorchEngine(network, ("liver",), "float32", compiled=each) for each in (False, True))
    assert asked == [{"dynamic": True}]  # CTs come in all sizes
    assert (plain.name, compiled.name) == ("PyTorch float32 on cpu", "PyTorch float32 compiled on cpu")
    for hu, levels in probe_cases():
        np.testing.assert_array_equal(compiled(hu, levels, Stopwatch()), plain(hu, levels, Stopwatch()))


def test_where_compiling_fails_the_network_runs_as_it_is(monkeypatch, caplog):
    def failing(network, **_):
        def run(inputs):
            msg = "no C compiler\nfound"
            raise RuntimeError(msg)

        return run

    monkeypatch.setattr(torch, "compile", failing)
    network = Threshold().eval()
    engine = TorchEngine(network, ("liver",), "float32", compiled=True)
    hu, levels = probe_cases()[1]
    with caplog.at_level(logging.WARNING):
        found = engine(hu, levels, Stopwatch())
        engine(hu, levels, Stopwatch())
    np.testing.assert_array_equal(found, TorchEngine(network, ("liver",), "float32")(hu, levels, Stopwatch()))
    assert [record.getMessage() for record in caplog.records] == [
        "PyTorch float32 compiled on cpu goes on without being compiled: no C compiler found"
    ]
    assert engine.name == "PyTorch float32 on cpu"


def test_memory_that_runs_out_is_no_fault_of_the_compiler(monkeypatch):
    def full(inputs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "compile", lambda network, **_: full)
    engine = TorchEngine(Threshold().eval(), ("liver",), "float32", compiled=True)
    with pytest.raises(torch.OutOfMemoryError):
        engine(*probe_cases()[1], Stopwatch())
    assert engine.name == "PyTorch float32 compiled on cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_compiles_for_real():
    network = Threshold().eval().cuda()
    for hu, levels in probe_cases():
        expected = TorchEngine(network, ("liver",), "float32")(hu, levels, Stopwatch())
        compiled = TorchEngine(network, ("liver",), "float32", compiled=True)(hu, levels, Stopwatch())
        np.testing.assert_array_equal(compiled, expected)
