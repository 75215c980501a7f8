import pytest
import torch

from lib.inference import device as device_module
from lib.inference.device import autocast, choose_device, has_fast_bfloat16, resolve_precision, set_threads

CPU = torch.device("cpu")


def test_cpu_where_it_is_asked_for_or_all_there_is(monkeypatch):
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {choose_device(name) for name in (None, "", "cuda", "cuda:1", "nonsense")} == {CPU}


def test_cuda_where_it_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert {choose_device(name) for name in ("cuda:2", "cuda:x", "cuda:", "nonsense")} == {torch.device("cuda")}
    assert choose_device("cpu") == CPU


def test_threads_are_set_and_one_core_is_left_free_by_default(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert set_threads(2) == 2 == torch.get_num_threads()
        for cores, expected in ((8, 7), (2, 1), (1, 1)):
            monkeypatch.setattr(device_module, "available_cores", lambda cores=cores: cores)
            assert set_threads(0) == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_bfloat16_only_where_it_is_fast(monkeypatch, fast):
    monkeypatch.setattr(device_module, "has_fast_bfloat16", lambda: fast)
    assert resolve_precision(CPU, "auto") == ("bfloat16" if fast else "float32")
    assert resolve_precision(torch.device("cuda"), "auto") == "bfloat16"
    assert resolve_precision(CPU, "float32") == "float32"
    assert resolve_precision(CPU, "bfloat16") == "bfloat16"


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_decides_what_a_convolution_gives(precision, dtype):
    with torch.inference_mode(), autocast(CPU, precision):
        assert torch.nn.Conv2d(1, 1, 3)(torch.zeros(1, 1, 8, 8)).dtype == dtype


def test_fast_bfloat16_is_a_plain_answer():
    assert has_fast_bfloat16() in {True, False}
