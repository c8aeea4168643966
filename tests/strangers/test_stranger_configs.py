"""Settings of other projects: parsers, JSON, YAML and plain dicts with exactly upstream's keys."""

import argparse
import importlib
import json
from types import SimpleNamespace
from unittest import mock

import pytest
import torch as th
from support.upstream_program import NAMESPACES, SHAPE, create_argparser

import guided_diffusion.improved_diffusion  # noqa: F401  (makes its name importable)
from guided_diffusion import resample, script_util
from guided_diffusion.script_util import (
    add_dict_to_argparser,
    args_to_dict,
    classifier_and_diffusion_defaults,
    classifier_defaults,
    create_classifier,
    create_classifier_and_diffusion,
    create_gaussian_diffusion,
    create_model,
    create_model_and_diffusion,
    diffusion_defaults,
    model_and_diffusion_defaults,
    sr_create_model_and_diffusion,
    sr_model_and_diffusion_defaults,
    str2bool,
)

UPSTREAM = NAMESPACES["guided-diffusion"]["script_util"]
TINY = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "num_heads": 2,
    "attention_resolutions": "8",
    "diffusion_steps": 100,
    "timestep_respacing": "ddim10",
    "learn_sigma": True,
}
YAML = """
data:
    dataset: imagenet
model:
    attention_resolutions: '8'
    channel_mult: '1,2'
    class_cond: false
    diffusion_steps: 100
    dropout: 0.0
    image_size: 16
    learn_sigma: true
    noise_schedule: cosine
    num_channels: 32
    num_head_channels: -1
    num_heads: 2
    num_heads_upsample: -1
    num_res_blocks: 1
    predict_xstart: false
    resblock_updown: true
    rescale_learned_sigmas: false
    rescale_timesteps: true
    timestep_respacing: '20'
    use_checkpoint: false
    use_fp16: false
    use_kl: false
    use_new_attention_order: false
    use_scale_shift_norm: true
sampling:
    batch_size: 2
"""


@pytest.mark.parametrize("name", UPSTREAM["defaults"])
def test_defaults_are_exactly_upstreams(name):
    found = getattr(script_util, name)()
    assert found == UPSTREAM["defaults"][name]
    for key, value in UPSTREAM["defaults"][name].items():  # 1 == True, 0.0 == False
        assert type(found[key]) is type(value), key
    found["image_size"] = "changed"
    assert getattr(script_util, name)() == UPSTREAM["defaults"][name]


def test_parser_understands_upstreams_spellings():
    args = create_argparser().parse_args(
        ["--use_ddim", "True", "--learn_sigma", "yes", "--class_cond", "0", "--dropout", "0.1"]
    )
    assert args.use_ddim is True and args.learn_sigma is True and args.class_cond is False
    assert args.dropout == 0.1 and isinstance(args.image_size, int)
    assert set(diffusion_defaults()) <= set(vars(args))


def test_str2bool_by_itself():
    for text in ("yes", "true", "T", "y", "1", True):
        assert str2bool(text) is True
    for text in ("no", "False", "f", "N", "0", False):
        assert str2bool(text) is False
    with pytest.raises(argparse.ArgumentTypeError):
        str2bool("perhaps")


@pytest.mark.parametrize("name", UPSTREAM["defaults"])
def test_a_parser_has_one_flag_for_each_of_upstreams_keys(name):
    defaults = getattr(script_util, name)()
    parser = argparse.ArgumentParser()
    add_dict_to_argparser(parser, defaults)
    args = parser.parse_args([])
    assert vars(args) == UPSTREAM["defaults"][name]
    assert args_to_dict(args, defaults.keys()) == UPSTREAM["defaults"][name]
    flags = [word for key, value in defaults.items() for word in (f"--{key}", str(value))]
    assert vars(parser.parse_args(flags)) == defaults


def test_a_parser_of_ones_own_with_none_and_a_path():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mine", type=int, default=3)
    add_dict_to_argparser(parser, {"base_samples": None, "model_path": "", "scale": 1.5})
    args = parser.parse_args("--base_samples a.npz --scale 2".split())
    assert vars(args) == {"mine": 3, "base_samples": "a.npz", "model_path": "", "scale": 2.0}


def process_of(model, diffusion):
    """Sample, so that what was built is known to work, and return the process."""
    sample = diffusion.ddim_sample_loop(model, SHAPE)
    assert sample.shape == SHAPE and th.isfinite(sample).all()
    return diffusion


def test_a_plain_dict_a_namespace_and_json_build_the_same():
    plain = dict(model_and_diffusion_defaults(), **TINY)
    space = SimpleNamespace(**plain, batch_size=4)
    loaded = model_and_diffusion_defaults()
    loaded.update(json.loads(json.dumps(TINY)))
    shapes = []
    for flags in (plain, args_to_dict(space, model_and_diffusion_defaults().keys()), loaded):
        model, diffusion = create_model_and_diffusion(**flags)
        assert process_of(model, diffusion).num_timesteps == 10
        shapes.append({key: value.shape for key, value in model.state_dict().items()})
    assert shapes[0] == shapes[1] == shapes[2] and shapes[0]["out.2.weight"][0] == 6


def parse_yaml(text):
    """Read the little of YAML that such files use."""
    sections, section = {}, None
    for line in filter(str.strip, text.splitlines()):
        key, _, value = (part.strip() for part in line.partition(":"))
        if not line[0].isspace():
            section = sections[key] = {}
            continue
        for kind in (int, float):
            try:
                value = kind(value)
                break
            except ValueError:
                pass
        words = {"true": True, "false": False}
        section[key] = words.get(value, value.strip("'") if isinstance(value, str) else value)
    return sections


def test_a_config_file_names_each_of_upstreams_keys_and_no_other():
    config = SimpleNamespace(**parse_yaml(YAML))
    assert set(config.model) == set(UPSTREAM["defaults"]["model_and_diffusion_defaults"])
    flags = model_and_diffusion_defaults()
    flags.update(vars(SimpleNamespace(**config.model)))
    model, diffusion = create_model_and_diffusion(**flags)
    assert process_of(model, diffusion).num_timesteps == 20 and diffusion.rescale_timesteps
    assert model.resblock_updown and model.out_channels == 6


def test_positional_arguments_stand_in_upstreams_order():
    model = create_model(16, 32, 1, "1,2", True, True, False, "8", 2, -1, -1, True, 0.1)
    assert model.out_channels == 6 and model.num_classes == 1000 and model.dropout == 0.1
    values = [
        dict(model_and_diffusion_defaults(), **TINY)[name]
        for name in UPSTREAM["positional"]["create_model_and_diffusion"]
    ]
    model, diffusion = create_model_and_diffusion(*values)
    assert process_of(model, diffusion).num_timesteps == 10


BUILT = [
    ("guided-diffusion", "create_model", 3),
    ("guided-diffusion", "sr_create_model", 4),
    ("guided-diffusion", "create_classifier", 8),
    ("improved-diffusion", "create_model", 3),
    ("improved-diffusion", "sr_create_model", 4),
]
OF_A_PROCESS = {"steps", *diffusion_defaults()} - {"diffusion_steps"}


@pytest.mark.parametrize(("repository", "name", "places"), BUILT)
def test_functions_that_a_fork_replaced_get_what_upstream_hands_to_its_own(
    monkeypatch, repository, name, places
):
    module = importlib.import_module(f"{repository.replace('-', '_')}.script_util")
    both = name.replace("create_model", "create_model_and_diffusion")
    both = both.replace("classifier", "classifier_and_diffusion")
    known = "classifier_and_diffusion" if "classifier" in name else "model_and_diffusion"
    known = f"{'sr_' if name.startswith('sr_') else ''}{known}_defaults"
    flags = dict(getattr(module, known)(), diffusion_steps=70)
    create, process = mock.Mock(), mock.Mock()
    monkeypatch.setattr(module, name, create)
    monkeypatch.setattr(module, "create_gaussian_diffusion", process)
    made = getattr(module, both)(**flags)
    assert made == (create.return_value, process.return_value)
    (args, kwargs), (none, of_process) = create.call_args, process.call_args
    names = NAMESPACES[repository]["script_util"]["positional"][name]
    assert args == tuple(flags[key] for key in names[:places])
    assert kwargs == {key: flags[key] for key in names[places:]}
    assert none == () and of_process["steps"] == 70
    assert of_process.keys() - {"sigma_small"} == OF_A_PROCESS


def test_a_setting_that_a_forks_function_does_not_take_is_not_dropped(monkeypatch):
    monkeypatch.setattr(script_util, "create_model", lambda image_size, *sizes, **upstreams: sizes)
    flags = dict(model_and_diffusion_defaults(), **TINY)
    assert create_model_and_diffusion(**flags)[0] == (32, 1)
    monkeypatch.setattr(script_util, "create_gaussian_diffusion", lambda *, steps: steps)
    with pytest.raises(TypeError, match="unexpected keyword argument 'learn_sigma'"):
        create_model_and_diffusion(**flags)
    monkeypatch.setattr(script_util, "create_model", mock.Mock())
    monkeypatch.setattr(script_util, "create_gaussian_diffusion", mock.Mock())
    create_model_and_diffusion(**flags, attention_kind="hybrid")
    assert script_util.create_model.call_args.kwargs["attention_kind"] == "hybrid"


def test_a_resampler_that_a_fork_replaced_is_built(monkeypatch):
    for name, kind in (
        ("uniform", "UniformSampler"),
        ("loss-second-moment", "LossSecondMomentResampler"),
    ):
        monkeypatch.setattr(resample, kind, lambda diffusion: ("mine", diffusion))
        assert resample.create_named_schedule_sampler(name, "process") == ("mine", "process")


def test_classifier_flags_of_a_training_script():
    small = dict(classifier_width=32, classifier_depth=1, classifier_attention_resolutions="8")
    defaults = dict(data_dir="", noised=True, iterations=10, lr=3e-4, batch_size=4)
    defaults.update(classifier_and_diffusion_defaults())
    parser = argparse.ArgumentParser()
    add_dict_to_argparser(parser, defaults)
    flags = [word for key, value in small.items() for word in (f"--{key}", str(value))]
    args = parser.parse_args([*flags, "--noised", "False"])
    model, diffusion = create_classifier_and_diffusion(
        **args_to_dict(args, classifier_and_diffusion_defaults().keys())
    )
    alone = create_classifier(**args_to_dict(args, classifier_defaults().keys()))
    assert args.noised is False and diffusion.num_timesteps == 1000
    assert model.state_dict().keys() == alone.state_dict().keys()
    assert model(th.randn(1, 3, 64, 64), timesteps=th.tensor([3])).shape == (1, 1000)


def test_super_resolution_flags():
    flags = dict(sr_model_and_diffusion_defaults(), large_size=256, small_size=64)
    assert flags == UPSTREAM["defaults"]["sr_model_and_diffusion_defaults"]
    with th.device("meta"):
        model, diffusion = sr_create_model_and_diffusion(**flags)
    assert model.in_channels == 6 and diffusion.num_timesteps == 1000


def test_settings_of_a_process_alone():
    flags = dict(diffusion_defaults(), diffusion_steps=50, timestep_respacing="5,5")
    diffusion = create_gaussian_diffusion(
        steps=flags["diffusion_steps"],
        learn_sigma=flags["learn_sigma"],
        noise_schedule=flags["noise_schedule"],
        use_kl=flags["use_kl"],
        predict_xstart=True,
        rescale_timesteps=flags["rescale_timesteps"],
        rescale_learned_sigmas=flags["rescale_learned_sigmas"],
        timestep_respacing=flags["timestep_respacing"],
    )
    assert diffusion.num_timesteps == 10 and diffusion.original_num_steps == 50
    x, t = th.randn(SHAPE), th.tensor([3, 9])
    out = diffusion.p_mean_variance(lambda x, t: x / 2, x, t, clip_denoised=False)
    assert th.equal(out["pred_xstart"], x / 2)
