"""Memory, time and disk of a training, estimated."""

import pytest
import torch

from lib.errors import BadInputError
from lib.inference.model import new_network
from lib.training import estimates
from lib.training.estimates import Duration, estimate_duration, estimate_memory, free_bytes, measure_step

CPU = torch.device("cpu")


def test_memory_grows_with_batch_and_patch(tiny):
    one, two, four, wide = (
        estimate_memory(tiny(batch_size=size, patch_size=patch), CPU).needed
        for size, patch in ((1, 32), (2, 32), (4, 32), (1, 64))
    )
    assert four - two == pytest.approx(2 * (two - one), rel=1e-3)
    assert wide - one == pytest.approx(four - one, rel=1e-3)  # four times the pixels in either case
    weights = sum(parameter.numel() * 4 for parameter in new_network(tiny()).parameters())
    assert one > 5 * weights


def test_memory_is_about_that_of_the_tensors_that_a_backward_pass_needs(tiny):
    settings = tiny({"network": {"name": "BasicUNet", "arguments": {"features": [8] * 6}}}, batch_size=1)
    memory = estimate_memory(settings, CPU)
    assert 100_000 < memory.needed < 100_000_000
    assert memory.available > 0


def test_a_step_takes_time_and_fits(tiny):
    assert measure_step(tiny(), CPU) > 0


def test_a_step_that_does_not_fit_is_refused(tiny, monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(estimates, "train_step", too_much)
    with pytest.raises(BadInputError) as caught:
        measure_step(tiny(batch_size=64), CPU)
    assert str(caught.value) == (
        "a step of 64 patches of 32 x 32 does not fit the memory of cpu; lower training.batch_size or "
        "training.patch_size"
    )


def test_duration_counts_steps_validation_and_comparison(tiny):
    settings = tiny(max_epochs=10, batch_size=4, patch_size=32, slices_per_case=6)
    alone = estimate_duration(2.0, 3, [], settings)
    assert alone == Duration(2.0, 5, 10, 100.0)  # 18 slices are 5 steps
    # 6 of 20 slices after each epoch and before the first, then all by both models; a third of a step for 4 patches.
    slices = 11 * 6 + 2 * 20
    assert estimate_duration(2.0, 3, [(20, 32, 32)], settings).total == pytest.approx(100 + slices * 2.0 / 3 / 4)
    assert estimate_duration(2.0, 3, [(2, 32, 32)], settings).total == pytest.approx(100 + (22 + 4) * 2.0 / 3 / 4)


def test_each_network_of_a_cross_validation_takes_the_steps_of_the_cases_it_sees(tiny):
    settings = tiny(max_epochs=10, batch_size=4, patch_size=32, slices_per_case=6)
    left_out = [[(20, 32, 32)], [(10, 32, 32), (10, 32, 32)]]
    crossed = estimate_duration(2.0, 3, [], settings, left_out)
    assert crossed.networks == 2
    # 12 slices are 3 steps, 6 are 2; then two models segment 40 slices.
    assert crossed.cross_validation == pytest.approx(10 * (3 + 2) * 2.0 + 2 * 40 * 2.0 / 3 / 4)
    assert crossed.total == pytest.approx(100 + crossed.cross_validation)


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free_bytes(tmp_path), rel=0.1)
