"""Images of a folder as training batches: NCHW float32 in [-1, 1].

The order, the crops and the flips of a training run are functions of the seed and of the index
of the sample in the whole run. So a run that resumes at step k sees what it would have seen, and
n ranks with batches of b see together what one process with batches of n * b sees.
"""

import functools
import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from . import dist_util, logger, run
from .flags import UserError
from .imagenet import get_image_filenames_for_label  # noqa: F401  (upstream's name lives here)
from .options import NUM_CLASSES

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
AUGMENTS = ("none", "flip", "dihedral")
Batch = tuple[th.Tensor, dict[str, th.Tensor]]
LABELS = {"prefix": "file name up to its first _", "folder": "folder right below --data_dir"}


def list_image_files(data_dir: str | os.PathLike, flag: str = "--data_dir") -> list[str]:
    """Return the images under a folder, recursively, sorted by path.

    Args:
        data_dir: the folder.
        flag: what to name in messages.

    Raises:
        UserError: if the folder is missing or holds no image.
    """
    folder = Path(data_dir)
    if not str(data_dir) or not folder.is_dir():
        raise UserError(f"{flag}: expected a folder of images, got {str(data_dir)!r}")
    files = sorted(
        str(path)
        for path in _visible_files(folder)
        if path.suffix.lower() in EXTENSIONS and path.is_file()
    )
    if not files:
        raise UserError(
            f"{flag}: no image in {folder} or below it (looked for {', '.join(EXTENSIONS)})"
        )
    for file in files:
        # Undecodable bytes and line breaks, which no manifest can hold.
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in file):
            raise UserError(f"{flag}: expected file names of printable text, found {file!a}")
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
        folders[:] = [
            name
            for name in folders
            # The pictures of a run that was written in here are no tiles.
            if name[0] != "." and not Path(place, name, "args.json").exists()
        ]
        yield from (Path(place, name) for name in names if name[0] != ".")


def open_image(path: str | os.PathLike, in_channels: int = 3) -> Image.Image:
    """Open a whole image in the mode of 1 to 4 channels; 16-bit greys are scaled to 8.

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
    except UNREADABLE as error:
        raise UserError(f"{path}: expected a readable image, got {error}") from None


UNREADABLE = (
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
        in_channels: 1 to 4, see `MODES`.
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

    def check(self) -> None:
        """Decode every tile now: all on each rank if they are kept, otherwise each on one rank.

        Raises:
            UserError: on every rank, for a file that cannot be used.
        """
        if self.cache is not None:
            dist_util.everywhere(lambda: [self._centre_crop(index) for index in range(len(self))])
            return
        mine = self.local_images[dist_util.rank() :: dist_util.world_size()]
        files = run.progress(mine, desc="checking", unit="image", leave=False)
        dist_util.everywhere(lambda: [open_image(file, self.in_channels).size for file in files])

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
    labels: str = "prefix",
) -> Iterator[Batch]:
    """Yield training batches of this rank for ever.

    Args:
        data_dir: folder, searched recursively.
        batch_size: images per batch and rank.
        image_size: side, pixels.
        class_cond: add {"y": [N] int64}, the number of each image's class; see `class_numbers`.
        deterministic: keep the order of the names instead of shuffling every pass.
        random_crop: cut at random instead of the centre.
        random_flip: flip left-right half of the time.
        in_channels: 1 to 4, see `MODES`.
        augment: "none", "flip" or "dihedral"; takes the place of `random_flip`.
        seed: seed of order and augmentation.
        start_step: number of batches that a resumed run has seen.
        labels: what tells the class of an image: "prefix", its file name up to the first "_", or
            "folder", the folder right below data_dir that it is in.

    Yields:
        ([N, C, H, W] float32 in [-1, 1], conditions).

    Raises:
        UserError: if the folder or a file cannot be used. Every file is decoded once at the call,
            so that a broken one shows before the first step.
    """
    files = list_image_files(data_dir)
    dataset = ImageDataset(
        image_size,
        files,
        classes=_classes(data_dir, files, labels) if class_cond else None,
        random_crop=random_crop,
        random_flip=random_flip,
        in_channels=in_channels,
        augment=augment,
        cache=len(files) * image_size**2 * in_channels <= CACHE_BYTES,
    )
    dataset.check()
    return _batches(dataset, batch_size, deterministic, seed, start_step)


def fixed_images(
    data_dir: str | os.PathLike,
    image_size: int,
    class_cond: bool = False,
    in_channels: int = 3,
    flag: str = "--data_dir",
    labels: str = "prefix",
) -> ImageDataset:
    """Return the centre crops of a folder in order of name, for `ImageDataset.batch`.

    Args:
        data_dir: folder, searched recursively.
        image_size: side, pixels.
        class_cond: add {"y": label}, as in training.
        in_channels: 1 to 4, see `MODES`.
        flag: what to name in messages.
        labels: "prefix" or "folder", see `load_data`.

    Raises:
        UserError: if there is no such folder, or no image in it.
    """
    files = list_image_files(data_dir, flag)
    classes = _classes(data_dir, files, labels) if class_cond else None
    return ImageDataset(image_size, files, classes, in_channels=in_channels, augment="none")


def load_source_data_for_domain_translation(
    *,
    batch_size: int,
    image_size: int,
    data_dir: str = "./experiments/imagenet",
    in_channels: int = 3,
    class_cond: bool = True,
) -> Iterator[tuple[th.Tensor, dict[str, Any]]]:
    """Yield the centre crops of this rank once, in order of their paths.

    Args:
        batch_size: images per batch; the last one holds the rest.
        image_size: side, pixels.
        data_dir: folder, searched recursively.
        in_channels: 1, 3 or 4.
        class_cond: add {"y": [N] int64}, as `load_data` does.

    Yields:
        ([N, C, H, W] float32 in [-1, 1], {"filepath": list of N paths, ...}).

    Raises:
        UserError: if the folder or a file cannot be used.
    """
    files = list_image_files(data_dir)
    dataset = ImageDataset(
        image_size,
        files,
        classes=_classes(data_dir, files, "prefix") if class_cond else None,
        shard=dist_util.rank(),
        num_shards=dist_util.world_size(),
        random_flip=False,
        in_channels=in_channels,
        filepaths=files,
    )
    return iter(DataLoader(dataset, batch_size))


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
    return int(epoch_order(count, seed, epoch)[position])


@functools.lru_cache(maxsize=8)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order [count] in which a training goes through its data the `epoch`-th time."""
    return run.generator(seed, 0, epoch).permutation(count)


def class_names(
    files: Sequence[str], data_dir: str | os.PathLike = "", labels: str = "prefix"
) -> list[str]:
    """Return the class of each file.

    Args:
        files: images.
        data_dir: the folder that they are in.
        labels: "prefix" or "folder", see `load_data`.

    Raises:
        UserError: if a file is in no class.
    """
    return [_class_name(file, data_dir, labels) for file in files]


def class_numbers(
    data_dir: str | os.PathLike, files: Sequence[str], labels: str = "prefix"
) -> dict[str, int]:
    """Return {class: number}, numbered from 0 in alphabetical order.

    Args:
        data_dir: the folder of images.
        files: its images.
        labels: "prefix" or "folder", see `load_data`.

    Raises:
        UserError: if there are more classes than a network knows, or a file is in no class.
    """
    names = sorted(set(class_names(files, data_dir, labels)))
    if len(names) > NUM_CLASSES:
        raise UserError(
            f"--class_cond: expected at most {NUM_CLASSES} classes, found {len(names)}; "
            f"the class is a {LABELS[labels]}, here {names[0]!r}"
        )
    return {name: number for number, name in enumerate(names)}


def _classes(data_dir: str | os.PathLike, files: Sequence[str], labels: str) -> list[int]:
    numbers = class_numbers(data_dir, files, labels)
    return [numbers[name] for name in class_names(files, data_dir, labels)]


def _class_name(file: str, data_dir: str | os.PathLike, labels: str) -> str:
    if labels not in LABELS:
        raise UserError(f"--labels: expected one of {', '.join(LABELS)}, got {labels!r}")
    if labels == "prefix":
        return os.path.basename(file).split("_")[0]
    folder, *below = Path(file).relative_to(data_dir).parts
    if not below:
        raise UserError(
            f"--labels folder: expected every image in a folder of its class, found {file}"
        )
    return folder


def record_classes(out_dir: Path, data_dir: str | os.PathLike, labels: str) -> None:
    """Log which class has which number, and write it to `labels.json` of a run folder.

    Raises:
        UserError: if the run was begun with other numbers.
    """
    numbers = class_numbers(data_dir, list_image_files(data_dir), labels)
    dist_util.once(lambda: _write_classes(out_dir / "labels.json", numbers))
    logger.log("classes: " + ", ".join(f"{number} {name}" for name, number in numbers.items()))


def _write_classes(path: Path, numbers: dict[str, int]) -> None:
    if not path.exists():
        with run.atomic_write(path, "w") as file:
            json.dump(numbers, file, indent=2)
    elif (before := json.loads(path.read_text(encoding="utf-8"))) != numbers:
        differing = sorted(before.items() ^ numbers.items())[0][0]
        raise UserError(
            f"--data_dir: the classes are not those that the run in {path.parent} was begun with; "
            f"{differing!r} was {before.get(differing)}, is {numbers.get(differing)}"
        )
