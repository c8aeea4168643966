"""New images of a model, saved as upstream's .npz.

Images are [N, H, W, C] uint8. A killed run keeps its finished images in a file that all ranks
share; the same command draws the missing ones (see `partial_results`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from ..config.network_settings import NUM_CLASSES
from ..data.pictures import square_grid, to_uint8
from ..diffusion.reverse_process import CondFn, Kwargs, Model
from ..models.domains import Domain
from ..runtime import atomic_files, dist_util, execution, logger, partial_results, run_folder
from ..runtime.random_streams import ImageNoise, Stream, generator
from .settings import SampleSettings

GRID_IMAGES = 64

Draw = Callable[[Sequence[int]], th.Tensor]
Labels = Callable[[Sequence[int]], np.ndarray]


def save_drawn(
    folder: Path,
    shape: Sequence[int],
    batch_size: int,
    draw: Draw,
    identity: Mapping[str, Any],
    labels: Labels | None = None,
) -> Path:
    """Draw images on all ranks and save them as one .npz, with a grid to look at (samples.png).

    Every rank calls it alike. Image i must depend on its index alone, not on its batch.

    Args:
        folder: folder of the files, which exists.
        shape: (N, H, W, C).
        batch_size: images per call of `draw`.
        draw: function from n indices to their images [n, C, H, W] in [-1, 1].
        identity: all that decides the images, as JSON takes it: flags, digests of weights. A
            killed run is continued only under the same identity.
        labels: function from n indices to their classes [n]; None: the .npz holds no classes.

    Returns:
        Path of samples_NxHxWxC.npz, with arr_0 the images and arr_1 the classes.

    Raises:
        UserError: if the disk has no room.
    """
    name = f"samples_{'x'.join(map(str, shape))}"
    partial = folder / f".{name}_{run_folder.fingerprint(dict(identity))}.partial.npy"
    fields = [("image", np.uint8, tuple(shape[1:]))]
    *_, drawn = partial_results.fill(
        partial, fields, shape[0], batch_size, lambda batch: {"image": to_uint8(draw(batch))}
    )
    path = folder / f"{name}.npz"
    if dist_util.rank() == 0:
        images = drawn["image"]
        with atomic_files.atomic_write(path) as file:
            np.savez(file, images, *([labels(range(len(images)))] if labels else []))
        with atomic_files.atomic_write(folder / "samples.png") as file:
            square_grid(images[:GRID_IMAGES]).save(file, "png")
        logger.log(f"saved {path}, and samples.png to look at")
        partial.unlink()
    dist_util.barrier()
    return path


def draw(
    domain: Domain,
    shape: Sequence[int],
    indices: Sequence[int],
    sample: SampleSettings,
    *,
    seed: int,
    precision: str = "fp32",
    model: Model | None = None,
    cond_fn: CondFn = None,
    model_kwargs: Kwargs = None,
    purpose: Stream = Stream.IMAGE_NOISE,
) -> th.Tensor:
    """Draw images, each from noise that depends on the seed and its own index alone.

    Args:
        domain: the diffusion model.
        shape: (C, H, W).
        indices: numbers of the images, n of them.
        sample: sampler, and whether implied clean images are limited to [-1, 1].
        seed: base seed.
        precision: arithmetic of the network, "fp32", "bf16" or "auto".
        model: function to call in place of the domain's network; None: the network.
        cond_fn: gradient of log p(y | x) to steer by.
        model_kwargs: further keywords of the network and of cond_fn, on the network's device.
        purpose: random stream of the noise.

    Returns:
        Images [n, C, H, W].
    """
    noise = ImageNoise(seed, indices, purpose)
    start, diffusion = noise.draw(shape), domain.diffusion.drawing(noise)
    loop = diffusion.ddim_sample_loop if sample.use_ddim else diffusion.p_sample_loop
    with execution.autocast(domain.device, precision):
        return loop(
            model or domain.model,
            start.shape,
            start,
            clip_denoised=sample.clip_denoised,
            cond_fn=cond_fn,
            model_kwargs=model_kwargs,
            device=domain.device,
        )


def draw_and_save(
    folder: Path,
    domain: Domain,
    size: int,
    sample: SampleSettings,
    identity: Mapping[str, Any],
    labels: Labels | None = None,
    conditions: Callable[[Sequence[int]], Mapping[str, th.Tensor]] | None = None,
    **options: Any,
) -> None:
    """Draw as many images of one model as settings ask for, and save them; see `save_drawn`.

    Args:
        folder: folder of the files, which exists.
        domain: the diffusion model.
        size: side of the images in pixels.
        sample: number of images, batch size and sampler.
        identity: all that decides the images, see `save_drawn`.
        labels: function from n indices to their classes [n], the `y`; None: there are no classes.
        conditions: function from n indices to further keywords of the network; None: no keywords.
        **options: `seed` and further keywords of `draw`.
    """
    channels = domain.network.in_channels

    def draw_some(indices: Sequence[int]) -> th.Tensor:
        given = {"y": th.from_numpy(labels(indices))} if labels else {}
        given |= conditions(indices) if conditions else {}
        on_device = {name: value.to(domain.device) for name, value in given.items()}
        shape = channels, size, size
        return draw(domain, shape, indices, sample, model_kwargs=on_device, **options)

    shape = sample.num_samples, size, size, channels
    save_drawn(folder, shape, sample.batch_size, draw_some, identity, labels)


def random_labels(
    seed: int, indices: Sequence[int], classes: Sequence[int] = range(NUM_CLASSES)
) -> np.ndarray:
    """Draw a class for each image, int64 [n], at random among `classes`."""
    picks = [generator(seed, Stream.IMAGE_CLASS, index).integers(len(classes)) for index in indices]
    return np.array([classes[pick] for pick in picks], dtype=np.int64)
