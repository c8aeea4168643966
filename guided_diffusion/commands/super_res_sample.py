"""Enlarge images with a super-resolution model and save them as one .npz (arr_0).

The small images are taken in turn, each once where --num_samples is not given. A class-conditional
model needs their classes: those of the .npz (arr_1), of file names or folders, or --classes. Image
i depends on --seed, i and its small image alone, whatever the batch size and the number of
processes. A killed run keeps its finished images, and the same command draws the others.
Flags of network and process are read from the args.json beside the model; flags given here win.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ..config.network_settings import SuperResSettings
from ..config.upstream import DEFAULT_SETS
from ..data.low_res import open_base_samples
from ..diffusion.settings import ProcessSettings
from ..models.checkpoint import digest
from ..models.domains import SUPER_RES, load_asked
from ..models.reading_of_training import reading_for
from ..runtime import logger
from ..runtime.command import command
from ..runtime.random_streams import Stream
from ..runtime.settings import ExecutionSettings, RunSettings
from ..sampling import new_images
from ..sampling.results_folder import names_of, results_folder
from ..sampling.settings import ClassSettings, EnlargeSettings, SampleSettings


@command(sets=DEFAULT_SETS)
def main(
    sample: SampleSettings,
    small: EnlargeSettings,
    wanted: ClassSettings,
    network: SuperResSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Enlarge the images that are missing."""
    # Load the model and the small images, with their classes where the model needs them.
    compile = execution.compile
    domain = load_asked(sample.model_path, network, process, kind=SUPER_RES, compile=compile)
    own, picked = domain.network, wanted.drawn(domain.classes) if wanted.classes else []
    needed = None if picked else domain.classes
    reading = reading_for(domain, small, ("intensity_range",))
    base = open_base_samples(small.base_samples, own.small_size, needed, own.in_channels, reading)
    if "num_samples" not in sample.given:
        sample = sample.replace(num_samples=min(sample.num_samples, len(base)))
    if base.classes:
        logger.log(f"classes of the small images: {base.classes.listed} ({base.classes.origin})")

    def conditions(indices: Sequence[int]) -> dict[str, torch.Tensor]:
        low_res, _ = base.batch([index % len(base) for index in indices])
        return {"low_res": low_res}

    def classes(indices: Sequence[int]) -> np.ndarray:
        if picked:
            return new_images.random_labels(run.seed, indices, picked)
        return np.array([base.label(index % len(base)) for index in indices])

    # Enlarge images on all ranks, and save them under upstream's name in a folder of the run.
    settings = wanted.recorded(domain.classes), sample, small, run, execution
    images = {"images": names_of(base) if base.path.is_dir() else digest(base.path)}
    models = {"model": domain}
    name, results = "super_res_samples", "samples_*.npz"
    folder = results_folder(main, name, results, settings, models, **images)
    options = {"seed": run.seed, "precision": execution.precision}
    options |= {"purpose": Stream.ENLARGING_NOISE, "conditions": conditions}
    labels = classes if domain.classes else None
    options |= {"label_array": False}  # upstream's file holds arr_0 alone
    drawn = own.large_size, sample, domain.classes, labels
    new_images.draw_and_save(folder, domain, *drawn, **options)
