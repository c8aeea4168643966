"""Published procedures, for the benchmark to measure against; nothing else uses them.

Everything is eager float32 on contiguous NCHW memory, with attention as a product of matrices, a
softmax and another product, SiLU as a sigmoid and a product, and enlarged images written out before
they are convolved. Sequences are made of one image at a time: the image is encoded a first time to
measure it and a second time to take its latents, and every depth is decoded alone. A training step
decodes its pictures afresh, updates parameter by parameter, and reads every loss and every norm on
the host. Tables of the diffusion process lie on the device, as in our own procedure, although the
published code keeps them on the host.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from torch.utils.data import DataLoader

from ..data.image_datasets import ImageDataset
from ..data.image_features import magnitude_bins
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.resample import UniformSampler
from ..models.domains import Domain
from ..networks import attention, nn, upsampling
from ..runtime import logger
from ..translation import depth_policies


def attend(q: th.Tensor, k: th.Tensor, v: th.Tensor, mask: th.Tensor | None = None) -> th.Tensor:
    """Attend as `attention.attend` does, without a fused kernel: weights are [N, H, T, T].

    Queries and keys are scaled by D^(-1/4) each, and the softmax is taken in float32.
    """
    scale = q.shape[-1] ** -0.25
    weights = th.einsum("nhtd,nhsd->nhts", q * scale, k * scale).float()
    if mask is not None:
        weights = weights.masked_fill(~mask, -math.inf)
    return th.einsum("nhts,nhsd->nhtd", weights.softmax(dim=-1).to(v.dtype), v)


def silu(_: nn.SiLU, x: th.Tensor) -> th.Tensor:
    """Compute SiLU as `nn.SiLU.forward` does, without a fused kernel."""
    return x * th.sigmoid(x)


def convolve_doubled(conv: th.nn.Module, x: th.Tensor) -> th.Tensor:
    """Enlarge and convolve as `upsampling.convolve_doubled` does, in two steps."""
    return conv(upsampling.double(x))


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Let every network attend, activate and enlarge as published inside a block."""
    published = (
        (attention, "attend", attend),
        (nn.SiLU, "forward", silu),
        (nn, "convolve_doubled", convolve_doubled),
    )
    ours = [(owner, name, getattr(owner, name)) for owner, name, _ in published]
    for layer in published:
        setattr(*layer)
    try:
        yield
    finally:
        for layer in ours:
            setattr(*layer)


@contextlib.contextmanager
def arithmetic(*models: th.nn.Module) -> Iterator[None]:
    """Let networks compute as published inside a block, and as ours after it."""
    for model in models:
        model.to(memory_format=th.contiguous_format)
    try:
        with unfused():
            yield
    finally:
        for model in models:
            model.to(memory_format=th.channels_last)


@dataclass(frozen=True)
class Made:
    """Sequence that the published procedure made."""

    depths: tuple[int, ...]
    images: th.Tensor  # [amount, C, H, W], not clipped
    forwards: int  # network evaluations


class _Counted:
    """Network that counts the images that go through it."""

    def __init__(self, model: th.nn.Module) -> None:
        self.model, self.forwards = model, 0

    def __call__(self, x: th.Tensor, t: th.Tensor, **kwargs: Any) -> th.Tensor:
        self.forwards += len(x)
        return self.model(x, t, **kwargs)


def sequence(
    source: Domain,
    target: Domain,
    image: th.Tensor,
    amount: int,
    depths: tuple[int, ...] | None = None,
) -> Made:
    """Make the sequence of one image [1, C, H, W] in [-1, 1]; call it inside `arithmetic`.

    Without `depths`, which rise, the published search chooses them.
    """
    encoder, decoder = _Counted(source.model), _Counted(target.model)
    options = {"clip_denoised": False, "device": source.device}
    state, reached, images = image.to(source.device), 0, []
    walk = source.diffusion.ddim_reverse_sample_loop_progressive(encoder, state, **options)
    # As published, each feature is read on the host at once, even if the depths are given.
    features = th.cat([magnitude_bins(out["sample"]).cpu() for out in walk]).numpy()  # [T, K]
    depths = depths or depth_policies.add(features, amount).values
    for d in depths:
        part = options | {"diffway_start": reached, "diffway_end": d}
        state = source.diffusion.ddim_reverse_sample_loop(encoder, state, **part)
        part = options | {"diffway_end": d}
        images.append(target.diffusion.ddim_sample_loop(decoder, state.shape, state, **part))
        reached = d
    return Made(depths, th.cat(images).cpu(), encoder.forwards + decoder.forwards)


def count_forwards(depths: Sequence[int], levels: int) -> int:
    """Count the network evaluations of one sequence with these depths."""
    return levels + max(depths) + sum(depths)


def batches(dataset: ImageDataset, batch_size: int) -> Iterator[th.Tensor]:
    """Yield shuffled batches [N, C, H, W] for ever from a dataset of at least N images.

    Each picture is decoded when its turn comes, by a process ahead of the training, as published.
    """
    # The process is kept from pass to pass: its start would take most of the time of few pictures.
    loader = DataLoader(
        dataset, batch_size, shuffle=True, num_workers=1, drop_last=True, persistent_workers=True
    )
    while True:
        for images, _ in loader:
            yield images


def train(
    model: th.nn.Module,
    diffusion: GaussianDiffusion,
    data: Iterable[th.Tensor],
    lr: float,
    ema_rate: float,
) -> Iterator[int]:
    """Train with AdamW on batches [N, C, H, W] in [-1, 1]; call it inside `arithmetic`.

    Yields:
        number of steps done, after each step.
    """
    parameters = list(model.parameters())
    averages = [p.detach().clone() for p in parameters]
    optimizer = th.optim.AdamW(parameters, lr=lr, weight_decay=0.0, foreach=False, fused=False)
    sampler = UniformSampler(diffusion)
    for step, batch in enumerate(data, 1):
        optimizer.zero_grad(set_to_none=False)
        images = batch.to(parameters[0].device)
        t, weights = sampler.sample(len(images), images.device)
        losses = diffusion.training_losses(model, images, t)
        (losses["loss"] * weights).mean().backward()
        for name, values in losses.items():
            logger.logkv_mean(name, values.mean().item())
            for at, value in zip(t.cpu().tolist(), values.detach().cpu().tolist(), strict=True):
                logger.logkv_mean(f"{name}_q{4 * at // diffusion.num_timesteps}", value)
        grads = [p.grad for p in parameters if p.grad is not None]
        for name, tensors in {"grad_norm": grads, "param_norm": parameters}.items():
            logger.logkv_mean(name, sum(x.norm().item() ** 2 for x in tensors) ** 0.5)
        optimizer.step()
        for average, parameter in zip(averages, parameters, strict=True):
            average.mul_(ema_rate).add_(parameter.detach(), alpha=1 - ema_rate)
        yield step
