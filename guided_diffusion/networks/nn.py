"""Layers and tensor helpers of the networks.

Conventions: activations are [N, C, *spatial] (NCHW for images), pictures lie in [-1, 1]. Timesteps
come from the diffusion process: 0 is the clean end, and values may be rescaled or fractional.
Layers accept contiguous and channels_last memory alike.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from . import group_norm
from .upsampling import convolve_doubled, double

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
AVERAGE_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


class SiLU(nn.Module):
    """The activation x * sigmoid(x).

    Reference: Elfwing et al. 2017, "Sigmoid-Weighted Linear Units", https://arxiv.org/abs/1702.03118
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class GroupNorm32(nn.GroupNorm):
    """Group normalisation whose statistics are taken in float32 and whose result has x's dtype.

    Reference: Wu and He 2018, "Group Normalization", https://arxiv.org/abs/1803.08494
    """

    def forward(self, x: Tensor) -> Tensor:
        # `.float()` is free for float32, and lets a model that was cast by `.half()` work.
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        if group_norm.suits(x) and weight is not None:
            return group_norm.GroupNorm.apply(x, self.num_groups, weight, bias, self.eps)
        # torch's CPU kernel takes float32 statistics of a half-precision x, bit for bit the same.
        wide = x if x.is_cpu and x.dtype in group_norm.HALVES else x.float()
        # Not F.group_norm, which refuses a single point with one channel to a group.
        return torch.group_norm(wide, self.num_groups, weight, bias, self.eps).to(x.dtype)


def conv_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    """Build an `nn.Conv{dims}d`, for dims from 1 to 3, from the remaining arguments."""
    return _of_dimension(CONVOLUTIONS, dims)(*args, **kwargs)


def avg_pool_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    """Build an `nn.AvgPool{dims}d`, for dims from 1 to 3, from the remaining arguments."""
    return _of_dimension(AVERAGE_POOLS, dims)(*args, **kwargs)


def _of_dimension(classes: dict[int, type[nn.Module]], dims: int) -> type[nn.Module]:
    if dims not in classes:
        raise ValueError(f"dims: expected 1, 2 or 3, got {dims!r}")
    return classes[dims]


def linear(*args: Any, **kwargs: Any) -> nn.Linear:
    """Build an `nn.Linear`."""
    return nn.Linear(*args, **kwargs)


def normalization(channels: int) -> GroupNorm32:
    """Build the networks' norm: 32 groups over `channels`, which must be a multiple of 32."""
    return GroupNorm32(32, channels)


def update_ema(
    target_params: Iterable[Tensor],
    source_params: Iterable[Tensor],
    rate: float = 0.99,
    *,
    taken: bool | Tensor = True,
) -> None:
    """Average parameters over time: target = rate * target + (1 - rate) * source.

    Args:
        target_params: the running averages, changed in place.
        source_params: the current values, in the same order and of the same shapes.
        rate: share of the old average that is kept, in [0, 1].
        taken: whether the optimizer took its step; if not, the averages stay. A bool tensor [] on
            the parameters' device is not waited for; all parameters must be finite then.

    Raises:
        ValueError: if there are not as many source as target parameters.
    """
    targets, sources = list(target_params), list(source_params)
    if len(targets) != len(sources):
        expected = f"as many source as target parameters ({len(targets)})"
        raise ValueError(f"update_ema: expected {expected}, got {len(sources)}")
    if not targets or taken is False:
        return
    with torch.no_grad():
        if not isinstance(taken, Tensor):
            torch._foreach_mul_(targets, rate)
            torch._foreach_add_(targets, sources, alpha=1 - rate)
            return
        # Not taken: the average times 1, plus 0, is the same to the bit.
        share = taken.to(targets[0].dtype)
        kept = share * rate + (1 - share)
        size = 1 if taken.is_cpu else len(targets)  # a CPU needs no large batches and copies
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            added = torch._foreach_mul(sources[part], share)
            torch._foreach_mul_(targets[part], kept)
            torch._foreach_add_(targets[part], added, alpha=1 - rate)


def zero_module(module: nn.Module) -> nn.Module:
    """Set every parameter of a module to zero and return the module."""
    for parameter in module.parameters():
        parameter.detach().zero_()
    return module


def scale_module(module: nn.Module, scale: float) -> nn.Module:
    """Multiply every parameter of a module by `scale` and return the module."""
    for parameter in module.parameters():
        parameter.detach().mul_(scale)
    return module


def mean_flat(tensor: Tensor) -> Tensor:
    """Average over all dimensions but the batch: [N, ...] -> [N]."""
    return tensor.mean(dim=list(range(1, tensor.ndim)))


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000) -> Tensor:
    """Embed timesteps as sinusoids of geometrically falling frequencies 1 .. 1 / max_period.

    Args:
        timesteps: timesteps [N], may be fractional.
        dim: width of the result; an odd width ends in one zero column.
        max_period: inverse of the (excluded) lowest frequency, in timesteps per radian.

    Returns:
        [N, dim] float32: dim // 2 cosines, then dim // 2 sines.

    Reference: Vaswani et al. 2017, "Attention Is All You Need", section 3.5, cosines first.
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(max_period) * index / half)
    phases = timesteps[:, None].float() * frequencies  # [N, half]
    embedding = torch.cat([phases.cos(), phases.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))


def checkpoint(
    func: Callable[..., Any], inputs: Sequence[Any], params: Iterable[Tensor], flag: bool
) -> Any:
    """Call a function on inputs; with `flag`, recompute its activations in the backward pass.

    The random state is restored when the function is called again.

    Args:
        params: no effect; upstream lists func's parameters here, which autograd finds by itself.

    Reference: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    if flag:
        return torch.utils.checkpoint.checkpoint(func, *inputs, use_reentrant=False)
    return func(*inputs)


class CheckpointFunction(torch.autograd.Function):
    """The autograd function behind upstream's `checkpoint`, for code that calls it directly."""

    @staticmethod
    def forward(ctx: Any, run_function: Callable[..., Any], length: int, *args: Tensor) -> Any:
        """Call a function on the first `length` of args; the others are its parameters."""
        ctx.run_function, ctx.length = run_function, length
        ctx.random = torch.get_rng_state(), *torch.utils.checkpoint.get_device_states(*args)
        ctx.save_for_backward(*args)
        return run_function(*args[:length])

    @staticmethod
    def backward(ctx: Any, *output_grads: Tensor) -> tuple[Tensor | None, ...]:
        """Call the function again, with the same random numbers, and differentiate it."""
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]
        inputs[ctx.length :] = ctx.saved_tensors[ctx.length :]  # parameters, not copies of them
        state, *devices = ctx.random
        with torch.enable_grad(), torch.random.fork_rng(devices[0]):
            torch.set_rng_state(state)
            torch.utils.checkpoint.set_device_states(*devices)
            found = ctx.run_function(*[x.view_as(x) for x in inputs[: ctx.length]])
        outputs = found if isinstance(found, tuple) else (found,)
        needed = [x for x in inputs if x.requires_grad]
        grads = iter(torch.autograd.grad(outputs, needed, output_grads, allow_unused=True))
        return None, None, *(next(grads) if x.requires_grad else None for x in inputs)


class TimestepBlock(nn.Module):
    """A module whose forward takes the timestep embedding as its second argument."""

    @abstractmethod
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Apply the module: [N, C, *spatial] and [N, E] -> feature map."""


class TimestepEmbedSequential(nn.Sequential, TimestepBlock):
    """A sequence of modules; the timestep embedding goes to each `TimestepBlock` among them."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, TimestepBlock) else layer(x)
        return x


class Upsample(nn.Module):
    """Double the resolution by repeating pixels, optionally followed by a 3x3 convolution.

    Args:
        channels: channels of the input.
        use_conv: convolve after doubling.
        dims: number of spatial dimensions; the first of three keeps its size.
        out_channels: channels of the result; `channels` if not given.
    """

    def __init__(
        self, channels: int, use_conv: bool, dims: int = 2, out_channels: int | None = None
    ) -> None:
        super().__init__()
        self.channels, self.out_channels = channels, out_channels or channels
        self.use_conv, self.dims = use_conv, dims
        if use_conv:
            self.conv = conv_nd(dims, channels, self.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return convolve_doubled(self.conv, x) if self.use_conv else double(x)


class Downsample(nn.Module):
    """Halve the resolution by a strided 3x3 convolution or by averaging; see `Upsample`.

    Raises:
        ValueError: if averaging is asked to change the number of channels.
    """

    def __init__(
        self, channels: int, use_conv: bool, dims: int = 2, out_channels: int | None = None
    ) -> None:
        super().__init__()
        self.channels = channels
        out_channels = self.out_channels = out_channels or channels
        self.use_conv, self.dims = use_conv, dims
        stride = (1, 2, 2) if dims == 3 else 2
        if use_conv:
            self.op = conv_nd(dims, channels, out_channels, 3, stride=stride, padding=1)
        elif out_channels == channels:
            self.op = avg_pool_nd(dims, kernel_size=stride, stride=stride)
        else:
            expected = f"without a convolution expected {channels}"
            raise ValueError(f"out_channels: {expected}, got {out_channels}")

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(TimestepBlock):
    """Two convolutions with the timestep added between them, around a skip connection.

    Args:
        channels: channels of the input.
        emb_channels: width of the timestep embedding.
        dropout: probability of dropping an activation before the second convolution.
        out_channels: channels of the result; `channels` if not given.
        use_conv: change the number of channels in the skip connection by a 3x3 convolution
            instead of a 1x1 one.
        use_scale_shift_norm: let the embedding scale and shift the second norm's result
            ("adaptive group normalization", Dhariwal and Nichol 2021, section 3.1).
        dims: number of spatial dimensions.
        use_checkpoint: recompute the block's activations in the backward pass.
        up, down: double or halve the resolution inside the block.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int | None = None,
        use_conv: bool = False,
        use_scale_shift_norm: bool = False,
        dims: int = 2,
        use_checkpoint: bool = False,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        out = self.out_channels = out_channels or channels
        self.channels, self.emb_channels, self.dropout = channels, emb_channels, dropout
        self.use_conv, self.updown = use_conv, up or down
        self.use_scale_shift_norm, self.use_checkpoint = use_scale_shift_norm, use_checkpoint

        first = conv_nd(dims, channels, out, 3, padding=1)
        self.in_layers = nn.Sequential(normalization(channels), SiLU(), first)
        resize = Upsample if up else Downsample if down else nn.Identity
        self.h_upd, self.x_upd = (resize(channels, False, dims) for _ in range(2))

        emb_out = 2 * out if use_scale_shift_norm else out
        self.emb_layers = nn.Sequential(SiLU(), linear(emb_channels, emb_out))
        second = zero_module(conv_nd(dims, out, out, 3, padding=1))
        self.out_layers = nn.Sequential(normalization(out), SiLU(), nn.Dropout(dropout), second)

        self.skip_connection: nn.Module = nn.Identity()
        if out != channels:
            kernel, padding = (3, 1) if use_conv else (1, 0)
            self.skip_connection = conv_nd(dims, channels, out, kernel, padding=padding)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Apply the block: [N, channels, *spatial], [N, emb_channels] -> [N, out_channels, ...]."""
        return checkpoint(self._forward, (x, emb), self.parameters(), self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        in_norm, in_act, in_conv = self.in_layers
        h = in_act(in_norm(x))
        doubles = isinstance(self.h_upd, Upsample)
        h = convolve_doubled(in_conv, h) if doubles else in_conv(self.h_upd(h))
        e = self.emb_layers(emb).to(h.dtype)
        e = e.reshape(*e.shape, *[1] * (h.ndim - 2))  # [N, out or 2 * out, 1, ...]
        if self.use_scale_shift_norm:
            norm, *rest = self.out_layers
            scale, shift = e.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
            for layer in rest:
                h = layer(h)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(self.x_upd(x)) + h


def convert_module_to_f16(l: nn.Module) -> None:  # noqa: E741 (upstream's argument name)
    """Cast a convolution's parameters to float16; other layers stay as they are."""
    _cast_convolution(l, torch.float16)


def convert_module_to_f32(l: nn.Module) -> None:  # noqa: E741 (upstream's argument name)
    """Cast a convolution's parameters to float32; other layers stay as they are."""
    _cast_convolution(l, torch.float32)


def _cast_convolution(module: nn.Module, dtype: torch.dtype) -> None:
    if isinstance(module, tuple(CONVOLUTIONS.values())):
        # Through `.data`: the Parameter objects that an optimizer or DDP may hold stay the same.
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
