"""Files of a generation run: pictures, the manifest with soft labels, arrays.

A sequence counts as finished when its rows are in the manifest, which happens after its files
are on disk. Each rank appends to a part of its own; rank 0 merges the parts. So a killed run
loses at most the batch it was working on, and running it again makes what is missing.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.format import open_memmap
from PIL.PngImagePlugin import PngInfo

from ..data import pictures
from ..errors import ArgumentError, UserError, blame
from ..runtime import atomic_files
from ..translation.sequences import ImageSequence, Recipe
from ..translation.soft_labels import over_stages
from .plan import check_names
from .report import Row


class Exporter:
    """Writes the sequences of one translation folder.

    Args:
        folder: translation_<source>_<target>.
        names: of source and target domain.
        recipe: how the sequences are made.
        count: source images of all ranks.
        save_npy: write source.npy, target.npy and diffway.npy.
        save_latents: write latent.npy.
        provenance: facts for every row and picture, such as the checkpoints.
        part: number of the rank.
        stages: all stages of the run in their order, for the label columns; None: the two.
    """

    def __init__(
        self,
        folder: Path,
        names: tuple[str, str],
        recipe: Recipe,
        count: int,
        *,
        save_npy: bool = True,
        save_latents: bool = False,
        provenance: dict[str, str] | None = None,
        part: int = 0,
        stages: Sequence[str] | None = None,
    ) -> None:
        self.folder, self.names, self.recipe, self.count = folder, names, recipe, count
        self.arrays = [
            *(["source", "target", "diffway"] if save_npy else []),
            *(["latent"] if save_latents else []),
        ]
        self.provenance = provenance or {}
        self.stages = stages or names
        self.part = folder / f"manifest.part{part:03d}.csv"
        self.columns = [
            "file_name",
            "sequence",
            "step",
            "depth",
            "timestep",
            "source_file",
            "source",
            "target",
            *(f"label_{stage}" for stage in self.stages),
            "depth_policy",
            "depth_fallback",
            "level_convention",
            *self.provenance,
        ]
        check_names(*names)

    def finished(self) -> set[int]:
        """Return the indices of the sequences that the manifest and its parts hold whole."""
        return set(self._finished_rows())

    def _finished_rows(self) -> dict[int, list[Row]]:
        # Pictures that were deleted are made again; latents stand nowhere else.
        if "latent" in self.arrays and not (self.folder / "latent.npy").exists():
            return {}
        found = complete_sequences(self._all_rows(), self.recipe.depths.amount)
        return {
            index: rows
            for index, rows in found.items()
            if all((self.folder / row["file_name"]).exists() for row in rows)
        }

    def prepare(self, files: Sequence[str], tile: Callable[[int], np.ndarray]) -> set[int]:
        """Tidy up what an earlier run left, and create the arrays (rank 0 only).

        Args:
            files: all source images.
            tile: returns the tile of an index, [H, W, C] uint8.

        Returns:
            indices of the sequences that are finished.

        Raises:
            UserError: if what is there was made from other images or checkpoints.
        """
        self._refuse_other_origins(files, tile)
        rows = self.merge()
        height, width, channels = tile(0).shape
        missing = [name for name in self.arrays if not (self.folder / f"{name}.npy").exists()]
        self.create_arrays((channels, height, width))
        self._fill_again(missing, rows)
        return self.finished()

    def _refuse_other_origins(
        self, files: Sequence[str], tile: Callable[[int], np.ndarray]
    ) -> None:
        for index, rows in self._finished_rows().items():
            before, now = rows[0]["source_file"], files[index] if index < len(files) else "nothing"
            if os.path.realpath(before) != os.path.realpath(now):
                reason = f"{before}, which is now {now}"
            elif not self._shows(rows[0], tile(index)):
                reason = f"{before}, which now holds another picture"
            else:
                continue
            raise ArgumentError(
                "out_dir",
                f"sequence {index} in {self.folder} was made from {reason}; choose another folder",
            )

    def _shows(self, row: Row, tile: np.ndarray) -> bool:
        return np.array_equal(pictures.read_tile(self.folder / row["file_name"]), tile)

    def _fill_again(self, names: Sequence[str], rows: Sequence[Row]) -> None:
        # Arrays that were deleted, from the pictures and the manifest.
        if not names:
            return
        for index, sequence in complete_sequences(rows, self.recipe.depths.amount).items():
            tiles = [pictures.read_tile(self.folder / row["file_name"]) for row in sequence]
            channels_first = np.moveaxis(np.stack(tiles), -1, 1)
            depths = np.array([int(row["depth"]) for row in sequence[1:]])
            values = {"source": channels_first[0], "target": channels_first[1:], "diffway": depths}
            for name in names:
                self._store(name, index, values[name])

    def save(self, sequence: ImageSequence) -> None:
        """Write the files of one sequence, then enter it into this rank's part."""
        rows = self._rows(sequence)
        tiles = [sequence.source, *pictures.to_uint8(sequence.images)]
        for row, tile in zip(rows, tiles, strict=True):
            self._save_picture(row, tile)
        self._save_arrays(sequence)
        self._append(rows)

    def _rows(self, sequence: ImageSequence) -> list[Row]:
        steps = [(0, 0, -1, (1.0, 0.0))]
        for i, depth in enumerate(sequence.depths.values):
            steps.append((i + 1, depth, sequence.timesteps[i], sequence.labels[i]))
        name = f"{sequence.index:05d}"
        common = {
            "sequence": name,
            "source_file": sequence.source_file,
            "source": self.names[0],
            "target": self.names[1],
            "depth_policy": self.recipe.depths.depth_policy,
            "depth_fallback": str(sequence.depths.fallback),
            "level_convention": self.recipe.walk.level_convention,
            **self.provenance,
        }
        return [
            common
            | {
                "file_name": f"images/{name}/{step:02d}.png",
                "step": str(step),
                "depth": str(depth),
                "timestep": str(timestep),
                **{
                    f"label_{stage}": repr(share)
                    for stage, share in over_stages(labels, *self.names, self.stages).items()
                },
            }
            for step, depth, timestep, labels in steps
        ]

    def _save_picture(self, row: Row, tile: np.ndarray) -> None:
        path = self.folder / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        info = PngInfo()
        for key in self.columns[1:]:
            # A PNG keyword is Latin-1; a value may be any text.
            info.add_text(key.encode("latin-1", "backslashreplace").decode("latin-1"), row[key])
        with atomic_files.atomic_write(path) as file:
            pictures.to_picture(tile).save(file, "png", pnginfo=info)

    def _save_arrays(self, sequence: ImageSequence) -> None:
        images = np.moveaxis(pictures.to_uint8(sequence.images), -1, 1)
        values = {
            "source": np.moveaxis(sequence.source, -1, 0),
            "target": images,
            "diffway": np.array(sequence.depths.values, dtype=np.int64),
            "latent": sequence.latents.numpy().astype(np.float16),
        }
        for name in self.arrays:
            self._store(name, sequence.index, values[name])

    def _store(self, name: str, index: int, value: np.ndarray) -> None:
        array = self._open_array(name, value)
        array[index] = value
        array.flush()

    def _open_array(self, name: str, example: np.ndarray) -> np.memmap:
        path = self.folder / f"{name}.npy"
        shape = (self.count, *example.shape)
        if not path.exists():
            with blame(f"save_npy: {path}"):
                atomic_files.create_array(path, example.dtype, shape)
        try:
            array = open_memmap(path, "r")  # "r+" would fill up one that was cut off
        except ValueError as error:
            raise UserError(f"{path}: expected an array, got {error}; delete it to go on") from None
        if len(array) > self.count or array.shape[1:] != shape[1:] or array.dtype != example.dtype:
            raise UserError(
                f"{path}: expected {shape} {example.dtype}, got {array.shape} {array.dtype}; "
                "choose another --out_dir"
            )
        if len(array) < self.count:  # images were added
            _lengthen(path, array, shape)
        return open_memmap(path, "r+")

    def create_arrays(self, tile_shape: tuple[int, int, int]) -> None:
        """Create the arrays at full size, before several ranks open them.

        Args:
            tile_shape: (C, H, W).
        """
        entries = array_entries(self.recipe.depths.amount, tile_shape)
        for name in self.arrays:
            self._open_array(name, entries[name])

    def _append(self, rows: list[Row]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        with open(self.part, "a+b") as file:
            if _end_of_whole_lines(file) == 0:
                writer.writeheader()
            writer.writerows(rows)
            file.write(text.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())

    def merge(self) -> list[Row]:
        """Bring all parts into manifest.csv, in order, and return its rows (rank 0 only)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = self._finished_rows()
        merged = [row for index in sorted(rows) for row in rows[index]]
        write_manifest(self.folder / "manifest.csv", self.columns, merged)
        for part in self.folder.glob("manifest.part*.csv"):
            part.unlink()
        return merged

    def _all_rows(self) -> Iterable[Row]:
        for path in [self.folder / "manifest.csv", *sorted(self.folder.glob("manifest.part*.csv"))]:
            if path.exists():
                # A killed run can leave a line cut off at the end of a part.
                text = path.read_bytes().decode("utf-8", "replace").rpartition("\n")[0]
                reader = csv.DictReader(io.StringIO(text, newline=""))
                if reader.fieldnames not in (None, self.columns):
                    raise UserError(
                        f"{path}: expected the columns {','.join(self.columns)}, "
                        f"got {','.join(reader.fieldnames)}; choose another --out_dir"
                    )
                yield from reader


def array_entries(amount: int, tile_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Return what one sequence has in each array, {name: uninitialised entry}.

    Args:
        amount: images per sequence.
        tile_shape: (C, H, W).
    """
    many = (amount, *tile_shape)
    return {
        "source": np.empty(tile_shape, np.uint8),
        "target": np.empty(many, np.uint8),
        "diffway": np.empty(amount, np.int64),
        "latent": np.empty(many, np.float16),
    }


def _lengthen(path: Path, array: np.ndarray, shape: Sequence[int]) -> None:
    longer = path.with_name(f".{path.name}.longer.partial")
    with blame(f"save_npy: {path}"):
        atomic_files.create_array(longer, array.dtype, shape)
    copy = open_memmap(longer, "r+")
    copy[: len(array)] = array
    copy.flush()
    os.replace(longer, path)


def _end_of_whole_lines(file: BinaryIO) -> int:
    # A killed run can leave a line cut off, which the next row must not join.
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 1, 0))
    if file.read() in (b"", b"\n"):
        return end
    file.seek(0)
    return file.truncate(file.read().rfind(b"\n") + 1)


def write_manifest(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a manifest, unless it stands there already."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    atomic_files.write_if_changed(path, text.getvalue().encode())


def complete_sequences(rows: Iterable[Row], amount: int) -> dict[int, list[Row]]:
    """Return {index: rows by step} of the sequences of which every row is there whole."""
    found: dict[int, dict[int, Row]] = {}
    for row in rows:
        if None not in row.values() and None not in row:
            found.setdefault(int(row["sequence"]), {})[int(row["step"])] = row
    return {
        index: [steps[step] for step in range(amount + 1)]
        for index, steps in found.items()
        if steps.keys() == set(range(amount + 1))
    }
