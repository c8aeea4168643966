"""Measure the bits per dimension that a model needs for the images of a folder.

The bits of an image depend on --seed, the image and its number alone, whatever the batch size and
the number of processes. A killed run keeps what it measured; the same command measures the rest.
Flags of network and process are read from the args.json beside the model; flags given here win.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..config.network_settings import ModelSettings
from ..config.upstream import DEFAULT_SETS
from ..data.class_labels import counted
from ..data.image_formats import open_images
from ..diffusion.settings import ProcessSettings
from ..errors import blame
from ..models.domains import load_asked
from ..models.reading_of_training import reading_for
from ..runtime import atomic_files, dist_util, logger, partial_results
from ..runtime.command import command
from ..runtime.execution import settle_precision
from ..runtime.settings import ExecutionSettings, RunSettings
from ..runtime.unfinished_files import records_of
from ..sampling import likelihood
from ..sampling.results_folder import names_of, results_folder
from ..sampling.settings import LikelihoodSettings, OneClassSettings


@command(sets=DEFAULT_SETS)
def main(
    asked: LikelihoodSettings,
    wanted: OneClassSettings,
    network: ModelSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Measure the images that are missing."""
    # Load the model and list the images, by the classes of the model.
    domain = load_asked(asked.model_path, network, process, compile=execution.compile)
    own = domain.network
    picked = wanted.one(domain.classes)
    options = {"reading": reading_for(domain, asked)}
    with blame("data_dir"):
        options["classes"] = None if picked else domain.classes
        images = open_images(asked.data_dir, own.image_size, own.in_channels, **options)
    if picked:
        images.labels, images.classes = picked * len(images), domain.classes
    count = min(asked.num_samples, len(images))
    images.first(count).check()

    # Claim the run folder, if the results will fit into it.
    settings = wanted.recorded(domain.classes), asked, run, execution
    models, names = {"model": domain}, {"images": names_of(images)}
    folder = results_folder(main, "nll", "*_terms.npz", settings, models, **names)
    unfinished = records_of(folder.path, "image_nll")
    fields = likelihood.fields(domain.diffusion.num_timesteps)
    results = [folder.path / f"{name}_terms.npz" for name in likelihood.TERMS]
    dist_util.once(lambda: partial_results.refuse_too_many(unfinished, fields, count))
    folder.claim(precision=settle_precision(execution.precision, domain.device))
    logger.configure(str(folder.path))
    if dist_util.once(lambda: all(map(Path.exists, results)) and not unfinished.exists()):
        return logger.log(f"all {count} images are measured already, see {folder.path}")
    if images.classes and domain.classes:
        logger.log(counted(images.classes, list(map(images.label, range(count)))).table)

    # Measure images on all ranks, with the mean so far.
    def measure(indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        options = run.seed, asked.clip_denoised, execution.precision
        return likelihood.measure(domain, images, indices, *options)

    for measured in partial_results.fill(unfinished, fields, count, asked.batch_size, measure):
        totals = measured["total_bpd"][measured["finished"]]
        mean, error = likelihood.mean_and_error(totals)
        known = f", standard error {error:.4f}" if len(totals) > 1 else ""
        text = f"{mean:.4f} bits per dimension{known}"
        logger.log(f"{len(totals)} of {count} images: {text}")

    # Save the terms of each timestep under upstream's names.
    if dist_util.rank() == 0:
        save(folder.path, measured)
        unfinished.unlink()
    dist_util.barrier()


def save(out_dir: Path, measured: np.ndarray) -> None:
    """Save the means over the images: an .npz of each term, and a row of the log."""
    for name in likelihood.TERMS:
        with atomic_files.atomic_write(out_dir / f"{name}_terms.npz") as file:
            np.savez(file, measured[name].mean(axis=0, dtype=np.float64))
    mean, error = likelihood.mean_and_error(measured["total_bpd"])
    prior, _ = likelihood.mean_and_error(measured["prior_bpd"])
    logger.logkvs({"images": len(measured), "bpd": mean, "bpd_error": error, "prior_bpd": prior})
    logger.dumpkvs()
    logger.log(f"saved {', '.join(f'{name}_terms.npz' for name in likelihood.TERMS)} in {out_dir}")
