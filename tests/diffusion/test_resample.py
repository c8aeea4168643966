"""Timestep samplers: weights, unbiasedness, repeatability and the exchange between ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.two_ranks import TwoRanks

from guided_diffusion.resample import (
    LossSecondMomentResampler,
    UniformSampler,
    create_named_schedule_sampler,
)

STEPS = 6
DIFFUSION: Any = SimpleNamespace(num_timesteps=STEPS)
LOSS_SCALES = np.array([8.0, 4.0, 2.0, 1.0, 1.0, 0.5])


def warmed_up(history: int = 3, uniform_prob: float = 0.1) -> LossSecondMomentResampler:
    sampler = LossSecondMomentResampler(DIFFUSION, history, uniform_prob)
    for _ in range(history):
        sampler.update_with_all_losses(list(range(STEPS)), LOSS_SCALES.tolist())
    return sampler


def test_names() -> None:
    assert isinstance(create_named_schedule_sampler("uniform", DIFFUSION), UniformSampler)
    by_loss = create_named_schedule_sampler("loss-second-moment", DIFFUSION)
    assert isinstance(by_loss, LossSecondMomentResampler)
    with pytest.raises(ValueError, match="expected 'uniform' or .* found 'nearest'"):
        create_named_schedule_sampler("nearest", DIFFUSION)


def test_uniform_draws() -> None:
    t, weights = UniformSampler(DIFFUSION).sample(6000, "cpu", rng=np.random.default_rng(0))
    assert t.dtype == torch.int64 and weights.dtype == torch.float32
    assert (weights == 1).all()
    counts = torch.bincount(t, minlength=STEPS)
    assert len(counts) == STEPS and (counts - 1000).abs().max() < 150


def test_draws_repeat_with_a_seed_and_differ_without() -> None:
    sampler = UniformSampler(DIFFUSION)
    first, second = (sampler.sample(50, "cpu", rng=np.random.default_rng(3))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(sampler.sample(50, "cpu")[0], sampler.sample(50, "cpu")[0])


def test_numpys_global_generator_counts_where_none_is_given_and_only_there() -> None:
    sampler = UniformSampler(DIFFUSION)
    np.random.seed(0)
    first = sampler.sample(4, "cpu")[0]
    np.random.seed(0)
    sampler.sample(9, "cpu", rng=np.random.default_rng(3))
    assert torch.equal(sampler.sample(4, "cpu")[0], first)
    np.random.seed(0)  # upstream draws by `choice` of its probabilities
    count = DIFFUSION.num_timesteps
    expected = np.random.choice(count, size=(4,), p=np.full(count, 1 / count))
    assert first.tolist() == expected.tolist()


def test_uniform_until_every_timestep_was_seen_often_enough() -> None:
    sampler = LossSecondMomentResampler(DIFFUSION, history_per_term=2)
    sampler.update_with_all_losses([*range(STEPS), *range(STEPS - 1)], [9.0] * (2 * STEPS - 1))
    assert (sampler.weights() == 1).all()
    sampler.update_with_all_losses([STEPS - 1], [9.0])
    assert sampler.weights().sum() == pytest.approx(1.0)


def test_weights_follow_the_root_mean_square() -> None:
    expected = 0.9 * LOSS_SCALES / LOSS_SCALES.sum() + 0.1 / STEPS
    np.testing.assert_allclose(warmed_up().weights(), expected)


def test_history_keeps_the_latest() -> None:
    sampler = warmed_up(history=3, uniform_prob=0.0)
    sampler.update_with_all_losses([0, 0], [100.0, 0.0])
    rms = LOSS_SCALES.copy()
    rms[0] = np.sqrt((8.0**2 + 100.0**2 + 0.0) / 3)
    np.testing.assert_allclose(sampler.weights(), rms / rms.sum())


def test_importance_weights_make_the_loss_unbiased() -> None:
    t, weights = warmed_up().sample(20000, "cpu", rng=np.random.default_rng(1))
    estimate = (weights.double().numpy() * LOSS_SCALES[t.numpy()]).mean()
    assert estimate == pytest.approx(LOSS_SCALES.mean(), rel=0.02)
    assert weights.mean().item() == pytest.approx(1.0, abs=0.03)


def test_losses_that_are_not_finite_are_not_remembered() -> None:
    sampler = warmed_up()
    before = sampler.weights()
    sampler.update_with_all_losses([0, 1, 2], [float("nan"), float("inf"), -float("inf")])
    assert np.array_equal(sampler.weights(), before)


def test_local_update_without_a_process_group() -> None:
    sampler = LossSecondMomentResampler(DIFFUSION, history_per_term=1, uniform_prob=0.0)
    losses = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0, 0.5], requires_grad=True)
    sampler.update_with_local_losses(torch.arange(STEPS), losses)
    np.testing.assert_allclose(sampler.weights(), LOSS_SCALES / LOSS_SCALES.sum())


def weights_of_this_rank() -> np.ndarray:
    sampler = LossSecondMomentResampler(DIFFUSION, history_per_term=1, uniform_prob=0.0)
    mine = (torch.arange(4), torch.arange(4, STEPS))[dist.get_rank()]  # batches of 4 and 2
    sampler.update_with_local_losses(mine, torch.tensor(LOSS_SCALES)[mine].float())
    return sampler.weights()


def test_ranks_with_different_batches_agree(two_ranks: TwoRanks) -> None:
    for weights in two_ranks.each("mpiexec", weights_of_this_rank):
        np.testing.assert_allclose(weights, LOSS_SCALES / LOSS_SCALES.sum())
