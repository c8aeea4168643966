"""Single moves: ancestral sampling, DDIM towards the image, and DDIM towards the noise.

Each takes states x [N, C, H, W] read at level alpha_bar_t (t int64 [N]) and returns a dict of
`sample`, the states after the move, and `pred_xstart`, the clean images implied before it, each in
the shape of x. For other arguments see `reverse_process`. Denoising moves reach
`alphas_cumprod_prev[t]` (1, clean, from t = 0); encoding moves reach `alphas_cumprod_next[t]` (0,
pure noise, from t = T - 1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .reverse_process import CondFn, DenoisedFn, Kwargs, Model, Moments, ReverseProcess
from .solvers import ddim_sigma, ddim_step

_Process = TypeVar("_Process", bound="Sampler")


class Sampler(ReverseProcess):
    """A reverse process with the moves that a trained network makes possible.

    Attributes:
        noise_like: function that draws the fresh noise of a move in the shape of its states, by
            default from torch's generator. It may be replaced; see also `drawing`.
    """

    noise_like: Callable[[Tensor], Tensor] = staticmethod(lambda x: torch.randn_like(x))

    def drawing(self: _Process, noise: Callable[[Tensor], Tensor]) -> _Process:
        """Return a shallow copy of the process that draws its fresh noise from a function.

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
        model_kwargs: Kwargs = None,
    ) -> Moments:
        """Draw x_{t-1} from p(x_{t-1} | x_t), with noise from `noise_like`; with none where t is 0.

        Reference: DDPM, arXiv:2006.11239, algorithm 2; guidance see `condition_mean`.
        """
        limits: Any = {"clip_denoised": clip_denoised, "denoised_fn": denoised_fn}
        out = self.p_mean_variance(model, x, t, model_kwargs=model_kwargs, **limits)
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
        model_kwargs: Kwargs = None,
        eta: float = 0.0,
    ) -> Moments:
        """Make one DDIM move towards the image.

        Noise is drawn for every eta, 0 included, so that a seeded program meets the same random
        numbers as with upstream.

        Args:
            eta: share of fresh noise; 0 is deterministic, 1 is ancestral.

        Reference: DDIM, arXiv:2010.02502, eqs. 12 and 16; guidance see `condition_score`.
        """
        limits: Any = {"clip_denoised": clip_denoised, "denoised_fn": denoised_fn}
        out = self.p_mean_variance(model, x, t, model_kwargs=model_kwargs, **limits)
        if cond_fn is not None:
            out = self.condition_score(cond_fn, out, x, t, model_kwargs=model_kwargs)
        return self._ddim(x, t, out["pred_xstart"], "alphas_cumprod_prev", eta)

    def ddim_reverse_sample(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        model_kwargs: Kwargs = None,
        eta: float = 0.0,
        cond_fn: CondFn = None,
    ) -> Moments:
        """Make one DDIM move towards the noise: x, read at t, goes to the level of t + 1.

        Raises:
            ValueError: if eta is not 0: only the deterministic process can be run backwards.

        Reference: DDIM, arXiv:2010.02502, eqs. 12 and 14; guidance as in DDIB, arXiv:2203.08382.
        """
        if eta != 0.0:
            raise ValueError(f"encoding with DDIM: expected eta = 0, found eta = {eta}")
        limits: Any = {"clip_denoised": clip_denoised, "denoised_fn": denoised_fn}
        out = self.p_mean_variance(model, x, t, model_kwargs=model_kwargs, **limits)
        if cond_fn is not None:
            out = self.condition_score(cond_fn, out, x, t, model_kwargs=model_kwargs)
        return self._ddim(x, t, out["pred_xstart"], "alphas_cumprod_next", None)

    def _ddim(self, x: Tensor, t: Tensor, xstart: Tensor, table: str, eta: float | None) -> Moments:
        """Move to the levels of a table, with fresh noise unless eta is None."""
        eps = self._predict_eps_from_xstart(x, t, xstart)
        cur, nxt = (self._table(name, t.device)[t] for name in ("alphas_cumprod", table))
        sigma = 0.0 if eta is None else ddim_sigma(cur, nxt, eta)
        noise = None if eta is None else self.noise_like(x)
        return {"sample": ddim_step(x, cur, nxt, eps, sigma, noise), "pred_xstart": xstart}
