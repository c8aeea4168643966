"""Doubling the resolution of a feature map, alone or under a convolution.

Once every pixel is doubled, a 3x3 window holds the same values in two of its three rows, and in two
of its three columns. With their weights added up, both steps are one transposed convolution of the
small map: the same result with 16 products instead of 36.

Shapes: feature maps are [N, C, *spatial].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .thread_split import whole_images

_LARGE = 256  # positions of a map from which the merged form is faster on a CPU


def double(x: Tensor) -> Tensor:
    """Repeat every pixel; the first of three spatial dimensions keeps its size."""
    return F.interpolate(x, scale_factor=(1.0, 2.0, 2.0) if x.ndim == 5 else 2.0, mode="nearest")


def convolve_doubled(conv: nn.Module, x: Tensor) -> Tensor:
    """Compute conv(double(x)) for a convolution of kernel size 3 and padding 1.

    On a CPU, large images take the merged form; the result is equal up to rounding.
    """
    if not (x.is_cpu and x.ndim == 4 and x.shape[2] * x.shape[3] >= _LARGE):
        return conv(double(x))
    kernel = _merge(_merge(conv.weight, 2), 3).transpose(0, 1)  # [C, out, 4, 4]

    def merged(images: Tensor) -> Tensor:
        return F.conv_transpose2d(images, kernel, conv.bias, stride=2, padding=1)

    # Training takes the images as they are: its results depend on the batch anyway.
    return merged(x) if torch.is_grad_enabled() else whole_images(merged, x)


def _merge(weight: Tensor, dim: int) -> Tensor:
    """Compute the weights of a pixel along `dim` in each of the four new pixels around it.

    Doubled, a pixel becomes an upper and a lower half. The upper half reads the neighbour above
    with the first weight, and the pixel itself with the sum of the other two. The lower half reads
    the pixel with the sum of the first two weights, and the neighbour below with the last.
    """
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)
