"""Master parameters as in improved-diffusion: one flat float32 tensor for a whole model."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from .. import fp16_util
from .._porch import star_of
from ..fp16_util import *
from ..fp16_util import _flatten_dense_tensors, _unflatten_dense_tensors

__all__ = star_of(__name__)

Params, Masters = Iterable[Tensor], Sequence[Tensor]


def _one_group(model_params: Params) -> list[tuple[list[tuple[str, Tensor]], tuple]]:
    return [([("", param) for param in model_params], (-1,))]


def make_master_params(model_params: Params) -> list[nn.Parameter]:
    """Copy all parameters into one flat float32 parameter, the only one of the list."""
    return fp16_util.make_master_params(_one_group(model_params))


def model_grads_to_master_grads(model_params: Params, master_params: Masters) -> None:
    """Copy the gradients of the parameters, zero where there is none, onto their master."""
    fp16_util.model_grads_to_master_grads(_one_group(model_params), master_params)


def master_params_to_model_params(model_params: Params, master_params: Masters) -> None:
    """Copy the master into the parameters, in their dtypes."""
    fp16_util.master_params_to_model_params(_one_group(model_params), master_params)


def unflatten_master_params(model_params: Params, master_params: Masters) -> tuple[Tensor, ...]:
    """View the master in the shapes of the parameters."""
    group, _ = _one_group(model_params)[0]
    return fp16_util.unflatten_master_params(group, master_params[0])
