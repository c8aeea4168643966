"""Which timesteps to train on: uniformly, or more often where the loss is large.

A sampler draws timesteps t in 0 .. T - 1 and the importance weights that keep the weighted loss an
unbiased estimate of the uniform one. Its state lives on the host in float64 numpy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist

from .forward_process import ForwardProcess


class ScheduleSampler(ABC):
    """A distribution over timesteps."""

    @abstractmethod
    def weights(self) -> np.ndarray:
        """Positive weights [T], one per timestep; they need not sum to one."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs in order to draw on as before."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:  # noqa: B027
        """Go on from what `state_dict` returned.

        Args:
            state: of a sampler of the same kind and process; empty: leave the sampler fresh.
        """

    def sample(
        self,
        batch_size: int,
        device: torch.device | str,
        *,
        rng: np.random.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw timesteps for a batch.

        Args:
            batch_size: N.
            device: where the results go.
            rng: source of random numbers; numpy's global one if None, as upstream's.

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
    """Every timestep alike, with weight 1."""

    def __init__(self, diffusion: ForwardProcess) -> None:
        self.diffusion = diffusion
        self._weights = np.ones([diffusion.num_timesteps])

    def weights(self) -> np.ndarray:
        """Ones [T]."""
        return self._weights


class LossAwareSampler(ScheduleSampler):
    """A sampler that learns from the losses of training."""

    def update_with_local_losses(self, local_ts: torch.Tensor, local_losses: torch.Tensor) -> None:
        """Learn from one step of training, on every rank from the losses of all ranks.

        A collective call where torch.distributed is initialised: all ranks must make it, and
        all then hold the same state. Batch sizes may differ between ranks.

        Args:
            local_ts: this rank's timesteps, integer [N].
            local_losses: their unweighted losses [N].
        """
        pairs = torch.stack([local_ts.double(), local_losses.detach().double()], dim=1)
        gathered = _gather_rows(pairs).cpu().numpy()
        self.update_with_all_losses(gathered[:, 0].astype(int).tolist(), gathered[:, 1].tolist())

    @abstractmethod
    def update_with_all_losses(self, ts: Sequence[int], losses: Sequence[float]) -> None:
        """Learn from timesteps and their losses; must not depend on the rank.

        Args:
            ts: timesteps.
            losses: as many losses.
        """


def _gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows [n, k] of all ranks in the order of ranks, where n may differ; else the same."""
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
    """Timesteps in proportion to the root mean square of their latest losses.

    Uniform until every timestep has been seen `history_per_term` times.

    Args:
        diffusion: the process whose timesteps are drawn.
        history_per_term: how many losses per timestep to remember.
        uniform_prob: share of draws that stays uniform, so that none starves.

    Reference:
        arXiv:2102.09672, eq. 18.
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
        """Weights [T]: ones at first, later probabilities."""
        if not self._warmed_up():
            return np.ones([self.diffusion.num_timesteps])
        rms = np.sqrt(np.mean(self._loss_history**2, axis=-1))
        return (1 - self.uniform_prob) * rms / rms.sum() + self.uniform_prob / len(rms)

    def update_with_all_losses(self, ts: Sequence[int], losses: Sequence[float]) -> None:
        """Remember losses, dropping the oldest of a timestep whose memory is full.

        Infinite ones, and those that are no numbers, are not remembered: such a step is skipped.

        Args:
            ts: timesteps.
            losses: as many losses.
        """
        for t, loss in zip(ts, losses, strict=True):
            if not math.isfinite(loss):
                continue
            if self._loss_counts[t] == self.history_per_term:
                self._loss_history[t, :-1] = self._loss_history[t, 1:]
                self._loss_history[t, -1] = loss
            else:
                self._loss_history[t, self._loss_counts[t]] = loss
                self._loss_counts[t] += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the losses remembered, [T, history_per_term], and how many of each, [T]."""
        return {
            "loss_history": torch.from_numpy(self._loss_history.copy()),
            "loss_counts": torch.from_numpy(self._loss_counts.copy()),
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over remembered losses; see `ScheduleSampler.load_state_dict`."""
        if state:
            self._loss_history[:] = state["loss_history"].numpy()
            self._loss_counts[:] = state["loss_counts"].numpy()

    def _warmed_up(self) -> bool:
        return bool((self._loss_counts == self.history_per_term).all())


SCHEDULE_SAMPLERS = {"uniform": UniformSampler, "loss-second-moment": LossSecondMomentResampler}


def create_named_schedule_sampler(name: str, diffusion: ForwardProcess) -> ScheduleSampler:
    """Build a sampler by name.

    Args:
        name: one of `SCHEDULE_SAMPLERS`.
        diffusion: the process whose timesteps are drawn.

    Raises:
        ValueError: for another name.
    """
    if name not in SCHEDULE_SAMPLERS:
        known = " or ".join(map(repr, SCHEDULE_SAMPLERS))
        raise ValueError(f"schedule sampler: expected {known}, found {name!r}")
    return SCHEDULE_SAMPLERS[name](diffusion)
