"""Train the diffusion model of one domain on a folder of images.

Running the same command again resumes from the newest whole checkpoint in --out_dir.
"""

import torch
from PIL import Image

from ..config.network_settings import ModelSettings
from ..config.upstream import DEFAULT_SETS
from ..data import pictures
from ..data.settings import FolderSettings
from ..diffusion.settings import ProcessSettings
from ..runtime.command import command
from ..runtime.settings import ExecutionSettings, RunSettings
from ..training import training_run
from ..training.class_records import classes_to_learn, legend, shared_among
from ..training.settings import DenoisingSettings, GridSettings
from ..training.starting_weights import settings_of_start
from ..training.train_util import TrainLoop

GRID_IMAGES = 16


@command(sets=DEFAULT_SETS)
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
    # Take what is not given from the training that weights come from.
    default = training_run.default_folder("train", images.data_dir)
    begun = loop.init_checkpoint, main.name, training_run.folder_of(run, default)
    network, process = settings_of_start(*begun, network, process)

    # Check the settings, and that the run folder holds no other run.
    training_run.refuse_labels_of_no_use(images, network.class_cond)
    training = training_run.Training(loop, network, process, run, execution)
    folder = training.folder(main, default, images, grid)
    own = images, network.in_channels, loop, folder.path
    classes = classes_to_learn(*own) if network.class_cond else None
    shown = shared_among(GRID_IMAGES, classes) if classes else []

    # Train, with a grid of samples every so often.
    def draw_grid(trainer: TrainLoop) -> Image.Image:
        shape = (GRID_IMAGES, network.in_channels, network.image_size, network.image_size)
        given = {"y": torch.tensor(shown)} if classes else {}
        drawn = training.draw_samples(trainer, shape, given, grid.sample_steps)
        return pictures.square_grid(pictures.to_uint8(drawn))

    size, note = network.image_size, legend(shown, classes) if classes else ""
    options = {"classes": classes, "note": note}
    training_run.train_on_images(training, folder, images, size, grid, draw_grid, **options)
