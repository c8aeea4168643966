"""The images of the reference numbers, drawn by their recipe, and the numbers of the pipeline."""

import functools
from pathlib import Path

import numpy as np
import torch

REFERENCE = Path(__file__).parents[1] / "reference"


@functools.cache
def reference_add() -> dict[str, np.ndarray]:
    """The arrays of the published spectral measure, depth search and pipeline."""
    with np.load(REFERENCE / "public_add.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@functools.cache
def reference_searches() -> dict[str, np.ndarray]:
    """Lists, and what the published depth search makes of them."""
    with np.load(REFERENCE / "public_add_search.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def blurred_noise(seed: int, size: int) -> torch.Tensor:
    """Smooth noise [1, 3, size, size] in [-1, 1]."""
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal((1, 3, size, size))
    image = noise.astype(np.float32)
    offsets = np.arange(-8, 9)
    weights = np.exp(-0.5 * (offsets / 2.5) ** 2)
    weights /= weights.sum()
    for axis in (2, 3):
        image = sum(w * np.roll(image, k, axis) for w, k in zip(weights, offsets, strict=True))
    return torch.from_numpy((image / image.std(ddof=1) * 0.6).clip(-1, 1)).float()
