"""Draw images from a trained model and save them as one .npz (arr_0 images, arr_1 labels).

A class-conditional model draws each image of a class at random, among those that its training
recorded or among --classes. Image i depends on --seed and i alone, whatever the batch size and the
number of processes. A killed run keeps its finished images, and the same command draws the others.
Flags of network and process are read from the args.json beside the model; flags given here win.
"""

from functools import partial

from ..config.network_settings import ModelSettings
from ..config.upstream import DEFAULT_SETS
from ..diffusion.settings import ProcessSettings
from ..models.domains import load_asked
from ..runtime.command import command
from ..runtime.settings import ExecutionSettings, RunSettings
from ..sampling import new_images
from ..sampling.results_folder import results_folder
from ..sampling.settings import ClassSettings, SampleSettings


@command(sets=DEFAULT_SETS)
def main(
    sample: SampleSettings,
    wanted: ClassSettings,
    network: ModelSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Draw the images that are missing."""
    # Load the model, and refuse classes that it does not know.
    domain = load_asked(sample.model_path, network, process, compile=execution.compile)
    picked = wanted.drawn(domain.classes)
    labels = partial(new_images.random_labels, run.seed, classes=picked) if picked else None

    # Draw images on all ranks, and save them under upstream's name in a folder of the run.
    own = wanted.recorded(domain.classes), sample, run, execution
    folder = results_folder(main, "samples", "samples_*.npz", own, {"model": domain})
    size, options = domain.network.image_size, {"seed": run.seed, "precision": execution.precision}
    new_images.draw_and_save(folder, domain, size, sample, domain.classes, labels, **options)
