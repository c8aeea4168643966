"""New images of a model, saved as upstream's .npz.

Images are [N, H, W, C] uint8. A killed run keeps its finished images in a file that all ranks
share; the same command draws the missing ones (see `partial_results`).
"""

import csv
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from ..config.network_settings import NUM_CLASSES
from ..data.classes import Classes
from ..data.image_source import ImageSource
from ..data.npz_images import NpzImages
from ..data.pictures import square_grid, to_uint8
from ..diffusion.reverse_process import CondFn, Kwargs, Model
from ..errors import UserError
from ..models.domains import Domain
from ..runtime import atomic_files, dist_util, execution, input_files, logger, partial_results
from ..runtime.random_streams import ImageNoise, Stream, generator
from ..runtime.run_folder import RunFolder
from ..runtime.unfinished_files import records_of
from .settings import SampleSettings

GRID_IMAGES = 64

Draw = Callable[[Sequence[int]], th.Tensor]
Labels = Callable[[Sequence[int]], np.ndarray]


def save_drawn(
    folder: Path,
    shape: Sequence[int],
    batch_size: int,
    draw: Draw,
    labels: Labels | None = None,
) -> Path:
    """Draw images on all ranks and save them as one .npz, with a grid to look at (samples.png).

    Every rank calls it alike. Image i must depend on its index alone, not on its batch. Images that
    are there already, all or some, are not drawn again.

    Args:
        folder: the claimed run folder.
        shape: (N, H, W, C).
        batch_size: images per call of `draw`.
        draw: function from n indices to their images [n, C, H, W] in [-1, 1].
        labels: function from n indices to their classes [n]; None: the .npz holds no classes.

    Returns:
        Path of samples_NxHxWxC.npz, with arr_0 the images and arr_1 the classes.

    Raises:
        UserError: if the disk has no room.
    """
    path, unfinished, fields = files_of(folder, shape)
    if dist_util.once(lambda: is_whole(path, shape)):
        logger.log(f"{path} is there already, with all {shape[0]} images")
    else:
        *_, drawn = partial_results.fill(
            unfinished, fields, shape[0], batch_size, lambda batch: {"image": to_uint8(draw(batch))}
        )
        if dist_util.rank() == 0:
            images = drawn["image"]
            with atomic_files.atomic_write(path) as file:
                np.savez(file, images, *([labels(range(len(images)))] if labels else []))
            logger.log(f"saved {path}, and samples.png to look at")
    dist_util.once(lambda: _save_grid(NpzImages(path, 0, shape[3], ""), folder / "samples.png"))
    dist_util.once(lambda: unfinished.unlink(missing_ok=True))
    return path


def _save_grid(images: ImageSource, path: Path) -> None:
    with atomic_files.atomic_write(path) as file:
        square_grid(list(images.tiles(range(min(GRID_IMAGES, len(images)))))).save(file, "png")


def files_of(folder: Path, shape: Sequence[int]) -> tuple[Path, Path, list[tuple]]:
    """Return the .npz of images, the file of those drawn so far, and the fields of its records."""
    name = f"samples_{'x'.join(map(str, shape))}"
    unfinished = records_of(folder, name)
    return folder / f"{name}.npz", unfinished, [("image", np.uint8, tuple(shape[1:]))]


def is_whole(path: Path, shape: Sequence[int]) -> bool:
    """Return whether an .npz holds images [N, H, W, C], undamaged; say so in the log if not."""
    if not path.exists():
        return False
    try:
        input_files.size_of(path)  # a pipe would wait for a writer
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        images = NpzImages(path, 0, shape[3], "")
        if not damaged and (len(images), *images.size) == tuple(shape[:3]):
            return True
    except (UserError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        pass
    logger.warn(f"{path} is damaged; its images are drawn again")
    return False


def save_pictures(
    folder: Path,
    images: ImageSource,
    classes: Classes | None,
    labels: Labels | None,
    seed: int,
) -> None:
    """Save each image as images/NNNNN.png, and labels.csv with a row for each.

    Args:
        folder: the claimed run folder.
        images: the images.
        classes: classes that the model knows, for their names; None: names are left empty.
        labels: function from n indices to their classes [n]; None: classes are left empty.
        seed: base seed of the images.
    """
    numbers = labels(range(len(images))).tolist() if labels else [""] * len(images)
    digits = max(5, len(str(len(images) - 1)))
    names = [f"images/{index:0{digits}d}.png" for index in range(len(images))]
    dist_util.once(lambda: atomic_files.make_subfolder(folder / "images"))
    for index in range(dist_util.rank(), len(images), dist_util.world_size()):
        with atomic_files.atomic_write(folder / names[index]) as file:
            images.picture(index).save(file, "png")
    if dist_util.rank() == 0:
        with atomic_files.atomic_write(folder / "labels.csv", "w") as file:
            rows = csv.writer(file)
            rows.writerow(["file_name", "class", "class_name", "index", "seed"])
            for index, (name, number) in enumerate(zip(names, numbers, strict=True)):
                known = classes.name_of(number) if classes and number != "" else ""
                rows.writerow([name, number, known, index, seed])
        logger.log(f"saved {len(images)} pictures in {folder / 'images'}, listed in labels.csv")
    dist_util.barrier()


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

    Raises:
        UserError: if their numbers are not finite.
    """
    noise = ImageNoise(seed, indices, purpose)
    start, diffusion = noise.draw(shape), domain.diffusion.drawing(noise)
    loop = diffusion.ddim_sample_loop if sample.use_ddim else diffusion.p_sample_loop
    with execution.autocast(domain.device, precision):
        drawn = loop(
            model or domain.model,
            start.shape,
            start,
            clip_denoised=sample.clip_denoised,
            cond_fn=cond_fn,
            model_kwargs=model_kwargs,
            device=domain.device,
        )
    domain.refuse_infinite(drawn)
    return drawn


def draw_and_save(
    folder: RunFolder,
    domain: Domain,
    size: int,
    sample: SampleSettings,
    classes: Classes | None = None,
    labels: Labels | None = None,
    conditions: Callable[[Sequence[int]], Mapping[str, th.Tensor]] | None = None,
    label_array: bool = True,
    **options: Any,
) -> None:
    """Draw as many images of one model as settings ask for, and save them; see `save_drawn`.

    Args:
        folder: the run folder, not claimed yet.
        domain: the diffusion model.
        size: side of the images in pixels.
        sample: number of images, batch size and sampler.
        classes: classes that the model knows; None: it knows none.
        labels: function from n indices to their classes [n], the `y`; None: there are no classes.
        conditions: function from n indices to further keywords of the network; None: no keywords.
        label_array: whether the .npz holds the classes as arr_1.
        **options: `seed` and further keywords of `draw`.

    Raises:
        UserError: if the folder holds another run, or the disk has no room.
    """
    # Claim the run folder, if the images will fit into it.
    channels = domain.network.in_channels
    shape = sample.num_samples, size, size, channels
    path, unfinished, fields = files_of(folder.path, shape)
    there = dist_util.once(path.exists)
    if not there:
        need = unfinished, fields, shape[0], 2
        dist_util.once(lambda: partial_results.refuse_too_many(*need))
    precision = execution.settle_precision(options["precision"], domain.device)
    drawn_of = {"classes": dict(classes.numbers)} if classes and classes.named else {}
    folder.claim(precision=precision, **drawn_of)
    logger.configure(str(folder.path))
    if not there:
        each = domain.diffusion.num_timesteps
        logger.log(
            f"{shape[0]} images (--num_samples) take {shape[0] * each} network evaluations, {each} "
            "for each (--timestep_respacing)"
        )

    # Draw the images, and save them.
    def draw_some(indices: Sequence[int]) -> th.Tensor:
        given = {"y": th.from_numpy(labels(indices))} if labels else {}
        given |= conditions(indices) if conditions else {}
        on_device = {name: value.to(domain.device) for name, value in given.items()}
        return draw(
            domain, (channels, size, size), indices, sample, model_kwargs=on_device, **options
        )

    path = save_drawn(
        folder.path, shape, sample.batch_size, draw_some, labels if label_array else None
    )
    if sample.save_images:
        images = NpzImages(path, 0, channels, "")
        save_pictures(folder.path, images, classes, labels, options["seed"])


def random_labels(
    seed: int, indices: Sequence[int], classes: Sequence[int] = range(NUM_CLASSES)
) -> np.ndarray:
    """Draw a class for each image, int64 [n], at random among `classes`."""
    picks = [generator(seed, Stream.IMAGE_CLASS, index).integers(len(classes)) for index in indices]
    return np.array([classes[int(pick)] for pick in picks], dtype=np.int64)
