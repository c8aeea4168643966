"""Feature extractors: from images [N, H, W, 3] uint8 to one row of features for each.

Rows are pooled features, and spatial features: 7 channels of a map, flattened with the channel
running fastest, as in upstream's. A row depends on its image alone (up to float rounding), not on
the batch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch as th
import torch.nn.functional as F

from ..data.image_files import to_model_range
from ..data.image_source import ImageSource
from ..errors import ArgumentError, UserError, require
from ..models.checkpoint import first_line, load_state
from ..runtime import dist_util, progress_bars
from ..runtime.random_streams import Stream, generator
from ..runtime.work_sharing import deal

T = TypeVar("T")
Job = TypeVar("Job")
Rows = tuple[th.Tensor, th.Tensor]  # pooled [N, D] and spatial [N, S], float32 on the CPU
SPATIAL_CHANNELS = 7


class Extractor(Protocol):
    """A network that turns images into rows of features."""

    name: str  # value of `--features`
    comparable: bool  # whether its numbers can be compared with other programs' numbers
    note: str  # description for readers of its numbers
    dims: dict[str, int]  # {"fid" or "sfid": length of the row that this distance compares}

    def __call__(self, images: np.ndarray) -> Rows:
        """Return the features of images [N, H, W, 3] uint8."""
        ...


class SmallNetwork:
    """Four convolutions with fixed random weights: no download, the same numbers everywhere."""

    name = "small"
    comparable = False
    note = "a fixed network of random weights; not comparable with Inception's"
    WIDTHS = (3, 32, 64, 128, 256)
    STRIDES = (1, 2, 2, 2)
    SIDE = 8  # of the grid of spatial features
    dims = {"fid": WIDTHS[-1], "sfid": SPATIAL_CHANNELS * SIDE**2}

    def __init__(self, device: th.device) -> None:
        rng = generator(0, Stream.SMALL_NETWORK)
        shapes = [(out, into, 3, 3) for into, out in zip(self.WIDTHS, self.WIDTHS[1:])]  # noqa: B905
        # He's scale: activations keep their size from layer to layer.
        self.weights = [
            th.from_numpy(rng.standard_normal(s) * np.sqrt(2 / (9 * s[1]))).to(device, th.float32)
            for s in shapes
        ]

    def __call__(self, images: np.ndarray) -> Rows:
        """Return the mean of the last map, and 7 channels of the last but one on an 8x8 grid."""
        x = to_model_range(images).to(self.weights[0].device)
        maps = []
        for weight, stride in zip(self.weights, self.STRIDES, strict=True):
            x = F.relu(F.conv2d(x, weight, stride=stride, padding=1))
            maps.append(x)
        grid = F.adaptive_avg_pool2d(maps[-2][:, :SPATIAL_CHANNELS], self.SIDE)
        return x.mean((2, 3)).cpu(), _channels_last_rows(grid)


class Inception:
    """Inception-v3 of 2015 as converted by torch-fidelity, from a local file of weights.

    Reference: FID, arXiv:1706.08500; sFID, arXiv:2103.03841.
    """

    name = "inception"
    comparable = True
    note = "Inception-v3 (2015) of torch-fidelity"
    dims = {"fid": 2048, "sfid": SPATIAL_CHANNELS * 17**2}

    def __init__(self, weights: Path, device: th.device) -> None:
        # torch-fidelity unpickles any object, so check first that the file holds tensors only.
        load_state(weights)
        create = _fidelity().FeatureExtractorInceptionV3
        try:
            network = create("inception", ["2048"], feature_extractor_weights_path=str(weights))
        except RuntimeError as error:
            raise UserError(
                f"{weights}: expected torch-fidelity's Inception weights, got weights of another "
                f"network ({first_line(error)})"
            ) from None
        self.device, self.network = device, network.to(device)
        # The first 7 channels of this block come from its 1x1 branch, upstream's `mixed_6/conv`.
        self.network.Mixed_6d.register_forward_hook(self._keep)

    def _keep(self, module: th.nn.Module, inputs: Any, output: th.Tensor) -> None:
        self.map = output[:, :SPATIAL_CHANNELS]

    def __call__(self, images: np.ndarray) -> Rows:
        """Return the 2048 pooled features, and 7 x 17 x 17 of the fourth 17x17 block."""
        batch = th.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        (pooled,) = self.network(batch.to(self.device))
        return pooled.cpu(), _channels_last_rows(self.map)


def _channels_last_rows(maps: th.Tensor) -> th.Tensor:
    return maps.permute(0, 2, 3, 1).flatten(1).cpu()


EXTRACTORS = ("auto", "inception", "small")


def create_extractor(name: str, weights: str, device: th.device) -> Extractor:
    """Build a feature extractor by its name.

    Args:
        name: one of `EXTRACTORS`; "auto" is Inception if it is installed with its weights.
        weights: file of Inception's weights; empty: torch-fidelity's file, fetched if missing.
        device: device of the network.

    Raises:
        UserError: if Inception is asked for, but it or its weights are missing.
    """
    if name == "small" and weights:
        raise ArgumentError("weights", "expected with --features inception, got it with small")
    if name == "small" or (name == "auto" and not weights and not _inception_is_installed()):
        return SmallNetwork(device)
    return Inception(Path(weights) if weights else dist_util.once(_fetch_weights), device)


def _fidelity() -> ModuleType:
    try:
        return require("torch_fidelity.feature_extractor_inceptionv3", "inception")
    except RuntimeError as error:  # of a torchvision that was built for another torch
        raise ArgumentError("features", f"torch-fidelity cannot be loaded ({error})") from None


def _default_weights() -> Path:
    return Path(th.hub.get_dir(), "checkpoints", _fidelity().URL_INCEPTION_V3.rpartition("/")[2])


def _inception_is_installed() -> bool:
    try:
        return _default_weights().is_file()
    except UserError:
        return False


def _fetch_weights() -> Path:
    path, url = _default_weights(), _fidelity().URL_INCEPTION_V3
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            th.hub.download_url_to_file(url, str(path))
    except OSError as error:  # no network, no such page, a full disk
        raise ArgumentError(
            "weights",
            f"no Inception weights at {path}, and they could not be downloaded "
            f"({first_line(error)}); fetch {url} elsewhere and name the file, or use --features "
            "small",
        ) from None
    return path


@th.no_grad()
def extract(images: ImageSource, extractor: Extractor, batch_size: int) -> Rows:
    """Return the features of all images, in their order, on every rank.

    Images are read batch by batch; their features stay in memory, 33 kB an image with Inception.
    """
    if not len(images):  # a file of statistics alone
        return th.zeros(0, extractor.dims["fid"]), th.zeros(0, extractor.dims["sfid"])
    batches = deal(len(images), batch_size)
    # TF32 would round to 10 bits, coarser than the differences that are measured here.
    with th.backends.cudnn.flags(enabled=True, allow_tf32=False):
        rows = map_over_ranks(
            lambda batch: extractor(images.tiles(batch)), batches, images.path.name, "batch"
        )
    pooled, spatial = zip(*rows, strict=True)
    return th.cat(pooled), th.cat(spatial)


def map_over_ranks(do: Callable[[Job], T], jobs: Sequence[Job], desc: str, unit: str) -> list[T]:
    """Do jobs on all ranks with a progress bar; return the results in order on every rank."""
    rank, ranks = dist_util.rank(), dist_util.world_size()
    bar = progress_bars.progress(jobs[rank::ranks], desc=desc, unit=unit)
    parts = dist_util.Ranks().gather([do(job) for job in bar])
    return [parts[index % ranks][index // ranks] for index in range(len(jobs))]
