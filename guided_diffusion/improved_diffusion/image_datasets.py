"""Image folders as improved-diffusion reads them: centre crops, never flipped."""

from collections.abc import Iterator, Sequence

import torch as th

from .. import image_datasets
from .._porch import star_of
from ..image_datasets import *
from ..image_datasets import _list_image_files_recursively

__all__ = star_of(__name__)


def load_data(
    *,
    data_dir: str,
    batch_size: int,
    image_size: int,
    class_cond: bool = False,
    deterministic: bool = False,
) -> Iterator[tuple[th.Tensor, dict[str, th.Tensor]]]:
    """Yield training batches for ever, see `guided_diffusion.image_datasets.load_data`."""
    return image_datasets.load_data(**locals(), random_flip=False)


class ImageDataset(image_datasets.ImageDataset):
    """Images by path, see `guided_diffusion.image_datasets.ImageDataset`."""

    def __init__(
        self,
        resolution: int,
        image_paths: Sequence[str],
        classes: Sequence[int] | None = None,
        shard: int = 0,
        num_shards: int = 1,
    ) -> None:
        super().__init__(resolution, image_paths, classes, shard, num_shards, random_flip=False)
