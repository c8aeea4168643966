"""Walks in both directions: oracles with known answers, an independent sampler, partial walks."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

from guided_diffusion.data.image_features import reference_magnitude
from guided_diffusion.gaussian_diffusion import (
    GaussianDiffusion,
    LossType,
    ModelMeanType,
    ModelVarType,
    get_named_beta_schedule,
)
from guided_diffusion.respace import SpacedDiffusion, space_timesteps

STD = 0.5  # of the Gaussian data of the analytic oracle
LEVELS = torch.from_numpy(np.cumprod(1 - get_named_beta_schedule("linear", 1000)))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def process(spacing: int | str = 100, **changes: Any) -> GaussianDiffusion:
    """So many moves over the levels of the linear schedule of 1000."""
    arguments = {
        "betas": get_named_beta_schedule("linear", 1000),
        "model_mean_type": ModelMeanType.EPSILON,
        "model_var_type": ModelVarType.FIXED_SMALL,
        "loss_type": LossType.MSE,
        **changes,
    }
    return SpacedDiffusion(space_timesteps(1000, str(spacing)), **arguments)


def gaussian_eps(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The best network for data N(0, STD^2)."""
    level = LEVELS[t].reshape(-1, 1, 1, 1)
    return ((1 - level).sqrt() / (level * STD**2 + 1 - level)).float() * x


def wavy(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    tt = (t.float() / 1000).reshape(-1, 1, 1, 1)
    return 0.9 * x * torch.cos(tt) + 0.05 * torch.sin(3 * x)


@pytest.mark.parametrize("respacing", ["ddim25", "ddim100"])
def test_ddim_agrees_with_diffusers(respacing: str) -> None:
    from diffusers import DDIMScheduler

    diffusion, noise = process(respacing), draw(2, 3, 8, 8)
    scheduler = DDIMScheduler(
        trained_betas=get_named_beta_schedule("linear", 1000),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(diffusion.num_timesteps)
    expected = noise
    for t in scheduler.timesteps:
        eps = wavy(expected, t.expand(2))
        expected = scheduler.step(eps, t, expected, eta=0.0).prev_sample
    found = diffusion.ddim_sample_loop(wavy, noise.shape, noise=noise, clip_denoised=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_ddim_on_gaussian_data_converges_to_the_exact_flow() -> None:
    """The flow keeps a state in units of its deviation, which is STD at the clean end."""
    noise, errors = draw(1, 3, 8, 8), []
    for count in (25, 50, 100):
        diffusion = process(f"ddim{count}")
        found = diffusion.ddim_sample_loop(gaussian_eps, noise.shape, noise, clip_denoised=False)
        level = diffusion.alphas_cumprod[-1]
        exact = STD / math.sqrt(level * STD**2 + 1 - level) * noise
        errors.append((found - exact).abs().max().item())
    assert errors[2] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("eta", [None, 0.0, 1.0])
def test_samples_of_gaussian_data_have_its_deviation(eta: float | None) -> None:
    diffusion, shape = process(500), (8, 3, 16, 16)
    torch.manual_seed(0)
    if eta is None:
        found = diffusion.p_sample_loop(gaussian_eps, shape, clip_denoised=False)
    else:
        found = diffusion.ddim_sample_loop(gaussian_eps, shape, clip_denoised=False, eta=eta)
    assert found.std().item() == pytest.approx(STD, rel=0.05)
    assert found.mean().item() == pytest.approx(0.0, abs=0.03)


def test_eta_one_is_ancestral_sampling() -> None:
    """DDIM's eq. 16 at eta = 1 is the posterior of DDPM, move for move."""
    diffusion, noise = process(50), draw(2, 3, 8, 8)
    torch.manual_seed(0)
    expected = diffusion.p_sample_loop(wavy, noise.shape, noise)
    torch.manual_seed(0)
    found = diffusion.ddim_sample_loop(wavy, noise.shape, noise, eta=1.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_finite_data_set_is_reproduced() -> None:
    """The exact denoiser of a few images sends every noise to one of them."""
    data = draw(5, 1, 4, 4, seed=1).clamp(-1, 1)
    diffusion = process(100)

    def exact_eps(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        level = LEVELS[t].float().reshape(-1, 1)
        flat, images = x.flatten(1), data.flatten(1)
        square = torch.cdist(flat / level.sqrt(), images) ** 2
        share = torch.softmax(-square * level / (2 * (1 - level)), dim=1)
        return ((flat - level.sqrt() * (share @ images)) / (1 - level).sqrt()).reshape(x.shape)

    torch.manual_seed(0)
    for found in (
        diffusion.ddim_sample_loop(exact_eps, (32, 1, 4, 4)),
        diffusion.p_sample_loop(exact_eps, (32, 1, 4, 4)),
    ):
        distance, nearest = torch.cdist(found.flatten(1), data.flatten(1)).min(dim=1)
        assert distance.max() < 2e-3
        assert len(nearest.unique()) > 1


def test_decoding_an_encoding_returns_closer_with_more_steps() -> None:
    image, errors = 0.5 * draw(1, 3, 8, 8), []
    for count in (20, 100):
        diffusion = process(f"ddim{count}")
        code = diffusion.ddim_reverse_sample_loop(gaussian_eps, image, clip_denoised=False)
        assert code.std() > 1.5 * image.std()
        back = diffusion.ddim_sample_loop(gaussian_eps, image.shape, code, clip_denoised=False)
        errors.append((back - image).abs().max().item())
    assert errors[1] < 0.1 and errors[0] / errors[1] > 4


def test_encoding_is_a_chain_of_single_moves() -> None:
    diffusion, image = process(20), draw(2, 3, 4, 4)
    expected = image
    for index in range(20):
        t = torch.full((2,), index)
        expected = diffusion.ddim_reverse_sample(wavy, expected, t)["sample"]
    assert torch.equal(diffusion.ddim_reverse_sample_loop(wavy, image), expected)


@pytest.mark.parametrize("depth", [0, 1, 7, 20])
def test_partial_walks_compose(depth: int) -> None:
    diffusion, image = process(20), draw(2, 3, 4, 4)
    partway = diffusion.ddim_reverse_sample_loop(wavy, image, diffway_end=depth)
    code = diffusion.ddim_reverse_sample_loop(wavy, partway, diffway_start=depth)
    assert torch.equal(code, diffusion.ddim_reverse_sample_loop(wavy, image))
    *_, last = diffusion.ddim_sample_loop_progressive(wavy, image.shape, noise=code)
    states = [
        out["sample"]
        for out in diffusion.ddim_sample_loop_progressive(wavy, image.shape, noise=code)
    ]
    partway = [code, *states][20 - depth]
    decoded = diffusion.ddim_sample_loop(wavy, image.shape, noise=partway, diffway_end=depth)
    assert torch.equal(decoded, last["sample"])


@pytest.mark.parametrize("bounds", [(None, None), (0, 3), (4, None), (2, 9), (5, 5), (8, 99)])
def test_timesteps_visited(bounds: tuple[int | None, int | None]) -> None:
    asked: list[int] = []

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(t[0].item())
        return x

    diffusion, x = process(10), draw(1, 1, 2, 2)
    start, end = bounds
    diffusion.ddim_reverse_sample_loop(net, x, diffway_start=start, diffway_end=end)
    assert asked == diffusion.timestep_map[start:end]
    asked.clear()
    diffusion.ddim_sample_loop(net, x.shape, noise=x, diffway_end=end)
    assert asked == diffusion.timestep_map[:end][::-1]


def test_amount_has_no_effect() -> None:
    diffusion, x = process(10), draw(1, 1, 2, 2)
    encode, decode = diffusion.ddim_reverse_sample_loop, diffusion.ddim_sample_loop
    with_amount = encode(wavy, x, amount=3, diffway_end=4)
    assert torch.equal(with_amount, encode(wavy, x, diffway_end=4))
    with_amount = decode(wavy, x.shape, x, amount=3, diffway_end=4)
    assert torch.equal(with_amount, decode(wavy, x.shape, x, diffway_end=4))


def test_every_walk_yields_samples_and_predictions() -> None:
    diffusion, x = process(10), draw(2, 1, 2, 2)
    for walk in (
        diffusion.p_sample_loop_progressive(wavy, x.shape),
        diffusion.ddim_sample_loop_progressive(wavy, x.shape),
        diffusion.ddim_reverse_sample_loop_progressive(wavy, x),
        diffusion.fourier_frequency_list_progressive(wavy, x),
    ):
        outs = list(walk)
        assert len(outs) == 10
        for out in outs:
            assert set(out) == {"sample", "pred_xstart"}
            assert out["sample"].shape == out["pred_xstart"].shape == x.shape


def test_walks_leave_the_gradient_mode_of_their_consumer_alone() -> None:
    diffusion, x = process(4), draw(1, 1, 2, 2)
    scale = torch.ones((), requires_grad=True)
    for out in diffusion.ddim_reverse_sample_loop_progressive(lambda x, t: scale * x, x):
        assert torch.is_grad_enabled()
        assert not out["sample"].requires_grad


def test_sampling_in_inference_mode_does_not_spoil_training() -> None:
    diffusion, x = process(4), draw(2, 1, 2, 2)
    net = torch.nn.Conv2d(1, 1, 1)
    with torch.inference_mode():
        diffusion.p_sample_loop(lambda x, t: net(x), x.shape)
    diffusion.training_losses(lambda x, t: net(x), x, torch.tensor([0, 3]))["loss"].sum().backward()
    assert net.weight.grad is not None


def test_sampling_happens_where_the_model_is() -> None:
    class Halves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.5, device="meta"))

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.weight * x

    shape = (2, 1, 2, 2)
    walk = process(4).ddim_reverse_sample_loop_progressive(Halves(), torch.zeros(shape))
    assert next(walk)["sample"].device.type == "meta"
    assert process(4).ddim_sample_loop(wavy, shape).device.type == "cpu"


def test_last_move_of_a_clipped_walk_stays_in_range() -> None:
    found = process(50).ddim_sample_loop(wavy, (4, 3, 8, 8), noise=3 * draw(4, 3, 8, 8))
    assert found.abs().max() <= 1 + 1e-6


def test_spectral_list_measures_the_first_image_after_each_move_noisiest_first() -> None:
    diffusion, image = process(12), draw(2, 3, 32, 32)
    walk = diffusion.ddim_reverse_sample_loop_progressive(wavy, image, clip_denoised=False)
    expected = [reference_magnitude(out["sample"])[0].item() for out in walk]
    found = diffusion.fourier_frequency_list_loop(wavy, image, clip_denoised=False)
    assert len(found) == 12 and all(isinstance(value, float) for value in found)
    assert found == pytest.approx(expected[::-1], rel=1e-6)
    assert len(set(found)) == 12


def test_encoding_with_noise_is_refused() -> None:
    diffusion, x = process(4), draw(1, 1, 2, 2)
    with pytest.raises(ValueError, match="expected eta = 0, found eta = 0.5"):
        diffusion.ddim_reverse_sample(wavy, x, torch.tensor([0]), eta=0.5)
    with pytest.raises(ValueError, match="expected eta = 0"):
        diffusion.ddim_reverse_sample_loop(wavy, x, eta=0.5)


def test_given_noise_counts_and_not_the_shape() -> None:
    # DDIB's scripts ask for whole batches and hand over what is left for the last one.
    noise = draw(1, 1, 2, 2)
    for loop in (process(4).p_sample_loop, process(4).ddim_sample_loop):
        assert loop(wavy, (2, 1, 2, 2), noise=noise).shape == noise.shape


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    process(4).p_sample_loop(wavy, (1, 1, 2, 2), progress=True)
    assert "4/4" in capsys.readouterr().err


LOOPS = {
    "p_sample_loop": "p_sample_loop_progressive",
    "ddim_sample_loop": "ddim_sample_loop_progressive",
    "ddim_reverse_sample_loop": "ddim_reverse_sample_loop_progressive",
    "fourier_frequency_list_loop": "fourier_frequency_list_progressive",
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_has_the_parameters_of_its_progressive_twin(name: str) -> None:
    loop, twin = getattr(SpacedDiffusion, name), getattr(SpacedDiffusion, LOOPS[name])
    published = inspect.signature(loop)
    assert published.parameters == inspect.signature(twin).parameters
    assert published.return_annotation in ("Tensor", "list[float]")
    assert loop.__name__ == name and loop.__doc__ != twin.__doc__
    assert list(inspect.signature(getattr(process(4), name)).parameters)[0] == "model"


@pytest.mark.parametrize("name", LOOPS)
def test_arguments_of_a_loop_may_be_given_by_place(name: str) -> None:
    shape = (1, 3, 32, 32)
    fourth = shape if name in ("p_sample_loop", "ddim_sample_loop") else draw(*shape)
    noise = [draw(*shape)] if name in ("p_sample_loop", "ddim_sample_loop") else []
    names = list(inspect.signature(getattr(process(4), name)).parameters)
    values = [wavy, fourth, *noise, False, torch.tanh, None, {}, "cpu", False]
    torch.manual_seed(0)
    by_place = getattr(process(4), name)(*values)
    torch.manual_seed(0)
    by_name = getattr(process(4), name)(**dict(zip(names, values, strict=False)))
    torch.testing.assert_close(by_place, by_name, rtol=0, atol=0)


def test_a_loop_refuses_arguments_that_its_twin_lacks() -> None:
    with pytest.raises(TypeError, match="eta"):
        process(4).p_sample_loop(wavy, (1, 1, 2, 2), eta=1.0)
    with pytest.raises(TypeError, match="shape"):
        process(4).p_sample_loop(wavy)


def test_a_process_can_draw_its_noise_from_a_function_and_stays_as_it_is() -> None:
    diffusion, x = process(4), draw(2, 1, 2, 2)
    before = dict(vars(diffusion))
    drawing = diffusion.drawing(torch.zeros_like)
    assert type(drawing) is SpacedDiffusion and vars(diffusion) == before
    first, second = (drawing.p_sample_loop(wavy, x.shape, x) for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(0)
    plain = diffusion.p_sample_loop(wavy, x.shape, x)
    torch.manual_seed(0)
    back = drawing.drawing(torch.randn_like).p_sample_loop(wavy, x.shape, x)
    assert torch.equal(plain, back) and not torch.equal(plain, first)
    drawing.noise_like = torch.ones_like  # as third parties do
    assert not torch.equal(drawing.p_sample_loop(wavy, x.shape, x), first)
