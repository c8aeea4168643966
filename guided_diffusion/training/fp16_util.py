"""Training with blocks of float16: float32 master parameters and a dynamic loss scale.

Conventions: a parameter group is a list of (name, parameter) pairs together with the shape of its
master parameter, which is one flat float32 tensor for the whole group. There are two groups, so
that an optimizer can tell them apart by their shape: vectors and scalars as [-1], matrices as
[1, -1]. The model's gradients are gradients of loss * 2**lg_loss_scale.

Reference: Micikevicius et al. 2018, "Mixed Precision Training", https://arxiv.org/abs/1710.03740,
sections 3.1 (master copy) and 3.2 (loss scale).
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..errors import DivergedError
from ..runtime import logger

INITIAL_LOG_LOSS_SCALE = 20.0
# Bounds of that logarithm: gradients that overflow without a scale do so for another reason, and
# a loss times the highest scale is still a float32.
LOWEST, HIGHEST = 0.0, 64.0
MAX_SKIPPED = 100  # steps in a row; a loss scale that is too high is found within about 30

NamedParam = tuple[str, Tensor]
ParamGroups = Sequence[tuple[Sequence[NamedParam], tuple[int, ...]]]


def get_param_groups_and_shapes(
    named_model_params: Iterable[NamedParam],
) -> list[tuple[list[NamedParam], tuple[int, ...]]]:
    """Sort named parameters into vectors (with scalars) and matrices (with all higher dimensions).

    Returns:
        Two pairs of (named parameters in their given order, shape of the group's master).
    """
    named = list(named_model_params)
    vectors = [(name, param) for name, param in named if param.ndim <= 1]
    matrices = [(name, param) for name, param in named if param.ndim > 1]
    return [(vectors, (-1,)), (matrices, (1, -1))]


def make_master_params(param_groups_and_shapes: ParamGroups) -> list[nn.Parameter]:
    """Copy every group into one float32 parameter of the group's shape."""
    return [
        nn.Parameter(_flatten([param.detach() for _, param in group]).view(shape))
        for group, shape in param_groups_and_shapes
    ]


def model_grads_to_master_grads(
    param_groups_and_shapes: ParamGroups, master_params: Iterable[Tensor]
) -> None:
    """Copy the model's gradients, zero where there is none, onto the master parameters."""
    for master, (group, shape) in zip(master_params, param_groups_and_shapes, strict=True):
        master.grad = _flatten([param_grad_or_zeros(param) for _, param in group]).view(shape)


def master_params_to_model_params(
    param_groups_and_shapes: ParamGroups, master_params: Iterable[Tensor]
) -> None:
    """Copy the master parameters into the model, in the model's dtypes."""
    for master, (group, _) in zip(master_params, param_groups_and_shapes, strict=True):
        values = unflatten_master_params(group, master.detach())
        torch._foreach_copy_([param.detach() for _, param in group], list(values))


def unflatten_master_params(
    param_group: Sequence[NamedParam], master_param: Tensor
) -> tuple[Tensor, ...]:
    """Return views of a group's master parameter, in the shapes of the group's parameters."""
    pieces = master_param.view(-1).split([param.numel() for _, param in param_group])
    return tuple(
        piece.view(param.shape) for piece, (_, param) in zip(pieces, param_group, strict=True)
    )


def master_params_to_state_dict(
    model: nn.Module,
    param_groups_and_shapes: ParamGroups | None,
    master_params: Sequence[Tensor],
    use_fp16: bool,
) -> dict[str, Tensor]:
    """Return the model's state dict with its parameters replaced by their float32 masters.

    Args:
        model: network with the names and the buffers.
        param_groups_and_shapes: groups that the masters stand for; read only with use_fp16.
        master_params: masters, one per group with use_fp16, else one per parameter of the model.
        use_fp16: whether each master stands for a group.

    Raises:
        ValueError: if a group names a parameter that the model lacks.
    """
    state_dict = model.state_dict()
    if not use_fp16:
        for (name, _), value in zip(model.named_parameters(), master_params, strict=True):
            state_dict[name] = value.detach()
        return state_dict
    for master, (group, _) in zip(master_params, param_groups_and_shapes, strict=True):
        values = unflatten_master_params(group, master.detach())
        for (name, _), value in zip(group, values, strict=True):
            if name not in state_dict:
                raise ValueError(f"parameter group: the model has no parameter {name!r}")
            state_dict[name] = value
    return state_dict


def state_dict_to_master_params(
    model: nn.Module, state_dict: dict[str, Tensor], use_fp16: bool
) -> list[Tensor]:
    """Return masters with the values of a state dict; undoes `master_params_to_state_dict`."""
    named = [(name, state_dict[name]) for name, _ in model.named_parameters()]
    if use_fp16:
        return make_master_params(get_param_groups_and_shapes(named))
    return [param for _, param in named]


def zero_master_grads(master_params: Iterable[Tensor]) -> None:
    """Drop the gradients of the master parameters."""
    for param in master_params:
        param.grad = None


def zero_grad(model_params: Iterable[Tensor]) -> None:
    """Zero the gradients of the model's parameters in place, and detach them from any graph."""
    params = [param for param in model_params if param.grad is not None]
    for param in params:
        if param.grad.requires_grad:
            param.grad = param.grad.detach()
    if params:
        torch._foreach_zero_([param.grad for param in params])


def param_grad_or_zeros(param: Tensor) -> Tensor:
    """Return a parameter's gradient, or zeros of its shape where it has none."""
    return torch.zeros_like(param) if param.grad is None else param.grad.detach()


def check_overflow(value: float) -> bool:
    """Return whether a number is infinite or NaN."""
    return not math.isfinite(value)


class MixedPrecisionTrainer:
    """Backward and optimizer steps of a model in float32, or with blocks of float16.

    With use_fp16 the model is converted by its `convert_to_fp16`, and the optimizer moves
    `master_params`, flat float32 copies, one per group. The loss is scaled by a factor that grows
    slowly with each step, and halves whenever a gradient overflows, within bounds. Without
    use_fp16 `master_params` are the model's own parameters.

    In either case a step with infinite or NaN gradients is skipped and reported, so that such a
    number never reaches the weights. Where the optimizer can skip by itself, as a fused Adam in
    float32 does, no step waits for its device; the report comes with the log's row.

    Attributes:
        step: optimizer steps, skipped ones included; a loop that resumes sets it.
        lg_loss_scale: base-2 logarithm of the loss scale.
        fp16_scale_growth: growth of that logarithm per step.
        searching: whether the last step was skipped, and lowered the loss scale.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        use_fp16: bool = False,
        fp16_scale_growth: float = 1e-3,
        initial_lg_loss_scale: float = INITIAL_LOG_LOSS_SCALE,
    ) -> None:
        self.model, self.use_fp16 = model, use_fp16
        self.fp16_scale_growth, self.lg_loss_scale = fp16_scale_growth, initial_lg_loss_scale
        self.step = 0
        self.searching = False
        self._skipped = 0  # in a row
        self.model_params = self.master_params = list(model.parameters())
        self.param_groups_and_shapes = None
        if use_fp16:
            self.param_groups_and_shapes = get_param_groups_and_shapes(model.named_parameters())
            self.master_params = make_master_params(self.param_groups_and_shapes)
            model.convert_to_fp16()

    def zero_grad(self) -> None:
        """Zero the model's gradients."""
        zero_grad(self.model_params)

    def backward(self, loss: Tensor) -> None:
        """Add the (scaled) gradients of a scalar loss to the gradients of the model."""
        (loss * 2**self.lg_loss_scale if self.use_fp16 else loss).backward()

    def optimize(self, opt: torch.optim.Optimizer) -> bool | Tensor:
        """Step an optimizer over `master_params` and log the norms of gradients and parameters.

        Returns:
            False if the gradients overflowed: nothing moved, and with use_fp16 the loss scale was
            halved. Where the device decides, a bool tensor [] on it; reading it waits for the
            device.

        Raises:
            DivergedError: after `MAX_SKIPPED` skipped steps in a row; where the device decides,
                the log raises it when it writes a row.
        """
        self.step += 1
        return self._optimize_fp16(opt) if self.use_fp16 else self._optimize_normal(opt)

    def _optimize_fp16(self, opt: torch.optim.Optimizer) -> bool:
        logger.logkv_mean("lg_loss_scale", self.lg_loss_scale)
        model_grads_to_master_grads(self.param_groups_and_shapes, self.master_params)
        scale = 2**self.lg_loss_scale
        taken = self._log_step(self.step, *self._compute_norms(scale))
        if taken:
            torch._foreach_mul_([param.grad for param in self.master_params], 1 / scale)
            opt.step()
            master_params_to_model_params(self.param_groups_and_shapes, self.master_params)
            self.lg_loss_scale = min(self.lg_loss_scale + self.fp16_scale_growth, HIGHEST)
        zero_master_grads(self.master_params)
        return taken

    def _optimize_normal(self, opt: torch.optim.Optimizer) -> bool | Tensor:
        # A fused kernel of torch's own reads on the device whether to step.
        own_norms = type(self)._compute_norms is not MixedPrecisionTrainer._compute_norms
        adam = isinstance(opt, (torch.optim.Adam, torch.optim.AdamW))
        if own_norms or not (adam and all(group["fused"] for group in opt.param_groups)):
            taken = self._log_step(self.step, *self._compute_norms())
            if taken:
                opt.step()
            return taken
        norms = self._norms()
        taken = norms[0].isfinite()
        # As torch.amp.GradScaler hands them over; the gradients have no scale here.
        opt.grad_scale, opt.found_inf = None, (~taken).float()
        opt.step()
        del opt.grad_scale, opt.found_inf
        step = self.step
        logger.defer(lambda: self._log_step(step, *norms.tolist()))
        return taken

    def _log_step(self, step: int, grad_norm: float, param_norm: float) -> bool:
        """Log the norms of a step and return True; or, on overflow, lower the scale: False."""
        self.searching = False
        if not check_overflow(grad_norm):
            self._skipped = 0
            logger.logkv_mean("grad_norm", grad_norm)
            logger.logkv_mean("param_norm", param_norm)
            return True
        self._skipped += 1
        report = f"step {step}: skipped, gradients overflowed (norm {grad_norm})"
        if self.use_fp16:
            before = self.lg_loss_scale
            self.lg_loss_scale = min(before, max(before - 1, LOWEST))
            self.searching = self.lg_loss_scale < before
            report += f" at lg_loss_scale {before:.3f}, lowered to {self.lg_loss_scale:.3f}"
        logger.log(report)
        # A report may be late: what counts is whether the skipping goes on to this day.
        if self._skipped >= MAX_SKIPPED and step == self.step:
            raise DivergedError(
                f"step {step}: gradients overflowed in {self._skipped} steps in a row; the weights "
                f"are those of step {step - self._skipped}"
            )
        return False

    def _compute_norms(self, grad_scale: float = 1.0) -> tuple[float, float]:
        # Norms of the gradients, freed of their scale, and of the parameters.
        grad_norm, param_norm = self._norms().tolist()  # the device is waited for once
        return grad_norm / grad_scale, param_norm

    @torch.no_grad()
    def _norms(self) -> Tensor:
        grads = [param.grad for param in self.master_params if param.grad is not None]
        grads = grads or [torch.zeros_like(self.master_params[0])]
        parts = [torch.stack(torch._foreach_norm(group)) for group in (grads, self.master_params)]
        return torch.stack([torch.linalg.vector_norm(part) for part in parts])

    def master_params_to_state_dict(self, master_params: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the model with the values of `master_params`."""
        return master_params_to_state_dict(
            self.model, self.param_groups_and_shapes, master_params, self.use_fp16
        )

    def state_dict_to_master_params(self, state_dict: dict[str, Tensor]) -> list[Tensor]:
        """Return master parameters with the values of a state dict of the model."""
        return state_dict_to_master_params(self.model, state_dict, self.use_fp16)


def _flatten(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1).float() for tensor in tensors])
