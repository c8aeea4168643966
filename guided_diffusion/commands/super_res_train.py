"""Train a diffusion model that enlarges images, on a folder of large ones.

The small images that it learns to enlarge are the large ones averaged over areas. Running the
same command again resumes from the newest whole checkpoint in --out_dir.
"""

from collections.abc import Iterable, Iterator

from PIL import Image

from ..config.network_settings import SuperResSettings
from ..config.upstream import DEFAULT_SETS
from ..data import low_res, pictures
from ..data.image_datasets import Batch
from ..data.image_formats import open_images
from ..data.settings import FolderSettings
from ..diffusion.settings import ProcessSettings
from ..errors import blame
from ..runtime.command import command
from ..runtime.settings import ExecutionSettings, RunSettings
from ..training import training_run
from ..training.class_records import classes_to_learn
from ..training.settings import DenoisingSettings, GridSettings
from ..training.starting_weights import settings_of_start
from ..training.train_util import TrainLoop

GRID_IMAGES = 8


@command(sets=DEFAULT_SETS)
def main(
    loop: DenoisingSettings,
    images: FolderSettings,
    grid: GridSettings,
    network: SuperResSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Train, resuming what the run folder holds."""
    # Take what is not given from the training that weights come from.
    default = training_run.default_folder("super_res_train", images.data_dir)
    begun = loop.init_checkpoint, main.name, training_run.folder_of(run, default)
    network, process = settings_of_start(*begun, network, process)

    # Check the settings, and that the run folder holds no other run.
    training_run.refuse_labels_of_no_use(images, network.class_cond)
    training = training_run.Training(loop, network, process, run, execution)
    folder = training.folder(main, default, images, grid)
    large_size, small_size = network.large_size, network.small_size
    own = images, network.in_channels, loop, folder.path
    classes = classes_to_learn(*own) if network.class_cond else None
    with blame("data_dir"):
        options = {"classes": classes, "reading": images, "quiet": True}
        shown = open_images(images.data_dir, large_size, network.in_channels, **options)

    # Train, with a grid of samples every so often.
    def condition(batches: Iterable[Batch]) -> Iterator[Batch]:
        return low_res.with_low_res(batches, small_size)

    def draw_grid(trainer: TrainLoop) -> Image.Image:
        # A row for each of the first images: small, enlarged, as it was.
        large, conditions = next(condition([shown.batch(range(min(GRID_IMAGES, len(shown))))]))
        drawn = training.draw_samples(trainer, large.shape, conditions, grid.sample_steps)
        small = low_res.pixelated(conditions["low_res"], large_size)
        return pictures.grid(list(zip(*map(pictures.to_uint8, (small, drawn, large)), strict=True)))

    training_run.train_on_images(
        training, folder, images, large_size, grid, draw_grid, condition, classes
    )
