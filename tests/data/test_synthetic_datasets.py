"""DDIB's distributions of points, and their plots."""

import itertools
import sys

import numpy as np
import pytest
from support.cli import picture, working_directory

from guided_diffusion import dist_util, synthetic_datasets
from guided_diffusion.data import plots
from guided_diffusion.errors import MissingExtraError
from guided_diffusion.synthetic_datasets import Synthetic2DType, load_2d_data

COUNT = 20000


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", Synthetic2DType)
def test_every_distribution_is_of_mean_0_and_variance_1_over_both_axes(shape):
    points = synthetic_datasets.draw_points(COUNT, shape, rng())
    assert points.shape == (COUNT, 2) and points.dtype == np.float32
    np.testing.assert_allclose([points.mean(), points.std()], [0, 1], atol=1e-4)
    assert np.array_equal(points, synthetic_datasets.draw_points(COUNT, shape, rng()))
    assert not np.array_equal(points, synthetic_datasets.draw_points(COUNT, shape))


def test_no_two_distributions_are_the_same():
    filled = {
        shape: np.histogram2d(
            *synthetic_datasets.draw_points(COUNT, shape, rng()).T, bins=24, range=[[-2.5, 2.5]] * 2
        )[0]
        > 0
        for shape in Synthetic2DType
    }
    for one, other in itertools.combinations(Synthetic2DType, 2):
        apart = (filled[one] ^ filled[other]).sum() / filled[one].sum()
        assert apart > 0.15, (one, other, apart)


def test_names_values_and_tasks_are_ddibs():
    assert [(shape.value, str(shape)) for shape in Synthetic2DType] == [
        (1, "Synthetic2DType.MOONS"),
        (2, "Synthetic2DType.CHECKERBOARD"),
        (3, "Synthetic2DType.CONCENTRIC_RINGS"),
        (4, "Synthetic2DType.CONCENTRIC_SQUARES"),
        (5, "Synthetic2DType.OLYMPIC_RINGS"),
        (6, "Synthetic2DType.OLYMPIC_SQUARES"),
    ]
    tasks = [synthetic_datasets.shape_of_task(task) for task in range(6)]
    assert tasks == list(Synthetic2DType)


RADIUS = {  # of the curve through a point, by its offset from the centre
    "Ring": lambda offsets: np.linalg.norm(offsets, axis=-1),
    "Square": lambda offsets: np.abs(offsets).max(axis=-1),
}


def before_normalizing(sampler, points):
    """The points of a sampler in the units of its radii and centres (known up to chance)."""
    size = (sampler.radii + sampler.width / 2)[:, None]
    low, high = (sampler.centers - size).min(axis=0), (sampler.centers + size).max(axis=0)
    return (points - points.min(axis=0)) / np.ptp(points, axis=0) * (high - low) + low


@pytest.mark.parametrize("form", RADIUS)
def test_points_fill_the_bands_about_their_curves(form):
    radii, centers = np.array([1.0, 3.0]), np.array([[0.0, 0.0], [20.0, 0.0]])
    sampler = getattr(synthetic_datasets, f"{form}Sampler")(radii, centers, 0.4)
    points, which = sampler.sample(COUNT, rng=rng())
    assert points.shape == (COUNT, 2) and which.shape == (COUNT,)
    assert np.array_equal(which, np.repeat([0, 1], COUNT // 2))  # one after the other, equal parts
    np.testing.assert_allclose([points.mean(), points.std()], [0, 1], atol=1e-9)
    offsets = before_normalizing(sampler, points) - centers[which]
    beyond = RADIUS[form](offsets) - radii[which]
    assert np.abs(beyond).max() < 0.22
    assert np.histogram(beyond, 4, (-0.2, 0.2))[0] == pytest.approx(COUNT / 4, rel=0.1)
    quadrants = (offsets[:, 0] > 0) + 2 * (offsets[:, 1] > 0)
    assert np.bincount(quadrants) == pytest.approx(COUNT / 4, rel=0.06)
    octants = (np.abs(offsets[:, 0]) > np.abs(offsets[:, 1])).mean()
    assert octants == pytest.approx(0.5, abs=0.02)
    steps = np.linalg.norm(np.diff(offsets[: COUNT // 2], axis=0), axis=1)
    assert steps.max() < 0.6  # neighbours in the list are neighbours on the curve


@pytest.mark.parametrize("form", RADIUS)
def test_concentric_curves_share_a_centre_and_olympic_ones_stand_side_by_side(form):
    concentric = getattr(synthetic_datasets, f"Concentric{form}Sampler")(np.array([1, 2, 3]))
    assert concentric.width == 0.5 and not concentric.centers.any()
    olympic = getattr(synthetic_datasets, f"Olympic{form}Sampler")()
    assert olympic.num_objects == 5 and olympic.radii.tolist() == [1] * 5
    row = 2.8 if form == "Ring" else 3.0
    expected = [[-row, 0], [0, 0], [row, 0], [-1.1, -1], [1.1, -1]]
    np.testing.assert_allclose(olympic.centers, expected)
    three = getattr(synthetic_datasets, f"Olympic{form}Sampler")(np.ones(3))
    np.testing.assert_allclose(three.centers, expected[:3])


@pytest.mark.parametrize("form", RADIUS)
def test_any_number_of_points_is_shared_out(form):
    sampler = getattr(synthetic_datasets, f"Olympic{form}Sampler")()
    points, which = sampler.sample(17, rng=rng())
    assert len(points) == 17 and np.isfinite(points).all()
    counts = np.bincount(which, minlength=5)
    assert counts.sum() == 17 and np.ptp(counts) <= 4 - 3 * (form == "Ring")


def test_numpys_seed_repeats_what_is_drawn_without_a_generator():
    draws = {
        "rings": lambda: synthetic_datasets.OlympicRingSampler().sample(20)[0],
        "squares": lambda: synthetic_datasets.OlympicSquareSampler().sample(20)[0],
        "board": lambda: synthetic_datasets.make_checkerboard(20),
        "moons": lambda: synthetic_datasets.make_moons(20, noise=0.1)[0],
    }
    for draw in draws.values():
        np.random.seed(3)
        first, second = draw(), draw()
        assert not np.array_equal(first, second)
        np.random.seed(3)
        assert np.array_equal(draw(), first)


def test_moons_are_two_half_circles_that_reach_into_one_another():
    points, which = synthetic_datasets.make_moons(2000, noise=0.05, random_state=0)
    angle = np.linspace(0, np.pi, 200)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    away = [np.linalg.norm(points[:, None] - arc, axis=2).min(axis=1) for arc in (upper, lower)]
    nearest = np.min(away, axis=0)
    assert nearest.max() < 5 * synthetic_datasets.MOON_NOISE
    assert nearest.mean() > 0.5 * synthetic_datasets.MOON_NOISE
    assert np.mean((away[0] < away[1]) == (which == 0)) > 0.99
    in_order, which = synthetic_datasets.make_moons(2001, shuffle=False)
    np.testing.assert_allclose(
        in_order[[0, 999, 1000, -1]], [[1, 0], [-1, 0], [0, 0.5], [2, 0.5]], atol=1e-9
    )
    assert np.bincount(which).tolist() == [1000, 1001]


def test_a_checkerboard_fills_every_second_field():
    points = synthetic_datasets.make_checkerboard(COUNT, rng=rng())
    assert (np.diff(points[:, 0]) <= 0).all()
    column, row = np.floor(points).astype(int).T + 2
    assert ((column + row) % 2 == 0).all()
    fields = np.bincount(4 * column + row, minlength=16)
    assert np.sort(fields)[8:] == pytest.approx(COUNT / 8, rel=0.1) and (fields > 0).sum() == 8


def test_normalizing_keeps_the_proportions():
    points = rng().standard_normal((100, 2)) * [3, 0.2] + [5, -1]
    found = synthetic_datasets.normalize(points)
    np.testing.assert_allclose([found.mean(), found.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(found, (points - points.mean()) / points.std())


def test_batches_go_round_all_points_in_a_new_order_each_time():
    def passes(**options):
        data = load_2d_data(20, Synthetic2DType.MOONS, n_samples=50, **options)
        drawn = [next(data) for _ in range(5)]
        assert all(batch.shape == (20, 2) and not conditions for batch, conditions in drawn)
        return np.concatenate([batch for batch, _ in drawn]).reshape(2, 50, 2)

    def ordered(points):
        return points[np.lexsort(points.T)]

    first, second = passes()
    assert not np.array_equal(first, second)
    assert np.array_equal(ordered(first), ordered(second))
    assert len(np.unique(first, axis=0)) == 50
    assert np.array_equal(passes()[0], first)
    once = [points for points, _ in load_2d_data(20, Synthetic2DType.MOONS, False, n_samples=50)]
    assert [len(points) for points in once] == [20, 20, 10]
    assert np.array_equal(ordered(np.concatenate(once)), ordered(first))
    assert not np.array_equal(passes(seed=1)[0], first)
    later = next(load_2d_data(20, Synthetic2DType.MOONS, n_samples=50, start_step=2))[0]
    assert np.array_equal(later, np.concatenate([first, second])[40:60])


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_batches_of_one_process(monkeypatch, ranks):
    whole = next(load_2d_data(12, Synthetic2DType.MOONS, n_samples=50, start_step=1))[0]
    monkeypatch.setattr(dist_util, "world_size", lambda: ranks)
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr(dist_util, "rank", lambda rank=rank: rank)
        data = load_2d_data(12 // ranks, Synthetic2DType.MOONS, n_samples=50, start_step=1)
        parts.append(next(data)[0])
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_dataset_gives_points_one_by_one():
    dataset = synthetic_datasets.Synthetic2DDataset(7, Synthetic2DType.OLYMPIC_RINGS, rng())
    assert len(dataset) == 7
    assert [tuple(point.shape) for point, _ in dataset] == [(2,)] * 7


def test_colours_change_smoothly_and_differ_between_corners():
    grid = np.stack(np.meshgrid(*[np.linspace(-3, 5, 21)] * 2), axis=-1)
    found = plots.colours(grid.reshape(-1, 2)).reshape(21, 21, 3)
    assert found.min() >= 0 and found.max() <= 1
    steps = [np.abs(np.diff(found, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) < 0.06
    corners = found[[0, 0, -1, -1], [0, -1, 0, -1]]
    for one, other in itertools.combinations(corners, 2):
        assert np.abs(one - other).max() > 0.4
    assert np.isfinite(plots.colours(np.zeros((3, 2)))).all()


def test_a_point_keeps_its_colour_from_plot_to_plot(tmp_path):
    points = np.array([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    plots.scatter_row({"here": points, "there": points[::-1].copy()}, tmp_path / "row.png")
    pixels = picture(tmp_path / "row.png")[..., :3]
    height, width = pixels.shape[:2]
    assert width == 2 * height
    for corner in plots.CORNERS.values():
        near = np.abs(pixels / 255 - corner).max(axis=-1) < 0.02
        left, right = near[:, : width // 2], near[:, width // 2 :]
        assert left.any() and right.any()
        (y, x), (v, u) = (np.argwhere(half).mean(axis=0) for half in (left, right))
        assert abs(y - v) > height / 3 and abs(x - u) > height / 3  # at the opposite corner


def test_the_plots_of_upstream(tmp_path):
    points = synthetic_datasets.draw_points(500, Synthetic2DType.MOONS, rng())
    with working_directory(tmp_path):
        synthetic_datasets.scatter(points)
        synthetic_datasets.scatter(points, "plain.png", enable_color_interpolation=False)
        synthetic_datasets.heatmap(points)
        synthetic_datasets.save_plots()
    assert {path.stem for path in tmp_path.glob("*.png")} == {"scatter", "plain", "heatmap"}
    names = {path.name for path in (tmp_path / "synthetic_images").iterdir()}
    assert names == {
        f"{shape.value}_{shape}_{kind}.png"
        for shape in Synthetic2DType
        for kind in ("Heatmap", "Scatter")
    }
    hues = [
        len(np.unique(picture(tmp_path / f"{name}.png").reshape(-1, 4), axis=0))
        for name in ("scatter", "plain")
    ]
    assert hues[0] > 2 * hues[1]


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"needs matplotlib: pip install .*\[plots\]"):
        synthetic_datasets.scatter(np.zeros((2, 2)), tmp_path / "none.png")
    assert not list(tmp_path.iterdir())
