"""Code that was written for improved-diffusion runs under its own name."""

import argparse
import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.cli import DEADLINE, ROOT, draw_images, environment
from support.reference_images import REFERENCE
from support.reference_weights import draw, load_drawn_weights

import guided_diffusion.improved_diffusion  # noqa: F401  (makes the next imports possible)
from guided_diffusion import fp16_util as guided_fp16
from guided_diffusion import unet as guided_unet

import improved_diffusion.nn as improved_nn  # isort: skip
from improved_diffusion import (  # isort: skip
    dist_util,
    fp16_util,
    image_datasets,
    logger,
    script_util,
    train_util,
    unet,
)

CLI = json.loads(gzip.decompress((REFERENCE / "upstream_interface.json.gz").read_bytes()))[
    "improved-diffusion"
]["cli"]
TINY = {"image_size": 32, "num_channels": 32, "num_res_blocks": 1, "diffusion_steps": 40}
NETWORK = {
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "channel_mult": (1, 2),
}


def test_shared_modules_are_ours_and_not_copies():
    assert dist_util is guided_diffusion.dist_util and logger is guided_diffusion.logger
    assert improved_nn is guided_diffusion.nn
    assert sys.modules["improved_diffusion"] is guided_diffusion.improved_diffusion


@pytest.mark.parametrize("installed", [False, True])
def test_one_import_is_enough_or_none_where_installed(tmp_path, installed):
    code = (
        "from improved_diffusion.unet import UNetModel\n"
        "from improved_diffusion import dist_util, logger\n"
        "import improved_diffusion.gaussian_diffusion as gd\n"
        "print(UNetModel.__module__, gd.__name__)"
    )
    if installed:  # as setup.py does
        place = ROOT / "guided_diffusion" / "improved_diffusion" / "installed"
        (tmp_path / "improved_diffusion").symlink_to(place)
    else:
        code = f"import guided_diffusion.improved_diffusion\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        timeout=DEADLINE,
        env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}"),
    )
    modules = [
        "guided_diffusion.improved_diffusion.unet",
        "guided_diffusion.diffusion.gaussian_diffusion",
    ]
    assert done.stdout.split() == modules, done.stderr


@pytest.mark.parametrize(
    ("defaults", "script", "others"),
    [
        (
            script_util.model_and_diffusion_defaults,
            "image_sample.py",
            "clip_denoised num_samples batch_size use_ddim model_path",
        ),
        (
            script_util.sr_model_and_diffusion_defaults,
            "super_res_sample.py",
            "clip_denoised num_samples batch_size use_ddim base_samples model_path",
        ),
    ],
)
def test_default_dicts_are_improved_diffusions(defaults, script, others):
    expected = {flag[2:]: value for flag, value in CLI[script].items()}
    for name in others.split():
        del expected[name]
    assert defaults() == expected


def test_a_script_in_improved_diffusions_manner_trains_and_samples(tmp_path, monkeypatch):
    defaults = script_util.model_and_diffusion_defaults()
    parser = argparse.ArgumentParser()
    script_util.add_dict_to_argparser(parser, defaults)
    words = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    args = parser.parse_args([*words, "--sigma_small", "True"])
    model, diffusion = script_util.create_model_and_diffusion(
        **script_util.args_to_dict(args, defaults)
    )
    data = image_datasets.load_data(
        data_dir=str(draw_images(tmp_path / "images", 3)), batch_size=2, image_size=32
    )
    monkeypatch.setenv("OPENAI_LOG_FORMAT", "csv")
    logger.configure(str(tmp_path / "log"))
    before = model.out[2].weight.clone()
    loop = train_util.TrainLoop(
        model=model,
        diffusion=diffusion,
        data=data,
        batch_size=2,
        microbatch=-1,
        lr=1e-3,
        ema_rate="0.9",
        log_interval=1,
        save_interval=2,
        resume_checkpoint="",
        lr_anneal_steps=2,
    )
    loop.run_loop()
    assert (tmp_path / "log" / "model000002.pt").exists()
    assert not torch.equal(model.out[2].weight, before)
    assert diffusion.model_var_type.name == "FIXED_SMALL" and diffusion.rescale_timesteps
    samples = diffusion.p_sample_loop(model, (1, 3, 32, 32), clip_denoised=True, model_kwargs={})
    assert samples.shape == (1, 3, 32, 32)


def test_super_resolution_builds_from_its_defaults():
    flags = script_util.sr_model_and_diffusion_defaults() | {
        "large_size": 64,
        "small_size": 16,
        "num_channels": 32,
        "num_res_blocks": 1,
    }
    with torch.device("meta"):
        model, diffusion = script_util.sr_create_model_and_diffusion(**flags)
        names = "learn_sigma class_cond use_checkpoint attention_resolutions num_heads".split()
        rest = [flags[name] for name in [*names, "num_heads_upsample", "use_scale_shift_norm"]]
        same = script_util.sr_create_model(64, 16, 32, 1, *rest, 0.0)
    assert diffusion.num_timesteps == 1000
    assert model.state_dict().keys() == same.state_dict().keys()


def test_create_model_takes_improved_diffusions_order():
    with torch.device("meta"):
        model = script_util.create_model(32, 32, 1, True, True, False, "8", 4, 2, True, 0.1)
    assert model.out_channels == 6 and model.num_classes == 1000 and model.dropout == 0.1
    assert (model.num_heads, model.num_heads_upsample) == (4, 2)


@pytest.mark.parametrize("kind", ["UNetModel", "SuperResModel"])
def test_networks_are_ours_without_an_image_size(kind):
    own = load_drawn_weights(getattr(unet, kind)(3, out_channels=3, **NETWORK)).eval()
    ours = getattr(guided_unet, kind)(16, 3, out_channels=3, **NETWORK).eval()
    ours.load_state_dict(own.state_dict(), strict=True)
    assert isinstance(own, getattr(guided_unet, kind)) and isinstance(own, unet.UNetModel)
    call = {"x": draw(0, 2, 3, 16, 16), "timesteps": torch.tensor([3, 700])}
    if kind == "SuperResModel":
        call["low_res"] = draw(1, 2, 3, 8, 8)
    assert torch.equal(own(**call), ours(**call))


@pytest.mark.parametrize("kind", ["UNetModel", "SuperResModel"])
def test_feature_vectors_are_what_the_blocks_compute(kind):
    model = load_drawn_weights(getattr(unet, kind)(3, out_channels=3, **NETWORK)).eval()
    call = {"x": draw(0, 2, 3, 16, 16), "timesteps": torch.tensor([3, 700])}
    if kind == "SuperResModel":
        call["low_res"] = draw(1, 2, 3, 8, 8)
    seen = []
    blocks = [*model.input_blocks, model.middle_block, *model.output_blocks]
    for block in blocks:
        block.register_forward_hook(lambda _, __, out: seen.append(out))
    expected = model(**call)
    wanted, seen = seen, []
    found = model.get_feature_vectors(**call)
    assert found.keys() == {"down", "middle", "up"}
    features = [*found["down"], found["middle"], *found["up"]]
    assert len(features) == len(wanted) == len(blocks)
    assert all(map(torch.equal, features, wanted))
    assert torch.equal(model.out(found["up"][-1]), expected)
    with pytest.raises(ValueError, match="y: expected no labels"):
        model.get_feature_vectors(**call, y=torch.tensor([0, 1]))


def test_attention_takes_heads_by_number_and_one_head_in_the_batch():
    block = unet.AttentionBlock(32, 4, True)
    assert block.num_heads == 4 and block.use_checkpoint
    qkv = draw(0, 6, 12, 5)
    assert torch.equal(unet.QKVAttention()(qkv), guided_unet.QKVAttention(1)(qkv))


def test_master_parameters_are_one_flat_tensor():
    model = torch.nn.Linear(3, 2)
    masters = fp16_util.make_master_params(model.parameters())
    assert [m.shape for m in masters] == [(8,)] and masters[0].dtype == torch.float32
    assert torch.equal(masters[0], torch.cat([p.flatten() for p in model.parameters()]))
    model.weight.grad = torch.ones(2, 3)
    fp16_util.model_grads_to_master_grads(model.parameters(), masters)
    assert masters[0].grad.tolist() == [1] * 6 + [0] * 2
    with torch.no_grad():
        masters[0].copy_(torch.arange(8.0))
    fp16_util.master_params_to_model_params(model.parameters(), masters)
    assert model.weight.tolist() == [[0, 1, 2], [3, 4, 5]] and model.bias.tolist() == [6, 7]
    parts = fp16_util.unflatten_master_params(model.parameters(), masters)
    assert [part.shape for part in parts] == [(2, 3), (2,)]
    assert fp16_util.zero_grad is guided_fp16.zero_grad


class Noted(train_util.TrainLoop):
    """Notes which of the two methods its steps end in."""

    def optimize_fp16(self):
        self.noted = "fp16"
        super().optimize_fp16()

    def optimize_normal(self):
        self.noted = "normal"
        super().optimize_normal()


@pytest.mark.parametrize(("use_fp16", "method"), [(False, "normal"), (True, "fp16")])
def test_a_step_ends_in_the_method_of_its_precision(tmp_path, recorder, use_fp16, method):
    model, diffusion = script_util.create_model_and_diffusion(
        **script_util.model_and_diffusion_defaults() | TINY
    )
    loop = Noted(
        model, diffusion, (), 1, -1, 0.5, "0.5", 1, 9, "", use_fp16=use_fp16, lr_anneal_steps=4
    )
    master = loop.mp_trainer.master_params[0].detach().clone()
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    loop.step = 2
    loop.forward_backward = lambda batch, cond: None
    loop.run_step(None, {})
    assert loop.noted == method
    moved = (loop.mp_trainer.master_params[0] - master).abs().max().item()
    np.testing.assert_allclose(moved, 0.25, atol=5e-3)  # half of the rate, annealed


def test_images_are_never_flipped(tmp_path):
    draw_images(tmp_path, 1)
    data = image_datasets.load_data(data_dir=tmp_path, batch_size=20, image_size=16)
    images, conditions = next(data)
    assert conditions == {} and torch.equal(images, images[:1].expand_as(images))
    path = next(tmp_path.iterdir())
    own = image_datasets.ImageDataset(16, [str(path)], classes=[7])
    arrays = [own[0] for _ in range(20)]
    assert all(np.array_equal(array, arrays[0][0]) for array, _ in arrays)
    assert int(arrays[0][1]["y"]) == 7
