"""DDIB's network of points."""

import inspect
import json

import numpy as np
import pytest
import torch
from support.reference_weights import REFERENCE, draw, load_drawn_weights

from guided_diffusion import synthetic
from guided_diffusion.script_util import (
    create_model_and_diffusion_2d,
    model_and_diffusion_defaults_2d,
)
from guided_diffusion.synthetic_datasets import Synthetic2DType, load_2d_data
from guided_diffusion.train_util import TrainLoop

WIDTH = 64  # of 32, each group of the norms has one channel, and says nothing
POINTS = json.loads((REFERENCE / "public_points.json").read_text())
TIMESTEPS = [0, 3, 250, 500, 777, 999]


def tiny(**changes):
    """A small network and its process."""
    small = {"num_channels": WIDTH, "diffusion_steps": 40, "dropout": 0.0}
    return create_model_and_diffusion_2d(**model_and_diffusion_defaults_2d() | small | changes)


def awake(**changes):
    """A network whose last layers are not zero."""
    model = tiny(**changes)[0]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator).mul_(0.3)
    return model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 2, generator=generator), torch.tensor([0, 3, 3, 39, 0, 7])


def test_defaults_are_ddibs():
    assert model_and_diffusion_defaults_2d() == {
        "in_channels": 2,
        "num_channels": 256,
        "num_res_blocks": 2,
        "dropout": 0.2,
        "use_checkpoint": False,
        "use_fp16": False,
        "learn_sigma": False,
        "diffusion_steps": 1000,
        "noise_schedule": "linear",
        "timestep_respacing": "",
        "use_kl": False,
        "predict_xstart": False,
        "rescale_timesteps": False,
        "rescale_learned_sigmas": False,
    }


def test_signatures_are_ddibs():
    expected = {
        synthetic.SyntheticModel: "in_channels model_channels out_channels num_res_blocks "
        "dropout=0 use_checkpoint=False use_fp16=False",
        synthetic.ResBlock: "channels emb_channels dropout out_channels=None use_checkpoint=False",
        create_model_and_diffusion_2d: "learn_sigma num_channels num_res_blocks dropout "
        "diffusion_steps noise_schedule timestep_respacing use_kl predict_xstart rescale_timesteps "
        "rescale_learned_sigmas use_checkpoint use_fp16 in_channels=2",
    }
    for function, parameters in expected.items():
        found = [
            name if p.default is p.empty else f"{name}={p.default}"
            for name, p in inspect.signature(function).parameters.items()
        ]
        assert found[: len(parameters.split())] == parameters.split()
        assert all("=" in ours for ours in found[len(parameters.split()) :])


@pytest.mark.parametrize("case", POINTS)
def test_reference_networks(case):
    expected = POINTS[case]
    model, _ = create_model_and_diffusion_2d(**expected["kwargs"])
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == expected["state"] and list(shapes) == list(expected["state"])
    load_drawn_weights(model).eval()
    x, t = draw(51, 6, expected["kwargs"]["in_channels"]), torch.tensor(TIMESTEPS)
    with np.load(REFERENCE / "public_points.npz", allow_pickle=False) as outputs:
        torch.testing.assert_close(model(x, t), torch.from_numpy(outputs[case]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("learn_sigma", "outputs"), [(False, 2), (True, 4)])
def test_shape_of_the_result_and_zero_at_first(batch, learn_sigma, outputs):
    model, diffusion = tiny(learn_sigma=learn_sigma)
    found = model(*batch)
    assert found.shape == (6, outputs) and not found.any()
    losses = diffusion.training_losses(model, *batch)
    assert losses["loss"].shape == (6,)


def test_each_point_is_predicted_alone_and_by_its_own_time(batch):
    model, (x, t) = awake(), batch
    together = model(x, t)
    for i in range(6):
        torch.testing.assert_close(model(x[i : i + 1], t[i : i + 1]), together[i : i + 1])
    assert (model(x, t + 1) - together).abs().amax(dim=1).min() > 1e-4
    shared = model(x, torch.full((6,), 3))
    torch.testing.assert_close(shared[1:3], together[1:3])
    rescaled = model(x, t.float() + 0.5)
    assert (rescaled - together).abs().amax(dim=1).min() > 1e-4


def test_gradients_reach_every_parameter_checkpointed_or_not(batch):
    gradients = []
    for flag in (False, True):
        model = awake(use_checkpoint=flag)
        model(*batch).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
        assert all(grad is not None and grad.abs().max() > 0 for grad in gradients[-1])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_dropout_is_for_training_only(batch):
    model = awake(dropout=0.5)
    assert not torch.equal(model(*batch), model(*batch))
    model.eval()
    assert torch.equal(model(*batch), model(*batch))


def test_a_block_may_change_the_width(batch):
    block = synthetic.ResBlock(WIDTH, 5, 0.0, out_channels=96)
    for count in (6, 1):
        assert block(torch.randn(6, WIDTH), torch.randn(count, 5)).shape == (6, 96)


def test_float16_blocks_predict_about_the_same_and_come_back(batch):
    model = awake()
    expected = model(*batch)
    model.convert_to_fp16()
    found = model(*batch)
    assert found.dtype == torch.float32 and model.dtype == torch.float16
    assert model.output_blocks[0][0].in_layers[2].weight.dtype == torch.float16
    assert {p.dtype for p in model.out.parameters()} == {torch.float32}
    assert 0 < (found - expected).abs().max() < 0.05
    model.convert_to_fp32()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model(*batch), expected, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("use_fp16", [False, True])
def test_training_lowers_the_loss(tmp_path, recorder, use_fp16):
    torch.manual_seed(0)
    model, diffusion = tiny(use_fp16=use_fp16)
    TrainLoop(
        model=model,
        diffusion=diffusion,
        data=load_2d_data(256, Synthetic2DType.MOONS),
        batch_size=256,
        microbatch=128,
        lr=1e-2,
        ema_rate="0.9",
        log_interval=5,
        save_interval=100,
        resume_checkpoint="",
        use_fp16=use_fp16,
        max_steps=100,
        out_dir=tmp_path,
    ).run_loop()
    losses = [row["loss"] for row in recorder.rows]
    assert losses[0] > 0.6 and np.mean(losses[-4:]) < 0.6 * losses[0]
    assert {path.name for path in tmp_path.glob("*.pt")} == {
        "model000100.pt",
        "ema_0.9_000100.pt",
        "opt000100.pt",
    }
