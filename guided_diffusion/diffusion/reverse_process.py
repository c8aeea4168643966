"""The reverse (denoising) process p: the meaning of a network's output, and guidance.

A network is called as `model(x, t, **model_kwargs)` with x [N, C, H, W] at level alpha_bar_t and
t [N], rescaled to 0..1000 if `rescale_timesteps`. It returns C channels, or 2 C where the variance
is learned: C channels for the mean, then C for the variance.

Arguments that methods share, besides the states x and timesteps t of `forward_process`:
    model: the network.
    clip_denoised: whether each implied clean image is limited to [-1, 1].
    denoised_fn: function that edits each implied clean image before the limit applies.
    cond_fn: gradient of log p(y | x) to steer by, called as cond_fn(x, t, **model_kwargs).
    model_kwargs: further keywords of the network and of cond_fn, such as `y`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .forward_process import ForwardProcess, check_same_shape

Model = Callable[..., Tensor]
Kwargs = dict[str, Any] | None
DenoisedFn = Callable[[Tensor], Tensor] | None
CondFn = Callable[..., Tensor] | None
Moments = dict[str, Tensor]

# Upper end of the range that timesteps are rescaled to.
_RESCALED_STEPS = 1000.0


class ModelMeanType(enum.Enum):
    """Predictions that a network can make."""

    PREVIOUS_X = enum.auto()  # the mean of x_{t-1}
    START_X = enum.auto()  # the clean image x_0
    EPSILON = enum.auto()  # the noise in x_t


class ModelVarType(enum.Enum):
    """Sources of the variance of a reverse move.

    FIXED_SMALL is the posterior's variance, FIXED_LARGE is beta_t. With LEARNED the network
    predicts the log-variance. With LEARNED_RANGE it predicts the place between FIXED_SMALL (-1) and
    FIXED_LARGE (1) on the logarithmic scale (arXiv:2102.09672, eq. 15).
    """

    LEARNED = enum.auto()
    FIXED_SMALL = enum.auto()
    FIXED_LARGE = enum.auto()
    LEARNED_RANGE = enum.auto()

    @property
    def is_learned(self) -> bool:
        """Tell whether half of the network's output channels are for the variance."""
        return self in (ModelVarType.LEARNED, ModelVarType.LEARNED_RANGE)


class ReverseProcess(ForwardProcess):
    """The reverse moves p(x_{t-1} | x_t) of a network, on the schedule of a `ForwardProcess`.

    For arguments see `gaussian_diffusion.GaussianDiffusion`.
    """

    def __init__(
        self,
        betas: np.ndarray | Sequence[float],
        model_mean_type: ModelMeanType,
        model_var_type: ModelVarType,
        rescale_timesteps: bool = False,
    ) -> None:
        super().__init__(betas)
        self.model_mean_type, self.model_var_type = model_mean_type, model_var_type
        self.rescale_timesteps = rescale_timesteps
        self.log_betas = np.log(self.betas)
        # The move to the clean image keeps the small variance, because likelihood needs it.
        first_log = self.posterior_log_variance_clipped[0]
        self.large_log_variance = np.append(first_log, self.log_betas[1:])
        self.large_variance = np.append(np.exp(first_log), self.betas[1:])

    def _scale_timesteps(self, t: Tensor) -> Tensor:
        """Return timesteps as the network takes them: float32 if rescaled, else t itself."""
        return t.float() * (_RESCALED_STEPS / self.num_timesteps) if self.rescale_timesteps else t

    def _run_model(
        self, model: Model, x: Tensor, t: Tensor, model_kwargs: Kwargs
    ) -> tuple[Tensor, Tensor | None]:
        """Call the network; return its channels for the mean, and for a learned variance."""
        if t.shape != x.shape[:1]:
            raise ValueError(f"t: expected shape {tuple(x.shape[:1])}, found {tuple(t.shape)}")
        output = model(x, self._scale_timesteps(t), **(model_kwargs or {}))
        learned = self.model_var_type.is_learned
        expected = (x.shape[0], x.shape[1] * (2 if learned else 1), *x.shape[2:])
        if output.shape != expected:
            raise ValueError(
                f"network output for {self.model_var_type.name} variance: "
                f"expected shape {expected}, found {tuple(output.shape)}"
            )
        if not learned:
            return output, None
        mean_half, var_half = output.split(x.shape[1], dim=1)
        return mean_half, var_half

    def _model_variance(
        self, var_half: Tensor | None, x: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return variance and log-variance of the reverse move, each in the shape of x."""
        if self.model_var_type == ModelVarType.FIXED_LARGE:
            return self._at("large_variance", t, x), self._at("large_log_variance", t, x)
        small_log = self._at("posterior_log_variance_clipped", t, x)
        if var_half is None:
            return self._at("posterior_variance", t, x), small_log
        if self.model_var_type == ModelVarType.LEARNED:
            return torch.exp(var_half), var_half
        fraction = (var_half + 1.0) / 2.0
        log_variance = fraction * self._at("log_betas", t, x) + (1.0 - fraction) * small_log
        return torch.exp(log_variance), log_variance

    def _model_xstart(
        self,
        mean_half: Tensor,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool,
        denoised_fn: DenoisedFn = None,
    ) -> Tensor:
        """Return the clean image that the network's output implies, edited and clipped as asked."""
        xstart = mean_half
        if self.model_mean_type == ModelMeanType.EPSILON:
            xstart = self._predict_xstart_from_eps(x_t=x, t=t, eps=mean_half)
        elif self.model_mean_type == ModelMeanType.PREVIOUS_X:
            xstart = self._predict_xstart_from_xprev(x_t=x, t=t, xprev=mean_half)
        if denoised_fn is not None:
            xstart = denoised_fn(xstart)
        return xstart.clamp(-1.0, 1.0) if clip_denoised else xstart

    def p_mean_variance(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = True,
        denoised_fn: DenoisedFn = None,
        model_kwargs: Kwargs = None,
    ) -> Moments:
        """Apply the network to states, and compute p(x_{t-1} | x_t) and the implied x_0.

        Returns:
            `mean`, `variance`, `log_variance` and `pred_xstart`, each in the shape of x.

        Raises:
            ValueError: if t or the network's output has the wrong shape.

        Reference: DDPM, arXiv:2006.11239, eqs. 7, 11 and 15; variance arXiv:2102.09672, eq. 15.
        """
        mean, var_half = self._run_model(model, x, t, model_kwargs)
        variance, log_variance = self._model_variance(var_half, x, t)
        pred_xstart = self._model_xstart(mean, x, t, clip_denoised, denoised_fn)
        if self.model_mean_type != ModelMeanType.PREVIOUS_X:
            mean, _, _ = self.q_posterior_mean_variance(x_start=pred_xstart, x_t=x, t=t)
        check_same_shape("mean", mean, x)
        found = {"mean": mean, "variance": variance, "log_variance": log_variance}
        return {**found, "pred_xstart": pred_xstart}

    def predict_eps(
        self,
        model: Model,
        x: Tensor,
        t: Tensor,
        clip_denoised: bool = False,
        model_kwargs: Kwargs = None,
    ) -> Tensor:
        """Predict the noise that DDIM uses at (x, t), for any kind of network output.

        The network is called once, and no posterior is computed. Where the implied clean image is
        limited, the noise is derived from it.

        Returns:
            eps in the shape of x.

        Raises:
            ValueError: if t or the network's output has the wrong shape.
        """
        mean_half, _ = self._run_model(model, x, t, model_kwargs)
        if self.model_mean_type == ModelMeanType.EPSILON and not clip_denoised:
            return mean_half
        pred_xstart = self._model_xstart(mean_half, x, t, clip_denoised)
        return self._predict_eps_from_xstart(x, t, pred_xstart)

    def condition_mean(
        self, cond_fn: Model, p_mean_var: Moments, x: Tensor, t: Tensor, model_kwargs: Kwargs = None
    ) -> Tensor:
        """Shift the mean of a reverse move along the gradient of log p(y | x).

        Args:
            p_mean_var: result of `p_mean_variance`.

        Returns:
            The new mean, in the shape of x.

        Reference: Sohl-Dickstein et al., arXiv:1503.03585; arXiv:2105.05233, algorithm 1.
        """
        gradient = cond_fn(x, self._scale_timesteps(t), **(model_kwargs or {}))
        return p_mean_var["mean"].float() + p_mean_var["variance"] * gradient.float()

    def condition_score(
        self, cond_fn: Model, p_mean_var: Moments, x: Tensor, t: Tensor, model_kwargs: Kwargs = None
    ) -> Moments:
        """Subtract the gradient of log p(y | x) from the predicted noise, as DDIM needs it.

        Args:
            p_mean_var: result of `p_mean_variance`; left as it is.

        Returns:
            A copy of p_mean_var with the new `pred_xstart` and `mean`.

        Reference: arXiv:2105.05233, algorithm 2, after Song et al., arXiv:2011.13456.
        """
        gradient = cond_fn(x, self._scale_timesteps(t), **(model_kwargs or {}))
        eps = self._predict_eps_from_xstart(x, t, p_mean_var["pred_xstart"])
        eps = eps - self._at("sqrt_one_minus_alphas_cumprod", t, x) * gradient
        pred_xstart = self._predict_xstart_from_eps(x, t, eps)
        mean, _, _ = self.q_posterior_mean_variance(x_start=pred_xstart, x_t=x, t=t)
        return {**p_mean_var, "pred_xstart": pred_xstart, "mean": mean}
