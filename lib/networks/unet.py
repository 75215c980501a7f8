"""The 2D multiclass U-Net: equal, weight by weight, to the Keras network that LiverLoop started from."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from lib.errors import BadInputError

# Standard deviation of a standard normal distribution cut off at two standard deviations.
_TRUNCATED_STD = 0.87962566103423978


class MulticlassUNet(nn.Module):
    """U-Net with dropout and without batch normalization, for one 2D image to one logit per class and pixel.

    Each level is conv 3x3, ReLU, dropout, conv 3x3, ReLU. Down goes by 2x2 max pooling, up by a 2x2 transposed
    convolution with stride 2, whose result is concatenated as [upsampled, skip]. A 1x1 convolution gives the logits;
    softmax is left to the loss and the caller. Kernels start He-normal, biases zero. With the default arguments it
    has 1,941,139 parameters.

    `encode` and `decode` are the two halves of `forward`: an image's features can be kept and decoded many times.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        filters: channels of each level, from full resolution down.
        dropout: probability of each level on the way down, as many as `filters`.
        up_dropout: probability of each level on the way up, from the lowest, one less than `filters`.

    Raises:
        BadInputError: the arguments don't fit each other, or a number is out of range.

    References:
        Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, doi:10.1007/978-3-319-24574-4_28.
        He et al.: Delving deep into rectifiers, ICCV 2015, doi:10.1109/ICCV.2015.123.

    Example:
        >>> MulticlassUNet().eval()(torch.zeros(1, 3, 32, 48)).shape
        torch.Size([1, 3, 32, 48])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        filters: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.1, 0.1, 0.2, 0.2, 0.3),
        up_dropout: Sequence[float] = (0.2, 0.2, 0.1, 0.1),
    ) -> None:
        super().__init__()
        _check_arguments(in_channels, out_channels, filters, dropout, up_dropout)
        self.multiple = 2 ** (len(filters) - 1)
        self.encoder = nn.ModuleList(
            _ConvBlock(before, after, probability)
            for (before, after), probability in zip(pairwise((in_channels, *filters)), dropout, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.decoder = nn.ModuleList(
            _UpBlock(before, after, probability)
            for (before, after), probability in zip(pairwise(reversed(filters)), up_dropout, strict=True)
        )
        self.head = nn.Conv2d(filters[0], out_channels, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                _initialize(module)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(N, out_channels, H, W)` of images `(N, in_channels, H, W)`.

        Raises:
            BadInputError: H or W is no multiple of 2 to the number of poolings (16 by default).
        """
        return self.decode(self.encode(image))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features of each level, from full resolution down: the skips and, last, the bottom of the U.

        Raises:
            BadInputError: H or W is no multiple of 2 to the number of poolings (16 by default).
        """
        height, width = image.shape[-2:]
        if height % self.multiple or width % self.multiple:
            msg = (
                f"the height and width of an image must be multiples of {self.multiple}, not {height} x {width}; "
                "pad it first"
            )
            raise BadInputError(msg)
        features: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            image = block(self.pool(image) if level else image)
            features.append(image)
        return features

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Logits `(N, out_channels, H, W)` from what `encode` gave."""
        *skips, current = features
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            current = block(current, skip)
        return self.head(current)


class _ConvBlock(nn.Module):
    """Conv 3x3, ReLU, dropout, conv 3x3, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        features = self.dropout(torch.relu(self.conv1(features)))
        return torch.relu(self.conv2(features))


class _UpBlock(nn.Module):
    """Upsampling, joining with the skip of the same size, and a `_ConvBlock` on both."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.block = _ConvBlock(2 * out_channels, out_channels, dropout)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat([self.upsample(features), skip], dim=1))


def _initialize(module: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """He-normal kernel as Keras draws it (truncated at two standard deviations), zero bias."""
    # The second axis is the input of a convolution but the output of a transposed one; Keras counts so, too.
    fan_in = module.weight[0].numel()
    std = sqrt(2.0 / fan_in) / _TRUNCATED_STD
    nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _check_arguments(
    in_channels: int,
    out_channels: int,
    filters: Sequence[int],
    dropout: Sequence[float],
    up_dropout: Sequence[float],
) -> None:
    counts = (in_channels, out_channels, *filters)
    if any(isinstance(count, bool) or not isinstance(count, int) or count < 1 for count in counts):
        msg = (
            "in_channels, out_channels and filters must be whole numbers of at least 1, not "
            f"{in_channels!r}, {out_channels!r} and {list(filters)}"
        )
        raise BadInputError(msg)
    if not filters or len(dropout) != len(filters) or len(up_dropout) != len(filters) - 1:
        msg = (
            f"{len(filters)} filters need as many dropout values and one up_dropout less, not {len(dropout)} and "
            f"{len(up_dropout)}"
        )
        raise BadInputError(msg)
    if not all(0 <= probability < 1 for probability in (*dropout, *up_dropout)):
        msg = f"dropout must be at least 0 and less than 1, not {list(dropout)} and {list(up_dropout)}"
        raise BadInputError(msg)
