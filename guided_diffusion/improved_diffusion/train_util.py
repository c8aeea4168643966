"""The training loop with the methods and attributes of improved-diffusion's loop."""

from typing import Any

import numpy as np
import torch as th

from .. import logger, train_util
from .._porch import star_of
from ..fp16_util import MixedPrecisionTrainer
from ..train_util import *
from ..train_util import find_resume_checkpoint
from .fp16_util import (
    make_master_params,
    master_params_to_model_params,
    model_grads_to_master_grads,
    unflatten_master_params,
    zero_grad,
)

__all__ = star_of(__name__)


def _trainer_attribute(name: str) -> Any:
    """Make a property that reads and sets an attribute of the loop's trainer."""
    return property(
        lambda loop: getattr(loop.mp_trainer, name),
        lambda loop, value: setattr(loop.mp_trainer, name, value),
    )


class TrainLoop(train_util.TrainLoop):
    """`guided_diffusion.train_util.TrainLoop` with improved-diffusion's attributes.

    Attributes:
        model_params: the parameters of the model.
        master_params: parameters that the optimizer moves: with use_fp16 one flat float32 copy of
            all, else the parameters of the model.
        lg_loss_scale: base-2 logarithm of the loss scale of use_fp16.
    """

    master_params = _trainer_attribute("master_params")
    lg_loss_scale = _trainer_attribute("lg_loss_scale")

    def _create_trainer(self) -> MixedPrecisionTrainer:
        self.mp_trainer = MixedPrecisionTrainer(
            model=self.model, fp16_scale_growth=self.fp16_scale_growth
        )
        self.model_params = self.mp_trainer.model_params
        if self.use_fp16:
            self.mp_trainer.use_fp16 = True
            self.mp_trainer.param_groups_and_shapes = [([*self.model.named_parameters()], (-1,))]
            self._setup_fp16()
        return self.mp_trainer

    def _find_elsewhere(self) -> str | None:
        return find_resume_checkpoint()  # looked up here: a program may replace this module's

    def _setup_fp16(self) -> None:
        self.master_params = make_master_params(self.model_params)
        self.model.convert_to_fp16()

    def _optimize(self) -> None:
        if self.use_fp16:
            self.optimize_fp16()
        else:
            self.optimize_normal()

    def optimize_fp16(self) -> None:
        """Move master parameters, weights and averages by the scaled float16 gradients."""
        model_grads_to_master_grads(self.model_params, self.master_params)
        self.master_params[0].grad.mul_(2**-self.lg_loss_scale)
        self._log_grad_norm()
        self._anneal_lr()
        self._take_step()

    def optimize_normal(self) -> None:
        """Move weights and averages by the gradients."""
        self._log_grad_norm()
        self._anneal_lr()
        self._take_step()

    def _log_grad_norm(self) -> None:
        # The trainer logs the same number too, which leaves the mean as it is.
        grads = [p.grad for p in self.master_params if p.grad is not None]
        logger.logkv_mean("grad_norm", float(th.stack([g.float().norm() for g in grads]).norm()))

    def _state_of(self, params: list[th.Tensor]) -> dict[str, th.Tensor]:
        return self._master_params_to_state_dict(params)

    def _masters_of(self, state: dict[str, th.Tensor]) -> list[th.Tensor]:
        return self._state_dict_to_master_params(state)

    def _master_params_to_state_dict(self, master_params: list[th.Tensor]) -> dict[str, th.Tensor]:
        return self.mp_trainer.master_params_to_state_dict(master_params)

    def _state_dict_to_master_params(self, state_dict: dict[str, th.Tensor]) -> list[th.Tensor]:
        params = [state_dict[name] for name, _ in self.model.named_parameters()]
        return make_master_params(params) if self.use_fp16 else params
