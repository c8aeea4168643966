"""Train a diffusion model that enlarges images, on a folder of large ones.

The small images that it learns to enlarge are the large ones averaged over areas. Running the
same command again resumes from the newest whole checkpoint in --out_dir.
"""

from PIL import Image

from ..config.network_settings import SuperResSettings
from ..config.upstream import DEFAULT_SETS
from ..data import low_res, pictures
from ..data.image_datasets import load_data
from ..data.image_formats import open_images
from ..data.settings import FolderSettings
from ..diffusion.settings import ProcessSettings
from ..errors import blame
from ..runtime.command import command
from ..runtime.settings import ExecutionSettings, RunSettings
from ..training import training_run
from ..training.settings import DenoisingSettings, GridSettings

GRID_IMAGES = 8


@command(
    sets=DEFAULT_SETS,
)
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
    # Check the settings, and see whether the run folder can be ours.
    training_run.refuse_labels_of_no_use(images, network.class_cond)
    training = training_run.Training(loop, network, process, run, execution)
    default = training_run.default_folder("super_res_train", images.data_dir)
    folder = training.folder(main, default, images, grid)

    # Build everything that a wrong flag or a broken file can stop.
    trainer = training.create_loop(folder.path)
    batches = load_data(
        batch_size=loop.batch_size,
        image_size=network.large_size,
        class_cond=network.class_cond,
        in_channels=network.in_channels,
        seed=run.seed,
        start_step=trainer.resume_step,
        **images.values(),
    )
    trainer.data = low_res.with_low_res(batches, network.small_size)
    labels = images.labels if network.class_cond else ""
    with blame("data_dir"):
        shown = open_images(images.data_dir, network.large_size, network.in_channels, labels=labels)

    # Claim the run folder and train, with a grid of samples every so often.
    def draw_grid() -> Image.Image:
        # A row for each of the first images: small, enlarged, as it was.
        first = shown.batch(range(min(GRID_IMAGES, len(shown))))
        large, conditions = next(low_res.with_low_res([first], network.small_size))
        drawn = training.draw_samples(trainer, large.shape, conditions, grid.sample_steps)
        small = low_res.pixelated(conditions["low_res"], network.large_size)
        return pictures.grid(list(zip(*map(pictures.to_uint8, (small, drawn, large)), strict=True)))

    training.claim(folder)
    labelled = images if network.class_cond else None
    training_run.train(trainer, draw_grid, grid.sample_interval, labelled=labelled)
