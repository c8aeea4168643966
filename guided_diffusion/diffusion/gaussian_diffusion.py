"""The diffusion process with its training losses and its likelihood bound.

This is the module to import from. The class is built up in layers, a module each:
`forward_process` (q and its tables), `reverse_process` (meaning of a network's output, guidance),
`moves` (single steps), `loops` (walks over many steps), and here losses and likelihood.

Conventions, as in `forward_process`: t = 0 is the cleanest of 0 .. T - 1, images are [N, C, H, W]
in [-1, 1], tables are float64.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..networks.nn import mean_flat
from .loops import Trajectories
from .losses import discretized_gaussian_log_likelihood, normal_kl
from .reverse_process import Kwargs, Model, ModelMeanType, ModelVarType

# The variational term of RESCALED_MSE is weighted by T over this: arXiv:2102.09672, section 3.1,
# takes lambda = 0.001 on a sum of T terms, and one term is drawn here.
_VB_WEIGHT_STEPS = 1000.0


class LossType(enum.Enum):
    """Losses that training can minimise; the KL types are the variational bound itself."""

    MSE = enum.auto()  # squared error, plus the bound's term where the variance is learned
    RESCALED_MSE = enum.auto()  # the same with the bound's term scaled to weight 0.001
    KL = enum.auto()  # the bound's term at t
    RESCALED_KL = enum.auto()  # T times that: an estimate of the whole bound

    def is_vb(self) -> bool:
        """Tell whether the loss is the variational bound alone."""
        return self in (LossType.KL, LossType.RESCALED_KL)


class GaussianDiffusion(Trajectories):
    """A Gaussian diffusion process: training, sampling, encoding and likelihood.

    Args:
        betas: variances [T] of the noise of each move, in (0, 1], cleanest first.
        model_mean_type: prediction that the network makes.
        model_var_type: source of the variance of reverse moves.
        loss_type: loss that `training_losses` returns as `loss`.
        rescale_timesteps: whether the network is given t * 1000 / T instead of t.

    Raises:
        ValueError: if betas is empty, of another shape, or out of this range.

    Reference: DDPM, arXiv:2006.11239; arXiv:2102.09672; arXiv:2105.05233.
    """

    def __init__(
        self,
        *,
        betas: np.ndarray | Sequence[float],
        model_mean_type: ModelMeanType,
        model_var_type: ModelVarType,
        loss_type: LossType,
        rescale_timesteps: bool = False,
    ) -> None:
        super().__init__(betas, model_mean_type, model_var_type, rescale_timesteps)
        self.loss_type = loss_type

    def training_losses(
        self,
        model: Model,
        x_start: Tensor,
        t: Tensor,
        model_kwargs: Kwargs = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss of each image at its timestep.

        For arguments see `forward_process` and `reverse_process`.

        Returns:
            `loss` [N]; for the squared-error types also `mse`, and `vb` (bits per dimension,
            weighted as it enters the loss) where the variance is learned.

        Raises:
            ValueError: if the noise, t or the network's output has the wrong shape.

        Reference: DDPM, arXiv:2006.11239, eq. 14; hybrid loss arXiv:2102.09672, eq. 16.
        """
        if noise is None:
            noise = torch.randn_like(x_start)
        x_t = self.q_sample(x_start, t, noise=noise)
        places: Any = {"x_start": x_start, "x_t": x_t, "t": t, "clip_denoised": False}
        if self.loss_type.is_vb():
            terms = self._vb_terms_bpd(model=model, model_kwargs=model_kwargs, **places)
            whole = self.loss_type == LossType.RESCALED_KL
            return {"loss": terms["output"] * (self.num_timesteps if whole else 1)}
        mean_half, var_half = self._run_model(model, x_t, t, model_kwargs)
        target = noise
        if self.model_mean_type == ModelMeanType.START_X:
            target = x_start
        elif self.model_mean_type == ModelMeanType.PREVIOUS_X:
            target, _, _ = self.q_posterior_mean_variance(x_start=x_start, x_t=x_t, t=t)
        mse = mean_flat((target - mean_half) ** 2)
        if var_half is None:
            return {"mse": mse, "loss": mse}
        # The mean is detached: it learns from the squared error only (arXiv:2102.09672, 3.1).
        frozen = torch.cat([mean_half.detach(), var_half], dim=1)
        vb = self._vb_terms_bpd(model=lambda *_: frozen, **places)["output"]
        if self.loss_type == LossType.RESCALED_MSE:
            vb = vb * (self.num_timesteps / _VB_WEIGHT_STEPS)
        return {"vb": vb, "mse": mse, "loss": mse + vb}

    def _vb_terms_bpd(
        self,
        model: Model,
        x_start: Tensor,
        x_t: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        model_kwargs: Kwargs = None,
    ) -> dict[str, Tensor]:
        """Compute the term of the variational bound at t, in bits per dimension.

        Returns:
            `output` [N], the KL of the reverse move or, at t = 0, the negative log-likelihood
            of the 8-bit image; and `pred_xstart` in the shape of x_t.

        Reference: DDPM, arXiv:2006.11239, eq. 5; discrete decoder eq. 13.
        """
        true_mean, _, true_log = self.q_posterior_mean_variance(x_start=x_start, x_t=x_t, t=t)
        limits: Any = {"clip_denoised": clip_denoised, "model_kwargs": model_kwargs}
        out = self.p_mean_variance(model, x_t, t, **limits)
        mean, log_variance = out["mean"], out["log_variance"]
        kl = normal_kl(true_mean, true_log, mean, log_variance)
        scales = 0.5 * log_variance
        nll = -discretized_gaussian_log_likelihood(x_start, means=mean, log_scales=scales)
        nats = torch.where(t == 0, mean_flat(nll), mean_flat(kl))
        return {"output": nats / math.log(2.0), "pred_xstart": out["pred_xstart"]}

    def _prior_bpd(self, x_start: Tensor) -> Tensor:
        """Compute the KL of q(x_T | x_0) from a standard normal, in bits per dimension [N]."""
        t = torch.full((x_start.shape[0],), self.num_timesteps - 1, device=x_start.device)
        mean, _, log_variance = self.q_mean_variance(x_start, t)
        return mean_flat(normal_kl(mean, log_variance, 0.0, 0.0)) / math.log(2.0)

    def calc_bpd_loop(
        self,
        model: Model,
        x_start: Tensor,
        clip_denoised: bool = True,
        model_kwargs: Kwargs = None,
    ) -> dict[str, Tensor]:
        """Compute the variational bound on the negative log-likelihood, term by term.

        Each term is estimated with one draw of noise from `noise_like`; the images must come from
        8-bit values.

        Returns:
            `total_bpd` and `prior_bpd` [N]; the bound's terms `vb`, the squared error
            `xstart_mse` of the clean image and `mse` of the noise [N, T], from t = T - 1 in column
            0 to t = 0 in the last.

        Reference: DDPM, arXiv:2006.11239, eq. 5.
        """
        terms: dict[str, list[Tensor]] = {"vb": [], "xstart_mse": [], "mse": []}
        for index in reversed(range(self.num_timesteps)):
            t = torch.full((x_start.shape[0],), index, device=x_start.device)
            noise = self.noise_like(x_start)
            x_t = self.q_sample(x_start=x_start, t=t, noise=noise)
            places: Any = {"x_start": x_start, "x_t": x_t, "t": t, "clip_denoised": clip_denoised}
            with torch.no_grad():
                out = self._vb_terms_bpd(model, model_kwargs=model_kwargs, **places)
            eps = self._predict_eps_from_xstart(x_t, t, out["pred_xstart"])
            terms["vb"].append(out["output"])
            terms["xstart_mse"].append(mean_flat((out["pred_xstart"] - x_start) ** 2))
            terms["mse"].append(mean_flat((eps - noise) ** 2))
        stacked = {name: torch.stack(values, dim=1) for name, values in terms.items()}
        prior = self._prior_bpd(x_start)
        return {"total_bpd": stacked["vb"].sum(dim=1) + prior, "prior_bpd": prior, **stacked}
