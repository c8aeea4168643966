"""Compare kinds of attention: train small models of each, measure them, and print one table.

Each kind is trained for a source and a target domain under one budget, then measured on images
that no model saw: loss, round trip through the source, similarity to the source and distance to the
target at each step of the sequences. Without folders it draws tissue of two severities.
Running the same command again goes on where it stopped.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..benchmark import ablation, scaling
from ..benchmark.settings import AblationSettings
from ..benchmark.solver_accuracy import CONVERGED
from ..data.image_formats import open_images
from ..data.pictures import to_uint8
from ..errors import ArgumentError, blame
from ..evaluation.feature_extractors import create_extractor
from ..models.domains import load_domain
from ..runtime import atomic_files, dist_util, run_folder
from ..runtime.command import command
from ..translation.sequences import Recipe
from ..translation.settings import BatchSettings, DepthSettings

PLACES = ("data_dir", "target_data_dir", "val_data_dir", "val_target_data_dir")
NETWORK = "--num_res_blocks 1 --channel_mult 1,2,2 --num_head_channels 32 --dropout 0".split()
TRAINING_FLAGS = (
    "image_size num_channels attention_resolutions lr batch_size ema_rate precision seed device"
).split()
LOOP = "--augment dihedral --sample_interval 0 --log_interval 100 --save_interval 500".split()
WALK = CONVERGED.replace(encode_steps=40, decode_steps=40)
SHOWN = 3  # source images in the picture


@command()
def main(asked: AblationSettings) -> None:
    """Train what is missing, and measure."""
    with blame("out_dir"):
        atomic_files.make_folder(Path(asked.out_dir))
    run_folder.hold(Path(asked.out_dir), main.name)
    folders = find_folders(asked)

    # Train what is missing, several chains at once.
    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(lambda chain: train(chain, asked, folders), ablation.trainings()))

    # Measure every row on the held-out images.
    sets = []
    for place in PLACES:
        with blame(place):
            images = open_images(folders[place], asked.image_size, reading=asked)
            sets.append(images.first(asked.num_images))
    batches = [images.batch(range(len(images)))[0] for images in sets]
    extractor = create_extractor(asked.features, "", dist_util.dev())
    tiles = [to_uint8(images) for images in batches]
    reference = ablation.features_of(extractor, tiles[1])
    material = ablation.Material(tuple(batches[:2]), tuple(batches[2:]), sets[2], reference)
    recipe = Recipe(DepthSettings(asked.amount, "uniform"), WALK, BatchSettings(16, 64))
    table, pictures, device = [], [], dist_util.dev()
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


def find_folders(asked: AblationSettings) -> dict[str, Path]:
    """Return the image folder of each of `PLACES`; if none is named, draw tissue."""
    named = {place: Path(getattr(asked, place)) for place in PLACES if getattr(asked, place)}
    if named and len(named) < len(PLACES):
        missing = next(place for place in PLACES if place not in named)
        problem = f"expected together with --{next(iter(named))}, got none"
        hint = "give all four folders, or none for drawn tissue"
        raise ArgumentError(missing, f"{problem}; {hint}")
    if named:
        return named
    base = Path(asked.out_dir) / "tissue"
    same = ["--stages", "gland=0.05,carcinoma=0.75", "--severity_spread", 0.25]
    same += ["--image_size", asked.image_size]
    for name, count, seed in (("train", 250, 0), ("val", 60, 100000)):
        own = ["--seed", seed, "--num_images", count, "--out_dir", base / name]
        run_command("make_tissue", *same, *own)
    stages = [base / name / stage for name in ("train", "val") for stage in ("gland", "carcinoma")]
    return dict(zip(PLACES, stages, strict=True))


def train(chain: list, asked: AblationSettings, folders: dict[str, Path]) -> None:
    """Train the models of a chain, one after another, by the command `image_train`."""
    for name, domain, network, start in chain:
        own = {flag: value for flag, value in asked.values().items() if flag in TRAINING_FLAGS}
        own |= (
            asked.reading.values()
            | network
            | {
                "lr_anneal_steps": asked.max_steps,
                "data_dir": folders["data_dir" if domain == "source" else "target_data_dir"],
                "out_dir": folder_of(asked, name, domain),
            }
        )
        if "attention_kind" in network:
            own["attention_window"] = asked.attention_window
        if start:
            own["init_checkpoint"] = folder_of(asked, start, "source")
        words = [word for flag, value in own.items() for word in (f"--{flag}", value)]
        run_command("image_train", *NETWORK, *LOOP, *words)


def folder_of(asked: AblationSettings, name: str, domain: str) -> Path:
    """Return the run folder of a model."""
    return Path(asked.out_dir) / "models" / f"{name}_{domain}"


def run_command(script: str, *words: object) -> None:
    """Run another command of the project; its error ends this one too."""
    scaling.run(["-m", "guided_diffusion", script], words)
