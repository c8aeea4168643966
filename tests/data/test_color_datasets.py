"""Colours of a picture as points: scale, order, CIELAB, and the way back to a picture."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion import color_datasets
from guided_diffusion.color_datasets import ColorDataset, rgb_sample_to_image, sample_to_image
from guided_diffusion.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
# CIELAB of sRGB colours under D65, as colour tables have them.
KNOWN = {
    (255, 255, 255): (100, 0, 0),
    (0, 0, 0): (0, 0, 0),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (119, 119, 119): (50.03, 0, 0),
    (5, 5, 5): (1.37, 0, 0),
}


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return tmp_path / "a.png"


class Log:
    def __init__(self):
        self.lines = []

    def log(self, *words):
        self.lines.append(" ".join(words))


def test_points_are_the_pixels_in_their_order(picture):
    data = ColorDataset(picture, use_lab_space=False)
    assert len(data) == 35 and data.image_shape == (5, 7, 3)
    point, conditions = data[8]
    assert point.dtype == np.float32 and conditions == {}
    np.testing.assert_allclose(point, PIXELS[1, 1] / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("rgb", KNOWN)
def test_cielab_of_known_colours(tmp_path, rgb):
    Image.new("RGB", (1, 1), rgb).save(tmp_path / "a.png")
    point, _ = ColorDataset(tmp_path / "a.png")[0]
    lab = (point + [1, 0, 0]) * [50, 128, 128]
    np.testing.assert_allclose(lab, KNOWN[rgb], atol=0.02)


def test_every_colour_comes_back_from_cielab_and_lies_in_range(tmp_path):
    levels = [0, 1, 5, 10, 11, 60, 128, 200, 254, 255]
    colours = np.array([list(itertools.product(levels, repeat=3))], dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    data = ColorDataset(tmp_path / "a.png")
    assert np.abs(data.points).max() <= 1
    assert np.array_equal(sample_to_image(data.points, data.image_shape), colours)
    assert np.array_equal(sample_to_image(torch.from_numpy(data.points), (1, 1000, 3)), colours)


def test_points_in_rgb_come_back_and_what_lies_outside_is_clipped(picture):
    points = ColorDataset(picture, use_lab_space=False).points
    assert np.array_equal(rgb_sample_to_image(points, (5, 7, 3)), PIXELS)
    outside = rgb_sample_to_image(np.array([[-3.0, 0.0, 9.0]]), (1, 1, 3))
    assert outside.tolist() == [[[0, 128, 255]]] and outside.dtype == np.uint8


def test_colours_that_no_screen_has_are_clipped():
    assert sample_to_image(np.array([[1.5, 0, 0], [-2.0, 0, 0]]), (1, 2, 3)).tolist() == [
        [[255, 255, 255], [0, 0, 0]]
    ]


def test_a_resized_picture_has_every_so_manyth_pixel(picture):
    data = ColorDataset(picture, use_lab_space=False, resize=True, ratio=2)
    assert data.image_shape == (3, 4, 3)
    expected = PIXELS[::2, ::2].reshape(-1, 3) / 127.5 - 1
    np.testing.assert_allclose(data.points, expected, atol=1e-6)
    with pytest.raises(ValueError, match="ratio: expected 1 or more where resize is True, got 0"):
        ColorDataset(picture, resize=True)


@pytest.mark.parametrize(
    ("lab", "raw", "scaled"),
    [
        (True, [[0, -128, 64], [100, 0, 0]], [[-1, -1, 0.5], [1, 0, 0]]),
        (False, [[0, 255, 127.5]], [[-1, 1, 0]]),
    ],
)
def test_points_are_scaled_there_and_back(lab, raw, scaled):
    found = ColorDataset.normalize(np.array(raw), use_lab_space=lab)
    assert found.dtype == np.float32 and found.tolist() == scaled
    assert ColorDataset.unnormalize(found, lab).tolist() == raw
    with pytest.raises(ValueError, match=r"arr: expected points \[N, 3\], got \[3\]"):
        ColorDataset.normalize(np.zeros(3))


def test_a_picture_is_read_without_a_dataset(picture):
    points, shape = ColorDataset.read_image(picture, use_lab_space=False)
    assert shape == (5, 7, 3) and np.array_equal(points, ColorDataset(picture, False).points)


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"a\.png: expected a readable image"):
        color_datasets.load_color_data_for_training(4, tmp_path / "a.png", True, Log())


def test_translation_takes_every_point_once_in_order(picture):
    data = ColorDataset(picture)
    batches = list(color_datasets.load_color_data_for_translation(16, data))
    assert [len(points) for points, _ in batches] == [16, 16, 3]
    assert np.array_equal(torch.cat([points for points, _ in batches]), data.points)


def test_training_draws_points_of_the_picture_for_ever_and_logs_how_many(picture):
    log, known = Log(), {tuple(point) for point in ColorDataset(picture).points.tolist()}
    data = color_datasets.load_color_data_for_training(16, picture, True, log)
    drawn = {tuple(point) for _ in range(30) for point in next(data)[0].tolist()}
    assert drawn == known
    points, conditions = next(data)
    assert points.shape == (16, 3) and points.dtype == torch.float32 and conditions == {}
    assert log.lines == [f"{picture}: 35 points"]


def test_ranks_draw_different_points(picture, monkeypatch):
    drawn = []
    for rank in range(2):
        monkeypatch.setattr(color_datasets.dist_util, "rank", lambda rank=rank: rank)
        drawn.append(
            next(color_datasets.load_color_data_for_training(16, picture, False, Log()))[0]
        )
    assert not torch.equal(*drawn)


def test_samples_are_scaled_as_tensors_too():
    points = torch.tensor([[0.5, 0.0, -0.5]])
    expected = ColorDataset.unnormalize(points.numpy())
    assert np.array_equal(ColorDataset.unnormalize(points), expected)
