import threading

import numpy as np
import pytest
import torch

from lib.errors import BadInputError
from lib.training.batches import (
    Batch,
    _draw_batches,
    ahead,
    made_ahead,
    steps_per_epoch,
    training_batches,
    validation_batches,
)
from lib.training.distributed import Share
from lib.transforms.windowing import blend

VARIED = {"augmentation": {f"{name}_probability": 1 for name in ("elastic", "grid", "affine", "hu", "noise")}}


def take(iterator, count):
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def same(first, second):
    return all(
        torch.equal(a, b) for left, right in zip(first, second, strict=True) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("others", [None, VARIED])
def test_batches_have_the_right_form(cases, tiny, others):
    for batch in take(training_batches(cases, tiny(others, batch_size=4)), 8):
        assert batch.image.shape == (4, 3, 32, 32)
        assert batch.image.dtype == torch.float32
        assert batch.target.shape == (4, 32, 32)
        assert batch.target.dtype == torch.uint8
        assert 0 <= batch.image.min() <= batch.image.max() <= 1
        assert set(batch.target.unique().tolist()) <= {0, 1, 2}


def test_the_same_seed_gives_the_same_batches(cases, tiny):
    first, again, other = (take(training_batches(cases, tiny(VARIED, seed=seed)), 12) for seed in (5, 5, 6))
    assert same(first, again)
    assert not same(first, other)


def test_epochs_are_drawn_anew(cases, tiny):
    settings = tiny(VARIED, batch_size=8, slices_per_case=2)
    assert not same(*([batch] for batch in take(training_batches(cases, settings), 2)))


@pytest.mark.parametrize("recipe", [{}, {"tumor_fraction": 1, "foreground_fraction": 1}])
def test_an_epoch_follows_from_its_number_alone(cases, tiny, recipe):
    """Also where the last case, which has no tumor, gives no slices."""
    settings = tiny(VARIED | {"synthetic_tumors": {"probability": 0.5 * (not recipe)}}, slices_per_case=3, **recipe)
    steps = steps_per_epoch(cases, settings)
    assert steps == 3
    through = take(training_batches(cases, settings), 4 * steps)
    for epoch in (1, 2, 4):
        alone = take(training_batches(cases, settings, first_epoch=epoch), steps)
        assert same(alone, through[(epoch - 1) * steps : epoch * steps])


def test_the_last_batch_of_an_epoch_may_be_short(cases, tiny):
    batches = take(training_batches(cases, tiny(batch_size=5, slices_per_case=3)), 6)
    assert [len(batch.image) for batch in batches] == [5, 5, 2, 5, 5, 2]


def test_an_unchanged_patch_looks_as_in_its_whole_slice(cases, tiny):
    """The histogram channel of a crop must come from the gray values of its whole slice."""
    whole = {}
    for case in cases:
        for hu, label in zip(case.image, case.label, strict=True):
            blended = blend(np.ascontiguousarray(hu)[None])[0]
            for y in range(hu.shape[0] - 31):
                for x in range(hu.shape[1] - 31):
                    crop = np.ascontiguousarray(blended[:, y : y + 32, x : x + 32])
                    whole[hash(crop.tobytes())] = label[y : y + 32, x : x + 32]
    for batch in take(training_batches(cases, tiny()), 6):
        for image, target in zip(batch.image, batch.target, strict=True):
            np.testing.assert_array_equal(whole[hash(image.numpy().tobytes())], target)


@pytest.mark.parametrize("per_batch", [2, 3])
def test_processes_share_what_one_would_draw(cases, tiny, per_batch):
    """Together, the parts of two processes are the batches of one with batches twice as large."""
    alone = tiny(VARIED, batch_size=2 * per_batch, slices_per_case=5)
    together = tiny(VARIED, batch_size=per_batch, slices_per_case=5)
    steps = steps_per_epoch(cases, alone)
    assert steps_per_epoch(cases, together, world=2) == steps
    whole = take(training_batches(cases, alone), 2 * steps)
    parts = [take(training_batches(cases, together, share=Share(rank, 2)), 2 * steps) for rank in range(2)]
    for batch, *part in zip(whole, *parts, strict=True):
        for rank in range(2):
            assert same([part[rank]], [Batch(batch.image[rank::2], batch.target[rank::2])])


def test_a_process_may_have_nothing_to_do_in_a_last_batch(cases, tiny):
    batches = take(training_batches(cases[:1], tiny(batch_size=2, slices_per_case=1), share=Share(1, 2)), 1)
    assert batches[0].image.shape == (0, 3, 32, 32)
    assert batches[0].target.shape == (0, 32, 32)
    assert batches[0].image.is_contiguous(memory_format=torch.channels_last)


def test_several_threads_make_the_same_batches_in_order(cases, tiny):
    numbers = list(made_ahead(iter(range(20)), lambda number: number * number, 3))
    assert numbers == [number * number for number in range(20)]


def test_validation_batches_are_whole_slices_and_always_the_same(cases, tiny):
    settings = tiny(VARIED, batch_size=3, slices_per_case=7)
    batches = list(validation_batches(cases, settings))
    assert same(batches, list(validation_batches(cases, settings)))
    assert sum(len(batch.image) for batch in batches) == 4 * 7
    assert all(len(batch.image) <= 3 for batch in batches)
    assert all(batch.image.shape[1:] == (3, 48, 48) for batch in batches)  # 48 x 40, padded to multiples of 16
    chosen = np.unique(np.linspace(0, len(cases[0]) - 1, 7).round().astype(int))
    images, targets = (torch.cat(parts)[:7] for parts in zip(*batches, strict=True))
    hu = np.stack([cases[0].image[z] for z in chosen])
    np.testing.assert_array_equal(images[..., :40], blend(hu, settings.blend_channels()))
    assert not images[..., 40:].any()
    np.testing.assert_array_equal(targets[:, :, :40], np.stack([cases[0].label[z] for z in chosen]))
    assert not targets[:, :, 40:].any()


def test_fewer_slices_than_asked_for_are_taken_once(cases, tiny):
    batches = list(validation_batches(cases[:1], tiny(slices_per_case=1000)))
    assert sum(len(batch.image) for batch in batches) == len(cases[0])


def test_making_ahead_keeps_the_order_and_ends():
    assert list(ahead(iter(range(10)), 3)) == list(range(10))
    assert list(ahead(iter(()), 3)) == []


def test_making_ahead_happens_in_one_thread_that_ends():
    makers = []

    def items():
        while True:
            makers.append(threading.current_thread())
            yield len(makers)

    assert take(ahead(items(), 2), 3) == [1, 2, 3]
    assert len(set(makers)) == 1
    assert len(makers) <= 6
    assert not makers[0].is_alive()


def test_an_error_while_making_is_not_lost(cases, tiny):
    def items():
        yield 1
        msg = "broken"
        raise OSError(msg)

    iterator = ahead(items(), 4)
    assert next(iterator) == 1
    with pytest.raises(OSError, match="broken"):
        next(iterator)
    with pytest.raises(BadInputError, match="tumor_fraction is 1"):
        next(training_batches(cases[3:], tiny(tumor_fraction=1, foreground_fraction=1)))
    with pytest.raises(BadInputError, match="tumor_fraction is 1"):
        next(_draw_batches(cases[3:], tiny(tumor_fraction=1, foreground_fraction=1), 1, 1))
