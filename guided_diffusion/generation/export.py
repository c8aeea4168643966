"""Write the files of a generation run: pictures, the manifest with soft labels, arrays.

A sequence counts as finished when its rows are in the manifest, which happens after its files
are on disk, and its files are still there, unchanged. Each rank appends to a part of its own; rank
0 merges the parts. So a killed run loses at most the batch it was working on, and running it again
makes what is missing, or was damaged since.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..data import pictures, sealed_pictures
from ..errors import ArgumentError
from ..runtime import atomic_files
from ..translation.sequences import ImageSequence, Recipe
from ..translation.soft_labels import over_stages
from . import manifest
from .arrays import EntryArray, empty_entries
from .manifest import Row
from .plan import check_names


class Exporter:
    """Writer of the sequences of one translation folder.

    Args:
        folder: translation_<source>_<target>.
        names: names of source and target domain.
        recipe: depths, walks, batches and arithmetic.
        count: number of source images of all ranks.
        save_npy: whether to write source.npy, target.npy and diffway.npy.
        save_latents: whether to write latent.npy.
        provenance: {column: text} for every row and picture, such as the checkpoints.
        part: number of the rank.
        stages: all stages of the run in their order, for the label columns; None: the names.
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
        saved = ["source", "target", "diffway"] * save_npy + ["latent"] * save_latents
        self.arrays = {name: EntryArray(folder, name, count) for name in saved}
        self.provenance = provenance or {}
        self.stages = stages or names
        self.part = folder / f"manifest.part{part:03d}.csv"
        self.columns = [
            *("file_name", "sequence", "step", "depth", "timestep", "source_file"),
            *("source", "target"),
            *(f"label_{stage}" for stage in self.stages),
            *("depth_policy", "depth_fallback", "level_convention"),
            *self.provenance,
        ]
        self.merged: list[Row] = []  # rows of manifest.csv as it was last written
        check_names(*names)

    def finished(self) -> set[int]:
        """Return the indices of the sequences whose rows and files are there, unchanged."""
        return set(self._finished_rows())

    def _finished_rows(self) -> dict[int, list[Row]]:
        found = manifest.complete_sequences(self._all_rows(), self.recipe.depths.amount)
        if "latent" in self.arrays:  # no other file holds what they hold
            kept = self.arrays["latent"].written(list(found))
            found = {index: rows for index, rows in found.items() if index in kept}
        return {
            index: rows
            for index, rows in found.items()
            if all(sealed_pictures.is_whole(*self._picture(row), plain=True) for row in rows)
        }

    def _picture(self, row: Row) -> tuple[Path, dict[str, str]]:
        return self.folder / row["file_name"], {key: row[key] for key in self.columns[1:]}

    def prepare(self, files: Sequence[str], tile: Callable[[int], np.ndarray]) -> set[int]:
        """Tidy up what an earlier run left, and create the arrays (rank 0 only).

        Args:
            files: paths of all source images.
            tile: function from the index of an image to its tile, [H, W, C] uint8.

        Returns:
            indices of the sequences that are finished.

        Raises:
            UserError: if the folder was made from other images or checkpoints.
        """
        found = self._finished_rows()
        self._refuse_other_origins(found, files, tile)
        self.merge(found)
        height, width, channels = tile(0).shape
        self._prepare_arrays(found, (channels, height, width))
        return set(found)

    def _refuse_other_origins(
        self, found: dict[int, list[Row]], files: Sequence[str], tile: Callable[[int], np.ndarray]
    ) -> None:
        for index, rows in found.items():
            before, now = rows[0]["source_file"], files[index] if index < len(files) else "nothing"
            if os.path.realpath(before) != os.path.realpath(now):
                change = f"is now {now}"
            elif not np.array_equal(self._tile(rows[0]), tile(index)):
                change = "now holds another picture"
            else:
                continue
            made = f"sequence {index} in {self.folder} was made from {before}, which {change}"
            raise ArgumentError("out_dir", f"{made}; choose another folder")

    def _tile(self, row: Row) -> np.ndarray:
        return pictures.read_tile(self.folder / row["file_name"])

    def _prepare_arrays(
        self, found: dict[int, list[Row]], tile_shape: tuple[int, int, int]
    ) -> None:
        entries = empty_entries(self.recipe.depths.amount, tile_shape)
        for name, array in self.arrays.items():
            # Entries that were lost are restored from the pictures and the manifest.
            lost = found.keys() - array.written(list(found))
            values = {index: self._entry(name, found[index]) for index in lost}
            values = {index: value for index, value in values.items() if value.any()}
            if values or len(found) < self.count or not array.fits(entries[name]):
                array.prepare(entries[name])
            for index, value in values.items():
                array.store(index, value)

    def _entry(self, name: str, rows: list[Row]) -> np.ndarray:
        if name == "diffway":
            return np.array([int(row["depth"]) for row in rows[1:]], np.int64)
        tiles = np.stack([np.moveaxis(self._tile(row), -1, 0) for row in rows])
        return tiles[0] if name == "source" else tiles[1:]

    def save(self, sequence: ImageSequence) -> None:
        """Write the files of one sequence, then enter it into this rank's part."""
        rows, images = self._rows(sequence), pictures.to_uint8(sequence.images)
        for row, tile in zip(rows, [sequence.source, *images], strict=True):
            path, text = self._picture(row)
            atomic_files.make_subfolder(path.parent)
            sealed_pictures.save(path, tile, text)
        values = {
            "source": np.moveaxis(sequence.source, -1, 0),
            "target": np.moveaxis(images, -1, 1),
            "diffway": np.array(sequence.depths.values, dtype=np.int64),
            "latent": sequence.latents.numpy().astype(np.float16),
        }
        for name, array in self.arrays.items():
            array.store(sequence.index, values[name])
        with atomic_files.appending(self.part) as file:
            file.seek(0)
            header = file.truncate(len(manifest.whole_lines(file.read()))) == 0
            file.write(manifest.as_text(self.columns, rows, header))

    def _rows(self, sequence: ImageSequence) -> list[Row]:
        name = f"{sequence.index:05d}"
        common = {
            "sequence": name,
            "source_file": sequence.source_file,
            "source": self.names[0],
            "target": self.names[1],
            "depth_policy": self.recipe.depths.policy,
            "depth_fallback": str(sequence.depths.fallback),
            "level_convention": self.recipe.walk.level_convention,
            **self.provenance,
        }
        depths, timesteps = (0, *sequence.depths.values), (-1, *sequence.timesteps)
        each = zip(depths, timesteps, ((1.0, 0.0), *sequence.labels), strict=True)
        rows = []
        for step, (depth, timestep, label) in enumerate(each):
            shares = over_stages(label, *self.names, self.stages)
            own = {"step": str(step), "depth": str(depth), "timestep": str(timestep)}
            own |= {f"label_{stage}": repr(share) for stage, share in shares.items()}
            place = manifest.PICTURE.format(sequence=sequence.index, step=step)
            rows.append(common | own | {"file_name": place})
        return rows

    def merge(self, found: dict[int, list[Row]] | None = None) -> list[Row]:
        """Bring all parts into manifest.csv, in order, and return its rows (rank 0 only).

        Args:
            found: rows of each finished sequence; None: they are looked for.
        """
        found = self._finished_rows() if found is None else found
        atomic_files.make_subfolder(self.folder)
        self.merged = [row for index in sorted(found) for row in found[index]]
        manifest.write(self.folder / "manifest.csv", self.columns, self.merged)
        for part in self._parts():
            part.unlink()
        return self.merged

    def finish(self) -> list[Row]:
        """Give the arrays their names, now that all is made; return all rows (rank 0 only)."""
        for array in self.arrays.values():
            array.finish()
        return self.merged

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("manifest.part*.csv"))

    def _all_rows(self) -> Iterable[Row]:
        for path in [self.folder / "manifest.csv", *self._parts()]:
            yield from manifest.read(path, self.columns, "; choose another --out_dir")
