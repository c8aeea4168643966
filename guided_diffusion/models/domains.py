"""Domains: a trained network with the process it was trained for, rebuilt from its `args.json`.

`load_domain` takes a checkpoint file or a training run folder. The settings of the training lie
beside the weights; settings that are given override them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th

from ..config import network_settings
from ..config.settings import Settings, defaults, joined
from ..data import classes as class_records
from ..data.classes import Classes
from ..diffusion.respace import SpacedDiffusion
from ..diffusion.schedules import betas_of_flags
from ..diffusion.settings import ProcessSettings
from ..errors import ArgumentError, DamagedFileError, UserError
from ..runtime import dist_util, execution, logger
from . import averages
from .checkpoint import earlier_files, read_state, refuse_unlike, training_record, weights_file
from .mismatch import CLASSIFIER_SIGNS, SIGNS_OF_FLAGS, SignsOfFlags, number_of_classes, shape_of
from .script_util import NUM_CLASSES, build, outline

# Settings that a trained model may be used with at other values.
FREE_OF_TRAINING = set(
    "timestep_respacing use_fp16 classifier_use_fp16 use_checkpoint dropout sigma_small".split()
)


@dataclass(frozen=True)
class Kind:
    """A family of networks.

    Attributes:
        settings: group of settings that describes a network of the family.
        command: name of the command that trains such a network.
        signs: flags and their signs, see `mismatch`.
        flag: name of the flag for the path of such a network, if all commands have the same.
    """

    settings: type[Settings]
    command: str
    signs: SignsOfFlags = SIGNS_OF_FLAGS
    flag: str = ""


IMAGE = Kind(network_settings.ModelSettings, "image_train")
SUPER_RES = Kind(network_settings.SuperResSettings, "super_res_train")
POINTS = Kind(network_settings.PointNetworkSettings, "synthetic_train")
CLASSIFIER = Kind(
    network_settings.ClassifierSettings, "classifier_train", CLASSIFIER_SIGNS, "classifier_path"
)


@dataclass
class Domain:
    """A class of images with its trained model, or a classifier of many classes.

    Attributes:
        model: the network, in eval mode, on its device.
        diffusion: the process it was trained for, respaced as asked.
        label: name of the domain.
        origin: the checkpoint file.
        network: settings that the network was built from.
        process: settings that the process was built from.
        sha256: digest of the checkpoint file, in hexadecimal.
        num_classes: number of classes that a classifier tells apart; None: no classifier.
        classes: names and numbers of the classes that the network is told or tells apart; None: it
            knows no classes.
    """

    model: th.nn.Module
    diffusion: SpacedDiffusion
    label: str
    origin: Path
    network: Any
    process: ProcessSettings
    sha256: str = ""
    num_classes: int | None = None
    classes: Classes | None = None

    @property
    def device(self) -> th.device:
        """Device of the network; the CPU if it has no parameters."""
        first = next(self.model.parameters(), None)
        return th.device("cpu") if first is None else first.device

    def refuse_infinite(self, *values: th.Tensor) -> None:
        """Refuse numbers that the network led to, if some are not finite.

        Raises:
            UserError: naming the checkpoint and what may be the cause.
        """
        if not all(value.isfinite().all() for value in values):
            raise UserError(
                f"{self.origin}: the network predicts numbers that are not finite; its training "
                "may have diverged (or, with --precision bf16, it needs fp32)"
            )

    @property
    def args(self) -> dict[str, Any]:
        """Settings that network and process were built from, {name: value}."""
        classes = {} if self.num_classes is None else {"out_channels": self.num_classes}
        return joined(self.network, self.process) | classes

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what the model computes, {name: value}: `args` and the weights."""
        return self.args | {"sha256": self.sha256}


def identity_of(models: Mapping[str, Domain | None]) -> dict[str, Any]:
    """Return the identity of models by their role, {role.name: value}, as run folders record it."""
    return {
        f"{role}.{name}": value
        for role, model in models.items()
        if model
        for name, value in model.identity.items()
    }


def load_domain(
    path: str | Path,
    flags: Mapping[str, Any] | None = None,
    label: str = "",
    device: th.device | str = "cpu",
    assumed: Mapping[str, Any] | None = None,
    kind: Kind = IMAGE,
) -> Domain:
    """Load a domain from a checkpoint file or a training run folder.

    The numbers of classes and image channels of a classifier are read from its weights.

    Args:
        path: path of a file, or of a folder, whose newest averaged weights are taken.
        flags: {name: value} of settings that override the settings in `args.json`.
        label: name of the domain; empty: the name of the run folder.
        device: device of the model.
        assumed: {name: value} for a checkpoint without `args.json`; None: upstream's defaults.
        kind: family of the network.

    Raises:
        UserError: if the path, the file or the settings do not fit.
    """
    file, flags = weights_file(Path(path)), dict(flags or {})
    averages.tell(file)
    record = training_record(file)
    trained = _trained_args(file, record, kind, assumed or {})
    for name in flags.keys() - trained.keys():
        raise ArgumentError(name, f"no setting of such a model; it has {', '.join(trained)}")
    args = trained | flags
    changed = {
        name: f"--{name} {trained[name]!r}, used with {flags[name]!r}"
        for name in sorted(flags.keys() - FREE_OF_TRAINING)
        if record and flags[name] != trained[name]
    }
    (state, sha256), classes = _read(file), None
    if not record:
        logger.log(
            f"{file}: no args.json beside it; assuming these flags, which the command line can "
            f"change: {' '.join(f'--{k} {v!r}' for k, v in trained.items())}"
        )
    if kind is CLASSIFIER:
        channels, classes = shape_of(state, "input_blocks.0.0.weight"), number_of_classes(state)
        if classes is None or len(channels) != 4:
            raise UserError(f"{file}: expected a classifier of images, got other weights")
        args["in_channels"] = channels[1]
    else:
        for change in changed.values():
            logger.warn(f"{file}: trained with {change}")

    # Build the network and its process, and make the network ready for use.
    rows = classes or NUM_CLASSES
    try:
        network, process = _settings_of_file(kind, args, len(state))
        refuse_unlike(outline(network, process, rows), state, file, kind.signs, changed)
        model, diffusion = build(network, process, rows)
    except ArgumentError as error:
        if error.name in flags or not record:
            raise
        cause = f" (trained with {', '.join(changed.values())})" if changed else ""
        problem = f"{error.problem} in {file.with_name('args.json')}{cause}"
        raise ArgumentError(error.name, problem) from None
    model.load_state_dict(state, strict=True)
    execution.to_use(model, device, args["classifier_use_fp16" if classes else "use_fp16"])
    own = _classes(file, rows, record) if classes or args.get("class_cond") else None
    name = label or file.parent.name
    return Domain(model, diffusion, name, file, network, process, sha256, classes, own)


def _read(file: Path) -> tuple[dict[str, th.Tensor], str]:
    try:
        return read_state(file)
    except DamagedFileError as error:
        older = [f"; an older one is {path}" for path in earlier_files(file)[:1]]
        raise DamagedFileError(f"{error}{''.join(older)}") from None


def _settings_of_file(
    kind: Kind, args: Mapping[str, Any], tensors: int
) -> tuple[Any, ProcessSettings]:
    """Return settings of the network and the process of a file with a number of tensors."""
    groups = kind.settings, ProcessSettings
    network, process = (group(**{k: args[k] for k in defaults(group)}) for group in groups)
    betas_of_flags(process.noise_schedule, process.diffusion_steps, "diffusion_steps", False)
    # A network of a thousand blocks takes long to describe.
    for name in ("num_res_blocks", "classifier_depth"):
        if (blocks := getattr(network, name, 0)) > tensors:
            raise ArgumentError(
                name, f"expected fewer than the file's {tensors} tensors, got {blocks}"
            )
    return network, process


def _classes(file: Path, rows: int, record: Mapping[str, Any]) -> Classes:
    """Return the classes that a training recorded beside its weights, else all numbers.

    Args:
        file: the weights.
        rows: number of classes that the network can tell apart.
        record: record of the training; empty: not one of this project.
    """
    labels = record.get("args", {}).get("labels", "prefix")
    if found := class_records.beside(file, rows, labels):
        return found
    absent = f"no {class_records.RECORD} beside {file}"
    ways = "; bring it from the folder of the training" if record else ""
    logger.log(f"{absent}; its classes are the numbers 0 to {rows - 1}{ways}")
    return Classes.unnamed(range(rows), absent)


def _trained_args(
    file: Path, record: Mapping[str, Any], kind: Kind, assumed: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of the training, recorded or assumed, {name: value}."""
    if record and record["script"] != kind.command:
        raise UserError(
            f"{file}: checkpoint and flags describe different networks: those of "
            f"{record['script']} and of {kind.command}"
            f"{f' (check --{kind.flag})' if kind.flag else ''}"
        )
    told, known = record.get("args", assumed), defaults(kind.settings, ProcessSettings)
    return known | {name: value for name, value in told.items() if name in known}


def refuse_differing(who: str, one: Domain, other: Domain, flags: Iterable[str]) -> None:
    """Refuse two domains whose settings differ in one of the flags.

    Args:
        who: the two in words, as "source and target".
        one: a domain.
        other: another domain.
        flags: names of settings; a setting that a domain lacks counts as None.
    """
    for flag in flags:
        values = one.args.get(flag), other.args.get(flag)
        if values[0] != values[1]:
            found = f"{one.origin} has {values[0]!r}, {other.origin} has {values[1]!r}"
            raise ArgumentError(flag, f"{who} need the same; {found}")


def load_asked(
    path: str,
    network: Settings,
    process: ProcessSettings,
    *,
    kind: Kind = IMAGE,
    label: str = "",
    flag: str = "model_path",
    compile: bool = False,
    static: bool = False,
    assumed: Mapping[str, Any] | None = None,
) -> Domain:
    """Load the domain that a command was asked for onto this rank's device.

    Args:
        path: checkpoint file or training run folder; an empty path is refused.
        network: settings of the command. Given ones override the settings of the training; for a
            checkpoint without a record, all of them hold.
        process: settings of the command, used likewise.
        kind: family of the network.
        label: name of the domain; empty: the name of the run folder.
        flag: name of the flag for the path.
        compile: whether the network is compiled.
        static: whether the network will meet few shapes of input; see `execution.compiled`.
        assumed: {name: value} of settings that override the settings of the command for a
            checkpoint without a record.

    Raises:
        UserError: if there is no such checkpoint, or the settings do not fit it.
    """
    if not path:
        raise ArgumentError(flag, "expected a checkpoint or a training run folder, got none")
    override = network.given_values() | process.given_values()
    supposed = joined(network, process) | dict(assumed or {})
    domain = load_domain(path, override, label, dist_util.dev(), supposed, kind)
    execution.compiled(domain.model, compile, static=static)
    return domain
