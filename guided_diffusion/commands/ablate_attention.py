"""Compare kinds of attention: train small models of each, measure them, and print one table.

Each kind is trained for a source and a target domain under one budget, then measured on images
that no model saw: loss, round trip through the source, similarity to the source and distance to the
target at each step of the sequences. Without folders it draws tissue of two severities.
Running the same command again goes on where it stopped.
"""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..benchmark import ablation, scaling
from ..benchmark.settings import AblationSettings
from ..benchmark.solver_accuracy import CONVERGED
from ..data.image_formats import open_images
from ..data.image_source import ImageSource
from ..data.pictures import to_uint8
from ..errors import ArgumentError, UserError, blame, require
from ..evaluation.feature_extractors import create_extractor
from ..models.domains import load_domain
from ..models.script_util import build_process, outline
from ..runtime import atomic_files, dist_util, run_folder
from ..runtime.command import command
from ..training.training_run import Training
from ..translation.sequences import Recipe
from ..translation.settings import BatchSettings, DepthSettings
from . import image_train

PLACES = ("data_dir", "target_data_dir", "val_data_dir", "val_target_data_dir")
NETWORK = "--num_res_blocks 1 --channel_mult 1,2,2 --num_head_channels 32 --dropout 0".split()
TRAINING_FLAGS = (
    "image_size num_channels attention_resolutions lr batch_size ema_rate precision seed device"
).split()
LOOP = "--augment dihedral --sample_interval 0 --log_interval 100 --save_interval 500".split()
WALK = CONVERGED.replace(encode_steps=40, decode_steps=40)
TISSUE = ("train", 250, 0), ("val", 60, 100000)  # name, images of each stage, seed
FEWEST = 8  # images of a folder
SHOWN = 3  # source images in the picture


@command()
def main(asked: AblationSettings) -> None:
    """Train what is missing, and measure."""
    # Check everything that can be wrong, before anything is drawn or trained.
    folders, device = folders_of(asked), dist_util.dev()
    extractor = create_extractor(asked.features, "", device)
    recipe = Recipe(DepthSettings(asked.amount, "uniform"), WALK, BatchSettings(16, 64))
    check(asked, folders, recipe)
    with blame("out_dir"):
        atomic_files.make_folder(Path(asked.out_dir))
    run_folder.hold(Path(asked.out_dir), main.name)
    if not asked.data_dir:
        draw_tissue(asked)

    # Train what is missing, several chains at once.
    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(lambda chain: train(chain, asked, folders), ablation.trainings()))

    # Measure every row on the held-out images.
    sets = [open_set(asked, folders, place) for place in PLACES]
    batches = [images.batch(range(len(images)))[0] for images in sets]
    tiles = [to_uint8(images) for images in batches]
    reference = ablation.features_of(extractor, tiles[1])
    material = ablation.Material(tuple(batches[:2]), tuple(batches[2:]), sets[2], reference)
    table, pictures = [], []
    for row in ablation.ROWS:
        ends = [
            load_domain(folder_of(asked, *end), flags, device=device) for *end, flags in row.ends
        ]
        numbers, sequences = ablation.measure(*ends, material, recipe, extractor, asked.seed)
        table.append({"name": row.name, **numbers})
        pictures.append(sequences[:SHOWN])

    # Print the table, and keep it with a picture.
    limits = [ablation.distance(extractor, reference, tiles[k], asked.seed) for k in (2, 3)]
    print("\n".join(ablation.lines(table, limits)))
    record = {"rows": table, "kid_of_sources_and_of_targets": limits, "args": asked.values()}
    with atomic_files.atomic_write(Path(asked.out_dir) / "ablation.json", "w") as file:
        json.dump(record | run_folder.versions(), file, indent=2)
    with atomic_files.atomic_write(Path(asked.out_dir) / "ablation.png") as file:
        ablation.picture([row["name"] for row in table], pictures).save(file, "png")


def folders_of(asked: AblationSettings) -> dict[str, Path]:
    """Return the image folder of each of `PLACES`; if none is named, of tissue to draw."""
    named = {place: Path(getattr(asked, place)) for place in PLACES if getattr(asked, place)}
    if named and len(named) < len(PLACES):
        missing = next(place for place in PLACES if place not in named)
        problem = f"expected together with --{next(iter(named))}, got none"
        hint = "give all four folders, or none for drawn tissue"
        raise ArgumentError(missing, f"{problem}; {hint}")
    base, ends = Path(asked.out_dir) / "tissue", ("gland", "carcinoma")
    stages = [base / name / stage for name, *_ in TISSUE for stage in ends]
    return named or dict(zip(PLACES, stages, strict=True))


def draw_tissue(asked: AblationSettings) -> None:
    """Draw the tissue to train and to measure on."""
    same = ["--stages", "gland=0.05,carcinoma=0.75", "--severity_spread", 0.25]
    same += ["--image_size", asked.image_size]
    for name, count, seed in TISSUE:
        out_dir = Path(asked.out_dir) / "tissue" / name
        own = ["--seed", seed, "--num_images", count, "--out_dir", out_dir]
        run_command("make_tissue", *same, *own)


def open_set(asked: AblationSettings, folders: dict[str, Path], place: str) -> ImageSource:
    """Open the images of one of `PLACES` that are measured."""
    with blame(place):
        images = open_images(folders[place], asked.image_size, reading=asked)
        if len(images) < FEWEST:
            raise UserError(f"expected {FEWEST} images or more in {folders[place]}")
        return images.first(asked.num_images)


def check(asked: AblationSettings, folders: dict[str, Path], recipe: Recipe) -> None:
    """Refuse mistakes in folders, in the depths and in the flags of every training.

    Raises:
        UserError: naming the first mistake.
        MissingExtraError: if a package is missing.
    """
    require("torchmetrics", "metrics")
    if asked.data_dir:
        for place in PLACES:
            open_set(asked, folders, place).check()
    for name, domain, network, start in (one for chain in ablation.trainings() for one in chain):
        words = words_of(asked, folders, name, domain, network, "")
        loop, images, grid, shape, process, run, execution = image_train.main.parse(words)
        training = Training(loop, shape, process, run, execution)
        outline(shape, process)
        recipe.resolved(build_process(process))
        loop = loop.replace(init_checkpoint=str(folder_of(asked, start, "source")) if start else "")
        training = dataclasses.replace(training, loop=loop)
        training.folder(image_train.main, Path(run.out_dir), images, grid)


def train(chain: list, asked: AblationSettings, folders: dict[str, Path]) -> None:
    """Train the models of a chain, one after another, by the command `image_train`."""
    for one in chain:
        run_command("image_train", *words_of(asked, folders, *one))


def words_of(
    asked: AblationSettings,
    folders: dict[str, Path],
    name: str,
    domain: str,
    network: dict[str, Any],
    start: str,
) -> list[str]:
    """Return the words of the command `image_train` that train a model, see `trainings`."""
    own = {flag: value for flag, value in asked.values().items() if flag in TRAINING_FLAGS}
    own |= asked.reading.values() | network
    own["lr_anneal_steps"] = asked.max_steps
    own["data_dir"] = folders["data_dir" if domain == "source" else "target_data_dir"]
    own["out_dir"] = folder_of(asked, name, domain)
    if "attention_kind" in network:
        own["attention_window"] = asked.attention_window
    if start:
        own["init_checkpoint"] = folder_of(asked, start, "source")
    words = [str(word) for flag, value in own.items() for word in (f"--{flag}", value)]
    return [*NETWORK, *LOOP, *words]


def folder_of(asked: AblationSettings, name: str, domain: str) -> Path:
    """Return the run folder of a model."""
    return Path(asked.out_dir) / "models" / f"{name}_{domain}"


def run_command(script: str, *words: object) -> None:
    """Run another command of the project; its error ends this one too."""
    scaling.run(["-m", "guided_diffusion", script], words)
