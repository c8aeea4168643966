"""Choice of timesteps, and processes on a subset of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.gaussian_diffusion import (
    GaussianDiffusion,
    LossType,
    ModelMeanType,
    ModelVarType,
    get_named_beta_schedule,
)
from guided_diffusion.respace import SpacedDiffusion, _WrappedModel, space_timesteps

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "public_diffusion.npz")
SPACINGS = [name for name in REFERENCE.files if name.startswith("space_timesteps/")]


def base_arguments(**changes: Any) -> dict[str, Any]:
    arguments = {
        "betas": get_named_beta_schedule("linear", 100),
        "model_mean_type": ModelMeanType.EPSILON,
        "model_var_type": ModelVarType.FIXED_SMALL,
        "loss_type": LossType.MSE,
    }
    return {**arguments, **changes}


class Recorder:
    """A network, or cond_fn, that remembers the timesteps it was asked at."""

    def __init__(self) -> None:
        self.asked: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, scale: float = 0.1) -> torch.Tensor:
        self.asked.append(t)
        return scale * x


@pytest.mark.parametrize("name", SPACINGS)
def test_reference_spacings(name: str) -> None:
    _, steps, sections = name.split("/")
    assert sorted(space_timesteps(int(steps), sections)) == REFERENCE[name].tolist()


@st.composite
def sections(draw: st.DrawFn) -> tuple[int, list[int]]:
    """T, and counts that fit the sections."""
    steps = draw(st.integers(1, 400))
    number = draw(st.integers(1, min(steps, 6)))
    size = steps // number
    return steps, [draw(st.integers(1, size)) for _ in range(number)]


@settings(max_examples=60)
@given(sections())
def test_sections_keep_what_is_asked(case: tuple[int, list[int]]) -> None:
    steps, counts = case
    kept = sorted(space_timesteps(steps, counts))
    assert len(kept) == sum(counts)
    assert kept[0] == 0 and kept[-1] < steps
    assert space_timesteps(steps, ",".join(map(str, counts))) == set(kept)
    start = 0
    for i, count in enumerate(counts):
        size = steps // len(counts) + (i < steps % len(counts))
        inside = [t for t in kept if start <= t < start + size]
        gaps = np.diff(inside)
        assert len(inside) == count
        assert count == 1 or inside[-1] == start + size - 1
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
        start += size


@settings(max_examples=60)
@given(st.integers(2, 400), st.data())
def test_ddim_spacing_has_one_stride(steps: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, steps - 1))
    count = len(range(0, steps, stride))
    kept = sorted(space_timesteps(steps, f"ddim{count}"))
    assert len(kept) == count and kept[0] == 0
    assert len(set(np.diff(kept))) == 1


@pytest.mark.parametrize(
    ("steps", "counts", "message"),
    [
        (100, "ddim70", r"expected ddimN .* found ddim70"),
        (100, "60,10", r"expected 0 to 50 steps .* timestep 0, found 60"),
        (100, [10, 60], r"expected 0 to 50 steps .* timestep 50, found 60"),
        (100, "-3", "found -3"),
        (100, "ddim5,5", "expected one number after ddim, found 'ddim5,5'"),
        (100, "ten", "expected 'ddimN' or numbers .* found 'ten'"),
        (100, "ddim", "expected 'ddimN' or numbers"),
        (100, "", "expected 'ddimN' or numbers"),
        (100, [], "expected at least one step"),
        (100, [0, 0], "expected at least one step"),
    ],
)
def test_impossible_spacings(steps: int, counts: str | list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space_timesteps(steps, counts)


def test_levels_are_those_of_the_kept_timesteps() -> None:
    base, kept = GaussianDiffusion(**base_arguments()), [3, 10, 11, 60]
    spaced = SpacedDiffusion(kept, **base_arguments())
    assert spaced.num_timesteps == 4 and spaced.timestep_map == kept
    assert spaced.original_num_steps == 100
    np.testing.assert_allclose(spaced.alphas_cumprod, base.alphas_cumprod[kept], rtol=1e-12)


def test_keeping_all_changes_nothing() -> None:
    base = GaussianDiffusion(**base_arguments())
    spaced = SpacedDiffusion(range(100), **base_arguments())
    np.testing.assert_allclose(spaced.betas, base.betas, rtol=1e-9)


@pytest.mark.parametrize(("rescale", "expected"), [(False, [3, 60]), (True, [30.0, 600.0])])
def test_network_and_guidance_are_asked_at_original_timesteps(
    rescale: bool, expected: list[float]
) -> None:
    spaced = SpacedDiffusion([3, 10, 60], **base_arguments(rescale_timesteps=rescale))
    net, cond = Recorder(), Recorder()
    x, t = torch.ones(2, 1, 2, 2), torch.tensor([0, 2])
    spaced.p_sample(net, x, t, cond_fn=cond, model_kwargs={"scale": 0.2})
    spaced.ddim_sample(net, x, t, cond_fn=cond)
    spaced.predict_eps(net, x, t)
    spaced.training_losses(net, x, t)
    assert len(net.asked) == 4 and len(cond.asked) == 2
    for asked in net.asked + cond.asked:
        assert asked.tolist() == expected
        assert asked.dtype == (torch.float32 if rescale else torch.int64)


def test_wrapped_model_takes_a_plain_list() -> None:
    net = Recorder()
    _WrappedModel(net, [5, 7, 9], True, 500)(torch.ones(2, 1), torch.tensor([2, 0]))
    assert net.asked[0].tolist() == [18.0, 10.0]


def test_timestep_map_is_copied_once() -> None:
    spaced, device = SpacedDiffusion([1, 5], **base_arguments()), torch.device("cpu")
    first, second = (spaced._wrap_model(Recorder()).timestep_map.on(device) for _ in range(2))
    assert first is second


@pytest.mark.parametrize("kept", [[], [-1, 4], [0, 100]])
def test_timesteps_outside_are_refused(kept: list[int]) -> None:
    with pytest.raises(ValueError, match="expected some of 0 .. 99, found"):
        SpacedDiffusion(kept, **base_arguments())
