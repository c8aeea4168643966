"""Images of a folder as training batches: NCHW float32 in [-1, 1].

The order, the crops and the flips of a training run are functions of the seed and of the index
of the sample in the whole run. So a resumed run sees the batches that it would have seen, and n
ranks with batches of b see together the images of one process with batches of n * b.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch as th
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..errors import ArgumentError, UserError, blame
from ..runtime import dist_util
from ..runtime.random_streams import Stream, generator
from . import image_files
from .augmentations import AUGMENTATIONS
from .classes import Classes
from .image_files import center_crop_arr, random_crop_arr
from .image_formats import open_images
from .image_source import Batch, ImageFiles, ImageSource
from .pictures import to_picture
from .reading import ReadingSettings

CACHE_BYTES = 2**30


class ImageDataset(Dataset):
    """Images by path, cropped, flipped and scaled to [-1, 1], with a dict of conditions.

    Args:
        resolution: side of the squares, pixels.
        image_paths: files of all ranks.
        classes: a label per file, or None.
        shard, num_shards: number of this part of the files, and of all parts; it holds every
            `num_shards`-th file from number `shard` on.
        random_crop: whether to cut at random places instead of the centre.
        random_flip: whether to flip left-right half of the time.
        in_channels: number of channels, 1 to 4, see `MODES`.
        filepaths: a name per file, returned as "filepath" in the dict, or None.
        augment: key of `AUGMENTATIONS`, in place of `random_flip`; None: as `random_flip`.
        cache: whether to keep images, up to `CACHE_BYTES` of uint8: centre crops or, for random
            crops, pictures of less than twice the largest size to cut from. A file that changes
            later is not read again.
        source: source of the images; None: the files.
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
        source: ImageSource | None = None,
    ) -> None:
        self.resolution = resolution
        self.local_images = list(image_paths)[shard::num_shards]
        self.local_classes = None if classes is None else list(classes)[shard::num_shards]
        self.local_filepaths = None if filepaths is None else list(filepaths)[shard::num_shards]
        self.random_crop, self.random_flip = random_crop, random_flip
        self.in_channels = in_channels
        self.augment = augment or ("flip" if random_flip else "none")
        if self.augment not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ArgumentError("augment", f"expected one of {known}, got {augment!r}")
        self.source = source or ImageFiles(self.local_images, resolution, in_channels)
        self.source.crop = self._crop
        self.source.keep_bytes = CACHE_BYTES if cache else 0
        self.cache = self.source.kept if cache else None

    def __len__(self) -> int:
        return len(self.local_images)

    def __getitem__(self, idx: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return ([C, H, W] float32 in [-1, 1], conditions), augmented afresh."""
        tile = self.tile(idx, np.random.default_rng())
        return tile.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1, self.conditions(idx)

    def tile(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Return one tile, [H, W, C] uint8, augmented by numbers from `rng`."""
        if isinstance(self.source, ImageFiles):
            self.source.files = self.local_images  # a program may have replaced the list
        tile = self.source.tile(index)
        if self.random_crop and self.source.reading.crop == "native":
            tile = image_files.native_random(tile, self.resolution, rng)
        elif self.random_crop:
            tile = random_crop_arr(to_picture(tile), self.resolution, rng=rng)
            tile = tile.reshape(self.resolution, self.resolution, self.in_channels)
        return AUGMENTATIONS[self.augment](tile, rng)

    def batch(self, indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> Batch:
        """Return ([N, C, H, W] float32 in [-1, 1], conditions), each augmented by its own rng."""
        tiles = [self.tile(index, rng) for index, rng in zip(indices, rngs, strict=True)]
        conditions = [self.conditions(index) for index in indices]
        stacked = {k: th.from_numpy(np.stack([c[k] for c in conditions])) for k in conditions[0]}
        return image_files.to_model_range(np.stack(tiles)), stacked

    def check(self) -> None:
        """Open every image now: all on each rank if they are kept, otherwise each on one rank.

        Raises:
            UserError: on every rank, for a file that cannot be used.
        """
        if self.cache is None:
            return self.source.check()
        dist_util.everywhere(lambda: [self.source.tile(index).size for index in range(len(self))])
        self.source.log_remarks()

    def conditions(self, index: int) -> dict[str, Any]:
        """Return {"y": label, "filepath": name}, as far as they are known."""
        found: dict[str, Any] = {}
        if self.local_classes is not None:
            found["y"] = np.array(self.local_classes[index], dtype=np.int64)
        if self.local_filepaths is not None:
            found["filepath"] = self.local_filepaths[index]
        return found

    def _crop(self, picture: Image.Image) -> np.ndarray:
        """Return the part of a picture that tiles come from: its centre, or all for random cuts."""
        native = self.source.reading.crop == "native"
        if not self.random_crop:
            cut = image_files.native_centre if native else center_crop_arr
            return cut(picture, self.resolution)
        if native:
            image_files.refuse_smaller(picture.size, self.resolution)
            return np.array(picture)
        return np.array(image_files.halved(picture, image_files.scaled_side(self.resolution)))


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
    classes: Classes | None = None,
    **reading: Any,
) -> "Batches":
    """Yield training batches of this rank for ever.

    Args:
        data_dir: folder, searched recursively, or file of images.
        batch_size: images per batch and rank.
        image_size: side, pixels.
        class_cond: add {"y": [N] int64}, the number of each image's class.
        deterministic: keep the order of the names instead of shuffling every pass.
        random_crop, random_flip, in_channels, augment: see `ImageDataset`.
        seed: seed of order and augmentation.
        start_step: number of batches that a resumed run has seen.
        labels: source of the classes, a key of `LABEL_SOURCES`.
        classes: classes by which those of the images are numbered; None: in alphabetical order.
        **reading: keywords of `ReadingSettings`, as `crop="native"`.

    Yields:
        ([N, C, H, W] float32 in [-1, 1], conditions).

    Raises:
        UserError: if the folder or a file cannot be used. Every file is decoded once at the call,
            so that a broken one shows before the first step.
    """
    with blame("data_dir"):
        if not class_cond:
            labels, classes = "", None
        asked = ReadingSettings(**reading)
        images = open_images(
            data_dir, image_size, in_channels, labels=labels, classes=classes, reading=asked
        )
    side = 2 * image_files.scaled_side(image_size) if random_crop else image_size
    if random_crop and images.reading.crop == "native":
        side = max(images.picture(0).size)
    dataset = ImageDataset(
        image_size,
        [images.name(index) for index in range(len(images))],
        classes=images.labels,
        random_crop=random_crop,
        random_flip=random_flip,
        in_channels=in_channels,
        augment=augment,
        cache=len(images) * side**2 * in_channels <= CACHE_BYTES,
        source=images,
    )
    dataset.check()
    return Batches(dataset, _batches(dataset, batch_size, deterministic, seed, start_step))


class Batches:
    """Endless batches of a data set, which tell what they come from.

    Attributes:
        dataset: the data set.
    """

    def __init__(self, dataset: ImageDataset, batches: Iterator[Batch]) -> None:
        self.dataset, self._batches = dataset, batches

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)


def load_source_data_for_domain_translation(
    *,
    batch_size: int,
    image_size: int,
    data_dir: str = "./experiments/imagenet",
    in_channels: int = 3,
    class_cond: bool = True,
) -> Iterator[tuple[th.Tensor, dict[str, Any]]]:
    """Yield the centre crops of this rank once, in order of their paths.

    Pictures that DDIB's script wrote among them (`260_1_translated_261.PNG`) are left out.

    Args:
        batch_size: images per batch; the last one holds the rest.
        image_size, data_dir, in_channels: see `load_data`.
        class_cond: add {"y": [N] int64}, the number that each file's name begins with: 260 for
            `260_1.PNG`.

    Yields:
        ([N, C, H, W] float32 in [-1, 1], {"filepath": list of N paths, ...}).

    Raises:
        UserError: if the folder or a file cannot be used, or a name does not begin with a number.
    """
    with blame("data_dir"):
        files = image_files.list_image_files(data_dir)
    files = [file for file in files if "translated" not in os.path.basename(file)]
    dataset = ImageDataset(
        image_size,
        files,
        classes=[_number_in_name(file) for file in files] if class_cond else None,
        shard=dist_util.rank(),
        num_shards=dist_util.world_size(),
        random_flip=False,
        in_channels=in_channels,
        filepaths=files,
    )
    return iter(DataLoader(dataset, batch_size))


def _number_in_name(file: str) -> int:
    number = os.path.basename(file).split("_")[0]
    if not number.isdecimal():
        raise UserError(
            f"{file}: expected a name that begins with the number of its class, as 260_1.PNG"
        )
    return int(number)


def _batches(
    dataset: ImageDataset, batch_size: int, deterministic: bool, seed: int, start_step: int
) -> Iterator[Batch]:
    count = len(dataset)
    for samples in samples_of_batches(batch_size, start_step):
        order = np.mod(samples, count) if deterministic else shuffled(samples, count, seed)
        rngs = [generator(seed, Stream.AUGMENTATION, sample) for sample in samples]
        yield dataset.batch(order.tolist(), rngs)


def samples_of_batches(batch_size: int, start_step: int) -> Iterator[range]:
    """Yield the samples of this rank's batches, by their numbers in the whole run, for ever."""
    ranks, rank = dist_util.world_size(), dist_util.rank()
    for step in itertools.count(start_step):
        first = (step * ranks + rank) * batch_size
        yield range(first, first + batch_size)


def shuffled(samples: range, count: int, seed: int) -> np.ndarray:
    """Return the item, 0..count-1, of each sample of a run; each pass has its own order."""
    passes, items = np.divmod(samples, count)
    for number in np.unique(passes):
        here = passes == number
        items[here] = _order_of_pass(count, seed, int(number))[items[here]]
    return items


@functools.lru_cache(maxsize=8)
def _order_of_pass(count: int, seed: int, number: int) -> np.ndarray:
    return generator(seed, Stream.DATA_ORDER, number).permutation(count)
