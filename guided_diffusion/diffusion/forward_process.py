"""The forward (noising) process q: its tables, and the closed forms that follow from them.

Conventions: timesteps t are int64 [N] in 0 .. T - 1, one per image. A state x_t has the level
alpha_bar_t = `alphas_cumprod[t]`: t = 0 is one move away from the clean image (level 1), and
t = T - 1 is the noisiest. Images are [N, C, H, W] in [-1, 1], but any [N, ...] works.

Tables are float64 numpy attributes of shape [T]. Their copies on devices are cached; an entry is
looked up in float64 and then cast to float32.

Arguments that methods share:
    x_start: clean images [N, ...].
    x_t: states of these images at t, shape of x_start.
    t: timesteps, int64 [N].
    noise: standard normal noise, shape of x_start; drawn if None.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..runtime.execution import exact


class DeviceTable:
    """A 1-d array with a cached copy on each device that uses it."""

    def __init__(self, values: np.ndarray | Sequence[int]) -> None:
        self._values = np.asarray(values)
        self._copies: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """Return the array as a tensor on a device; only the first call copies it there."""
        if device not in self._copies:
            copy = torch.as_tensor(self._values)
            if exact(device) != device:  # entries are cast to float32 anyway
                copy = copy.float() if copy.is_floating_point() else copy
            self._copies[device] = copy.to(device)
        return self._copies[device]


def _extract_into_tensor(
    arr: np.ndarray | Tensor, timesteps: Tensor, broadcast_shape: Sequence[int]
) -> Tensor:
    """Look up a table's entries for a batch of timesteps, ready to multiply a batch of states.

    Args:
        arr: table [T]; an array, or a tensor on the device of `timesteps`.
        timesteps: int64 [N].
        broadcast_shape: (N, ...).

    Returns:
        Float32 tensor of `broadcast_shape`, constant within each image.
    """
    device = timesteps.device
    place = device if isinstance(arr, Tensor) else exact(device)
    values = torch.as_tensor(arr, device=place)[timesteps.to(place)].float().to(device)
    return values.reshape(-1, *[1] * (len(broadcast_shape) - 1)).expand(broadcast_shape)


def check_same_shape(name: str, found: Tensor, expected: Tensor) -> None:
    """Raise ValueError unless both tensors have the same shape."""
    if found.shape != expected.shape:
        shapes = f"expected shape {tuple(expected.shape)}, found {tuple(found.shape)}"
        raise ValueError(f"{name}: {shapes}")


class ForwardProcess:
    """The chain q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t) and its marginals.

    Args:
        betas: variances [T] of the noise of each move, in (0, 1], cleanest first.

    Raises:
        ValueError: if betas is empty, of another shape, or out of this range.

    Reference: DDPM, arXiv:2006.11239, section 2.
    """

    def __init__(self, betas: np.ndarray | Sequence[float]) -> None:
        self.betas = betas = np.array(betas, dtype=np.float64)
        if betas.ndim != 1 or betas.size == 0:
            raise ValueError(f"betas: expected a non-empty array of shape [T], found {betas.shape}")
        if not ((betas > 0) & (betas <= 1)).all():
            found = f"{betas.min():g} .. {betas.max():g}"
            raise ValueError(f"betas: expected values in (0, 1], found {found}")
        self.num_timesteps = len(betas)
        self._tables: dict[str, DeviceTable] = {}
        self.alphas_cumprod = alphas_cumprod = np.cumprod(1.0 - betas)
        self.alphas_cumprod_prev = np.append(1.0, alphas_cumprod[:-1])
        self.alphas_cumprod_next = np.append(alphas_cumprod[1:], 0.0)
        self.sqrt_alphas_cumprod = np.sqrt(alphas_cumprod)
        self.one_minus_alphas_cumprod = rest = 1.0 - alphas_cumprod
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(rest)
        self.log_one_minus_alphas_cumprod = np.log(rest)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1.0 / alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1.0 / alphas_cumprod - 1.0)
        # q(x_{t-1} | x_t, x_0); DDPM, eqs. 6 and 7.
        prev = self.alphas_cumprod_prev
        self.posterior_variance = self.betas * (1.0 - prev) / rest
        # The variance at t = 0 is zero, so the log-variance of t = 1 stands in its place.
        second = self.posterior_variance[1] if self.num_timesteps > 1 else self.betas[0]
        self.posterior_log_variance_clipped = np.log(np.append(second, self.posterior_variance[1:]))
        self.posterior_mean_coef1 = self.betas * np.sqrt(prev) / rest
        self.posterior_mean_coef2 = (1.0 - prev) * np.sqrt(1.0 - self.betas) / rest

    def _table(self, name: str, device: torch.device) -> Tensor:
        """Return the table with the name of an attribute, on a device."""
        if name not in self._tables:
            self._tables[name] = DeviceTable(getattr(self, name))
        return self._tables[name].on(device)

    def _at(self, name: str, t: Tensor, x: Tensor) -> Tensor:
        """Look up entries of a table at t [N]; float32 in the shape of x [N, ...]."""
        return _extract_into_tensor(self._table(name, t.device), t, x.shape)

    def q_mean_variance(self, x_start: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute mean, variance and log-variance of q(x_t | x_0), each in the shape of x_start.

        Reference: DDPM, arXiv:2006.11239, eq. 4.
        """
        mean = self._at("sqrt_alphas_cumprod", t, x_start) * x_start
        variance = self._at("one_minus_alphas_cumprod", t, x_start)
        return mean, variance, self._at("log_one_minus_alphas_cumprod", t, x_start)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """Noise clean images to states x_t at level alpha_bar_t.

        Raises:
            ValueError: if the noise has another shape.

        Reference: DDPM, arXiv:2006.11239, eq. 4.
        """
        if noise is None:
            noise = torch.randn_like(x_start)
        check_same_shape("noise", noise, x_start)
        signal = self._at("sqrt_alphas_cumprod", t, x_start) * x_start
        return signal + self._at("sqrt_one_minus_alphas_cumprod", t, x_start) * noise

    def q_posterior_mean_variance(
        self, x_start: Tensor, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute mean, variance and clipped log-variance of q(x_{t-1} | x_t, x_0).

        Returns:
            Three tensors in the shape of x_t. At t = 0, where the log-variance would be -inf, it
            is the log-variance of t = 1.

        Raises:
            ValueError: if the two shapes differ.

        Reference: DDPM, arXiv:2006.11239, eqs. 6 and 7.
        """
        check_same_shape("x_start", x_start, x_t)
        mean = self._at("posterior_mean_coef1", t, x_t) * x_start
        mean = mean + self._at("posterior_mean_coef2", t, x_t) * x_t
        variance = self._at("posterior_variance", t, x_t)
        return mean, variance, self._at("posterior_log_variance_clipped", t, x_t)

    def _predict_xstart_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Compute the clean image from a state and its noise (q_sample solved for x_start)."""
        check_same_shape("eps", eps, x_t)
        signal = self._at("sqrt_recip_alphas_cumprod", t, x_t) * x_t
        return signal - self._at("sqrt_recipm1_alphas_cumprod", t, x_t) * eps

    def _predict_eps_from_xstart(self, x_t: Tensor, t: Tensor, pred_xstart: Tensor) -> Tensor:
        """Compute the noise from a state and its clean image (q_sample solved for noise)."""
        signal = self._at("sqrt_recip_alphas_cumprod", t, x_t) * x_t
        return (signal - pred_xstart) / self._at("sqrt_recipm1_alphas_cumprod", t, x_t)

    def _predict_xstart_from_xprev(self, x_t: Tensor, t: Tensor, xprev: Tensor) -> Tensor:
        """Compute the clean image from a state and its posterior mean (DDPM, eq. 7 for x_0)."""
        check_same_shape("xprev", xprev, x_t)
        without_state = xprev - self._at("posterior_mean_coef2", t, x_t) * x_t
        return without_state / self._at("posterior_mean_coef1", t, x_t)
