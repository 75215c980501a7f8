"""What training minimizes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.labels import NOT_LOOKED_AT
from lib.settings import TrainingSettings
from lib.training.distributed import summed


class SegmentationLoss(nn.Module):
    """Cross-entropy, and on request plus (1 - soft Dice) averaged over the foreground classes of the batch.

    The soft Dice is taken over the whole batch, so that a class missing in one slice does not dominate (Milletari et
    al., V-Net, doi:10.1109/3DV.2016.79; batch Dice as in nnU-Net, doi:10.1038/s41592-020-01008-z). Pixels that nobody
    looked at count nowhere. Where several processes train, the batch is that of all of them; in evaluation mode it is
    each one's own.

    Args:
        dice: whether the Dice counts.
        weights: of the classes in the cross-entropy, whose weighted sum is divided by the sum of the weights.
    """

    weights: Tensor | None

    def __init__(self, *, dice: bool, weights: Tensor | None = None) -> None:
        super().__init__()
        self.dice = dice
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss, float32, of logits `(N, C, Y, X)` against int64 class indices or `NOT_LOOKED_AT` `(N, Y, X)`."""
        logits = logits.float()
        entropy = functional.cross_entropy(logits, target, self.weights, ignore_index=NOT_LOOKED_AT, reduction="sum")
        judged = target != NOT_LOOKED_AT
        classes = torch.where(judged, target, 0)
        counted = judged.to(logits.dtype)
        weight = counted.sum() if self.weights is None else (self.weights[classes] * counted).sum()
        sums = [entropy[None], weight[None]]
        if self.dice:
            planes = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1)[:, 1:] * counted[:, None]
            probabilities = logits.softmax(1)[:, 1:] * counted[:, None]
            axes = (0, 2, 3)
            sums += [(probabilities * planes).sum(axes), probabilities.sum(axes) + planes.sum(axes)]
        together = torch.cat(sums)
        entropy, weight, *parts = (summed(together) if self.training else together).split([len(part) for part in sums])
        loss = entropy[0] / weight[0].clamp(min=torch.finfo(torch.float32).tiny)
        if self.dice:
            overlap, total = parts
            loss = loss + 1 - ((2 * overlap + 1) / (total + 1)).mean()
        return loss


def build_loss(settings: TrainingSettings, device: torch.device) -> nn.Module:
    """The loss that the settings name; `cross_entropy` is the original's."""
    weights = None
    if settings.class_weights is not None:
        weights = torch.tensor(settings.class_weights, dtype=torch.float32, device=device)
    return SegmentationLoss(dice=settings.loss == "dice_cross_entropy", weights=weights)
