"""What training minimizes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.settings import TrainingSettings


class DiceCrossEntropy(nn.Module):
    """Cross-entropy plus (1 - soft Dice) averaged over the foreground classes of the batch.

    The soft Dice is taken over the whole batch, so that a class missing in one slice does not dominate (Milletari et
    al., V-Net, doi:10.1109/3DV.2016.79; batch Dice as in nnU-Net, doi:10.1038/s41592-020-01008-z).
    """

    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__()
        self.cross_entropy = nn.CrossEntropyLoss(weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits `(N, C, Y, X)` against class indices `(N, Y, X)`."""
        logits = logits.float()
        probabilities = logits.softmax(1)[:, 1:]
        planes = functional.one_hot(target, logits.shape[1]).movedim(-1, 1)[:, 1:].to(probabilities.dtype)
        axes = (0, 2, 3)
        overlap = (probabilities * planes).sum(axes)
        total = probabilities.sum(axes) + planes.sum(axes)
        dice = (2 * overlap + 1) / (total + 1)
        return self.cross_entropy(logits, target) + 1 - dice.mean()


def build_loss(settings: TrainingSettings, device: torch.device) -> nn.Module:
    """The loss that the settings name; `cross_entropy` is the original's."""
    weights = None
    if settings.class_weights is not None:
        weights = torch.tensor(settings.class_weights, dtype=torch.float32, device=device)
    if settings.loss == "cross_entropy":
        return nn.CrossEntropyLoss(weights)
    return DiceCrossEntropy(weights)
