"""Train DDIB's two-dimensional model of one distribution of points.

Running the same command again resumes from the newest whole checkpoint in --out_dir.
"""

from ..config.network_settings import PointNetworkSettings
from ..data.settings import PointDataSettings
from ..data.synthetic_datasets import load_2d_data, shape_of_task
from ..diffusion.settings import ProcessSettings
from ..runtime.command import command
from ..runtime.settings import ExecutionSettings, RunSettings
from ..training.settings import DenoisingSettings
from ..training.starting_weights import settings_of_start
from ..training.training_run import Training, folder_of, train
from ..translation.point_translation import run_of_task


@command(overrides={"batch_size": 30000})
def main(
    loop: DenoisingSettings,
    points: PointDataSettings,
    network: PointNetworkSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Train, resuming what the run folder holds."""
    # Take what is not given from the training that weights come from.
    begun = loop.init_checkpoint, main.name, folder_of(run, run_of_task(points.task))
    network, process = settings_of_start(*begun, network, process)

    # Check the settings, and that the run folder holds no other run.
    training = Training(loop, network, process, run, execution)
    folder = training.folder(main, run_of_task(points.task), points)

    # Build everything that a wrong flag or a broken file can stop.
    trainer = training.create_loop(folder.path)
    shape, step = shape_of_task(points.task), trainer.resume_step
    trainer.data = load_2d_data(loop.batch_size, shape, seed=run.seed, start_step=step)

    # Claim the run folder and train.
    training.claim(folder)
    train(trainer, unit="point")
