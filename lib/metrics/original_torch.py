"""The original's figures on softmax outputs, as training reports them batch by batch.

Dice uses the probabilities as they are; IoU and accuracy take the most probable class first and are computed from a
confusion matrix, so that batches of an epoch can be added up before the figure is taken.
"""

import torch
from torch import Tensor

from lib.errors import BadInputError


def three_class_dice(probabilities: Tensor, one_hot: Tensor) -> Tensor:
    """Mean over the classes of (2 sum(t p) + 1) / (sum(t) + sum(p) + 1) over the flattened batch.

    Args:
        probabilities: softmax output `(B, C, Y, X)`, float; class 0 is background.
        one_hot: reference of the same shape, 0 or 1.

    Returns:
        Scalar float32, differentiable.

    Raises:
        BadInputError: the shapes differ.
    """
    if probabilities.shape != one_hot.shape:
        shapes = f"probabilities {tuple(probabilities.shape)} and one-hot reference {tuple(one_hot.shape)}"
        msg = f"{shapes} must have one shape"
        raise BadInputError(msg)
    # float32 also under mixed precision: half precision can't count the pixels of one slice.
    predicted = probabilities.float().transpose(0, 1).flatten(1)
    truth = one_hot.float().transpose(0, 1).flatten(1)
    both = (truth * predicted).sum(1)
    return ((2.0 * both + 1.0) / (truth.sum(1) + predicted.sum(1) + 1.0)).mean()


def confusion_matrix(probabilities: Tensor, target: Tensor) -> Tensor:
    """Count pixels by reference class (row) and most probable class (column).

    Args:
        probabilities: softmax output or logits `(B, C, Y, X)`.
        target: class indices `(B, Y, X)`, 0 is background.

    Returns:
        `(C, C)` int64 on the inputs' device; matrices of several batches can be added.

    Raises:
        BadInputError: the shapes do not fit.
    """
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    if predicted.shape != target.shape:
        msg = f"class indices {tuple(target.shape)} do not fit probabilities {tuple(probabilities.shape)} (B, C, Y, X)"
        raise BadInputError(msg)
    codes = target.long().flatten() * classes + predicted.flatten()
    return torch.bincount(codes, minlength=classes * classes).reshape(classes, classes)


def one_hot_mean_iou(counts: Tensor) -> Tensor:
    """Mean IoU over the classes that occur in the reference or the prediction; scalar float64."""
    both = counts.diagonal().double()
    union = counts.sum(0).double() + counts.sum(1).double() - both
    return (both[union > 0] / union[union > 0]).mean()


def pixel_accuracy(counts: Tensor) -> Tensor:
    """Part of the pixels with the right class; scalar float64."""
    return counts.diagonal().sum().double() / counts.sum().double()
