"""Stages of a generation run, in their order, and the pairs of stages that sequences join.

Two stages are named by the flags of source and target, more stages by `--stages`. A pair leads from
one stage to another; both directions, or many stages, only make the list of pairs longer.
"""

import re
from dataclasses import dataclass, field

from ..errors import ArgumentError
from .settings import SequenceSettings

FLAGS_OF_TWO_STAGES = ("source_model", "target_model", "source", "target", "target_data_dir")
# Whether ADD reads a checkpoint without args.json in the new channel order, by the model's role.
ORDER = {"source": True, "target": False}


@dataclass(frozen=True)
class Stage:
    """A class of images and its model.

    Attributes:
        name: name in files and labels.
        model: checkpoint or training run folder.
        data_dir: folder of the images that sequences can start from.
        flag: flag that names `data_dir`, for messages.
        key: name under which args.json records the model.
        assumed: settings of a checkpoint without args.json.
    """

    name: str
    model: str
    data_dir: str
    flag: str
    key: str
    assumed: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Stages in their order, and pairs (source, target) of them."""

    stages: tuple[Stage, ...]
    pairs: tuple[tuple[Stage, Stage], ...]

    @property
    def name(self) -> str:
        """Names of the stages in their order, joined to the name of a run folder."""
        return "_to_".join(stage.name for stage in self.stages)

    @classmethod
    def of(cls, asked: SequenceSettings) -> "Plan":
        """Return the plan that settings ask for.

        Raises:
            UserError: if the flags do not go together, or a name cannot stand in files.
        """
        if asked.pairs == "all" and not asked.stages:
            raise ArgumentError("pairs", "expected together with --stages, got all without it")
        stages = _listed_stages(asked) if asked.stages else _two_stages(asked)
        last = len(stages) if asked.pairs == "all" else 1
        pairs = [(a, b) for i, a in enumerate(stages) for b in stages[i + 1 : i + 1 + last]]
        if asked.bidirectional:
            pairs += [(b, a) for a, b in pairs]
        folders = [folder_name(source.name, target.name) for source, target in pairs]
        if shared := [name for name in folders if folders.count(name) > 1]:
            expected = "expected names that make different folders"
            raise ArgumentError("stages", f"{expected}, two pairs make {shared[0]}")
        return cls(tuple(stages), tuple(pairs))


def _two_stages(asked: SequenceSettings) -> list[Stage]:
    check_names(asked.source, asked.target)
    if asked.target_data_dir and not asked.bidirectional:
        problem = "expected together with --bidirectional True, got it alone"
        raise ArgumentError("target_data_dir", problem)
    if asked.bidirectional and not asked.target_data_dir:
        images = "the images that the way back starts from"
        problem = f"expected together with --target_data_dir, {images}, got none"
        raise ArgumentError("bidirectional", problem)
    stages = []
    for role, place in (("source", "data_dir"), ("target", "target_data_dir")):
        model = f"{role}_model"
        name, run, folder = (getattr(asked, setting) for setting in (role, model, place))
        assumed = {"use_new_attention_order": ORDER[role]}
        stages.append(Stage(name, run, folder, place, model, assumed))
    return stages


def _listed_stages(asked: SequenceSettings) -> list[Stage]:
    for name in (name for name in FLAGS_OF_TWO_STAGES if name in asked.given):
        expected = "expected without --stages, which names every stage and its model"
        hint = "images lie in a subfolder of --data_dir for each"
        raise ArgumentError(name, f"{expected}; {hint}")
    if not asked.data_dir:
        expected = "expected a folder with a subfolder of images for each of --stages"
        raise ArgumentError("data_dir", f"{expected}, got none")
    parts = [part.strip().partition("=") for part in asked.stages.split(",")]
    names = [name for name, _, _ in parts]
    different = len(set(names)) == len(names) > 1
    if not different or not all(model for _, _, model in parts):
        form = "NAME=RUN,NAME=RUN,... of two or more different names"
        expected = f"expected {form}, each with a checkpoint or training run folder"
        raise ArgumentError("stages", f"{expected}, got {asked.stages!r}")
    for name in names:
        check_name(name, "stages")
    return [
        Stage(name, model, f"{asked.data_dir}/{name}", f"data_dir, stage {name}", f"stages.{name}")
        for name, _, model in parts
    ]


def folder_name(source: str, target: str) -> str:
    """Return the name of the folder with the sequences of a pair."""
    return f"translation_{source}_{target}"


def check_name(name: str, flag: str) -> None:
    """Raise a `UserError` if a name of a stage cannot stand in the names of files and columns."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ArgumentError(flag, f"expected a name of letters, digits, _, . or -, got {name!r}")


def check_names(source: str, target: str) -> None:
    """Raise a `UserError` if the names of two stages are equal, or cannot stand in files."""
    check_name(source, "source")
    check_name(target, "target")
    if source == target:
        raise ArgumentError("target", f"expected a name that differs from --source, got {source!r}")
