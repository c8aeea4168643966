"""Doubling the resolution of a feature map, alone or under a convolution.

In a 3x3 window of a map whose every pixel was doubled, two of the three rows hold the same values,
and two of the three columns. Adding up their weights first makes of both steps one transposed
convolution of the small map: the same result with 16 products where 36 were.

Shapes: feature maps are [N, C, *spatial].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LARGE = 256  # positions from which on the merged form is the faster one on a CPU


def double(x: Tensor) -> Tensor:
    """Repeat every pixel; of three spatial dimensions, the first keeps its size."""
    return F.interpolate(x, scale_factor=(1.0, 2.0, 2.0) if x.ndim == 5 else 2.0, mode="nearest")


def convolve_doubled(conv: nn.Module, x: Tensor) -> Tensor:
    """conv(double(x)) for a convolution of kernel size 3 and padding 1.

    On a CPU, large images are convolved in the merged form; equal up to rounding.

    Args:
        conv: that is applied, `nn.Conv1d` to `nn.Conv3d`.
        x: [N, C, *spatial].
    """
    if not (x.is_cpu and x.ndim == 4 and x.shape[2] * x.shape[3] >= _LARGE):
        return conv(double(x))
    kernel = _merge(_merge(conv.weight, 2), 3).transpose(0, 1)  # [C, out, 4, 4]
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def _merge(weight: Tensor, dim: int) -> Tensor:
    """Return what a pixel contributes along `dim` to each of the four new ones around it.

    Of its two halves the upper reads a neighbour with the first weight and the pixel itself with
    the sum of the others; the lower reads the pixel with the sum of the first two, and the
    neighbour with the last.
    """
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)
