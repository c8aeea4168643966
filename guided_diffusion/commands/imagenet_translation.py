"""Translate images of one class into another with a class-conditional model (DDIB).

The n-th class of --source is translated to the n-th class of --target. Images lie in a folder for
each class, or in one folder with the class before the first _ of their names. Classes have the
numbers that the model's training recorded in labels.json, else they are numbered in alphabetical
order, unless --label_map says otherwise. Running the same command again makes only what is missing.
Flags of the networks are read from the args.json beside each; flags given here win.
"""

from pathlib import Path

from ..config.network_settings import ClassifierSettings, ModelSettings
from ..config.settings import joined
from ..data.image_formats import log_listing
from ..data.image_source import ImageFiles
from ..diffusion.settings import ProcessSettings
from ..errors import ArgumentError, UserError, blame
from ..models.domains import identity_of
from ..models.reading_of_training import reading_for
from ..runtime import dist_util, logger, progress_bars
from ..runtime.command import command
from ..runtime.execution import settle_precision
from ..runtime.run_folder import RECORD, RunFolder, default_folder, read_args
from ..runtime.settings import ExecutionSettings, RunSettings
from ..runtime.work_sharing import SharedBatches, rounds
from ..sampling.guidance import Guided, load_guided
from ..sampling.settings import GuidanceSettings
from ..translation import class_translation
from ..translation.class_translation import Translation
from ..translation.settings import ClassTranslationSettings


@command(overrides={"classifier_path": "./models/imagenet/256x256_classifier.pt"})  # as published
def main(
    asked: ClassTranslationSettings,
    guidance: GuidanceSettings,
    network: ModelSettings,
    classifier: ClassifierSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Translate the images that are missing."""
    # Check everything that can be wrong, before the first forward.
    networks = network, classifier, process
    guided = load_guided(asked.model_path, guidance, *networks, execution.compile)
    refuse_other_classes(guided, asked)
    pairs = asked.source, asked.target, asked.label_map, asked.num_images
    own, reading = guided.domain.network, reading_for(guided.domain, asked)
    with blame("val_dir"):
        log_listing(asked.val_dir, reading)
    items = class_translation.list_translations(asked.val_dir, *pairs, guided.classes, reading)
    files = [item.source_file for item in items]
    sources = ImageFiles(files, own.image_size, own.in_channels, reading)
    sources.check()
    everything = joined(asked, guidance, *networks, run, execution)
    decides = joined(asked, guidance, run, execution)
    default = default_folder("class_translation", everything, main.free, main.defaults)
    out_dir = Path(run.out_dir or default)
    decides |= identity_of(guided.models)
    folder = RunFolder(out_dir, main.name, decides, main.free, main.defaults)
    folder.refuse_other_run()

    # Claim the run folder. Pictures of a run that an older version began carry no text.
    before = read_args(out_dir / RECORD)
    kind = "sealed" if not before else before.get("resolved", {}).get("pictures", "plain")
    precision = settle_precision(execution.precision, dist_util.dev())
    folder.claim(precision=precision, pictures=kind)
    logger.configure(str(out_dir))

    def missing() -> list[Translation]:
        return [i for i in items if not class_translation.is_made(out_dir, i, kind == "plain")]

    # Translate the images that are missing, and again those whose files are lost meanwhile.
    options = {"clip_denoised": asked.clip_denoised, "eta": asked.eta, "seed": run.seed}
    options["precision"] = execution.precision
    for todo in rounds(missing, out_dir, lambda item: item.file_name):
        logger.log(f"{len(todo)} of {len(items)} images to translate in {out_dir}")
        for batch in progress_bars.progress(SharedBatches(todo, asked.batch_size), unit="batch"):
            images = class_translation.translate(guided, sources, batch, **options)
            for item, image in zip(batch, images, strict=True):
                class_translation.save(out_dir, item, image)

    # List all images, and save a picture of sources and results side by side.
    if dist_util.rank() == 0:
        class_translation.save_overview(out_dir, sources, items)
        logger.log(f"look at {out_dir / 'pairs.png'}")


def refuse_other_classes(guided: Guided, asked: ClassTranslationSettings) -> None:
    """Stop with a `UserError` if the networks do not know the classes."""
    if not guided.domain.network.class_cond:
        expected = "expected a class-conditional model (--class_cond True)"
        raise UserError(f"{guided.domain.origin}: {expected}")
    found = guided.classifier and guided.classifier.num_classes
    if found and "out_channels" in asked.given and asked.out_channels != found:
        known = f"{guided.classifier.origin} knows {found} classes"
        raise ArgumentError("out_channels", f"{known}, got {asked.out_channels}")
