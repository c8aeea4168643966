"""Augmentations of tiles [H, W, C] in training, with random numbers from a given generator."""

from collections.abc import Callable

import numpy as np


def keep(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a tile as it is."""
    return tile


def flip(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror a tile left-right half of the time."""
    return tile[:, ::-1] if rng.random() < 0.5 else tile


def turn_and_flip(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one of the 8 symmetries of the square, for tissue, which has no upright position."""
    return flip(np.rot90(tile, k=int(rng.integers(4))), rng)


# Choices of `--augment`.
AUGMENTATIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "none": keep,
    "flip": flip,
    "dihedral": turn_and_flip,
}
