"""Weights as other programs save them: inside a wrapper, or with a prefix before every key.

Also what a checkpoint may hold at all: plain tensors, with numbers, text, lists and dicts around.
"""

from pathlib import Path
from typing import Any

import torch as th

from ..errors import UserError
from ..runtime import logger

# Entries under which training programs keep the weights of a network.
WRAPPERS = (
    "state_dict model ema model_state_dict ema_state_dict model_ema ema_model params params_ema "
    "weights net network module"
).split()
DEEPEST = 3  # wrappers around each other
PREFIXES = "module.", "_orig_mod.", "model."  # of DataParallel and DDP, torch.compile, Lightning
COUNTER = "n_averaged"  # beside the weights of torch's AveragedModel


def oddity(tensor: th.Tensor) -> str:
    """Return what keeps a tensor from being plain numbers on the CPU, in words; "" for nothing."""
    if tensor.is_nested or type(tensor) not in (th.Tensor, th.nn.Parameter):
        return "a nested tensor" if tensor.is_nested else f"a {type(tensor).__name__}"
    if tensor.layout != th.strided:
        return "a sparse tensor"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.device.type != "cpu":
        return f"a tensor without values (device {tensor.device.type})"
    if tensor.is_complex():
        return "a complex tensor"
    if tensor.is_neg() or tensor.nbytes > tensor.untyped_storage().nbytes():
        return "a tensor that repeats or changes the numbers in the file"
    return ""


def refuse_odd_tensors(found: Any, path: str | Path) -> None:
    """Refuse a file that holds other tensors than plain ones, however deep.

    Raises:
        UserError: naming the first of them.
    """
    seen, todo = set(), [("", found)]
    while todo:
        place, value = todo.pop()
        if isinstance(value, th.Tensor):
            if odd := oddity(value):
                where = f" at {place}" if place else ""
                raise UserError(f"{path}: expected plain tensors, got {odd}{where}")
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [(f"{place}[{key!r}]" if place else repr(key), part) for key, part in items]


def weights_in(found: Any, path: str | Path) -> dict[str, th.Tensor]:
    """Return the state dict that a file holds; log what was taken off around it.

    Raises:
        UserError: if it holds anything but the weights of one network, naming what it holds.
    """
    for _ in range(DEEPEST):
        if not isinstance(found, dict) or _is_state(found):
            break
        if found.keys() >= {"state", "param_groups"}:
            raise UserError(f"{path}: expected weights, got the state of an optimizer{_hint(path)}")
        inside = [name for name in WRAPPERS if _holds_weights(found.get(name))]
        if len(inside) > 1:
            raise UserError(
                f"{path}: expected the weights of one network, got several under "
                f"{' and '.join(map(repr, inside))}; save the one to use alone, as "
                f"torch.save(torch.load(PATH, weights_only=True)[{inside[-1]!r}], OTHER_PATH)"
            )
        if not inside:
            break
        logger.log(f"{path}: taking the weights under {inside[0]!r} in it")
        found = found[inside[0]]
    if not isinstance(found, dict) or not _is_state(found):
        raise UserError(f"{path}: expected a state dict of tensors, got {_first_wrong(found)}")
    return _without_prefixes(found, path)


def _is_state(found: dict) -> bool:
    return all(isinstance(key, str) and th.is_tensor(value) for key, value in found.items())


def _holds_weights(found: Any, depth: int = DEEPEST) -> bool:
    if not isinstance(found, dict) or not found or not depth:
        return False
    return _is_state(found) or any(_holds_weights(found.get(n), depth - 1) for n in WRAPPERS)


def _first_wrong(found: Any) -> str:
    if not isinstance(found, dict):
        return type(found).__name__
    return next(
        f"{type(value).__name__} at {key!r}"
        for key, value in found.items()
        if not (isinstance(key, str) and th.is_tensor(value))
    )


def _without_prefixes(state: dict[str, th.Tensor], path: str | Path) -> dict[str, th.Tensor]:
    taken = ""
    while prefix := next((p for p in PREFIXES if _all_begin(state, p)), ""):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k != COUNTER}
        taken += prefix
    if taken:
        logger.log(f"{path}: every key begins with {taken!r}, which is left out")
    return state


def _all_begin(state: dict[str, th.Tensor], prefix: str) -> bool:
    keys = state.keys() - {COUNTER}
    return bool(keys) and all(key.startswith(prefix) for key in keys)


def _hint(path: str | Path) -> str:
    name = Path(path).name
    weights = Path(path).with_name(name.replace("opt", "model", 1))
    return f"; did you mean {weights}?" if weights.name != name and weights.exists() else ""
