"""Draw images from a trained model and save them as one .npz (arr_0 images, arr_1 labels).

Image i depends on --seed and i alone, whatever the batch size and the number of processes. A
killed run keeps its finished images, and the same command draws the others.
Flags of network and process are read from the args.json beside the model; flags given here win.
"""

from functools import partial

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
    # Load the model; flags on the command line go before its training's.
    domain = load_asked(sample.model_path, network, process, compile=execution.compile)

    # Draw images on all ranks, and save them under upstream's name.
    folder, own = output_folder(run.out_dir, "results/samples"), domain.network
    identity = main.deciding(sample, network, process, run, execution) | domain.identity
    labels = partial(new_images.random_labels, run.seed) if own.class_cond else None
    options = {"seed": run.seed, "precision": execution.precision}
    new_images.draw_and_save(folder, domain, own.image_size, sample, identity, labels, **options)
