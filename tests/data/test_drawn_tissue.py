"""Drawn tissue is repeatable, ages smoothly, and its severity can be read from the pixels."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from guided_diffusion.data import drawn_tissue
from guided_diffusion.data.drawn_tissue import draw_tile, measure, severity_of

SEVERITIES = np.random.default_rng(0).random(150)


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    return [draw_tile(seed, float(severity)) for seed, severity in enumerate(SEVERITIES)]


def rank_correlation(images: list[np.ndarray]) -> float:
    return float(spearmanr([severity_of(image) for image in images], SEVERITIES).statistic)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize("size", [16, 33, 64, 128])
def test_a_tile_is_rgb_bytes_that_span_dark_and_bright(size: int) -> None:
    tile = draw_tile(1, 0.2, size)
    assert tile.shape == (size, size, 3)
    assert tile.dtype == np.uint8
    assert tile.min() < 90 and tile.max() > 220


def test_a_seed_is_one_picture_whatever_was_drawn_before() -> None:
    first = draw_tile(3, 0.4)
    np.random.seed(0)
    draw_tile(4, 0.9)
    np.testing.assert_array_equal(draw_tile(3, 0.4), first)
    assert difference(draw_tile(4, 0.4), first) > 10.0


# Looser than equality: a cosine may differ by its last bit between machines.
@pytest.mark.parametrize(
    ("seed", "severity", "mean"),
    [
        (0, 0.0, (183.05, 124.78, 185.1)),
        (7, 0.5, (165.15, 107.3, 171.08)),
        (11, 1.0, (109.81, 70.4, 135.14)),
    ],
)
def test_the_drawing_has_not_changed(
    seed: int, severity: float, mean: tuple[float, float, float]
) -> None:
    np.testing.assert_allclose(draw_tile(seed, severity).mean(axis=(0, 1)), mean, atol=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_nearby_severities_give_nearby_pictures_of_the_same_tissue(seed: int) -> None:
    severities = np.linspace(0.0, 1.0, 26)
    steps = [draw_tile(seed, float(severity)) for severity in severities]
    moves = [difference(a, b) for a, b in zip(steps, steps[1:], strict=False)]
    assert max(moves) < 10.0
    assert difference(steps[0], draw_tile(seed + 100, 0.0)) > 2.0 * max(moves)


def test_a_progression_of_one_seed_rises_in_measured_severity() -> None:
    read = [[severity_of(draw_tile(s, v)) for v in (0.0, 0.25, 0.5, 0.75, 1.0)] for s in range(8)]
    assert (np.diff(read, axis=1) > 0.0).all()


def test_severity_is_read_back_from_sharp_tiles(tiles: list[np.ndarray]) -> None:
    assert rank_correlation(tiles) >= 0.95
    error = [severity_of(tile) for tile in tiles] - SEVERITIES
    assert abs(error.mean()) < 0.03
    assert error.std() < 0.1


@pytest.mark.parametrize("sigma", [0.7, 1.0])
def test_severity_is_read_back_from_blurred_tiles(tiles: list[np.ndarray], sigma: float) -> None:
    blurred = [np.rint(gaussian_filter(tile.astype(float), (sigma, sigma, 0))) for tile in tiles]
    assert rank_correlation([tile.astype(np.uint8) for tile in blurred]) >= 0.9


def test_severity_is_read_back_from_noisy_tiles(tiles: list[np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    noisy = [np.clip(tile + rng.normal(0.0, 6.0, tile.shape), 0, 255) for tile in tiles]
    assert rank_correlation([tile.astype(np.uint8) for tile in noisy]) >= 0.9


def test_each_measure_rises_with_severity(tiles: list[np.ndarray]) -> None:
    measures = np.array([dataclasses.astuple(measure(tile)) for tile in tiles])
    mild, severe = measures[SEVERITIES < 0.2], measures[SEVERITIES > 0.8]
    assert (severe.mean(axis=0) > mild.mean(axis=0)).all()
    assert severe[:, 0].min() > mild[:, 0].max()


def squares(starts: list[tuple[int, int, int]]) -> np.ndarray:
    """A 64 px tile of haematoxylin squares (row, column, side) on glass."""
    density = np.zeros((64, 64))
    for row, column, side in starts:
        density[row : row + side, column : column + side] = 0.8
    shade = 10.0 ** -(density[..., None] * drawn_tissue.STAINS[0])
    return np.rint(drawn_tissue.WHITE * shade).astype(np.uint8)


def test_measure_counts_and_sizes_what_is_there() -> None:
    found = measure(squares([(4, 4, 4), (20, 8, 4), (40, 30, 4), (50, 50, 4)]))
    assert found.area_fraction == pytest.approx(64 / 4096)
    assert found.density == pytest.approx(1000.0 * 4 / 4096)
    assert found.size_spread == 0.0
    assert measure(squares([(4, 4, 3), (30, 30, 6)])).size_spread == pytest.approx(0.6)


def test_measure_of_glass_is_nothing_and_its_severity_is_below_zero() -> None:
    glass = np.full((64, 64, 3), 244, np.uint8)
    assert measure(glass) == drawn_tissue.NuclearMeasure(0.0, 0.0, 0.0)
    assert severity_of(glass) < 0.0
    assert np.isfinite(severity_of(np.zeros((64, 64, 3), np.uint8)))


def test_the_measure_does_not_depend_on_the_size_of_the_tile() -> None:
    for seed, severity in enumerate((0.05, 0.3, 0.6, 0.95)):
        small, large = draw_tile(seed, severity), draw_tile(seed, severity, 128)
        assert measure(large).area_fraction == pytest.approx(measure(small).area_fraction, rel=0.15)
        assert measure(large).density == pytest.approx(measure(small).density, rel=0.25)
        assert severity_of(large) == pytest.approx(severity_of(small), abs=0.12)
        once = measure(small).area_fraction
        assert measure(np.tile(small, (1, 2, 1))).area_fraction == pytest.approx(once, rel=0.1)


def test_stain_varies_between_tiles_and_not_with_severity(monkeypatch: pytest.MonkeyPatch) -> None:
    colours: list[np.ndarray] = []
    stain = drawn_tissue._stain

    def colour_of_equal_amounts(seed: int, *densities: np.ndarray) -> np.ndarray:
        colours.append(stain(seed, np.full((1, 1), 0.4), np.full((1, 1), 0.3)).ravel())
        return stain(seed, *densities)

    monkeypatch.setattr(drawn_tissue, "_stain", colour_of_equal_amounts)
    for seed in range(20):
        draw_tile(seed, 0.1, 16)
        draw_tile(seed, 0.9, 16)
    mild, severe = np.array(colours[::2]), np.array(colours[1::2])
    np.testing.assert_array_equal(mild, severe)
    assert (mild.std(axis=0) > 2.0).all()


def fit_severity(seeds: Sequence[int]) -> tuple[float, float]:
    """Fit intercept and slope of `severity_of` to tiles of severities even over [0, 1]."""
    severities = np.linspace(0.0, 1.0, len(seeds)).tolist()
    tiles = (draw_tile(*drawn) for drawn in zip(seeds, severities, strict=True))
    roots = [np.sqrt(measure(tile).area_fraction) for tile in tiles]
    slope, intercept = np.polyfit(roots, severities, 1)
    return float(intercept), float(slope)


def test_the_fit_of_severity_finds_the_coefficients_in_use() -> None:
    fitted = fit_severity(range(10000, 10120))
    assert fitted == pytest.approx(drawn_tissue.SEVERITY_FIT, rel=0.06)


@pytest.mark.parametrize("severity", [-0.01, 1.01, float("nan")])
def test_a_severity_outside_0_to_1_is_refused(severity: float) -> None:
    with pytest.raises(ValueError, match=r"severity: expected a number in \[0, 1\], got"):
        draw_tile(0, severity)


def test_too_small_a_size_and_a_negative_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="size: expected at least 16 pixels, got 15"):
        draw_tile(0, 0.5, 15)
    with pytest.raises(ValueError, match="seed: expected a non-negative integer, got -1"):
        draw_tile(-1, 0.5)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3), np.float32),
    ],
)
def test_measure_refuses_what_is_not_rgb_bytes(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"image: expected uint8 \[H, W, 3\], got"):
        measure(image)


def test_measure_without_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"pip install 'guided-diffusion-add\[metrics\]'"):
        measure(np.zeros((64, 64, 3), np.uint8))
