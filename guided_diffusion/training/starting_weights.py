"""Starting weights from another model, which may have standard attention or other classes."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..config.network_settings import (
    ClassifierSettings,
    ModelSettings,
    PointNetworkSettings,
    SuperResSettings,
)
from ..config.settings import Settings, defaults, joined
from ..diffusion.settings import ProcessSettings
from ..errors import ArgumentError, blame
from ..models import averages, checkpoint, convert
from ..models.convert import Record
from ..models.domains import FREE_OF_TRAINING
from ..models.mismatch import SignsOfFlags, State, shape_of
from ..networks.attention import STARTS, priorities_of
from ..runtime import dist_util, logger, run_folder

# Settings that are taken from the training that weights come from.
OF_NETWORK = (
    defaults(
        ModelSettings, SuperResSettings, ClassifierSettings, PointNetworkSettings, ProcessSettings
    ).keys()
    | {"num_classes"}
) - FREE_OF_TRAINING
# Keys that may be absent from one of the two models: shares of hybrid attention, class embedding.
OPTIONAL = r"\.blend$|^label_emb\.weight$"


def settings_of_start(
    checkpoint_or_run: str, command: str, own: Path, *groups: Any
) -> tuple[Any, ...]:
    """Return the settings of a training that starts from the weights of another one.

    What the command line does not give of the network and its process is as in the other training;
    where what it gives differs, the log says so. Once the training has begun, its own record tells
    what was not given, so that it goes on when the other one is gone.

    Args:
        checkpoint_or_run: the `--init_checkpoint`; empty: nothing changes.
        command: name of the training command.
        own: path of the training's own run folder.
        *groups: settings of the training.

    Returns:
        The groups, in their order.

    Raises:
        UserError: if there is no such checkpoint, or a recorded value is not allowed.
    """
    if not checkpoint_or_run:
        return groups
    place = own / run_folder.RECORD
    record = run_folder.read_args(place)
    begun = record.get("script") == command
    if not begun:
        with blame("init_checkpoint"):
            file = checkpoint.weights_file(Path(checkpoint_or_run), told=False)
        record, place = checkpoint.training_record(file), file.with_name(run_folder.RECORD)
    if record.get("script") != command:  # the weights tell whether they fit
        return groups
    told = {name: value for name, value in record["args"].items() if name in OF_NETWORK}
    made = tuple(_filled(group, told, place) for group in groups)
    if not begun and dist_util.rank() == 0:
        _log_differences(place, told, groups, made)
    return made


def _filled(group: Settings, told: Record, place: Path) -> Settings:
    taken = {name: told[name] for name in told.keys() & group.values().keys() - group.given}
    try:
        return group.with_given(group.given, **taken)
    except ArgumentError as error:
        raise ArgumentError(error.name, f"{error.problem} in {place}") from None


def _log_differences(
    place: Path, told: Record, before: Sequence[Settings], after: Sequence[Settings]
) -> None:
    asked, now = joined(*before), joined(*after)
    taken = [f"--{name} {now[name]!r}" for name in sorted(now) if now[name] != asked[name]]
    if taken:
        logger.log(f"flags of the network and its process from {place}: {' '.join(taken)}")
    for name in sorted(told.keys() & now.keys()):
        if told[name] != now[name]:
            trained = f"trained with --{name} {told[name]!r}"
            logger.warn(f"{place.parent}: {trained}, this training has {now[name]!r}")


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
