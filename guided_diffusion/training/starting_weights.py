"""Starting weights from another model, which may have standard attention or other classes."""

import re
from pathlib import Path

from torch import nn

from ..errors import blame
from ..models import averages, checkpoint, convert
from ..models.convert import Record
from ..models.mismatch import SignsOfFlags, State, shape_of
from ..networks.attention import STARTS, priorities_of
from ..runtime import logger

# Keys that may be absent from one of the two models: shares of hybrid attention, class embedding.
OPTIONAL = r"\.blend$|^label_emb\.weight$"


def start_from(model: nn.Module, path: str | Path, signs_of_flags: SignsOfFlags) -> None:
    """Load the weights of another model; log which tensors start anew and which are left out.

    A qkv projection that was trained in the other channel order is rewritten, if an `args.json`
    beside the checkpoint says so; without one it is taken to be in the model's order.

    Args:
        model: network; the shares of its hybrid attention and its embedding of classes may be
            absent from the checkpoint, or of another shape.
        path: checkpoint, or training run folder, whose newest averaged weights are taken.
        signs_of_flags: flags and their signs, see `mismatch`.

    Raises:
        UserError: if the file is damaged or of another network.
    """
    with blame("init_checkpoint"):
        file = checkpoint.weights_file(Path(path))
    averages.tell(file)
    recorded = checkpoint.training_record(file).get("args", {})
    found = _in_order_of(model, checkpoint.load_state(file), file, recorded)
    own = model.state_dict()
    # Shares that were trained for other priorities may have the right shape all the same.
    priorities = tuple(STARTS.get(recorded.get("attention_priority", "global"), {}))
    other_shares = bool(recorded) and priorities != priorities_of(model)
    differing = [
        key
        for key in {**own, **found}
        if re.search(OPTIONAL, key)
        and (shape_of(own, key) != shape_of(found, key) or other_shares and key.endswith(".blend"))
    ]
    loaded = {key: value for key, value in found.items() if key not in differing}
    anew = {key: own[key] for key in differing if key in own}
    checkpoint.fill(model, loaded | anew, file, signs_of_flags)
    left_out = " ".join(key for key in differing if key in found)
    logger.log(
        f"starting with {len(loaded)} tensors of {file}; "
        f"anew: {' '.join(anew) or 'none'}; left out: {left_out or 'none'}"
    )


def _in_order_of(model: nn.Module, state: State, file: Path, recorded: Record) -> State:
    """Return a state dict with its qkv projections in the channel order of a model."""
    own = "new" if getattr(model, "use_new_attention_order", False) else "legacy"
    if not recorded:
        logger.log(
            f"{file}: no args.json beside it; assuming the qkv order of "
            f"--use_new_attention_order {own == 'new'}"
        )
        return state
    layout = convert.recorded_layout(recorded)
    if layout.order == own or not any(".qkv." in key for key in state):
        return state
    logger.log(f"{file}: qkv projections rewritten from the {layout.order} order to the {own} one")
    return convert.swap_attention_order(state, layout)
