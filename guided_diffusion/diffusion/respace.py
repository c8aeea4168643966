"""A diffusion process that visits only some timesteps of the process that a network knows.

A respaced process has its own timesteps t = 0 .. S - 1. Its betas are such that it visits the
levels of the timesteps that are kept; the network is still given the original timesteps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .forward_process import DeviceTable
from .gaussian_diffusion import GaussianDiffusion
from .reverse_process import Model


def _ddim_timesteps(num_timesteps: int, count: int) -> set[int]:
    """Choose every k-th timestep from 0 on, for the smallest k that gives `count` timesteps."""
    for stride in range(1, num_timesteps):
        steps = range(0, num_timesteps, stride)
        if len(steps) == count:
            return set(steps)
    expected = f"ddimN with N timesteps of {num_timesteps} at a whole stride"
    raise ValueError(f"timestep respacing: expected {expected}, found ddim{count}")


def _parse_counts(section_counts: str) -> list[int]:
    try:
        return [int(part) for part in section_counts.split(",")]
    except ValueError:
        expected = "'ddimN' or numbers of steps such as '10,15,20'"
        raise ValueError(
            f"timestep respacing: expected {expected}, found {section_counts!r}"
        ) from None


def _section(start: int, size: int, count: int) -> set[int]:
    """Choose `count` timesteps of start .. start + size - 1 evenly, both ends included."""
    if not 0 <= count <= size:
        expected = f"0 to {size} steps in the section that starts at timestep {start}"
        raise ValueError(f"timestep respacing: expected {expected}, found {count}")
    stride = (size - 1) / (count - 1) if count > 1 else 1.0
    steps, position = set(), 0.0
    for _ in range(count):  # a running sum: its rounding decides ties as in published runs
        steps.add(start + round(position))
        position += stride
    return steps


def space_timesteps(num_timesteps: int, section_counts: str | Iterable[int]) -> set[int]:
    """Choose timesteps of a process to keep.

    Args:
        num_timesteps: number of timesteps of the original process, T.
        section_counts: number of timesteps to keep in each of several sections, cleanest first, as
            a list or as "10,15,20"; sections are of nearly equal length, the first T mod sections
            one longer. Or "ddimN": N timesteps at one whole stride, as in the DDIM paper.

    Returns:
        The timesteps that are kept, each in 0 .. T - 1.

    Raises:
        ValueError: if a section has too few timesteps, no stride gives N timesteps, no timestep
            would be kept, or the text does not parse.

    Reference: arXiv:2102.09672, section 4; DDIM, arXiv:2010.02502, appendix D.2.
    """
    if not isinstance(section_counts, str):
        counts = list(section_counts)
    else:
        counts = _parse_counts(section_counts.removeprefix("ddim"))
        if section_counts.startswith("ddim"):
            if len(counts) != 1:
                expected = "expected one number after ddim"
                raise ValueError(f"timestep respacing: {expected}, found {section_counts!r}")
            return _ddim_timesteps(num_timesteps, counts[0])
    size, longer = divmod(num_timesteps, max(len(counts), 1))
    steps: set[int] = set()
    start = 0
    for i, count in enumerate(counts):
        length = size + (i < longer)
        steps |= _section(start, length, count)
        start += length
    if not steps:
        raise ValueError(f"timestep respacing: expected at least one step, found {section_counts}")
    return steps


class SpacedDiffusion(GaussianDiffusion):
    """A `GaussianDiffusion` on a subset of the timesteps of a base process.

    Args:
        use_timesteps: timesteps of the base process to keep, each in 0 .. T - 1.
        **kwargs: arguments of the base process, see `GaussianDiffusion`.

    Raises:
        ValueError: if no timestep is kept, or one is outside the base process.
    """

    def __init__(self, use_timesteps: Iterable[int], **kwargs: Any) -> None:
        self.use_timesteps = {int(t) for t in use_timesteps}
        self.original_num_steps = len(kwargs["betas"])
        self.timestep_map = sorted(self.use_timesteps)
        kept, known = self.timestep_map, range(self.original_num_steps)
        if not kept or not self.use_timesteps <= set(known):
            found = f"{kept[0]} .. {kept[-1]}" if kept else "none"
            raise ValueError(f"use_timesteps: expected some of 0 .. {known[-1]}, found {found}")
        self._device_map = DeviceTable(kept)
        # Betas that take each kept level to the next: 1 - alpha_bar_t / alpha_bar_(t before).
        levels = np.cumprod(1.0 - np.asarray(kwargs["betas"], dtype=np.float64))[self.timestep_map]
        kwargs["betas"] = 1.0 - levels / np.append(1.0, levels[:-1])
        super().__init__(**kwargs)

    def p_mean_variance(self, model: Model, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Call the network at original timesteps; see `GaussianDiffusion`."""
        return super().p_mean_variance(self._wrap_model(model), *args, **kwargs)

    def predict_eps(self, model: Model, *args: Any, **kwargs: Any) -> Tensor:
        """Call the network at original timesteps; see `GaussianDiffusion`."""
        return super().predict_eps(self._wrap_model(model), *args, **kwargs)

    def training_losses(self, model: Model, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Call the network at original timesteps; see `GaussianDiffusion`."""
        return super().training_losses(self._wrap_model(model), *args, **kwargs)

    def condition_mean(self, cond_fn: Model, *args: Any, **kwargs: Any) -> Tensor:
        """Call cond_fn at original timesteps; see `GaussianDiffusion`."""
        return super().condition_mean(self._wrap_model(cond_fn), *args, **kwargs)

    def condition_score(self, cond_fn: Model, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Call cond_fn at original timesteps; see `GaussianDiffusion`."""
        return super().condition_score(self._wrap_model(cond_fn), *args, **kwargs)

    def network_timesteps(self, t: Tensor) -> Tensor:
        """Return the timesteps [N] that a network gets for t: original ones, rescaled if asked."""
        return self._wrap_model(lambda x, timesteps: timesteps)(t, t)

    def _wrap_model(self, model: Model) -> _WrappedModel:
        if isinstance(model, _WrappedModel):
            return model
        scaling = self.rescale_timesteps, self.original_num_steps
        return _WrappedModel(model, self._device_map, *scaling)

    def _scale_timesteps(self, t: Tensor) -> Tensor:
        """Return t: the wrapped model does the scaling, by the original number of steps."""
        return t


class _WrappedModel:
    """Network (or cond_fn) that is called with the timesteps of a respaced process.

    Args:
        timestep_map: original timestep of each timestep of the respaced process, rising.
        rescale_timesteps: whether the network is given t * 1000 / T instead of t.
        original_num_steps: number of timesteps of the original process, T.
    """

    def __init__(
        self,
        model: Model,
        timestep_map: Sequence[int] | DeviceTable,
        rescale_timesteps: bool,
        original_num_steps: int,
    ) -> None:
        if not isinstance(timestep_map, DeviceTable):
            timestep_map = DeviceTable(timestep_map)
        self.model, self.timestep_map = model, timestep_map
        self.rescale_timesteps, self.original_num_steps = rescale_timesteps, original_num_steps

    def __call__(self, x: Tensor, ts: Tensor, **kwargs: Any) -> Tensor:
        original = self.timestep_map.on(ts.device)[ts].to(ts.dtype)
        if self.rescale_timesteps:
            original = original.float() * (1000.0 / self.original_num_steps)
        return self.model(x, original, **kwargs)
