import math

import pytest
import torch
from torch import nn

from lib.labels import NOT_LOOKED_AT
from lib.settings import TrainingSettings
from lib.training.loss import SegmentationLoss, build_loss

CPU = torch.device("cpu")
# Two pixels, three classes: probabilities 1/2, 1/4, 1/4 and 1/8, 3/4, 1/8; the truth is 0 and 1.
LOGITS = torch.log(torch.tensor([[[[1 / 2, 1 / 8]], [[1 / 4, 3 / 4]], [[1 / 4, 1 / 8]]]]))
TARGET = torch.tensor([[[0, 1]]])
CROSS_ENTROPY = (math.log(2) + math.log(4 / 3)) / 2
DICE = ((2 * 3 / 4 + 1) / (1 + 1 + 1) + 1 / (3 / 8 + 0 + 1)) / 2


def loss_of(name, **options):
    return build_loss(TrainingSettings(loss=name, **options), CPU)


def test_cross_entropy_is_the_originals():
    assert loss_of("cross_entropy")(LOGITS, TARGET).item() == pytest.approx(CROSS_ENTROPY)
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    for weights in (None, (0.5, 2, 4)):
        expected = nn.CrossEntropyLoss(None if weights is None else torch.tensor(weights))(logits, target)
        assert loss_of("cross_entropy", class_weights=weights)(logits, target).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("weights", [None, (1, 3, 2)])
@pytest.mark.parametrize("name", ["cross_entropy", "dice_cross_entropy"])
def test_pixels_that_nobody_looked_at_count_nowhere(name, weights):
    """Whatever is predicted there, the loss is that of the rest, and no gradient comes from them."""
    loss = loss_of(name, class_weights=weights)
    logits = torch.cat([LOGITS, 30 * torch.randn(1, 3, 1, 5)], -1).requires_grad_()
    target = torch.cat([TARGET, torch.full((1, 1, 5), NOT_LOOKED_AT)], -1)
    value = loss(logits, target)
    assert value.item() == pytest.approx(loss(LOGITS, TARGET).item())
    value.backward()
    assert logits.grad is not None
    assert logits.grad[..., :2].any()
    assert not logits.grad[..., 2:].any()


def test_a_batch_that_nobody_looked_at_costs_nothing():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    value = loss_of("dice_cross_entropy")(logits, torch.full((1, 2, 2), NOT_LOOKED_AT))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_dice_cross_entropy_by_hand():
    assert loss_of("dice_cross_entropy")(LOGITS, TARGET).item() == pytest.approx(CROSS_ENTROPY + 1 - DICE)


def test_class_weights_by_hand():
    # torch divides the weighted sum by the sum of the weights.
    expected = (1 * math.log(2) + 3 * math.log(4 / 3)) / 4
    loss = loss_of("cross_entropy", class_weights=(1, 3, 2))
    assert loss(LOGITS, TARGET).item() == pytest.approx(expected)
    both = loss_of("dice_cross_entropy", class_weights=(1, 3, 2))
    assert both(LOGITS, TARGET).item() == pytest.approx(expected + 1 - DICE)


def test_a_perfect_prediction_costs_nothing_and_a_worse_one_more():
    target = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    perfect = 50 * nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    loss = SegmentationLoss(dice=True)
    assert loss(perfect, target).item() == pytest.approx(0, abs=1e-4)
    assert loss(-perfect, target) > loss(0 * perfect, target) > loss(perfect, target)


def test_an_empty_class_is_no_division_by_zero_and_half_precision_is_summed_in_float32():
    target = torch.zeros(1, 512, 512, dtype=torch.int64)
    logits = torch.zeros(1, 3, 512, 512, dtype=torch.bfloat16, requires_grad=True)
    value = SegmentationLoss(dice=True)(logits, target)
    expected = math.log(3) + 1 - 1 / (512 * 512 / 3 + 1)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
