"""Points there and back: with a model that is known exactly, and over ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from guided_diffusion.config.network_settings import PointNetworkSettings
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.errors import UserError
from guided_diffusion.models.domains import Domain
from guided_diffusion.script_util import create_gaussian_diffusion
from guided_diffusion.translation import encode_decode, point_translation, sequences
from guided_diffusion.translation.predictor import Predictor
from guided_diffusion.translation.settings import CONVENTIONS, WalkSettings


def gaussian(spread, respacing=""):
    """The exact domain of points N(0, spread^2) at 1000 linear steps, respaced."""
    flags = {"timestep_respacing": respacing}
    diffusion = create_gaussian_diffusion(**flags)
    levels = create_gaussian_diffusion().alphas_cumprod  # of the timesteps that a network is asked

    class Exact(torch.nn.Module):
        def forward(self, x, t):
            a = torch.from_numpy(levels)[t].float()[:, None]
            return x * (1 - a).sqrt() / (a * torch.tensor(spread) ** 2 + 1 - a)

    process = ProcessSettings(**flags)
    return Domain(
        Exact(), diffusion, "exact", Path(f"{spread}.pt"), PointNetworkSettings(), process
    )


SOURCE, TARGET = (0.3, 1.0), (1.2, 0.6)


def cycle(convention, respacing=""):
    """Points at the start, then at the four stages of a cycle."""
    source, target = gaussian(SOURCE, respacing), gaussian(TARGET, respacing)
    points = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(SOURCE)
    engine = WalkSettings(level_convention=convention)
    ends = [Predictor(domain, max_batch=500) for domain in (source, target)]
    there = encode_decode.translate(*ends, points, engine)
    return points, *there, *encode_decode.translate(*ends[::-1], there[1], engine)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_points_of_one_gaussian_become_the_other_through_white_noise(convention):
    points, latents, moved, *_ = cycle(convention)
    scale = torch.tensor(TARGET) / torch.tensor(SOURCE)
    torch.testing.assert_close(latents, points / torch.tensor(SOURCE), atol=0.05, rtol=0.02)
    torch.testing.assert_close(moved, points * scale, atol=0.06, rtol=0.03)


def test_the_cycle_closes_better_with_more_steps_and_with_aligned_levels():
    error = {
        (convention, steps): point_translation.round_trip(points.numpy(), returned.numpy())
        for convention in CONVENTIONS
        for steps in ("50", "200", "")
        for points, *_, returned in [cycle(convention, steps)]
    }
    for measure in ("mean", "max"):
        for convention in CONVENTIONS:
            coarse, medium, fine = (error[convention, s][measure] for s in ("50", "200", ""))
            assert fine < 0.5 * medium < 0.25 * coarse
        for steps in ("50", "200", ""):
            assert error["aligned", steps][measure] < 0.5 * error["reference", steps][measure]
    assert error["aligned", ""]["mean"] < 0.005
    assert error["reference", ""]["mean"] < 0.02


def test_distances_of_a_round_trip():
    start = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    assert point_translation.round_trip(start, start) == {"mean": 0, "max": 0}
    end = start + np.array([[3, 4], [0, -1]], np.float32)
    assert point_translation.round_trip(start, end) == {"mean": 3, "max": 5}


def test_what_every_rank_moved_is_put_together_in_order(monkeypatch):
    points = torch.arange(14.0).reshape(7, 2)

    def move(batch):
        return [points[batch], -points[batch]]

    def gather(self, mine):
        # Of another rank, which took the second batch and, this one being slow, the last.
        theirs = {i: [t.numpy() for t in move(b)] for i, b in ((2, [2, 3]), (6, [6]))}
        assert mine.keys() == {0, 4}
        return [theirs, mine]

    monkeypatch.setattr(point_translation, "SharedBatches", lambda items, size: [[0, 1], [4, 5]])
    monkeypatch.setattr(point_translation.dist_util.Ranks, "gather", gather)
    whole, negative = point_translation.over_ranks(7, 2, move)
    assert np.array_equal(whole, points) and np.array_equal(negative, -points)


def test_domains_that_cannot_be_joined_are_refused():
    with pytest.raises(UserError, match="timestep_respacing: .*'50'.*'100'"):
        sequences.refuse_unequal(gaussian(SOURCE, "50"), gaussian(TARGET, "100"))


def test_the_runs_of_tasks_have_names_of_their_own(tmp_path):
    assert point_translation.run_of_task(3) == Path("results/synthetic/log2D3")
    assert point_translation.run_of_task(0, tmp_path) == tmp_path / "log2D0"
