import numpy as np
import pytest

from lib.metrics.confusion import confusion_matrix
from lib.metrics.original import original_scores


def by_definition(reference, prediction):
    truth, guess = ((volume.ravel()[:, None] == np.arange(3)).astype(float) for volume in (reference, prediction))
    dice = (2 * (truth * guess).sum(0) + 1) / (truth.sum(0) + guess.sum(0) + 1)
    union = np.maximum(truth, guess).sum(0)
    iou = (truth * guess).sum(0)[union > 0] / union[union > 0]
    return {
        "three_class_dice": dice.mean(),
        "one_hot_mean_iou": iou.mean(),
        "pixel_accuracy": (reference == prediction).mean(),
    }


@pytest.mark.parametrize("classes", [(0, 1, 2), (0, 1), (1,), (0, 2)])
def test_as_defined_on_one_hot_volumes(classes):
    rng = np.random.default_rng(0)
    reference, prediction = rng.choice(classes, (2, 4, 5, 6)).astype(np.uint8)
    scores = original_scores(confusion_matrix(reference, prediction))
    assert scores == pytest.approx(by_definition(reference, prediction))


def test_perfect():
    labels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3) % 3
    assert set(original_scores(confusion_matrix(labels, labels)).values()) == {1.0}
