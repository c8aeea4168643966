"""Plots side by side: points [N, 2], each with its own colour throughout, and marked curves."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import require
from ..runtime import atomic_files

# Colours at the corners of a set, by (x, y); colours between them are mixed.
CORNERS = {
    (0, 0): (0.10, 0.25, 0.85),
    (1, 0): (0.90, 0.15, 0.15),
    (0, 1): (0.05, 0.65, 0.40),
    (1, 1): (1.00, 0.75, 0.05),
}
SIDE = 4.0  # inches of a plot
DOTS_PER_INCH = 100


def figure_class() -> Any:
    """Return matplotlib's Figure, which draws without a display, or raise MissingExtraError."""
    return require("matplotlib.figure", "plots").Figure


def colours(points: np.ndarray) -> np.ndarray:
    """Return a colour per point, [N, 3] in 0..1, that changes smoothly with its position."""
    low, high = points.min(axis=0), points.max(axis=0)
    u, v = ((points - low) / np.maximum(high - low, 1e-12)).T
    weights = {(i, j): (u if i else 1 - u) * (v if j else 1 - v) for i, j in CORNERS}
    return np.clip(sum(w[:, None] * np.array(CORNERS[c]) for c, w in weights.items()), 0, 1)


def scatter_row(
    panels: Mapping[str, np.ndarray], path: str | os.PathLike, colour: Any = None
) -> None:
    """Save sets of points side by side.

    Args:
        panels: title -> points [N, 2]; the same row is the same point in each.
        path: file of the PNG.
        colour: colours [N, 3], or one for all; None: by position in the first set.
    """
    first = next(iter(panels.values()))
    colour = colours(first) if colour is None else colour
    figure, axes = _row(len(panels))
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        area = float(np.clip(2e4 / max(len(points), 1), 0.3, 12))  # square points
        axis.scatter(*points.T, c=colour, s=area, linewidths=0)
        axis.set_title(title)
    _save(figure, path)


def heatmap_of(points: np.ndarray, path: str | os.PathLike, bins: int = 200) -> None:
    """Save the density of points [N, 2] as a picture of `bins` cells a side."""
    figure, (axis,) = _row(1)
    axis.hist2d(*points.T, bins=bins, cmap="inferno")
    _save(figure, path)


def curve_row(
    panels: Mapping[str, tuple[np.ndarray, Mapping[str, Sequence[int]]]],
    path: str | os.PathLike,
    x_name: str,
    y_name: str,
) -> None:
    """Save curves side by side, with marks on each.

    Args:
        panels: title -> (values at 1..T, {label: marked places, 0..T; 0 has the value at 1}).
        path: file of the PNG.
        x_name, y_name: names of the places and of the values.
    """
    figure, axes = _row(len(panels))
    for axis, (title, (values, marks)) in zip(axes, panels.items(), strict=True):
        axis.set_aspect("auto")
        axis.plot(np.arange(1, len(values) + 1), values, color="0.6")
        for marker, (name, places) in zip("osv^", marks.items(), strict=False):
            heights = values[np.maximum(places, 1) - 1]
            axis.plot(places, heights, marker, label=name, alpha=0.7)
        axis.set(title=title, xlabel=x_name, ylabel=y_name)
        axis.legend()
    _save(figure, path)


def _row(count: int) -> tuple[Any, Any]:
    figure = figure_class()(figsize=(SIDE * count, SIDE), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.set_aspect("equal", adjustable="datalim")
    return figure, axes


def _save(figure: Any, path: str | os.PathLike) -> None:
    with atomic_files.atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
