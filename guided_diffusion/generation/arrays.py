"""The arrays of a translation folder, with an entry for each source image.

While a run fills an array, its file is called NAME.npy.partial; NAME.npy has all entries. An entry
of zeros has not been written: the depths are above 0, and pictures of zeros alone are black in the
files beside them too. So a file that vanished and was made again is noticed by its zeros.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from ..errors import UserError, blame
from ..runtime import atomic_files, faults, input_files
from ..runtime.unfinished_files import array_of, partial_of
from ..runtime.writing import writing

_LOOK = 4096  # numbers of an entry that are looked at first


def empty_entries(amount: int, tile_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Return the empty entry of one sequence of tiles (C, H, W) in each array, by its name."""
    many = (amount, *tile_shape)
    return {
        "source": np.empty(tile_shape, np.uint8),
        "target": np.empty(many, np.uint8),
        "diffway": np.empty(amount, np.int64),
        "latent": np.empty(many, np.float16),
    }


class EntryArray:
    """One array on disk, [count, ...].

    Args:
        folder: folder of the file.
        name: name of the file, without its ending.
        count: number of entries.
    """

    def __init__(self, folder: Path, name: str, count: int) -> None:
        self.path, self.name, self.count = folder / f"{name}.npy", name, count
        self.partial = array_of(self.path)

    @property
    def there(self) -> Path | None:
        """The file that holds the entries now; None: there is none."""
        return next((path for path in (self.path, self.partial) if path.exists()), None)

    def written(self, indices: Sequence[int]) -> set[int]:
        """Return which of these entries are in the file, and not all zeros."""
        if self.there is None:
            return set()
        array = self._read(self.there)
        return {i for i in indices if i < len(array) and _any(array[i])}

    def _read(self, path: Path) -> np.ndarray:
        try:
            array = input_files.mapped_array(path)  # "r+" would fill up one that was cut off
            len(array)
        except (ValueError, TypeError) as error:  # of no dimensions: a TypeError
            raise UserError(f"{path}: expected an array, got {error}; delete it to go on") from None
        return array

    def prepare(self, example: np.ndarray) -> None:
        """Bring the file to its full size under its unfinished name, whatever is there.

        Args:
            example: an entry.

        Raises:
            UserError: if there is another array, or the disk has no room.
        """
        if self.path.exists():
            self._check(self.path, example)
            with writing(self.partial, self.path):
                os.replace(self.path, self.partial)
        shape = (self.count, *example.shape)
        if not self.partial.exists():
            return self._create(self.partial, example.dtype, shape)
        array = self._check(self.partial, example)
        if len(array) < self.count:  # images were added
            longer = partial_of(self.partial)
            self._create(longer, array.dtype, shape)
            with writing(self.partial, longer):
                copy = open_memmap(longer, "r+")
                copy[: len(array)] = array
                copy.flush()
                os.replace(longer, self.partial)

    def _create(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        with blame("save_latents" if self.name == "latent" else "save_npy"):
            atomic_files.create_array(path, dtype, shape)

    def _check(self, path: Path, example: np.ndarray) -> np.ndarray:
        array, shape = self._read(path), (self.count, *example.shape)
        if len(array) > self.count or array.shape[1:] != shape[1:] or array.dtype != example.dtype:
            found = f"got {array.shape} {array.dtype}; choose another --out_dir"
            raise UserError(f"{path}: expected {shape} {example.dtype}, {found}")
        return array

    def fits(self, example: np.ndarray) -> bool:
        """Return whether the finished file is there, with all entries, and no unfinished one.

        Raises:
            UserError: if it is another array.
        """
        alone = self.path.exists() and not os.path.lexists(self.partial)
        return alone and len(self._check(self.path, example)) == self.count

    def store(self, index: int, value: np.ndarray) -> None:
        """Write an entry, on disk when this returns."""
        if not self.partial.exists():
            self.prepare(value)
        self._check(self.partial, value)
        with atomic_files.storing(self.partial):
            array = open_memmap(self.partial, "r+")
            array[index] = value
            array.flush()

    def finish(self) -> None:
        """Give the file its own name, now that all entries are written."""
        if self.partial.exists():
            with writing(self.path, self.partial):
                with open(self.partial, "rb+") as file:
                    os.fsync(file.fileno())
                faults.point("array.finish")
                os.replace(self.partial, self.path)


def _any(entry: np.ndarray) -> bool:
    flat = entry.reshape(-1)
    return bool(flat[:_LOOK].any() or flat.any())
