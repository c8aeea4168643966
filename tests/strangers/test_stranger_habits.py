"""Habits: seeds, messages and small allowances that programs written for upstream count on."""

import os

import numpy as np
import pytest
import torch as th
import torch.distributed as dist
from support.upstream_program import SHAPE, build

from guided_diffusion import dist_util, logger
from guided_diffusion.gaussian_diffusion import get_named_beta_schedule
from guided_diffusion.resample import UniformSampler, create_named_schedule_sampler
from guided_diffusion.respace import space_timesteps
from guided_diffusion.script_util import (
    create_gaussian_diffusion,
    create_model,
    model_and_diffusion_defaults,
)
from guided_diffusion.train_util import (
    find_ema_checkpoint,
    find_resume_checkpoint,
    get_blob_logdir,
    parse_resume_step_from_filename,
)
from guided_diffusion.unet import AttentionBlock, Downsample


@pytest.mark.parametrize("name", ["uniform", "loss-second-moment"])
def test_timesteps_repeat_after_numpys_seed(name):
    diffusion = create_gaussian_diffusion(steps=100)
    draws = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        t, weights = create_named_schedule_sampler(name, diffusion).sample(4, "cpu")
        draws.append(t.tolist())
        assert t.dtype == th.int64 and weights.tolist() == [1, 1, 1, 1]
    assert draws[0] == draws[1] != draws[2]
    np.random.seed(0)
    assert draws[0] == np.random.choice(100, size=(4,), p=np.full(100, 0.01)).tolist()
    assert UniformSampler(diffusion).weights().tolist() == [1] * 100


def test_sampling_repeats_after_torchs_seed_and_draws_noise_as_upstream():
    _, model, diffusion = build()
    samples = []
    for seed in (0, 0, 1):
        th.manual_seed(seed)
        samples.append(diffusion.p_sample_loop(model, SHAPE))
    assert th.equal(samples[0], samples[1]) and not th.equal(samples[0], samples[2])
    th.manual_seed(0)
    noise = th.randn(*SHAPE)
    assert th.equal(diffusion.p_sample_loop(model, SHAPE, noise=noise), samples[0])
    for loop in (diffusion.p_sample_loop, diffusion.ddim_sample_loop):
        th.manual_seed(0)
        loop(model, SHAPE, noise=noise)
        after = th.randn(1)
        th.manual_seed(0)
        for _ in range(diffusion.num_timesteps):  # one draw a step
            th.randn_like(noise)
        assert th.equal(after, th.randn(1))


def test_nothing_is_resumed_without_being_told(tmp_path):
    (tmp_path / "logs" / "model000004.pt").write_bytes(b"")
    assert find_resume_checkpoint() is None
    assert find_ema_checkpoint(None, 4, 0.9) is None
    assert find_ema_checkpoint(str(tmp_path / "model000004.pt"), 4, 0.9) is None
    assert parse_resume_step_from_filename("a/model000123.pt") == 123
    assert parse_resume_step_from_filename("a/ema_0.9999_000123.pt") == 0
    assert parse_resume_step_from_filename("modelX.pt") == 0
    assert get_blob_logdir() == logger.get_dir() == str(tmp_path / "logs")


MODEL = dict(image_size=16, num_channels=32, num_res_blocks=1, channel_mult="1,2")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_channels": 33}, "num_channels"),
        ({"image_size": 48, "channel_mult": ""}, "image_size"),
        ({"attention_resolutions": "x"}, "attention_resolutions"),
        ({"channel_mult": "1,a"}, "channel_mult"),
        ({"num_heads": 3, "attention_resolutions": "8"}, "num_heads"),
        ({"num_head_channels": 48, "attention_resolutions": "8"}, "num_head_channels"),
    ],
)
def test_wrong_arguments_of_a_network_are_value_errors(changes, named):
    with pytest.raises(ValueError, match=named) as caught:
        create_model(**{**MODEL, **changes})
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"noise_schedule": "x"}, "noise_schedule"),
        ({"steps": 100, "timestep_respacing": "ddim99"}, "timestep_respacing"),
        ({"steps": 100, "timestep_respacing": "101"}, "timestep_respacing"),
    ],
)
def test_wrong_arguments_of_a_process_are_value_errors(arguments, named):
    with pytest.raises(ValueError, match=named) as caught:
        create_gaussian_diffusion(**arguments)
    assert "--" not in str(caught.value)


def test_wrong_arguments_elsewhere():
    with pytest.raises(ValueError, match="section|step"):
        space_timesteps(10, [11])
    with pytest.raises(ValueError, match="ddim"):
        space_timesteps(100, "ddim99")
    with pytest.raises((NotImplementedError, ValueError), match="cubic"):
        get_named_beta_schedule("cubic", 100)
    with pytest.raises((NotImplementedError, ValueError), match="best"):
        create_named_schedule_sampler("best", create_gaussian_diffusion(steps=100))
    with pytest.raises((AssertionError, ValueError)):
        AttentionBlock(64, num_head_channels=48)
    with pytest.raises((AssertionError, ValueError)):
        Downsample(32, False, out_channels=64)
    _, model, _ = build("--class_cond", "True")
    with pytest.raises((AssertionError, ValueError)):
        model(th.randn(SHAPE), th.tensor([1, 2]))


def test_timesteps_by_every_spelling():
    assert space_timesteps(100, "10,5") == space_timesteps(100, [10, 5])
    assert space_timesteps(100, "ddim25") == set(range(0, 100, 4))
    assert space_timesteps(100, [100]) == space_timesteps(100, "100") == set(range(100))
    assert space_timesteps(300, [10, 15, 20]) >= {0, 99, 100, 199, 200, 299}


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_few_steps_are_accepted():
    diffusion = create_gaussian_diffusion(steps=20)
    assert diffusion.num_timesteps == 20 and diffusion.betas[-1] == pytest.approx(1)
    assert create_gaussian_diffusion(steps=4, noise_schedule="cosine").num_timesteps == 4


def test_the_logger_says_where_it_logs(capsys, tmp_path, monkeypatch):
    logger.configure(dir=str(tmp_path / "here"))
    assert f"Logging to {tmp_path / 'here'}" in capsys.readouterr().out
    monkeypatch.setenv("OPENAI_LOGDIR", str(tmp_path / "there"))
    logger.configure()
    assert f"Logging to {tmp_path / 'there'}" in capsys.readouterr().out
    assert {"log.txt", "progress.csv"} <= set(os.listdir(logger.get_dir()))


def test_noise_of_a_smaller_batch_counts_more_than_the_shape():
    _, model, diffusion = build()
    noise = th.randn(1, 3, 16, 16)
    for loop in (diffusion.ddim_sample_loop, diffusion.p_sample_loop):
        assert loop(model, (4, 3, 16, 16), noise=noise).shape == noise.shape
    expected = diffusion.ddim_sample_loop(model, noise.shape, noise=noise)
    assert th.equal(diffusion.ddim_sample_loop(model, (4, 3, 16, 16), noise=noise), expected)


def test_one_process_is_a_group_of_one():
    assert dist.is_initialized() and (dist.get_rank(), dist.get_world_size()) == (0, 1)
    dist_util.setup_dist()  # a second call is harmless
    gathered = [th.zeros(2) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, th.ones(2))
    assert th.equal(gathered[0], th.ones(2))
    dist.barrier()
    total = th.tensor([3.0])
    dist.all_reduce(total)
    assert total.item() == 3 and dist_util.dev() == th.device(
        "cpu" if not th.cuda.is_available() else "cuda:0"
    )


def test_default_dicts_may_be_changed():
    model_and_diffusion_defaults()["image_size"] = 7
    assert model_and_diffusion_defaults()["image_size"] == 64


def test_progress_bars(capsys):
    _, model, diffusion = build()
    diffusion.p_sample_loop(model, SHAPE, progress=True)
    assert "10/10" in capsys.readouterr().err
    diffusion.p_sample_loop(model, SHAPE, progress=False)
    assert capsys.readouterr().err == ""
