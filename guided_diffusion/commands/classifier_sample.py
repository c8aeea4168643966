"""Draw images of asked classes, steered by a classifier, and save them as one .npz.

The .npz holds arr_0, the images, and arr_1, their classes. Image i depends on --seed and i alone,
whatever the batch size and the number of processes. A killed run keeps its finished images, and
the same command draws the others. The diffusion model may be class-conditional or not. Flags of
the networks are read from the args.json beside each; those given here win.
"""

from collections.abc import Sequence
from functools import partial

import torch

from ..config.network_settings import ClassifierSettings, ModelSettings
from ..config.parser import numbers
from ..diffusion.settings import ProcessSettings
from ..runtime.command import command
from ..runtime.run_folder import output_folder
from ..runtime.settings import ExecutionSettings, RunSettings
from ..sampling import new_images
from ..sampling.guidance import load_guided
from ..sampling.settings import ClassSettings, GuidanceSettings, SampleSettings


@command()
def main(
    sample: SampleSettings,
    guidance: GuidanceSettings,
    wanted: ClassSettings,
    network: ModelSettings,
    classifier: ClassifierSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Draw the images that are missing."""
    # Load the networks, and see whether they know the classes.
    guided = load_guided(
        sample.model_path, guidance, network, classifier, process, execution.compile
    )
    every = range(guided.num_classes)
    classes = numbers("classes", wanted.classes) if wanted.classes else every
    guided.check_classes("classes", classes)
    labels = partial(new_images.random_labels, run.seed, classes=classes)
    domain = guided.domain
    size, channels = domain.network.image_size, domain.network.in_channels

    def draw(indices: Sequence[int]) -> torch.Tensor:
        return new_images.draw(
            domain,
            (channels, size, size),
            indices,
            sample,
            seed=run.seed,
            precision=execution.precision,
            model=guided.model,
            cond_fn=guided.cond_fn,
            model_kwargs={"y": torch.as_tensor(labels(indices), device=domain.device)},
        )

    # Draw images on all ranks, and save them under upstream's name.
    asked = sample, guidance, wanted, network, classifier, process, run, execution
    new_images.stream(
        output_folder(run.out_dir, "results/classifier_samples"),
        (sample.num_samples, size, size, channels),
        sample.batch_size,
        draw,
        identity=main.deciding(*asked) | guided.identity,
        labels=labels,
    )
