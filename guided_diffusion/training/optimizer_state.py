"""The file optNNNNNN.pt: moments of the optimizer, and the state of the loop.

Fused kernels write into the moments without a look at their shapes, so that everything in the file
is checked before it is used.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th

from ..diffusion.resample import ScheduleSampler
from ..errors import UserError
from ..models import checkpoint
from ..runtime import logger

MOMENTS = "exp_avg", "exp_avg_sq"
# What each run sets anew: its flags, and the kernels of its machine.
OWN_OF_RUN = {"params", "lr", "initial_lr", "weight_decay", "fused", "foreach", "capturable"}
OF_LOOP = {"lg_loss_scale", "schedule_sampler"}
LARGEST_LG_SCALE = 1000  # 2**1000 is a float64 still
LARGEST_STEP = 2**53


class _Unfit(Exception):
    """What in the file does not fit, in words."""


def moments_of(opt: th.optim.Optimizer) -> list[th.Tensor]:
    """Return the moments that an optimizer holds; it has none before its first step."""
    held = [value for state in opt.state.values() for value in state.values()]
    return [value for value in held if th.is_tensor(value) and value.ndim]


def to_save(
    opt: th.optim.Optimizer, sampler: ScheduleSampler, lg_loss_scale: float
) -> dict[str, Any]:
    """Return what the file is to hold; see `restore`.

    It has one entry more than upstream's optimizer file, which upstream's code ignores.
    """
    drawn = getattr(sampler, "state_dict", dict)()
    return opt.state_dict() | {"loop": {"lg_loss_scale": lg_loss_scale, "schedule_sampler": drawn}}


def restore(
    file: Path, opt: th.optim.Optimizer, sampler: ScheduleSampler, lg_loss_scale: float
) -> float:
    """Load the states of an optimizer and of a sampler of timesteps from a file.

    Args:
        file: path of the file; upstream's have no state of the loop.
        opt: optimizer, which gets the moments; its other settings stay.
        sampler: sampler, which gets its state where the file holds one of its kind.
        lg_loss_scale: base-2 logarithm of the loss scale, if the file holds none.

    Returns:
        base-2 logarithm of the loss scale.

    Raises:
        UserError: if something in the file does not fit; nothing has changed then.
    """
    found = checkpoint.load_file(file)
    try:
        if not isinstance(found, dict) or not {"state", "param_groups"} <= found.keys():
            raise _Unfit(f"expected 'state' and 'param_groups', got {_names(found)}")
        _same_names("the file", found, {"state", "param_groups"}, {"loop"})
        groups = _groups(found["param_groups"], opt)
        state = _state(found["state"], opt)
        lg_loss_scale, drawn = _loop(found.get("loop", {}), sampler, lg_loss_scale)
        if drawn:
            sampler.load_state_dict(drawn)
    except (_Unfit, ValueError) as unfit:
        raise UserError(
            f"{file}: optimizer of another network or precision, {unfit}; "
            "to start without it, move it away"
        ) from None
    opt.load_state_dict({"state": state, "param_groups": groups})
    return lg_loss_scale


def in_layout_of(param: th.Tensor, value: th.Tensor) -> th.Tensor:
    """Return a value in the memory layout of a parameter, if they have the same shape."""
    if value.shape != param.shape or value.stride() == param.stride():
        return value
    return th.empty_like(param).detach().copy_(value.detach())


def _names(found: Any) -> str:
    return ", ".join(map(repr, list(found)[:5])) if isinstance(found, dict) else _kind(found)


def _kind(value: Any) -> str:
    if isinstance(value, th.Tensor):
        return f"a tensor {list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"{value!r:.60}" if _is_plain(value) else type(value).__name__


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))


def _same_names(place: str, found: Any, needed: set[str], further: set[str] = frozenset()) -> None:
    if not isinstance(found, dict):
        raise _Unfit(f"expected named entries in {place}, got {_kind(found)}")
    for name in [*(needed - found.keys()), *(found.keys() - needed - further)]:
        missing = "lacks" if name in needed else "has a further entry"
        raise _Unfit(f"{place} {missing} {name!r:.60}")


def _groups(found: Any, opt: th.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the groups of an optimizer with the numbers that a file gives its parameters."""
    sizes = [len(group["params"]) for group in opt.param_groups]
    if not isinstance(found, list) or not all(isinstance(group, dict) for group in found):
        raise _Unfit(f"expected groups of parameters, got {_kind(found)}")
    numbers = [group.get("params") for group in found]
    held = [len(part) if isinstance(part, (list, tuple)) else _kind(part) for part in numbers]
    if held != sizes:
        raise _Unfit(f"expected groups of {sizes} parameters, got {held}")
    flat = [number for part in numbers for number in part]
    if not all(isinstance(number, int) for number in flat) or flat != list(range(sum(sizes))):
        raise _Unfit(f"expected parameters numbered from 0 to {sum(sizes) - 1}, got others")
    for group, own in zip(found, opt.param_groups, strict=True):
        for name in sorted(own.keys() & group.keys() - OWN_OF_RUN):
            value = tuple(group[name]) if isinstance(group[name], list) else group[name]
            same_kind = isinstance(value, bool) == isinstance(own[name], bool)
            if not (_is_plain(value) and same_kind and value == own[name]):
                raise _Unfit(f"expected {name} {own[name]!r}, got {_kind(value)}")
    return [
        own | {"params": list(part)} for own, part in zip(opt.param_groups, numbers, strict=True)
    ]


def _state(found: Any, opt: th.optim.Optimizer) -> dict[int, dict[str, th.Tensor]]:
    """Return the state of each parameter that has one, checked, in its memory layout.

    Parameters that no loss depends on never get moments, as in networks of third parties.
    """
    params = [param for group in opt.param_groups for param in group["params"]]
    if not isinstance(found, dict):
        raise _Unfit(f"expected the state of each parameter, got {_kind(found)}")
    for number in found.keys() - set(range(len(params))):
        raise _Unfit(
            f"it has the state of a further one, parameter {number!r:.60} of {len(params)}"
        )
    if found and len(found) < len(params):
        logger.log(f"{len(params) - len(found)} of {len(params)} parameters have no moments yet")
    checked: dict[int, dict[str, th.Tensor]] = {}
    memory: set[int] = set()
    for number, entries in found.items():
        place = f"parameter {number}"
        _same_names(place, entries, {"step", *MOMENTS})
        checked[number] = {"step": _step(entries["step"], place)}
        for name in MOMENTS:
            value = _moment(entries[name], params[number], f"{name} of {place}")
            start = value.untyped_storage().data_ptr()
            value = in_layout_of(params[number], value.clone() if start in memory else value)
            memory.add(start)
            checked[number][name] = value
        if (checked[number]["exp_avg_sq"] < 0).any():
            raise _Unfit(f"expected no negative number in exp_avg_sq of {place}")
    return checked


def _step(value: Any, place: str) -> th.Tensor:
    # Files of torch before 1.12 have whole numbers here.
    number = value
    if isinstance(value, th.Tensor) and value.numel() == 1:
        number = value.item()
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise _Unfit(f"expected a number as step of {place}, got {_kind(value)}")
    if not (0 <= number <= LARGEST_STEP and number == int(number)):
        raise _Unfit(f"expected a whole number as step of {place}, got {number!r:.60}")
    return th.tensor(float(number))


def _moment(value: Any, param: th.Tensor, place: str) -> th.Tensor:
    if not isinstance(value, th.Tensor) or value.shape != param.shape:
        raise _Unfit(f"expected {place} to be a tensor {list(param.shape)}, got {_kind(value)}")
    if value.dtype not in checkpoint.WEIGHTS:
        raise _Unfit(f"expected {place} in floating-point numbers, got {_kind(value)}")
    if not value.isfinite().all():
        raise _Unfit(f"expected finite numbers in {place}, got others (the training diverged)")
    return value.detach()


def _loop(
    found: Any, sampler: ScheduleSampler, lg_loss_scale: float
) -> tuple[float, Mapping[str, th.Tensor]]:
    """Return the loss scale, and the state for a sampler; {} if the file has none of its kind."""
    _same_names("'loop'", found, set(), OF_LOOP)
    scale = found.get("lg_loss_scale", lg_loss_scale)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise _Unfit(f"expected a number as lg_loss_scale, got {_kind(scale)}")
    if not -LARGEST_LG_SCALE <= scale <= LARGEST_LG_SCALE:  # NaN too
        limits = f"from {-LARGEST_LG_SCALE} to {LARGEST_LG_SCALE}"
        raise _Unfit(f"expected lg_loss_scale {limits}, got {scale!r:.60}")
    drawn, own = found.get("schedule_sampler", {}), getattr(sampler, "state_dict", dict)()
    if not own or drawn == {}:
        return float(scale), {}
    _same_names("'schedule_sampler'", drawn, set(own))
    for name, expected in own.items():
        value = drawn[name]
        alike = isinstance(value, th.Tensor) and value.shape == expected.shape
        if not alike or value.dtype != expected.dtype:
            raise _Unfit(f"expected {name} of the sampler as {_kind(expected)}, got {_kind(value)}")
        if not value.isfinite().all():
            raise _Unfit(f"expected finite numbers in {name} of the sampler, got others")
    return float(scale), drawn
