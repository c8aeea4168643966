"""Single moves: ancestral sampling, DDIM towards the image, and DDIM towards the noise.

Each takes states x [N, C, H, W] read at level alpha_bar_t (t int64 [N]) and returns a dict of
`sample`, the states after the move, and `pred_xstart`, the clean images implied before it.
Denoising moves reach `alphas_cumprod_prev[t]` (1, clean, from t = 0); encoding moves reach
`alphas_cumprod_next[t]` (0, pure noise, from t = T - 1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .reverse_process import CondFn, DenoisedFn, Model, ModelKwargs, ReverseProcess
from .solvers import ddim_sigma, ddim_step

_Process = TypeVar("_Process", bound="Sampler")


class Sampler(ReverseProcess):
    """A reverse process with the moves that a trained network makes possible.

    For arguments see `ReverseProcess`.

    Attributes:
        noise_like: function that draws the fresh noise of a move in the shape of its states, by
            default from torch's generator. It may be replaced; see also `drawing`.
    """

    noise_like: Callable[[Tensor], Tensor] = staticmethod(lambda x: torch.randn_like(x))

    def drawing(self: _Process, noise: Callable[[Tensor], Tensor]) -> _Process:
        """Return a copy of the process that draws its fresh noise from a function.

        The copy is shallow, and this process draws as before.

        Args:
            noise: function from states [N, ...] to standard normal noise of their shape.
        """
        process = copy.copy(self)
        process.noise_like = noise
        return process

    def p_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
    ) -> dict[str, Tensor]:
        """Draw x_{t-1} from p(x_{t-1} | x_t), with noise from `noise_like`.

        Args:
            model: the network.
            x: states [N, C, ...] at t.
            t: timesteps, int64 [N]; no noise is added where it is 0.
            clip_denoised: limit the implied clean image to [-1, 1].
            denoised_fn: edits the implied clean image before it is limited.
            cond_fn: gradient of log p(y | x) to steer by, see `condition_mean`.
            model_kwargs: further keywords of the network and of cond_fn.

        Returns:
            `sample` and `pred_xstart`, each in the shape of x.

        Reference:
            DDPM, arXiv:2006.11239, algorithm 2.
        """
        out = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        noise = self.noise_like(x)
        mean = out["mean"]
        if cond_fn is not None:
            mean = self.condition_mean(cond_fn, out, x, t, model_kwargs=model_kwargs)
        not_last = (t != 0).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        sample = mean + not_last * torch.exp(0.5 * out["log_variance"]) * noise
        return {"sample": sample, "pred_xstart": out["pred_xstart"]}

    def ddim_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        cond_fn: CondFn = None,
        model_kwargs: ModelKwargs = None,
        eta: float = 0.0,
    ) -> dict[str, Tensor]:
        """Make one DDIM move towards the image.

        Noise is drawn for every eta, 0 included, so that a seeded program meets the same random
        numbers as with upstream.

        Args:
            model: the network.
            x: states [N, C, ...] at t.
            t: timesteps, int64 [N].
            clip_denoised: limit the implied clean image to [-1, 1].
            denoised_fn: edits the implied clean image before it is limited.
            cond_fn: gradient of log p(y | x) to steer by, see `condition_score`.
            model_kwargs: further keywords of the network and of cond_fn.
            eta: share of fresh noise; 0 is deterministic, 1 is ancestral.

        Returns:
            `sample` and `pred_xstart`, each in the shape of x.

        Reference:
            DDIM, arXiv:2010.02502, eqs. 12 and 16.
        """
        out = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if cond_fn is not None:
            out = self.condition_score(cond_fn, out, x, t, model_kwargs=model_kwargs)
        eps = self._predict_eps_from_xstart(x, t, out["pred_xstart"])
        level_cur = self._table("alphas_cumprod", t.device)[t]
        level_next = self._table("alphas_cumprod_prev", t.device)[t]
        sigma = ddim_sigma(level_cur, level_next, eta)
        sample = ddim_step(x, level_cur, level_next, eps, sigma, self.noise_like(x))
        return {"sample": sample, "pred_xstart": out["pred_xstart"]}

    def ddim_reverse_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        model_kwargs: ModelKwargs = None,
        eta: float = 0.0,
        cond_fn: CondFn = None,
    ) -> dict[str, Tensor]:
        """Make one DDIM move towards the noise: x, read at t, goes to the level of t + 1.

        Args:
            model: the network.
            x: states [N, C, ...] at t.
            t: timesteps, int64 [N].
            clip_denoised: limit the implied clean image to [-1, 1].
            denoised_fn: edits the implied clean image before it is limited.
            model_kwargs: further keywords of the network and of cond_fn.
            eta: must be 0; only the deterministic process can be run backwards.
            cond_fn: gradient of log p(y | x) to steer by, see `condition_score`.

        Returns:
            `sample` and `pred_xstart`, each in the shape of x.

        Raises:
            ValueError: if eta is not 0.

        Reference:
            DDIM, arXiv:2010.02502, eqs. 12 and 14; guided by DDIB, arXiv:2203.08382.
        """
        if eta != 0.0:
            raise ValueError(f"encoding with DDIM: expected eta = 0, found eta = {eta}")
        out = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if cond_fn is not None:
            out = self.condition_score(cond_fn, out, x, t, model_kwargs=model_kwargs)
        eps = self._predict_eps_from_xstart(x, t, out["pred_xstart"])
        level_cur = self._table("alphas_cumprod", t.device)[t]
        level_next = self._table("alphas_cumprod_next", t.device)[t]
        sample = ddim_step(x, level_cur, level_next, eps)
        return {"sample": sample, "pred_xstart": out["pred_xstart"]}
