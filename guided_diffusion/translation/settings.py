"""Settings of translation: walks, depths, batches; classes or points to translate."""

import dataclasses
from typing import Any

import numpy as np

from ..config.network_settings import NUM_CLASSES
from ..config.parser import numbers
from ..config.settings import Settings, defaults, setting
from ..data.image_features import FEATURES
from ..data.reading import ReadingSettings
from ..data.settings import task
from ..diffusion.schedules import GRIDS
from ..diffusion.solvers import DDIM, PREDICTED, SOLVERS, Multistep
from ..errors import ArgumentError
from .depth_policies import POLICIES, Depths

CONVENTIONS = ("reference", "aligned")
PLACE = "checkpoint or training run folder"
STEPS = ("encode_steps", "decode_steps")
FEW_STEPS = {"solver": "dpmpp", "solver_order": 2, "level_convention": "aligned"}
PRESETS: dict[str, dict[str, Any]] = {
    "published": {},
    "aligned": {"level_convention": "aligned"},
    # One encoding serves all depths, so that its steps cost little.
    "fast": {**FEW_STEPS, "grid": "mixed", "encode_steps": 32, "decode_steps": 24},
    "draft": {**FEW_STEPS, "grid": "logsnr", "encode_steps": 20, "decode_steps": 12},
}

DEEPEST = "the steps of the process, as --timestep_respacing leaves them"


def level_convention() -> Any:
    """Declare the noise level at which decoding reads what encoding reached."""
    return setting(
        "reference",
        "noise level at which decoding reads an encoded image; aligned: the level that encoding "
        "reached; reference: as published, one level below it, which costs accuracy",
        choices=CONVENTIONS,
    )


@dataclasses.dataclass(frozen=True)
class WalkSettings(Settings):
    """The walks to noise and back."""

    preset: str = setting(
        "published",
        "sets the flags of the walks that are not given; published: DDIM, all steps, reference "
        "levels; aligned: the same at joined levels; fast, draft: few steps of dpmpp",
        choices=PRESETS,
    )
    solver: str = setting("ddim", "ddim, or dpmpp: multistep, for few steps", choices=SOLVERS)
    solver_order: int = setting(2, "order of dpmpp", minimum=1, maximum=3)
    encode_steps: int = setting(0, "network evaluations of an encoding; 0: every level", minimum=0)
    decode_steps: int = setting(
        0, "network evaluations of a decoding from full depth; 0: every level", minimum=0
    )
    encode_prediction: str = setting(
        "data",
        "prediction that dpmpp follows in an encoding; data: the clean image; noise: the noise",
        choices=PREDICTED,
    )
    grid: str = setting(
        "mixed",
        "levels that few steps visit, at even distances; time: in the timestep; quadratic: in its "
        "root; logsnr: in the log of the signal-to-noise ratio; mixed: in time plus logsnr",
        choices=GRIDS,
    )
    level_convention: str = level_convention()

    def resolved(self, levels: int) -> "WalkSettings":
        """Return the walks that the preset stands for; settings that were given stay.

        Args:
            levels: number of levels of the process; a preset takes at most as many steps.

        Raises:
            ArgumentError: if the walks do not fit the process, or a given setting has no effect.
        """
        preset = PRESETS[self.preset]
        chosen = {name: preset[name] for name in preset.keys() - self.given}
        steps = {name: min(chosen[name], levels) for name in STEPS if name in chosen}
        walk = self.replace(**chosen | steps)  # these count as given, so that they stay
        # A value equal to the preset's may come from an earlier call, and does no harm.
        own = {name for name in self.given if getattr(self, name) != preset.get(name)}
        for name in sorted({"solver_order", "encode_prediction"} & own):
            if isinstance(walk.encoding, DDIM):
                problem = f"goes with --solver dpmpp (or --preset fast), got {walk.solver}"
                raise ArgumentError(name, problem)
        if "grid" in own and not walk.encode_steps and not walk.decode_steps:
            problem = "every level is visited; add --encode_steps or --decode_steps"
            raise ArgumentError("grid", problem)
        walk.check(levels)
        return walk

    @property
    def encoding(self) -> Multistep:
        """Solver of the walk to noise."""
        return SOLVERS[self.solver](self.solver_order, self.encode_prediction)

    @property
    def decoding(self) -> Multistep:
        """Solver of the walk to clean images."""
        return SOLVERS[self.solver](self.solver_order, "data")

    def within(self, levels: int) -> "WalkSettings":
        """Return the walks with at most as many steps as there are levels."""
        return self.replace(**{name: min(getattr(self, name), levels) for name in STEPS})

    def check(self, levels: int) -> None:
        """Raise an `ArgumentError` if settings conflict, or ask for more steps than levels."""
        if self.level_convention == "reference":
            known = isinstance(self.encoding, DDIM)
            fits = {"solver": known, "encode_steps": not self.encode_steps}
            for name in (name for name, fit in fits.items() if not fit):
                default = defaults(WalkSettings)[name]
                published = f"the published levels (--level_convention reference) go with {default}"
                got = f"got {getattr(self, name)}; add --level_convention aligned"
                raise ArgumentError(name, f"{published} only, {got}")
        for name in STEPS:
            if (steps := getattr(self, name)) > levels:
                raise ArgumentError(name, f"expected 1 to {levels} steps, found {steps}")


@dataclasses.dataclass(frozen=True)
class DepthSettings(Settings):
    """The depths that a sequence is decoded from."""

    amount: int = setting(10, "images per sequence, besides its source", minimum=1)
    depth_policy: str = setting(
        "add",
        "add: the published adaptive search, evenly spaced where it fails; even: equal changes of "
        "the feature; uniform: evenly spaced (demo: even)",
        choices=POLICIES,
    )
    depth_feature: str = setting(
        "magnitude",
        "image feature that even measures; magnitude: the published 18 bins of low horizontal "
        "frequencies; power: log power of all frequencies by radius",
        choices=FEATURES,
    )

    depths: str = setting(
        "",
        "fixed depths in place of a policy, rising, as 300,600: numbers of noising moves, of the "
        "shortened process with --timestep_respacing; as many as --amount, which follows from "
        "them; empty: as --depth_policy chooses",
    )

    @property
    def fixed(self) -> tuple[int, ...]:
        """The depths that are the same for every image; (): a policy chooses them."""
        return numbers("depths", self.depths) if self.depths else ()

    @property
    def policy(self) -> str:
        """Name of what chooses the depths: `fixed`, or a key of `POLICIES`."""
        return "fixed" if self.depths else self.depth_policy

    def resolved(self) -> "DepthSettings":
        """Return the settings with the amount that follows from fixed depths.

        Raises:
            ArgumentError: if amount or policy contradict them.
        """
        if not self.depths:
            return self
        fixed, usual = self.fixed, defaults(DepthSettings)["amount"]
        if self.amount != len(fixed) and ("amount" in self.given or self.amount != usual):
            problem = f"expected {len(fixed)} or none, as many as --depths {self.depths} names"
            raise ArgumentError("amount", f"{problem}, got {self.amount}")
        if "depth_policy" in self.given:
            problem = f"expected without --depths {self.depths}, which fixes the depths"
            raise ArgumentError("depth_policy", f"{problem}, got {self.depth_policy}")
        listed = ",".join(map(str, fixed))
        return self.with_given(self.given, amount=len(fixed), depths=listed)

    def check(self, levels: int) -> None:
        """Raise an `ArgumentError` if levels are too few, or policy and feature do not fit."""
        fixed = self.fixed
        if fixed and (fixed[0] < 1 or fixed[-1] > levels or any(np.diff(fixed) < 1)):
            expected = f"expected rising depths from 1 to {levels} ({DEEPEST})"
            raise ArgumentError("depths", f"{expected}, got {self.depths}")
        if self.amount > levels:
            expected = f"expected 1 to {levels} ({DEEPEST})"
            raise ArgumentError("amount", f"{expected}, got {self.amount}")
        if self.policy == "add" and self.depth_feature != "magnitude":
            problem = "the published search (--depth_policy add) is defined on magnitude"
            got = f"got {self.depth_feature!r}; use it with --depth_policy even"
            raise ArgumentError("depth_feature", f"{problem}, {got}")

    def choose(self, features: np.ndarray) -> Depths:
        """Choose the depths of one image, by its features [T, K] after 1..T moves; see `check`."""
        self.check(len(features))
        if self.depths:
            return Depths(self.fixed)
        return POLICIES[self.depth_policy](features, self.amount)


@dataclasses.dataclass(frozen=True)
class BatchSettings(Settings):
    """Batches and memory of sequences; results are the same up to rounding."""

    batch_size: int = setting(1, "source images encoded together", minimum=1, free=True)
    max_batch: int = setting(
        32, "most images per forward; halved when a GPU's memory runs out", minimum=1, free=True
    )
    trajectory_memory: float = setting(
        0.5, "GB of trajectory kept in memory; beyond it, in a temporary file", minimum=0, free=True
    )


@dataclasses.dataclass(frozen=True)
class ClassTranslationSettings(ReadingSettings):
    """Translation between classes of one model."""

    model_path: str = setting(
        "./models/imagenet/256x256_diffusion.pt", f"{PLACE} of a class-conditional model"
    )
    source: str = setting("260,261,282,283", "classes to translate from, names or numbers")
    target: str = setting(
        "261,262,283,284", "for each --source, the class to translate to, name or number"
    )
    val_dir: str = setting("", "folder of source images, searched recursively", required=True)
    label_map: str = setting("", "text file with a NAME and a class number a line; empty: none")
    num_images: int = setting(0, "images of each pair, in order of name; 0: all", minimum=0)
    clip_denoised: bool = setting(True, "clip predicted images to [-1, 1]")
    batch_size: int = setting(8, "images per forward and per process", minimum=1, free=True)
    eta: float = setting(0.0, "share of fresh noise in decoding; 0: none", minimum=0, maximum=1)
    out_channels: int = setting(
        NUM_CLASSES,
        "classes of the classifier; read from its weights, which must agree where this is given",
        minimum=2,
    )


@dataclasses.dataclass(frozen=True)
class PointSampleSettings(Settings):
    """Drawing new points from one model."""

    task: int = task(0, "distribution of the model")
    num_samples: int = setting(80000, "points to draw", minimum=1)
    batch_size: int = setting(20000, "points per forward and per process", minimum=1, free=True)
    model_path: str = setting(
        "", f"{PLACE}, or folder of runs by task as log2D0; empty: the runs of synthetic_train"
    )


@dataclasses.dataclass(frozen=True)
class PointTranslationSettings(Settings):
    """Points of one distribution on their way to another."""

    source: int = task(0, "distribution of the points")
    target: int = task(1, "distribution to reach")
    num_samples: int = setting(90000, "points to move", minimum=1)
    batch_size: int = setting(30000, "points per forward and per process", minimum=1, free=True)
    model_path: str = setting(
        "", "folder of training runs by task, as log2D0; empty: the runs of synthetic_train"
    )
    source_model: str = setting("", f"source {PLACE}; empty: by task in --model_path")
    target_model: str = setting("", f"target {PLACE}; empty: by task in --model_path")
    level_convention: str = level_convention()
