import numpy as np
import pytest
import torch

from lib.errors import BadInputError
from lib.metrics import original
from lib.metrics.original_torch import confusion_matrix, one_hot_mean_iou, pixel_accuracy, three_class_dice


def batch(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(2, classes, 5, 6, generator=generator).softmax(1)
    target = torch.randint(0, classes, (2, 5, 6), generator=generator)
    one_hot = torch.nn.functional.one_hot(target, classes).movedim(-1, 1)
    return probabilities, target, one_hot


def test_dice_by_its_formula():
    probabilities, _, one_hot = batch()
    expected = []
    for index in range(3):
        p, t = probabilities[:, index].numpy().ravel(), one_hot[:, index].numpy().ravel()
        expected.append((2 * (t * p).sum() + 1) / (t.sum() + p.sum() + 1))
    assert three_class_dice(probabilities, one_hot).item() == pytest.approx(np.mean(expected), rel=1e-6)


def test_dice_counts_in_float32_under_half_precision():
    one_hot = torch.ones(4, 1, 512, 512)
    assert three_class_dice(one_hot.half(), one_hot.half()).item() == 1.0


def test_dice_is_differentiable():
    probabilities, _, one_hot = batch()
    probabilities.requires_grad_()
    three_class_dice(probabilities, one_hot).backward()
    assert probabilities.grad.abs().sum() > 0


def test_hard_labels_score_as_the_label_volumes_do():
    probabilities, target, one_hot = batch(1)
    counts = confusion_matrix(probabilities, target)
    matrix = counts.numpy()
    assert one_hot_mean_iou(counts).item() == pytest.approx(original.one_hot_mean_iou(matrix))
    assert pixel_accuracy(counts).item() == pytest.approx(original.pixel_accuracy(matrix))
    hard = torch.nn.functional.one_hot(probabilities.argmax(1), 3).movedim(-1, 1)
    assert three_class_dice(hard, one_hot).item() == pytest.approx(original.three_class_dice(matrix), rel=1e-6)


def test_matrices_of_batches_add_up():
    probabilities, target, _ = batch(2)
    whole = confusion_matrix(probabilities, target)
    parts = sum(confusion_matrix(probabilities[i : i + 1], target[i : i + 1]) for i in range(2))
    assert torch.equal(whole, parts)


def test_shapes_must_fit():
    probabilities, target, one_hot = batch()
    with pytest.raises(BadInputError, match="must have one shape"):
        three_class_dice(probabilities, one_hot[:1])
    with pytest.raises(BadInputError, match=r"class indices \(1, 5, 6\) do not fit"):
        confusion_matrix(probabilities, target[:1])
