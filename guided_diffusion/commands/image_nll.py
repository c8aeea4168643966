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
from ..data.image_formats import open_images
from ..diffusion.settings import ProcessSettings
from ..errors import blame
from ..models.domains import load_asked
from ..runtime import atomic_files, dist_util, logger, partial_results
from ..runtime.command import command
from ..runtime.run_folder import fingerprint, output_folder
from ..runtime.settings import ExecutionSettings, RunSettings
from ..sampling import likelihood
from ..sampling.settings import LikelihoodSettings


@command(sets=DEFAULT_SETS)
def main(
    asked: LikelihoodSettings,
    network: ModelSettings,
    process: ProcessSettings,
    run: RunSettings,
    execution: ExecutionSettings,
) -> None:
    """Measure the images that are missing."""
    # Load the model and list the images.
    domain = load_asked(asked.model_path, network, process, compile=execution.compile)
    own = domain.network
    labels = "prefix" if own.class_cond else ""
    with blame("data_dir"):
        images = open_images(asked.data_dir, own.image_size, own.in_channels, labels=labels)
    out_dir = output_folder(run.out_dir, "results/nll")

    # Measure images on all ranks, with the mean so far.
    count = min(asked.num_samples, len(images))
    identity = main.deciding(asked, network, process, run, execution) | domain.identity
    digest = fingerprint(identity | {"files": list(map(images.name, range(len(images))))})
    partial = out_dir / f".image_nll_{digest}.partial.npy"

    def measure(indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        options = run.seed, asked.clip_denoised, execution.precision
        return likelihood.measure(domain, images, indices, *options)

    fields = likelihood.fields(domain.diffusion.num_timesteps)
    for measured in partial_results.fill(partial, fields, count, asked.batch_size, measure):
        totals = measured["total_bpd"][measured["finished"]]
        mean, error = likelihood.mean_and_error(totals)
        text = f"{mean:.4f} bits per dimension, standard error {error:.4f}"
        logger.log(f"{len(totals)} of {count} images: {text}")

    # Save the terms of each timestep under upstream's names.
    if dist_util.rank() == 0:
        save(out_dir, measured)
        partial.unlink()
    dist_util.barrier()


def save(out_dir: Path, measured: np.ndarray) -> None:
    """Save the means over the images: a row of the log, and an .npz of each term."""
    mean, error = likelihood.mean_and_error(measured["total_bpd"])
    prior, _ = likelihood.mean_and_error(measured["prior_bpd"])
    logger.logkvs({"images": len(measured), "bpd": mean, "bpd_error": error, "prior_bpd": prior})
    logger.dumpkvs()
    for name in likelihood.TERMS:
        with atomic_files.atomic_write(out_dir / f"{name}_terms.npz") as file:
            np.savez(file, measured[name].mean(axis=0, dtype=np.float64))
    logger.log(f"saved {', '.join(f'{name}_terms.npz' for name in likelihood.TERMS)} in {out_dir}")
