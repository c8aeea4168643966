"""Draw images of asked classes, steered by a classifier, and save them as one .npz.

The .npz holds arr_0, the images, and arr_1, their classes. Image i depends on --seed and i alone,
whatever the batch size and the number of processes. A killed run keeps its finished images, and
the same command draws the others. The diffusion model may be class-conditional or not. Flags of
the networks are read from the args.json beside each; flags given here win.
"""

from functools import partial

from ..config.network_settings import ClassifierSettings, ModelSettings
from ..diffusion.settings import ProcessSettings
from ..runtime.command import command
from ..runtime.settings import ExecutionSettings, RunSettings
from ..sampling import new_images
from ..sampling.guidance import load_guided
from ..sampling.results_folder import results_folder
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
    # Load the networks, and refuse classes that they do not know.
    networks = network, classifier, process
    guided = load_guided(sample.model_path, guidance, *networks, execution.compile)
    picked = wanted.drawn(guided.classes)
    labels = partial(new_images.random_labels, run.seed, classes=picked)

    # Draw images on all ranks, and save them under upstream's name in a folder of the run.
    own = wanted.recorded(guided.classes), sample, guidance, run, execution
    name, results = "classifier_samples", "samples_*.npz"
    folder = results_folder(main, name, results, own, guided.models)
    size = guided.domain.network.image_size
    options = {"seed": run.seed, "precision": execution.precision}
    options |= {"model": guided.model, "cond_fn": guided.cond_fn}
    drawn = size, sample, guided.classes, labels
    new_images.draw_and_save(folder, guided.domain, *drawn, **options)
