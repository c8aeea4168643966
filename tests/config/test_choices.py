"""Flags that choose by name offer what the code behind them holds, in every command alike."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.parsers import COMMANDS, flags_of

from guided_diffusion.config.upstream import DEFAULT_SETS
from guided_diffusion.data.augmentations import AUGMENTATIONS
from guided_diffusion.data.class_labels import LABEL_SOURCES, class_names
from guided_diffusion.data.image_features import FEATURES
from guided_diffusion.data.synthetic_datasets import Synthetic2DType
from guided_diffusion.diffusion.resample import SCHEDULE_SAMPLERS, create_named_schedule_sampler
from guided_diffusion.diffusion.schedules import (
    GRIDS,
    SCHEDULES,
    get_named_beta_schedule,
    timestep_grid,
)
from guided_diffusion.diffusion.solvers import PREDICTED, SOLVERS
from guided_diffusion.errors import UserError
from guided_diffusion.evaluation.feature_extractors import Inception, SmallNetwork
from guided_diffusion.models.script_util import classifier_defaults, create_classifier
from guided_diffusion.networks.attention import KINDS, STARTS
from guided_diffusion.networks.unet import ENCODER_POOLS
from guided_diffusion.runtime.settings import PRECISIONS
from guided_diffusion.translation.depth_policies import POLICIES
from guided_diffusion.translation.settings import CONVENTIONS, PRESETS

REGISTRIES = {
    "attention_kind": KINDS,
    "attention_priority": STARTS,
    "augment": AUGMENTATIONS,
    "classifier_pool": ENCODER_POOLS,
    "defaults": DEFAULT_SETS,
    "depth_feature": FEATURES,
    "depth_policy": POLICIES,
    "encode_prediction": PREDICTED,
    "features": {"auto", SmallNetwork.name, Inception.name},
    "grid": GRIDS,
    "labels": LABEL_SOURCES,
    "level_convention": CONVENTIONS,
    "noise_schedule": SCHEDULES,
    "precision": PRECISIONS,
    "preset": PRESETS,
    "schedule_sampler": SCHEDULE_SAMPLERS,
    "solver": SOLVERS,
    "task": range(len(Synthetic2DType)),
}
# Where a part of what there is makes sense.
PARTS = {("benchmark neighbours", "preset")}
OFFERED = {
    (command, action.dest): action.choices
    for command, made in COMMANDS.items()
    for action in flags_of(made.parser()).values()
    if action.choices is not None
}


def test_every_registry_has_a_flag():
    assert {name for _, name in OFFERED} >= REGISTRIES.keys()


@pytest.mark.parametrize(
    ("command", "name"), [place for place in OFFERED if place[1] in REGISTRIES]
)
def test_a_flag_offers_the_names_of_its_registry(command, name):
    offered, held = set(OFFERED[command, name]), set(REGISTRIES[name])
    assert offered == held or ((command, name) in PARTS and offered < held)


SMALL = {"image_size": 64, "classifier_width": 64, "classifier_depth": 1}
CODE_BEHIND = {
    "classifier_pool": lambda name: create_classifier(
        **classifier_defaults() | SMALL | {"classifier_pool": name}
    ),
    "grid": lambda name: timestep_grid(name, 3, np.linspace(0.9, 0.1, 9)),
    "labels": lambda name: class_names(["images/a/b_1.png"], "images", name),
    "noise_schedule": lambda name: get_named_beta_schedule(name, 100),
    "schedule_sampler": lambda name: create_named_schedule_sampler(
        name, SimpleNamespace(num_timesteps=5)
    ),
}


@pytest.mark.parametrize("name", CODE_BEHIND)
def test_the_code_behind_a_flag_takes_what_it_offers_and_nothing_else(name):
    offered = {tuple(choices) for (_, flag), choices in OFFERED.items() if flag == name}
    assert len(offered) == 1
    for choice in offered.pop():
        assert CODE_BEHIND[name](choice) is not None
    with pytest.raises((UserError, ValueError, NotImplementedError, KeyError)):
        CODE_BEHIND[name]("no such name")
