"""Distances between sets of features: closed forms, hand-made sets, and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from guided_diffusion.evaluation import set_distances
from guided_diffusion.evaluation.set_distances import Gaussian, Measured


def normal(seed, count, dims=6, shift=0.0, scale=1.0):
    rows = np.random.default_rng(seed).standard_normal((count, dims))
    return torch.from_numpy(rows * scale + shift)


def measured(rows, given=None):
    """A set whose spatial features are the first half of its pooled ones."""
    return Measured(rows, rows[:, : rows.shape[1] // 2], given or {})


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


class Identity(torch.nn.Module):
    """Takes images [N, 1, 1, D] for features."""

    num_features = 6

    def forward(self, images):
        return images.flatten(1)


def fed(metric, x, y):
    for rows, real in ((x, True), (y, False)):
        metric.update(rows[:, None, None, :], real=real)
    return metric.compute()


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    means = torch.tensor([[0.0, 1.0, 2.0], [1.0, -1.0, 2.5]], dtype=torch.float64)
    deviations = torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.0, 0.5]], dtype=torch.float64)
    pair = [Gaussian.of_moments(m, torch.diag(d**2)) for m, d in zip(means, deviations)]  # noqa: B905
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert set_distances.frechet_distance(*pair) == pytest.approx(float(expected), rel=1e-12)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    # C1 = diag(1, 0) and C2 = v v^T, v = (cos, sin): tr (C1 C2)^(1/2) = |cos|.
    angle = 0.7
    v = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    one = Gaussian.of_moments(zero, torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)))
    other = Gaussian.of_moments(zero, torch.outer(v, v))
    expected = 2 - 2 * math.cos(angle)
    assert set_distances.frechet_distance(one, other) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("count", [4, 6, 7, 50])
def test_a_gaussian_of_rows_has_their_covariance_with_few_rows_and_with_many(count):
    rows = normal(0, count, shift=3)
    found = Gaussian.of_rows(rows)
    assert found.factor.shape == (min(count, 6), 6)
    np.testing.assert_allclose(found.factor.T @ found.factor, np.cov(rows.T), atol=1e-12)


@pytest.mark.parametrize("counts", [(40, 50), (5, 50), (5, 4)])
def test_fid_and_kid_are_those_of_torchmetrics(counts):
    x, y = normal(0, counts[0]), normal(1, counts[1], shift=0.5, scale=2)
    fid = FrechetInceptionDistance(Identity()).set_dtype(torch.float64)
    expected = float(fed(fid, x, y))
    found = set_distances.frechet_distance(Gaussian.of_rows(x), Gaussian.of_rows(y))
    assert found == pytest.approx(expected, rel=1e-5)
    size = min(counts)  # torchmetrics has no MMD of sets of two sizes
    x, y = x[:size], y[:size]
    whole = KernelInceptionDistance(Identity(), subsets=1, subset_size=size)
    expected = float(fed(whole, x, y)[0])
    assert set_distances.polynomial_mmd(x, y) == pytest.approx(expected, rel=1e-5)


def test_mmd_is_the_mean_over_pairs_of_different_images(monkeypatch):
    x, y = normal(0, 5), normal(1, 7, shift=1)

    def kernel(a, b):
        return (float(a @ b) / 6 + 1) ** 3

    within = [
        np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])
        for s in (x, y)
    ]
    expected = sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert set_distances.polynomial_mmd(x, y) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(set_distances, "BLOCK", 2)
    assert set_distances.polynomial_mmd(x, y) == pytest.approx(expected, rel=1e-12)


def test_kid_of_one_distribution_is_zero_on_average_and_grows_with_a_shift():
    values = [
        set_distances.polynomial_mmd(normal(2 * s, 30), normal(2 * s + 1, 40)) for s in range(200)
    ]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error and min(values) < 0
    near, far = (set_distances.kid(normal(0, 60), normal(1, 60, shift=s), 0) for s in (0.3, 1.0))
    assert 0 < near["value"] < far["value"]


def test_kid_tells_spread_number_and_size_of_its_subsets():
    x, y = normal(0, 60), normal(1, 50)
    found = set_distances.kid(x, y, 0)
    assert (found["subsets"], found["size"]) == (100, 25) and found["std"] > 0
    assert found == set_distances.kid(x, y, 0)
    assert found["value"] != set_distances.kid(x, y, 1)["value"]
    error = found["std"] / math.sqrt(found["subsets"])
    assert abs(found["value"] - set_distances.polynomial_mmd(x, y)) < 4 * error


def test_precision_and_recall_of_a_hand_made_example(monkeypatch):
    # Radii of the reference, to the third neighbour: 3, 2, 2, 3 and 99 for the outlier.
    reference = column(0, 1, 2, 3, 100)
    samples = column(-4, -3, 5, 6, 197)
    # Inside: -3 (3 from 0), 5 (2 from 3), 6 (3 from 3) and 197 (97 from 100); outside: -4.
    # Radii of the samples: 10, 9, 9, 10 and 200, so every reference image is inside.
    assert set_distances.precision_and_recall(reference, samples) == (0.8, 1.0)
    assert set_distances.precision_and_recall(samples, reference) == (1.0, 0.8)
    monkeypatch.setattr(set_distances, "BLOCK", 2)
    assert set_distances.precision_and_recall(reference, samples) == (0.8, 1.0)


def test_images_that_are_there_four_times_have_no_surroundings_but_themselves():
    rows = normal(0, 30, dims=999, shift=100)  # far from 0, where rounding is large
    four = rows.repeat(4, 1)
    assert set_distances.precision_and_recall(four, rows) == (1.0, 1.0)
    assert set_distances.precision_and_recall(four, rows + 1e-3) == (0.0, 1.0)


def test_a_set_is_at_no_distance_from_itself():
    for count in (12, 80):
        rows = measured(normal(0, count))
        found = set_distances.evaluate(rows, rows, replicates=0)
        assert found["precision"]["value"] == found["recall"]["value"] == 1
        assert found["fid"]["value"] == pytest.approx(0, abs=1e-9)
        assert found["sfid"]["value"] == pytest.approx(0, abs=1e-9)


def test_metrics_of_shifted_sets_are_worse_and_sfid_sees_the_spatial_features():
    reference, near, far = (measured(normal(s, 60, shift=d)) for s, d in ((0, 0), (1, 0), (1, 1)))
    found = [set_distances.evaluate(reference, other, replicates=0) for other in (near, far)]
    for name, sign in (("kid", 1), ("fid", 1), ("sfid", 1), ("precision", -1), ("recall", -1)):
        assert sign * (found[1][name]["value"] - found[0][name]["value"]) > 0, name
    assert list(found[0]) == ["kid", "precision", "recall", "fid", "sfid"]
    moved = Measured(near.pooled, far.spatial)
    assert set_distances.evaluate(reference, moved, 0)["fid"] == found[0]["fid"]
    assert set_distances.evaluate(reference, moved, 0)["sfid"] == found[1]["sfid"]


def widths(count, seed=0):
    pair = measured(normal(2 * seed, count)), measured(normal(2 * seed + 1, count, shift=0.5))
    found = set_distances.evaluate(*pair, replicates=40, seed=seed)
    for name, result in found.items():
        low, high = result["interval"]
        assert low <= result["value"] <= high, name
    return {name: np.subtract(*result["interval"][::-1]) for name, result in found.items()}


def test_an_interval_holds_the_value_and_shrinks_with_the_number_of_images():
    few, many = widths(40), widths(640)
    for name in few:
        assert 0 < many[name] < few[name] / 2, name  # a quarter, up to chance


def test_halves_spread_as_sets_drawn_anew_do():
    def draws(seed):
        return measured(normal(seed, 60)), measured(normal(seed + 1, 60, shift=0.5))

    anew = [set_distances.evaluate(*draws(2 * seed), replicates=0) for seed in range(80)]
    intervals = [set_distances.evaluate(*draws(2 * seed), replicates=40) for seed in range(8)]
    for name in anew[0]:
        spread = np.subtract(*np.percentile([f[name]["value"] for f in anew], [97.5, 2.5]))
        width = np.mean([np.subtract(*f[name]["interval"][::-1]) for f in intervals])
        assert 0.7 < width / spread < 1.4, name


def test_a_half_holds_each_image_once_and_both_features_of_it():
    rows = normal(0, 21)
    drawn = [measured(rows).half(np.random.default_rng(seed)) for seed in range(2)]
    for half in drawn:
        assert len(half) == 10 and len(half.pooled.unique(dim=0)) == 10
        assert all((row == rows).all(1).any() for row in half.pooled)
        assert torch.equal(half.spatial, half.pooled[:, :3])
    assert not torch.equal(drawn[0].pooled, drawn[1].pooled)


def test_intervals_follow_from_the_seed_and_are_left_out_without_replicates():
    pair = measured(normal(0, 20)), measured(normal(1, 16))
    assert set_distances.evaluate(*pair, 5, seed=3) == set_distances.evaluate(*pair, 5, seed=3)
    other = set_distances.evaluate(*pair, 5, seed=4)
    assert set_distances.evaluate(*pair, 5, seed=3)["fid"]["interval"] != other["fid"]["interval"]
    assert all(r["interval"] is None for r in set_distances.evaluate(*pair, 0).values())


def test_given_statistics_take_the_place_of_those_of_the_images():
    x, y = normal(0, 20), normal(1, 16, shift=1)
    truth = Gaussian.of_moments(torch.zeros(6).double(), torch.eye(6).double())
    found = set_distances.evaluate(measured(x, {"fid": truth}), measured(y), replicates=10)
    expected = set_distances.frechet_distance(truth, Gaussian.of_rows(y))
    assert found["fid"]["value"] == pytest.approx(expected)
    assert (
        found["sfid"]["value"]
        == set_distances.evaluate(measured(x), measured(y), 0)["sfid"]["value"]
    )
    alone = set_distances.evaluate(measured(x[:0], {"fid": truth}), measured(y), replicates=10)
    assert list(alone) == ["fid"] and alone["fid"]["value"] == found["fid"]["value"]
    low, high = alone["fid"]["interval"]
    assert low < alone["fid"]["value"] < high
    both = set_distances.evaluate(*[measured(x[:0], {"fid": truth})] * 2, replicates=10)
    assert both == {"fid": {"value": pytest.approx(0, abs=1e-12), "interval": None}}
