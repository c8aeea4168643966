"""Faces: upstream's parameters in upstream's order, on builders that take typed settings."""

import inspect
import pickle
from dataclasses import dataclass
from typing import get_type_hints

import numpy as np
import pytest
import torch
from support.reference_interface import INTERFACE

import guided_diffusion.improved_diffusion  # noqa: F401  (makes its name importable)
from guided_diffusion import script_util
from guided_diffusion.config.settings import Settings, setting
from guided_diffusion.errors import ArgumentError
from guided_diffusion.models.faces import defaults_for, face

from improved_diffusion import script_util as improved  # isort: skip

FACES = {
    "create_model_and_diffusion": script_util.model_and_diffusion_defaults(),
    "create_model": {"image_size": 64, "num_channels": 32, "num_res_blocks": 1},
    "create_classifier_and_diffusion": script_util.classifier_and_diffusion_defaults(),
    "create_classifier": script_util.classifier_defaults(),
    "sr_create_model_and_diffusion": script_util.sr_model_and_diffusion_defaults(),
    "sr_create_model": script_util.sr_model_and_diffusion_defaults(),
    "create_model_and_diffusion_2d": script_util.model_and_diffusion_defaults_2d(),
    "create_gaussian_diffusion": {},
}
IMPROVED = {
    "create_model_and_diffusion": improved.model_and_diffusion_defaults(),
    "create_model": improved.model_and_diffusion_defaults(),
    "sr_create_model_and_diffusion": improved.sr_model_and_diffusion_defaults(),
    "sr_create_model": improved.sr_model_and_diffusion_defaults(),
}
EVERY = [(script_util, name, known) for name, known in FACES.items()]
EVERY += [(improved, name, known) for name, known in IMPROVED.items()]
OURS_BY_NAME = {  # settings that no upstream has, and numbers of classes
    "create_model_and_diffusion": "in_channels num_classes sigma_small attention_kind "
    "attention_window attention_priority",
    "create_model": "in_channels num_classes attention_kind attention_window attention_priority",
    "create_classifier_and_diffusion": "in_channels out_channels classifier_channel_mult "
    "classifier_use_new_attention_order sigma_small",
    "create_classifier": "in_channels out_channels classifier_channel_mult "
    "classifier_use_new_attention_order",
    "sr_create_model_and_diffusion": "channel_mult in_channels num_classes sigma_small",
    "sr_create_model": "num_classes channel_mult in_channels",
    "create_model_and_diffusion_2d": "sigma_small",
    "create_gaussian_diffusion": "steps learn_sigma sigma_small noise_schedule use_kl "
    "predict_xstart rescale_timesteps rescale_learned_sigmas timestep_respacing",
}


def arguments(create, known):
    """Those of a face that must be given, with values that build something small."""
    known = {**known, "channel_mult": "", "num_head_channels": -1, "num_channels": 32}
    parameters = inspect.signature(create).parameters.values()
    return {p.name: known[p.name] for p in parameters if p.default is p.empty}


def build(create, *args, **kwargs):
    """What a face builds, in values that can be compared."""
    with torch.device("meta"):
        made = create(*args, **kwargs)
    parts = made if isinstance(made, tuple) else (made,)
    return [described(part) for part in parts]


def described(part):
    if isinstance(part, torch.nn.Module):
        return type(part), {key: value.shape for key, value in part.state_dict().items()}
    return type(part), part.betas.tolist(), part.timestep_map, part.model_var_type, part.loss_type


@pytest.mark.parametrize(("module", "name", "known"), EVERY)
def test_a_call_by_place_is_the_call_by_name(module, name, known):
    create = getattr(module, name)
    wanted = arguments(create, known)
    assert build(create, *wanted.values()) == build(create, **wanted)
    first, rest = [*wanted.values()][:1], dict([*wanted.items()][1:])
    assert build(create, *first, **rest) == build(create, **wanted)


@pytest.mark.parametrize(("module", "name", "known"), EVERY)
def test_missing_unknown_and_doubled_arguments_are_type_errors_as_in_any_function(
    module, name, known
):
    create = getattr(module, name)
    wanted = arguments(create, known)
    for missing in [*wanted][:1] + [*wanted][-1:]:
        with pytest.raises(TypeError, match=f"missing a required .*argument: '{missing}'"):
            create(**{key: value for key, value in wanted.items() if key != missing})
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        create(**wanted, nonsense=1)
    places = len(inspect.getfullargspec(create).args)
    with pytest.raises(TypeError, match="too many positional arguments"):
        create(*range(places + 1))
    if wanted:
        with pytest.raises(TypeError, match="multiple values for argument"):
            create(1, **wanted)


@pytest.mark.parametrize(("module", "name", "known"), EVERY)
def test_readers_of_signatures_see_upstreams(module, name, known):
    create = getattr(module, name)
    found, signature = inspect.getfullargspec(create), inspect.signature(create)
    assert (found.varargs, found.varkw) == (None, None)
    assert [*signature.parameters] == found.args + found.kwonlyargs
    assert create.__name__ == create.__qualname__ == name and create.__doc__.endswith(".")
    if module is not improved:
        assert {*found.kwonlyargs} == {*OURS_BY_NAME[name].split()}
    assert not {*found.args} & {*found.kwonlyargs}
    assert set(found.kwonlydefaults or {}) == set(found.kwonlyargs)
    for parameter in signature.parameters.values():
        if parameter.default is not parameter.empty:
            assert parameter.annotation in (type(parameter.default), float, parameter.empty)
    assert getattr(module, name) is pickle.loads(pickle.dumps(create))


@pytest.mark.parametrize(("module", "name", "known"), EVERY)
def test_default_dicts_have_what_a_face_takes_by_place(module, name, known):
    own = {name for own in INTERFACE.values() for name in own["api"].get("script_util", {})}
    assert name in own  # of some upstream
    create = getattr(module, name)
    if name.endswith("_diffusion") and known:
        assert [*known] == inspect.getfullargspec(create).args


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("create_model", {"image_size": "64"}, "image_size: expected a whole number .* got '64'"),
        ("create_model", {"image_size": None}, "image_size: expected a whole number .* got None"),
        ("create_model", {"num_heads": 0}, "num_heads: expected a whole number of at least 1"),
        ("create_model", {"dropout": float("nan")}, "dropout: expected a number from 0 to 1"),
        ("create_model", {"use_fp16": "False"}, "use_fp16: expected True or False, got 'False'"),
        ("create_model", {"num_channels": 48}, "num_channels: expected a multiple of 32, got 48"),
        ("create_model", {"attention_kind": "wide"}, "attention_kind: expected one of standard, h"),
        ("create_classifier", {"classifier_pool": "deep"}, "classifier_pool: expected one of .*'d"),
        ("create_gaussian_diffusion", {"steps": 0}, "diffusion_steps: expected .* at least 1, got"),
        (
            "create_gaussian_diffusion",
            {"noise_schedule": "sq"},
            "noise_schedule: .* cosine, got",
        ),
        ("sr_create_model", {"small_size": 512}, "small_size: expected 1 to large_size 256"),
        ("create_model_and_diffusion_2d", {"num_channels": 40}, "num_channels: expected a multipl"),
    ],
)
def test_a_value_that_does_not_fit_is_told_under_its_name(name, changes, message):
    create = getattr(script_util, name)
    with pytest.raises(ArgumentError, match=f"^{message}"):
        build(create, **arguments(create, FACES[name]) | changes)


@pytest.mark.parametrize(
    ("loose", "strict"),
    [
        ({"timestep_respacing": [10]}, {"timestep_respacing": "10"}),
        ({"timestep_respacing": (5, 5)}, {"timestep_respacing": "5,5"}),
        ({"timestep_respacing": None}, {"timestep_respacing": ""}),
        ({"timestep_respacing": []}, {"timestep_respacing": ""}),
        ({"attention_resolutions": 16}, {"attention_resolutions": "16"}),
        ({"image_size": np.int64(32)}, {"image_size": 32}),
        ({"dropout": np.float32(0.5)}, {"dropout": 0.5}),
        ({"dropout": 0}, {"dropout": 0.0}),
        ({"class_cond": 1, "learn_sigma": 0}, {"class_cond": True, "learn_sigma": False}),
        ({"use_fp16": None, "use_kl": np.bool_(True)}, {"use_fp16": False, "use_kl": True}),
    ],
)
def test_looser_types_that_upstream_takes_are_taken(loose, strict):
    create = script_util.create_model_and_diffusion
    wanted = arguments(create, FACES["create_model_and_diffusion"]) | {"diffusion_steps": 40}
    assert build(create, **wanted | loose) == build(create, **wanted | strict)


def test_channels_are_not_only_those_of_image_files():
    with torch.device("meta"):
        model = script_util.create_model(64, 32, 1, in_channels=6, learn_sigma=True)
    assert model.in_channels == 6 and model.out_channels == 12


@dataclass(frozen=True)
class Wheel(Settings):
    """A wheel."""

    size: int = setting(4, "side", minimum=1)
    fast: bool = setting(False, "be quick")


@dataclass(frozen=True)
class Road(Settings):
    """A road."""

    name: str = setting("a", "name")
    size: int = setting(9, "length")
    steep: float = setting(0.5, "slope")


def drive(wheel, road, horn, speed):
    return wheel, road, horn, speed


go = face("go", "Go.", drive, (Wheel, Road), "horn size name=3 fast=False * speed=7")


def test_a_face_hands_settings_to_groups_and_the_rest_on_by_name():
    assert go("x", 5) == (Wheel(5), Road("3", 5), "x", 7)
    assert go(speed=8, size=5, horn=None, fast=True, name="b") == (
        Wheel(5, True),
        Road("b", 5),
        None,
        8,
    )
    assert str(inspect.signature(go)) == (
        "(horn, size: int, name: str = 3, fast: bool = False, *, speed=7, steep: float = 0.5)"
    )
    assert go("x", 5, steep=0.1)[1] == Road("3", 5, 0.1)
    assert get_type_hints(go) == {"size": int, "name": str, "fast": bool, "steep": float}
    assert go.__module__ == __name__ and pickle.loads(pickle.dumps(go)) is go


def test_defaults_are_those_of_the_parameters_by_place():
    known = {"fast": True, "size": 1, "horn": "y", "speed": 2, "name": "b", "steep": 0.1}
    found = defaults_for(go, known)
    assert [*found.items()] == [("horn", "y"), ("size", 1), ("name", "b"), ("fast", True)]
