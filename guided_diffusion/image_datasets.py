"""Images of a folder as training batches: NCHW float32 in [-1, 1].

The order, the crops and the flips of a training run are functions of the seed and of the index
of the sample in the whole run. So a run that resumes at step k sees what it would have seen, and
n ranks with batches of b see together what one process with batches of n * b sees.
"""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from . import dist_util, run
from .flags import UserError
from .options import NUM_CLASSES

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
AUGMENTS = ("none", "flip", "dihedral")
Batch = tuple[th.Tensor, dict[str, th.Tensor]]


def list_image_files(data_dir: str | os.PathLike, flag: str = "data_dir") -> list[str]:
    """Return the images under a folder, recursively, sorted by path.

    Args:
        data_dir: the folder.
        flag: what to name where it will not do.

    Raises:
        UserError: if the folder is missing or holds no image.
    """
    folder = Path(data_dir)
    if not str(data_dir) or not folder.is_dir():
        raise UserError(f"--{flag}: expected a folder of images, got {str(data_dir)!r}")
    files = sorted(
        str(path)
        for path in _visible_files(folder)
        if path.suffix.lower() in EXTENSIONS and path.is_file()
    )
    if not files:
        raise UserError(
            f"--{flag}: no image in {folder} or below it (looked for {', '.join(EXTENSIONS)})"
        )
    for file in files:
        if not file.isprintable():  # undecodable bytes and line breaks, which no manifest can hold
            raise UserError(f"--{flag}: expected file names of printable text, found {file!a}")
    return files


def _visible_files(folder: Path) -> Iterator[Path]:
    # Links to folders are followed, as upstream does; .ipynb_checkpoints and the like are not.
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link back to a folder around it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if name[0] != "."]
        yield from (Path(place, name) for name in names if name[0] != ".")


def open_image(path: str | os.PathLike, in_channels: int = 3) -> Image.Image:
    """Open a whole image in the mode of 1, 3 or 4 channels; 16-bit greys are scaled to 8.

    Raises:
        UserError: if the file is not an image or is cut off, naming it.
    """
    if in_channels not in MODES:
        raise UserError(f"--in_channels: expected one of {sorted(MODES)}, got {in_channels}")
    try:
        with dist_util.open_bytes(path) as file:
            image = Image.open(file)
            image.load()
        return _in_8_bits(image).convert(MODES[in_channels])
    except _UNREADABLE as error:
        raise UserError(f"{path}: expected a readable image, got {error}") from None


_UNREADABLE = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError,
)  # fmt: skip


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point numbers of no known range")
    if not image.mode.startswith("I"):
        return image
    # Pillow would clip 0..65535 at 255.
    grey = np.asarray(image).clip(0, 65535).astype(np.uint32)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def load_tile(path: str | os.PathLike, image_size: int, in_channels: int = 3) -> np.ndarray:
    """Return the centre crop of an image file, [H, W, C] uint8."""
    tile = center_crop_arr(open_image(path, in_channels), image_size)
    return tile.reshape(image_size, image_size, in_channels)


def to_model_range(tiles: np.ndarray) -> th.Tensor:
    """Map [N, H, W, C] uint8 in 0..255 to [N, C, H, W] float32 in [-1, 1]."""
    batch = th.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2)
    return batch.contiguous().float() / 127.5 - 1


def center_crop_arr(pil_image: Image.Image, image_size: int) -> np.ndarray:
    """Resize the short side to `image_size` and cut the centre square; [H, W(, C)] uint8."""
    array = _resize_short_side(pil_image, image_size)
    top, left = ((side - image_size) // 2 for side in array.shape[:2])
    return array[top : top + image_size, left : left + image_size]


def random_crop_arr(
    pil_image: Image.Image,
    image_size: int,
    min_crop_frac: float = 0.8,
    max_crop_frac: float = 1.0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Resize so that a square of `image_size` covers a random fraction, and cut one at random."""
    rng = rng or np.random.default_rng()
    smallest, largest = (int(np.ceil(image_size / f)) for f in (max_crop_frac, min_crop_frac))
    array = _resize_short_side(pil_image, int(rng.integers(smallest, largest + 1)))
    top, left = (int(rng.integers(side - image_size + 1)) for side in array.shape[:2])
    return array[top : top + image_size, left : left + image_size]


def _resize_short_side(image: Image.Image, target: int) -> np.ndarray:
    # Halving by box filter first, then bicubic, keeps large photographs free of aliasing.
    while min(image.size) >= 2 * target:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = target / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return np.array(image.resize(size, Image.Resampling.BICUBIC))


def augment_tile(tile: np.ndarray, augment: str, rng: np.random.Generator | None) -> np.ndarray:
    """Flip or turn a tile [H, W, C]; "dihedral" draws one of the 8 symmetries of the square."""
    if augment == "dihedral":
        tile = np.rot90(tile, k=int(rng.integers(4)))
    if augment != "none" and rng.random() < 0.5:
        tile = tile[:, ::-1]
    return tile


class ImageDataset(Dataset):
    """Images by path, cropped, flipped and scaled to [-1, 1], with a dict of conditions.

    Args:
        resolution: side of the squares, pixels.
        image_paths: files of all ranks.
        classes: a label per file, or None.
        shard: take every `num_shards`-th file from this one on.
        num_shards: number of shards.
        random_crop: cut at random instead of the centre.
        random_flip: flip left-right half of the time.
        in_channels: 1, 3 or 4.
        filepaths: a name per file, returned as "filepath" in the dict, or None.
        augment: "none", "flip" or "dihedral"; takes the place of `random_flip`.
        cache: keep decoded centre crops in memory.
    """

    def __init__(
        self,
        resolution: int,
        image_paths: Sequence[str],
        classes: Sequence[int] | None = None,
        shard: int = 0,
        num_shards: int = 1,
        random_crop: bool = False,
        random_flip: bool = True,
        in_channels: int = 3,
        filepaths: Sequence[str] | None = None,
        augment: str | None = None,
        cache: bool = False,
    ) -> None:
        self.resolution = resolution
        self.local_images = list(image_paths)[shard::num_shards]
        self.local_classes = None if classes is None else list(classes)[shard::num_shards]
        self.local_filepaths = None if filepaths is None else list(filepaths)[shard::num_shards]
        self.random_crop = random_crop
        self.in_channels = in_channels
        self.augment = augment or ("flip" if random_flip else "none")
        if self.augment not in AUGMENTS:
            raise UserError(f"--augment: expected one of {AUGMENTS}, got {augment!r}")
        self.cache: dict[int, np.ndarray] | None = {} if cache and not random_crop else None

    def __len__(self) -> int:
        return len(self.local_images)

    def __getitem__(self, idx: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return ([C, H, W] float32 in [-1, 1], conditions), augmented afresh."""
        tile = self.tile(idx, np.random.default_rng())
        return tile.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1, self.conditions(idx)

    def tile(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """Return one augmented tile, [H, W, C] uint8, drawn with `rng` if at random."""
        tile = self._random_crop(index, rng) if self.random_crop else self._centre_crop(index)
        return augment_tile(tile, self.augment, rng)

    def batch(
        self, indices: Sequence[int], rngs: Sequence[np.random.Generator | None] | None = None
    ) -> Batch:
        """Return ([N, C, H, W] float32 in [-1, 1], conditions) of these images.

        Args:
            indices: of the images.
            rngs: a generator for the augmentation of each; None where there is none.
        """
        rngs = [None] * len(indices) if rngs is None else rngs
        tiles = [self.tile(index, rng) for index, rng in zip(indices, rngs, strict=True)]
        conditions = [self.conditions(index) for index in indices]
        stacked = {k: th.from_numpy(np.stack([c[k] for c in conditions])) for k in conditions[0]}
        return to_model_range(np.stack(tiles)), stacked

    def fill_cache(self) -> None:
        """Decode every tile now, if they are kept."""
        if self.cache is not None:
            for index in range(len(self)):
                self._centre_crop(index)

    def conditions(self, index: int) -> dict[str, Any]:
        """Return {"y": label, "filepath": name}, as far as they are known."""
        found: dict[str, Any] = {}
        if self.local_classes is not None:
            found["y"] = np.array(self.local_classes[index], dtype=np.int64)
        if self.local_filepaths is not None:
            found["filepath"] = self.local_filepaths[index]
        return found

    def _random_crop(self, index: int, rng: np.random.Generator) -> np.ndarray:
        image = open_image(self.local_images[index], self.in_channels)
        tile = random_crop_arr(image, self.resolution, rng=rng)
        return tile.reshape(self.resolution, self.resolution, self.in_channels)

    def _centre_crop(self, index: int) -> np.ndarray:
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        tile = load_tile(self.local_images[index], self.resolution, self.in_channels)
        if self.cache is not None:
            self.cache[index] = tile
        return tile


CACHE_BYTES = 2**30


def load_data(
    *,
    data_dir: str,
    batch_size: int,
    image_size: int,
    class_cond: bool = False,
    deterministic: bool = False,
    random_crop: bool = False,
    random_flip: bool = True,
    in_channels: int = 3,
    augment: str | None = None,
    seed: int = 0,
    start_step: int = 0,
) -> Iterator[Batch]:
    """Yield training batches of this rank for ever.

    Args:
        data_dir: folder, searched recursively.
        batch_size: images per batch and rank.
        image_size: side, pixels.
        class_cond: add {"y": [N] int64}; the label of a file is its name up to the first "_",
            and labels are numbered in alphabetical order.
        deterministic: keep the order of the names instead of shuffling every pass.
        random_crop: cut at random instead of the centre.
        random_flip: flip left-right half of the time.
        in_channels: 1, 3 or 4.
        augment: "none", "flip" or "dihedral"; takes the place of `random_flip`.
        seed: seed of order and augmentation.
        start_step: number of batches that a resumed run has seen.

    Yields:
        ([N, C, H, W] float32 in [-1, 1], conditions).

    Raises:
        UserError: if the folder or a file cannot be used. Centre crops that fit into memory are
            decoded at the call, so that a broken file shows before the first step.
    """
    files = list_image_files(data_dir)
    dataset = ImageDataset(
        image_size,
        files,
        classes=_classes_from_names(files) if class_cond else None,
        random_crop=random_crop,
        random_flip=random_flip,
        in_channels=in_channels,
        augment=augment,
        cache=len(files) * image_size**2 * in_channels <= CACHE_BYTES,
    )
    dataset.fill_cache()
    return _batches(dataset, batch_size, deterministic, seed, start_step)


def fixed_images(
    data_dir: str | os.PathLike,
    image_size: int,
    class_cond: bool = False,
    in_channels: int = 3,
    flag: str = "data_dir",
) -> ImageDataset:
    """Return the centre crops of a folder in order of name, for `ImageDataset.batch`.

    Args:
        data_dir: folder, searched recursively.
        image_size: side, pixels.
        class_cond: add {"y": label}, as in training.
        in_channels: 1, 3 or 4.
        flag: what to name where the folder will not do.

    Raises:
        UserError: if there is no such folder, or no image in it.
    """
    files = list_image_files(data_dir, flag)
    classes = _classes_from_names(files) if class_cond else None
    return ImageDataset(image_size, files, classes, in_channels=in_channels, augment="none")


def _batches(
    dataset: ImageDataset, batch_size: int, deterministic: bool, seed: int, step: int
) -> Iterator[Batch]:
    ranks, rank = dist_util.world_size(), dist_util.rank()
    while True:
        first = (step * ranks + rank) * batch_size
        samples = range(first, first + batch_size)
        indices = [_index_of(sample, len(dataset), deterministic, seed) for sample in samples]
        yield dataset.batch(indices, [run.generator(seed, 1, sample) for sample in samples])
        step += 1


def _index_of(sample: int, count: int, deterministic: bool, seed: int) -> int:
    epoch, position = divmod(sample, count)
    if deterministic:
        return position
    return int(_order(count, seed, epoch)[position])


@functools.lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return run.generator(seed, 0, epoch).permutation(count)


def class_names(files: Sequence[str]) -> list[str]:
    """Return the class of each file: its name up to the first "_"."""
    return [os.path.basename(path).split("_")[0] for path in files]


def _classes_from_names(files: Sequence[str]) -> list[int]:
    names = class_names(files)
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    if len(numbers) > NUM_CLASSES:
        raise UserError(
            f"--class_cond: expected at most {NUM_CLASSES} classes, found {len(numbers)}; "
            f"the class is a file name up to its first _, here {names[0]!r}"
        )
    return [numbers[name] for name in names]
