"""Draw images from a trained model and save them as one .npz (arr_0 images, arr_1 labels).

Image i depends on --seed and i alone, whatever the batch size and the number of processes. A
killed run keeps its finished images, and the same command draws the others.
Flags of network and process are read from the args.json beside the model; those given here win.
"""

from collections.abc import Sequence
from functools import partial

import torch

from ..config.network_settings import ModelSettings
from ..config.upstream import DEFAULT_SETS
from ..diffusion.settings import ProcessSettings
from ..models.domains import load_asked
from ..runtime.command import command
from ..runtime.run_folder import output_folder
from ..runtime.settings import ExecutionSettings, RunSettings
from ..sampling import new_images
from ..sampling.settings import SampleSettings


@command(sets=DEFAULT_SETS)
def main(
    sample: SampleSettings,
    network: ModelSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Draw the images that are missing."""
    # Load the model; flags on the command line go before those of its training.
    domain = load_asked(sample.model_path, network, process, compile=execution.compile)
    size, channels = domain.network.image_size, domain.network.in_channels
    class_cond = domain.network.class_cond
    labels = partial(new_images.random_labels, run.seed)

    def draw(indices: Sequence[int]) -> torch.Tensor:
        y = torch.from_numpy(labels(indices)).to(domain.device)
        return new_images.draw(
            domain,
            (channels, size, size),
            indices,
            sample,
            seed=run.seed,
            precision=execution.precision,
            model_kwargs={"y": y} if class_cond else None,
        )

    # Draw images on all ranks, and save them under upstream's name.
    new_images.stream(
        output_folder(run.out_dir, "results/samples"),
        (sample.num_samples, size, size, channels),
        sample.batch_size,
        draw,
        identity=main.deciding(sample, network, process, run, execution) | domain.identity,
        labels=labels if class_cond else None,
    )
