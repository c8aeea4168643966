"""Samplers of the timesteps to train on: uniform, or more often where the loss is large.

A sampler draws timesteps t in 0 .. T - 1, and the importance weights that keep the weighted loss an
unbiased estimate of the loss under uniform timesteps. Its state is float64 numpy on the host.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..runtime.execution import exact
from .forward_process import ForwardProcess


class ScheduleSampler(ABC):
    """Base of samplers, which draw timesteps from a distribution."""

    @abstractmethod
    def weights(self) -> np.ndarray:
        """Return positive weights [T], one per timestep; they need not sum to one."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state from which a resumed run draws as an unbroken run would."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore a `state_dict`; an empty one changes nothing."""

    def sample(
        self, batch_size: int, device: torch.device | str, *, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw timesteps for a batch.

        Args:
            batch_size: number of timesteps, N.
            device: device of the results.
            rng: source of random numbers; None: numpy's global one, as in upstream.

        Returns:
            Timesteps, int64 [N], and the weights of their losses, float32 [N]: 1 / (T p_t).
        """
        weights = self.weights()
        p = weights / weights.sum()
        indices = (rng or np.random).choice(len(p), size=batch_size, p=p)
        importance = 1.0 / (len(p) * p[indices])
        return (
            torch.from_numpy(indices).to(device, torch.int64),
            torch.from_numpy(importance).to(device, torch.float32),
        )


class UniformSampler(ScheduleSampler):
    """Sampler that draws every timestep alike, with weight 1."""

    def __init__(self, diffusion: ForwardProcess) -> None:
        self.diffusion = diffusion
        self._weights = np.ones([diffusion.num_timesteps])

    def weights(self) -> np.ndarray:
        """Return ones [T]."""
        return self._weights


class LossAwareSampler(ScheduleSampler):
    """Base of samplers that learn from the losses of training."""

    def update_with_local_losses(self, local_ts: Tensor, local_losses: Tensor) -> None:
        """Learn from one step of training, on every rank from the losses of all ranks.

        Where torch.distributed is initialised, all ranks must make this call together, and all
        then hold the same state. Batch sizes may differ between ranks.

        Args:
            local_ts: timesteps of this rank, integer [N].
            local_losses: unweighted losses at these timesteps [N].
        """
        rows = (local_ts, local_losses.detach())
        pairs = torch.stack([row.to(exact(row.device)).double() for row in rows], dim=1)
        gathered = _gather_rows(pairs).cpu().numpy()
        self.update_with_all_losses(gathered[:, 0].astype(int).tolist(), gathered[:, 1].tolist())

    @abstractmethod
    def update_with_all_losses(self, ts: Sequence[int], losses: Sequence[float]) -> None:
        """Learn from timesteps and the loss at each, in the same way on every rank."""


def _gather_rows(rows: Tensor) -> Tensor:
    """Gather the rows [n, k] of all ranks, in the order of ranks; n may differ between them."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    padded = rows.new_zeros(max(sizes), rows.shape[1])
    padded[: len(rows)] = rows
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class LossSecondMomentResampler(LossAwareSampler):
    """Sampler of timesteps in proportion to the root mean square of their latest losses.

    It draws uniformly until each timestep has been seen `history_per_term` times.

    Args:
        diffusion: the process whose timesteps are drawn.
        history_per_term: number of losses to remember per timestep.
        uniform_prob: share of draws that stays uniform, so that every timestep is drawn at times.

    Reference: arXiv:2102.09672, eq. 18.
    """

    def __init__(
        self, diffusion: ForwardProcess, history_per_term: int = 10, uniform_prob: float = 0.001
    ) -> None:
        self.diffusion = diffusion
        self.history_per_term = history_per_term
        self.uniform_prob = uniform_prob
        self._loss_history = np.zeros([diffusion.num_timesteps, history_per_term])
        self._loss_counts = np.zeros([diffusion.num_timesteps], dtype=np.int64)

    def weights(self) -> np.ndarray:
        """Return weights [T]: ones at first, later probabilities."""
        if not self._warmed_up():
            return np.ones([self.diffusion.num_timesteps])
        rms = np.sqrt(np.mean(self._loss_history**2, axis=-1))
        return (1 - self.uniform_prob) * rms / rms.sum() + self.uniform_prob / len(rms)

    def update_with_all_losses(self, ts: Sequence[int], losses: Sequence[float]) -> None:
        """Remember losses; where the memory of a timestep is full, forget its oldest loss.

        Losses that are infinite or NaN are not remembered, as training skips their steps.
        """
        for t, loss in zip(ts, losses, strict=True):
            if not math.isfinite(loss):
                continue
            if self._loss_counts[t] == self.history_per_term:
                self._loss_history[t] = np.append(self._loss_history[t, 1:], loss)
            else:
                self._loss_history[t, self._loss_counts[t]] = loss
                self._loss_counts[t] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Return the remembered losses [T, history_per_term] and their count [T]."""
        state = {"loss_history": self._loss_history, "loss_counts": self._loss_counts}
        return {name: torch.from_numpy(values.copy()) for name, values in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore remembered losses; see `ScheduleSampler.load_state_dict`.

        Raises:
            ValueError: if the counts are not those of such losses.
        """
        if state:
            counts = state["loss_counts"]
            if bool((counts < 0).any() or (counts > self.history_per_term).any()):
                expected = f"expected counts of 0 to {self.history_per_term} remembered losses"
                raise ValueError(f"loss_counts: {expected}, got {counts.min()} to {counts.max()}")
            self._loss_history[:] = state["loss_history"].numpy()
            self._loss_counts[:] = state["loss_counts"].numpy()

    def _warmed_up(self) -> bool:
        return bool((self._loss_counts == self.history_per_term).all())


# Functions, which look the classes up when they are called: programs replace them.
SCHEDULE_SAMPLERS: dict[str, Callable[[ForwardProcess], ScheduleSampler]] = {
    "uniform": lambda diffusion: UniformSampler(diffusion),
    "loss-second-moment": lambda diffusion: LossSecondMomentResampler(diffusion),
}


def create_named_schedule_sampler(name: str, diffusion: ForwardProcess) -> ScheduleSampler:
    """Build the timestep sampler of a name, a key of `SCHEDULE_SAMPLERS`, for a process."""
    if name not in SCHEDULE_SAMPLERS:
        known = " or ".join(map(repr, SCHEDULE_SAMPLERS))
        raise ValueError(f"schedule sampler: expected {known}, found {name!r}")
    return SCHEDULE_SAMPLERS[name](diffusion)
