"""Networks and processes from flags: upstream's defaults and calls, and flags that cannot work."""

import argparse
import re

import pytest
import torch
from support.reference_interface import INTERFACE
from support.reference_weights import draw

from guided_diffusion import gaussian_diffusion as gd
from guided_diffusion import script_util
from guided_diffusion.config.network_settings import ClassifierSettings, ModelSettings
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.errors import UserError
from guided_diffusion.models import network_arguments
from guided_diffusion.script_util import add_dict_to_argparser, args_to_dict

UPSTREAM = INTERFACE["guided-diffusion"]["cli"]
TINY = script_util.model_and_diffusion_defaults() | {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": "8",
    "diffusion_steps": 40,
}
TINY_CLASSIFIER = script_util.classifier_and_diffusion_defaults() | {
    "image_size": 16,
    "classifier_width": 64,
    "classifier_depth": 1,
    "diffusion_steps": 40,
    "classifier_attention_resolutions": "8",
}
# Ours alone.
OF_CLASSIFIERS = {
    "in_channels",
    "classifier_channel_mult",
    "classifier_use_new_attention_order",
}
TINY_SR = script_util.sr_model_and_diffusion_defaults() | {
    "large_size": 16,
    "small_size": 8,
    "num_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": "8",
    "diffusion_steps": 40,
    "learn_sigma": True,
}


@pytest.mark.parametrize(
    ("defaults", "script", "missing"),
    [
        (script_util.diffusion_defaults, "image_train.py", {"in_channels"}),
        (script_util.model_and_diffusion_defaults, "image_train.py", {"in_channels"}),
        (script_util.classifier_defaults, "classifier_train.py", OF_CLASSIFIERS),
        (script_util.classifier_and_diffusion_defaults, "classifier_train.py", OF_CLASSIFIERS),
        (
            script_util.sr_model_and_diffusion_defaults,
            "super_res_train.py",
            {"channel_mult", "in_channels"},
        ),
    ],
)
def test_default_dicts_have_upstreams_values(defaults, script, missing):
    own = {f"--{name}": value for name, value in defaults().items() if name not in missing}
    assert own.items() <= UPSTREAM[script].items()


@pytest.mark.parametrize(
    ("defaults", "script", "training"),
    [
        (
            script_util.model_and_diffusion_defaults,
            "image_train.py",
            "data_dir schedule_sampler lr weight_decay lr_anneal_steps batch_size microbatch "
            "ema_rate log_interval save_interval resume_checkpoint fp16_scale_growth",
        ),
        (
            script_util.sr_model_and_diffusion_defaults,
            "super_res_train.py",
            "data_dir schedule_sampler lr weight_decay lr_anneal_steps batch_size microbatch "
            "ema_rate log_interval save_interval resume_checkpoint fp16_scale_growth",
        ),
        (
            script_util.classifier_and_diffusion_defaults,
            "classifier_train.py",
            "data_dir val_data_dir noised iterations lr weight_decay anneal_lr batch_size "
            "microbatch schedule_sampler resume_checkpoint log_interval eval_interval "
            "save_interval",
        ),
    ],
)
def test_default_dicts_have_all_of_upstreams_keys(defaults, script, training):
    expected = {flag[2:] for flag in UPSTREAM[script]} - set(training.split())
    assert expected - defaults().keys() == set()


def test_default_dicts_are_fresh_each_time():
    script_util.model_and_diffusion_defaults()["image_size"] = 1
    assert script_util.model_and_diffusion_defaults()["image_size"] == 64


def test_upstreams_way_from_defaults_to_a_model_that_runs():
    parser = argparse.ArgumentParser()
    add_dict_to_argparser(parser, script_util.model_and_diffusion_defaults())
    words = (
        "--image_size 16 --num_channels 32 --num_res_blocks 1 --attention_resolutions 8 "
        "--class_cond True --learn_sigma True --timestep_respacing ddim10 --diffusion_steps 40"
    )
    args = parser.parse_args(words.split())
    model, diffusion = script_util.create_model_and_diffusion(
        **args_to_dict(args, script_util.model_and_diffusion_defaults().keys())
    )
    out = model(draw(0, 2, 3, 16, 16), torch.tensor([0, 39]), y=torch.tensor([0, 999]))
    assert out.shape == (2, 6, 16, 16)
    assert diffusion.num_timesteps == 10 and diffusion.original_num_steps == 40


def test_a_classifier_runs():
    model, diffusion = script_util.create_classifier_and_diffusion(**TINY_CLASSIFIER)
    assert model(draw(0, 2, 3, 16, 16), torch.tensor([0, 39])).shape == (2, 1000)
    assert diffusion.num_timesteps == 40


def test_a_super_resolution_network_runs():
    model, _ = script_util.sr_create_model_and_diffusion(**TINY_SR)
    low_res = draw(1, 2, 3, 8, 8)
    out = model(draw(0, 2, 3, 16, 16), torch.tensor([0, 39]), low_res=low_res)
    assert out.shape == (2, 6, 16, 16)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_super_resolution_network_has_as_many_channels_as_asked_for(channels):
    model, _ = script_util.sr_create_model_and_diffusion(**TINY_SR | {"in_channels": channels})
    images = draw(0, 1, channels, 16, 16), draw(1, 1, channels, 8, 8)
    out = model(images[0], torch.tensor([0]), low_res=images[1])
    assert out.shape == (1, 2 * channels, 16, 16)


@pytest.mark.parametrize(
    ("flags", "widths"),
    [
        ({"large_size": 512}, (1, 1, 2, 2, 4, 4)),  # upstream's, as the next two
        ({"large_size": 256}, (1, 1, 2, 2, 4, 4)),
        ({"large_size": 64}, (1, 2, 3, 4)),
        ({"large_size": 128}, (1, 1, 2, 3, 4)),
        ({"large_size": 24, "channel_mult": "1,2,1"}, (1, 2, 1)),
        ({"large_size": 8, "small_size": 8, "channel_mult": "2"}, (2,)),
    ],
)
def test_widths_of_a_super_resolution_network_are_by_size_or_as_given(flags, widths):
    with torch.device("meta"):
        model, _ = script_util.sr_create_model_and_diffusion(**TINY_SR | flags)
    assert model.channel_mult == widths


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"large_size": 48}, "large_size: there is a preset for .*, got 48; give channel_mult"),
        ({"large_size": 18, "channel_mult": "1,2,2"}, "large_size: .*multiple of 4, got 18"),
        ({"small_size": 17}, "small_size: expected 1 to large_size 16, got 17"),
        ({"small_size": 0}, "small_size: expected a whole number of at least 1, got 0"),
        ({"channel_mult": "1,x"}, "channel_mult: .*got '1,x'"),
        ({"num_channels": 48}, "num_channels: expected a multiple of 32, got 48"),
    ],
)
def test_a_super_resolution_flag_that_cannot_work_is_named(flags, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        script_util.sr_create_model_and_diffusion(**TINY_SR | flags)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_in_are_channels_out(channels):
    model, _ = script_util.create_model_and_diffusion(**TINY | {"in_channels": channels})
    shape = (1, channels, 16, 16)
    assert model(draw(0, *shape), torch.tensor([0])).shape == shape


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_size_without_preset_and_any_channels_suit_every_network(channels):
    image, t = draw(0, 2, channels, 24, 24), torch.tensor([0, 39])
    sized = {"in_channels": channels, "channel_mult": "1,2"}
    model, _ = script_util.create_model_and_diffusion(**TINY | sized | {"image_size": 24})
    assert model(image, t).shape == (2, channels, 24, 24)
    large, _ = script_util.sr_create_model_and_diffusion(**TINY_SR | sized | {"large_size": 24})
    out = large(image, t, low_res=draw(1, 2, channels, 8, 8))
    assert out.shape == (2, 2 * channels, 24, 24)
    own = {"in_channels": channels, "classifier_channel_mult": "1,2", "image_size": 24}
    classifier, _ = script_util.create_classifier_and_diffusion(**TINY_CLASSIFIER | own)
    assert classifier(image, t).shape == (2, 1000)


@pytest.mark.parametrize(
    ("text", "size", "widths"),
    [
        ("", 16, (1, 2)),
        ("", 64, (1, 2, 3, 4)),
        ("1,1", 16, (1, 1)),
        ("1, 2,1", 24, (1, 2, 1)),
        ("1,1.5", 16, (1, 1.5)),
    ],
)
def test_widths_of_levels_are_by_size_or_as_given(text, size, widths):
    flags = TINY | {"channel_mult": text, "image_size": size, "num_channels": 64}
    with torch.device("meta"):
        model, _ = script_util.create_model_and_diffusion(**flags)
    assert model.channel_mult == widths


@pytest.mark.parametrize("size", sorted(network_arguments.CHANNEL_MULT))
def test_every_preset_builds(size):
    flags = TINY | {"image_size": size, "num_channels": 64, "attention_resolutions": "8"}
    with torch.device("meta"):
        model, _ = script_util.create_model_and_diffusion(**flags)
    assert model.channel_mult == network_arguments.CHANNEL_MULT[size]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_size": 48}, r"image_size: .*\[16, 32, 64, 128, 256, 512\], got 48; give chan"),
        ({"image_size": 18, "channel_mult": "1,2,2"}, "image_size: .*multiple of 4, got 18"),
        ({"image_size": 0, "channel_mult": "1,2"}, "image_size: .*got 0"),
        ({"image_size": -16, "channel_mult": "1,2"}, "image_size: .*got -16"),
        ({"num_channels": 48}, "num_channels: expected a multiple of 32, got 48"),
        ({"num_channels": 0}, "num_channels: expected a multiple of 32, got 0"),
        ({"num_channels": -32}, "num_channels: expected a multiple of 32, got -32"),
        ({"channel_mult": "1,two"}, "channel_mult: .*got '1,two'"),
        ({"channel_mult": "1,"}, "channel_mult: .*got '1,'"),
        ({"channel_mult": "0.3,1"}, "channel_mult: .*32 channels at every level, got 0.3,1.0"),
        ({"channel_mult": "1,-1"}, "channel_mult: .*got 1.0,-1.0 times 32"),
        ({"channel_mult": "0,1"}, "channel_mult: "),
        ({"channel_mult": "1,nan"}, "channel_mult: "),
        ({"channel_mult": "1,inf"}, "channel_mult: "),
        ({"attention_resolutions": "8,x"}, "attention_resolutions: .*got '8,x'"),
        ({"attention_resolutions": "0"}, "attention_resolutions: .*above 0, got '0'"),
        ({"attention_resolutions": "-8"}, "attention_resolutions: .*above 0, got '-8'"),
        ({"num_heads": 3}, "num_heads: expected a divisor .* got 3"),
        ({"num_head_channels": 48}, "num_head_channels: expected .* got 48"),
        ({"dropout": 2.0}, "dropout"),
        ({"timestep_respacing": "abc"}, "timestep_respacing: expected 'ddimN' .* found 'abc'"),
        ({"timestep_respacing": "41"}, "timestep_respacing: expected 0 to 40 steps"),
        ({"timestep_respacing": "ddim39"}, "timestep_respacing: .*ddim39"),
        ({"timestep_respacing": "0"}, "timestep_respacing: expected at least one step"),
        ({"timestep_respacing": "-1"}, "timestep_respacing: .*found -1"),
        ({"diffusion_steps": 0}, "diffusion_steps: expected a whole number of at least 1, got 0"),
        ({"diffusion_steps": 10}, "steps: expected at least 20 .*linear.* got 10"),
        ({"diffusion_steps": 19}, "steps: .*got 19"),
        ({"noise_schedule": "square"}, "noise_schedule: .*'square'"),
    ],
)
def test_a_flag_that_cannot_work_is_named(flags, message):
    with torch.device("meta"), pytest.raises(ValueError, match=f"^{message}"):
        script_util.create_model_and_diffusion(**TINY | flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"classifier_width": 48}, "classifier_width: expected a multiple of 32, got 48"),
        ({"image_size": 48}, "image_size: .* give classifier_channel_mult"),
        ({"classifier_channel_mult": "1,x"}, "classifier_channel_mult: "),
        ({"classifier_pool": "deep"}, "pool: .*'deep'"),
    ],
)
def test_a_classifier_flag_that_cannot_work_is_named(flags, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        script_util.create_classifier_and_diffusion(**TINY_CLASSIFIER | flags)


def test_few_steps_suffice_where_the_schedule_allows_them():
    linear = script_util.create_gaussian_diffusion(steps=21)
    assert linear.num_timesteps == 21 and linear.alphas_cumprod.min() > 0
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        least = script_util.create_gaussian_diffusion(steps=20)  # as upstream; commands refuse it
    assert least.num_timesteps == 20 and least.alphas_cumprod.min() == 0
    few = script_util.create_gaussian_diffusion(steps=2, noise_schedule="cosine")
    assert few.num_timesteps == 2


def test_a_side_without_a_level_gets_no_attention():
    with torch.device("meta"):
        models = [
            script_util.create_model_and_diffusion(**TINY | {"attention_resolutions": sides})[0]
            for sides in ("", "32,5", "8")
        ]
    # The middle block always attends.
    keys = [" ".join(model.state_dict()).replace("middle_block.1.qkv", "") for model in models]
    attending = ["qkv" in text for text in keys]
    assert attending == [False, False, True]


@pytest.mark.parametrize(
    ("flags", "loss", "variance", "mean"),
    [
        ({}, gd.LossType.MSE, gd.ModelVarType.FIXED_LARGE, gd.ModelMeanType.EPSILON),
        ({"sigma_small": True}, gd.LossType.MSE, gd.ModelVarType.FIXED_SMALL, None),
        (
            {"learn_sigma": True, "rescale_learned_sigmas": True},
            gd.LossType.RESCALED_MSE,
            gd.ModelVarType.LEARNED_RANGE,
            None,
        ),
        (
            {"use_kl": True, "predict_xstart": True},
            gd.LossType.RESCALED_KL,
            None,
            gd.ModelMeanType.START_X,
        ),
    ],
)
def test_process_flags_choose_loss_variance_and_mean(flags, loss, variance, mean):
    process = script_util.create_gaussian_diffusion(steps=40, **flags)
    found = (process.loss_type, process.model_var_type, process.model_mean_type)
    for kind, expected in zip(found, (loss, variance, mean), strict=True):
        assert expected is None or kind == expected


@pytest.mark.parametrize("small", [False, True])
def test_sigma_small_reaches_the_process_though_the_default_dicts_lack_it(small):
    variance = gd.ModelVarType.FIXED_SMALL if small else gd.ModelVarType.FIXED_LARGE
    with torch.device("meta"):
        _, process = script_util.create_model_and_diffusion(**TINY, sigma_small=small)
        flags = TINY_SR | {"learn_sigma": False}
        _, sr_process = script_util.sr_create_model_and_diffusion(**flags, sigma_small=small)
    assert process.model_var_type == sr_process.model_var_type == variance


def test_create_model_has_upstreams_short_call():
    with torch.device("meta"):
        model = script_util.create_model(32, 32, 1)
    assert model.image_size == 32 and model.num_classes is None


@pytest.mark.parametrize(
    ("size", "mult", "sides", "told"),
    [
        (96, "1,2,3,4", "16,8", "no feature map has side 16 or 8, .* maps of 96, 48, 24, 12$"),
        (96, "1,2,3,4", "24,8", "no feature map has side 8, .* maps of 96, 48, 24, 12$"),
        (100, "1,2,3", "16", "no feature map has side 16, .* maps of 100, 50, 25$"),
        (96, "1,2,3,4", "24,12", ""),
        (64, "", "16,8", ""),
        (64, "1,2", "", ""),
    ],
)
def test_sides_that_no_feature_map_has_are_told_with_those_there_are(
    recorder, size, mult, sides, told
):
    network = ModelSettings(
        image_size=size, num_channels=32, channel_mult=mult, attention_resolutions=sides
    )
    with torch.device("meta"):
        script_util.build(network, ProcessSettings())
    assert bool(told) == bool(recorder.text)
    assert re.search(f"--attention_resolutions {sides}: {told}" if told else "", recorder.text)


def test_sides_of_a_classifier_are_told_under_its_flag(recorder):
    with torch.device("meta"):
        script_util.build(
            ClassifierSettings(image_size=96, classifier_channel_mult="1,2"), ProcessSettings()
        )
    assert "--classifier_attention_resolutions 32,16,8: no feature map has side 32" in recorder.text
