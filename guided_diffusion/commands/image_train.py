"""Train the diffusion model of one domain on a folder of images.

Running the same command again resumes from the newest whole checkpoint in --out_dir.
"""

import torch
from PIL import Image

from ..config.network_settings import NUM_CLASSES, ModelSettings
from ..config.upstream import DEFAULT_SETS
from ..data import pictures
from ..data.image_datasets import load_data
from ..data.settings import FolderSettings
from ..diffusion.settings import ProcessSettings
from ..runtime.command import command
from ..runtime.settings import ExecutionSettings, RunSettings
from ..training import training_run
from ..training.settings import DenoisingSettings, GridSettings

GRID_IMAGES = 16


@command(
    sets=DEFAULT_SETS,
)
def main(
    loop: DenoisingSettings,
    images: FolderSettings,
    grid: GridSettings,
    network: ModelSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Train, resuming what the run folder holds."""
    # Check the settings, and see whether the run folder can be ours.
    training_run.refuse_labels_of_no_use(images, network.class_cond)
    training = training_run.Training(loop, network, process, run, execution)
    default = training_run.default_folder("train", images.data_dir)
    folder = training.folder(main, default, images, grid)

    # Build everything that a wrong flag or a broken file can stop.
    trainer = training.create_loop(folder.path)
    trainer.data = load_data(
        batch_size=loop.batch_size,
        image_size=network.image_size,
        class_cond=network.class_cond,
        in_channels=network.in_channels,
        seed=run.seed,
        start_step=trainer.resume_step,
        **images.values(),
    )

    # Claim the run folder and train, with a grid of samples every so often.
    def draw_grid() -> Image.Image:
        shape = (GRID_IMAGES, network.in_channels, network.image_size, network.image_size)
        classes = {"y": torch.arange(GRID_IMAGES) % NUM_CLASSES} if network.class_cond else {}
        drawn = training.draw_samples(trainer, shape, classes, grid.sample_steps)
        return pictures.square_grid(pictures.to_uint8(drawn))

    training.claim(folder)
    labelled = images if network.class_cond else None
    training_run.train(trainer, draw_grid, grid.sample_interval, labelled=labelled)
