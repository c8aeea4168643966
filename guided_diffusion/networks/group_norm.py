"""Group normalisation of half-precision channels_last images on a CPU, forward and backward.

torch's own kernels for this layout go through the few channels of one group at a time. Compared
with contiguous images, their backward takes up to fifty times as long, and their forward of small
images thirty times. Here sums are taken over the positions of all channels at once, in float32,
and a batch is cut into parts that stay in the processor's cache.

Shapes: x [N, C, H, W]; a statistic of a group is [N, G], spread over its channels [N, C, 1, 1].

Reference: Wu and He 2018, "Group Normalization", https://arxiv.org/abs/1803.08494
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .thread_split import HALVES, filled_up, missing_images

_PART = 2**18  # numbers in a part: 1 MB of float32
_LARGE = 1024  # positions of an image from which torch's own forward is faster


def suits(x: Tensor) -> bool:
    """Return whether an input is a batch of half-precision channels_last images on a CPU."""
    return (
        x.is_cpu
        and x.dtype in HALVES
        and x.ndim == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


class GroupNorm(torch.autograd.Function):
    """Normalise each group of channels of each image, to the same dtype and layout.

    Call `apply(x, groups, weight, bias, eps)` for an x that `suits`, with weight and bias in
    float32 [C]; eps is added to the variance.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Any:
        n, c, h, w = x.shape
        if h * w >= _LARGE:
            # Training takes the images as they are: its results depend on the batch anyway.
            missing = 0 if any(ctx.needs_input_grad) else missing_images(x)
            whole = filled_up(x, missing) if missing else x
            parts = torch.native_group_norm(whole, weight, bias, n + missing, c, h * w, groups, eps)
            y, mean, rstd = (part[:n] for part in parts)
        else:
            y, mean, rstd = _normalise(x, groups, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.groups, ctx.eps = groups, eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives need a formula that torch differentiates
            y = F.group_norm(x.float(), ctx.groups, weight, bias, ctx.eps).to(x.dtype)
            dx, dweight, dbias = torch.autograd.grad(y, (x, weight, bias), dy, create_graph=True)
        else:
            dy = dy.contiguous(memory_format=torch.channels_last)
            dx, dweight, dbias = _gradients(dy, x, ctx.groups, weight, mean, rstd)
        return dx, None, dweight, dbias, None


def _normalise(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.empty_like(x)
    means, rstds = [], []
    for part in _parts(x):
        wide = x[part].float()
        mean = _of_groups(wide.mean((2, 3)), groups)
        wide -= _spread(mean, wide)
        rstd = (_of_groups((wide * wide).mean((2, 3)), groups) + eps).rsqrt()
        factor = _spread(rstd, wide) * weight[:, None, None]
        y[part] = torch.addcmul(bias[:, None, None], wide, factor, out=wide)
        means.append(mean)
        rstds.append(rstd)
    return y, torch.cat(means), torch.cat(rstds)


def _gradients(
    dy: Tensor, x: Tensor, groups: int, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of x, weight and bias.

    With z = (x - mean) * rstd and g = weight * dy, dx = rstd * (g - E[g] - z * E[g * z]).
    """
    dx = torch.empty_like(x)
    sums = []
    for part in _parts(x):
        wide, dwide = x[part].float(), dy[part].float()
        scale = _spread(rstd[part], wide)
        wide -= _spread(mean[part], wide)
        dbias = dwide.sum((2, 3))  # [n, C]
        dweight = (dwide * wide).sum((2, 3)) * scale.flatten(1)
        positions = x.shape[2] * x.shape[3]
        offset, slope = (  # E[g], E[g * z]
            _spread(_of_groups(weight * total / positions, groups), wide)
            for total in (dbias, dweight)
        )
        rest = torch.addcmul(-scale * offset, wide, -scale * scale * slope, out=wide)
        dx[part] = rest.addcmul_(dwide, scale * weight[:, None, None])
        sums.append(torch.stack([dweight, dbias]))
    dweight, dbias = torch.cat(sums, dim=1).sum(1)
    return dx, dweight, dbias


def _parts(x: Tensor) -> Iterator[slice]:
    size = max(1, _PART // x[:1].numel()) if x.numel() else 1
    return (slice(start, start + size) for start in range(0, len(x), size))


def _of_groups(means: Tensor, groups: int) -> Tensor:
    """Average over the channels of each group: [N, C] -> [N, G]."""
    return means.unflatten(1, (groups, -1)).mean(2)


def _spread(statistic: Tensor, x: Tensor) -> Tensor:
    """Give each channel the statistic of its group: [N, G] -> [N, C, 1, 1]."""
    return statistic.repeat_interleave(x.shape[1] // statistic.shape[1], 1)[:, :, None, None]
