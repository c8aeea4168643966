"""Write the files of a generation run: pictures, the manifest with soft labels, arrays.

A sequence counts as finished when its rows are in the manifest, which happens after its files
are on disk. Each rank appends to a part of its own; rank 0 merges the parts. So a killed run
loses at most the batch it was working on, and running it again makes what is missing.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

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
        self.arrays = ["source", "target", "diffway"] * save_npy + ["latent"] * save_latents
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
        check_names(*names)

    def finished(self) -> set[int]:
        """Return the indices of the sequences that the manifest and its parts hold whole."""
        return set(self._finished_rows())

    def _finished_rows(self) -> dict[int, list[Row]]:
        # What was deleted is made again. Latents are in no other file, so without them: everything.
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
            files: paths of all source images.
            tile: function from the index of an image to its tile, [H, W, C] uint8.

        Returns:
            indices of the sequences that are finished.

        Raises:
            UserError: if the folder was made from other images or checkpoints.
        """
        self._refuse_other_origins(files, tile)
        rows, (height, width, channels) = self.merge(), tile(0).shape
        missing = [name for name in self.arrays if not (self.folder / f"{name}.npy").exists()]
        self.create_arrays((channels, height, width))
        # Restore arrays that were deleted, from the pictures and the manifest.
        found = complete_sequences(rows, self.recipe.depths.amount)
        for index, sequence in found.items() if missing else ():
            tiles = np.moveaxis(np.stack(list(map(self._tile, sequence))), -1, 1)
            depths = [int(row["depth"]) for row in sequence[1:]]
            values = {"source": tiles[0], "target": tiles[1:], "diffway": np.array(depths)}
            for name in missing:
                self._store(name, index, values[name])
        return set(found)

    def _refuse_other_origins(
        self, files: Sequence[str], tile: Callable[[int], np.ndarray]
    ) -> None:
        for index, rows in self._finished_rows().items():
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

    def save(self, sequence: ImageSequence) -> None:
        """Write the files of one sequence, then enter it into this rank's part."""
        rows, images = self._rows(sequence), pictures.to_uint8(sequence.images)
        for row, tile in zip(rows, [sequence.source, *images], strict=True):
            self._save_picture(row, tile)
        values = {
            "source": np.moveaxis(sequence.source, -1, 0),
            "target": np.moveaxis(images, -1, 1),
            "diffway": np.array(sequence.depths.values, dtype=np.int64),
            "latent": sequence.latents.numpy().astype(np.float16),
        }
        for name in self.arrays:
            self._store(name, sequence.index, values[name])
        with atomic_files.appending(self.part) as file:
            file.seek(0)
            header = file.truncate(len(_whole_lines(file.read()))) == 0
            file.write(_as_text(self.columns, rows, header))

    def _rows(self, sequence: ImageSequence) -> list[Row]:
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
        depths, timesteps = (0, *sequence.depths.values), (-1, *sequence.timesteps)
        each = zip(depths, timesteps, ((1.0, 0.0), *sequence.labels), strict=True)
        rows = []
        for step, (depth, timestep, label) in enumerate(each):
            shares = over_stages(label, *self.names, self.stages)
            own = {"step": str(step), "depth": str(depth), "timestep": str(timestep)}
            own |= {f"label_{stage}": repr(share) for stage, share in shares.items()}
            rows.append(common | own | {"file_name": f"images/{name}/{step:02d}.png"})
        return rows

    def _save_picture(self, row: Row, tile: np.ndarray) -> None:
        path = self.folder / row["file_name"]
        atomic_files.make_subfolder(path.parent)
        info = PngInfo()
        for key in self.columns[1:]:
            # A PNG keyword is Latin-1; a value may be any text.
            info.add_text(key.encode("latin-1", "backslashreplace").decode("latin-1"), row[key])
        with atomic_files.atomic_write(path) as file:
            pictures.to_picture(tile).save(file, "png", pnginfo=info)

    def _store(self, name: str, index: int, value: np.ndarray) -> None:
        array = self._open_array(name, value)
        with atomic_files.storing(self.folder / f"{name}.npy"):
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
            found = f"got {array.shape} {array.dtype}; choose another --out_dir"
            raise UserError(f"{path}: expected {shape} {example.dtype}, {found}")
        if len(array) < self.count:  # images were added
            longer = atomic_files.partial_of(path)
            with blame(f"save_npy: {path}"):
                atomic_files.create_array(longer, array.dtype, shape)
            copy = open_memmap(longer, "r+")
            copy[: len(array)] = array
            copy.flush()
            os.replace(longer, path)
        return open_memmap(path, "r+")

    def create_arrays(self, tile_shape: tuple[int, int, int]) -> None:
        """Create the arrays at full size, for tiles (C, H, W), before several ranks open them."""
        entries = array_entries(self.recipe.depths.amount, tile_shape)
        for name in self.arrays:
            self._open_array(name, entries[name])

    def merge(self) -> list[Row]:
        """Bring all parts into manifest.csv, in order, and return its rows (rank 0 only)."""
        atomic_files.make_subfolder(self.folder)
        rows = self._finished_rows()
        merged = [row for index in sorted(rows) for row in rows[index]]
        write_manifest(self.folder / "manifest.csv", self.columns, merged)
        for part in self.folder.glob("manifest.part*.csv"):
            part.unlink()
        return merged

    def _all_rows(self) -> Iterable[Row]:
        for path in [self.folder / "manifest.csv", *sorted(self.folder.glob("manifest.part*.csv"))]:
            if path.exists():
                text = _whole_lines(path.read_bytes()).decode("utf-8", "replace")
                reader = csv.DictReader(io.StringIO(text, newline=""))
                if reader.fieldnames not in (None, self.columns):
                    expected = f"expected the columns {','.join(self.columns)}"
                    found = f"got {','.join(reader.fieldnames)}; choose another --out_dir"
                    raise UserError(f"{path}: {expected}, {found}")
                yield from reader


def array_entries(amount: int, tile_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Return the empty entry of one sequence of tiles (C, H, W) in each array, by its name."""
    many = (amount, *tile_shape)
    return {
        "source": np.empty(tile_shape, np.uint8),
        "target": np.empty(many, np.uint8),
        "diffway": np.empty(amount, np.int64),
        "latent": np.empty(many, np.float16),
    }


def _whole_lines(content: bytes) -> bytes:
    # A killed run can leave a row cut off; a line that ends within quotes is not a whole row.
    end = len(content)
    while (end := content.rfind(b"\n", 0, end)) >= 0 and content.count(b'"', 0, end) % 2:
        pass
    return content[: end + 1]


def write_manifest(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a manifest, unless the file holds the same already."""
    atomic_files.write_if_changed(path, _as_text(columns, rows, header=True))


def _as_text(columns: Sequence[str], rows: Iterable[Row], header: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def complete_sequences(rows: Iterable[Row], amount: int) -> dict[int, list[Row]]:
    """Return {index: rows by step} of the sequences whose rows are all there and complete."""
    found: dict[int, dict[int, Row]] = {}
    for row in rows:
        if None not in row.values() and None not in row:
            found.setdefault(int(row["sequence"]), {})[int(row["step"])] = row
    return {
        index: [steps[step] for step in range(amount + 1)]
        for index, steps in found.items()
        if steps.keys() == set(range(amount + 1))
    }
