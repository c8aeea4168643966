"""Enlarge images with a super-resolution model and save them as one .npz (arr_0).

The small images are taken in turn, each once where --num_samples is not given. Image i depends on
--seed, i and its small image alone, whatever the batch size and the number of processes. A killed
run keeps its finished images, and the same command draws the others.
Flags of network and process are read from the args.json beside the model; flags given here win.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..config.network_settings import SuperResSettings
from ..config.upstream import DEFAULT_SETS
from ..data.low_res import open_base_samples
from ..diffusion.settings import ProcessSettings
from ..models.checkpoint import digest
from ..models.domains import SUPER_RES, load_asked
from ..runtime.command import command
from ..runtime.random_streams import Stream
from ..runtime.run_folder import output_folder
from ..runtime.settings import ExecutionSettings, RunSettings
from ..sampling import new_images
from ..sampling.settings import EnlargeSettings, SampleSettings


@command(sets=DEFAULT_SETS)
def main(
    sample: SampleSettings,
    small: EnlargeSettings,
    network: SuperResSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Enlarge the images that are missing."""
    # Load the model and the small images.
    compile = execution.compile
    domain = load_asked(sample.model_path, network, process, kind=SUPER_RES, compile=compile)
    own = domain.network
    base = open_base_samples(small.base_samples, own.small_size, own.class_cond, own.in_channels)
    if "num_samples" not in sample.given:
        sample = sample.replace(num_samples=min(sample.num_samples, len(base)))
    in_folder = Path(small.base_samples).is_dir()
    images = list(map(base.name, range(len(base)))) if in_folder else digest(small.base_samples)

    def conditions(indices: Sequence[int]) -> dict[str, torch.Tensor]:
        low_res, classes = base.batch([index % len(base) for index in indices])
        return classes | {"low_res": low_res}

    # Enlarge images on all ranks, and save them under upstream's name.
    folder = output_folder(run.out_dir, "results/super_res_samples")
    identity = main.deciding(sample, small, network, process, run, execution)
    identity |= domain.identity | {"images": images}
    options = {"seed": run.seed, "precision": execution.precision}
    options |= {"purpose": Stream.ENLARGING_NOISE, "conditions": conditions}
    new_images.draw_and_save(folder, domain, own.large_size, sample, identity, **options)
