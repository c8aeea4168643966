"""Does the kind of attention matter? Train small models of each, and print one table.

Each kind is trained for a source and a target domain under one budget, then measured on images
that no model saw: loss, round trip through the source, structure kept along the sequences, and how
near the last image has come to the target. Without folders it draws tissue of two severities.
Running the same command again goes on where it stopped.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..benchmark import ablation
from ..config import flags, tool_options
from ..data.image_formats import open_images
from ..data.pictures import to_uint8
from ..errors import ArgumentError, UserError, blame
from ..evaluation.feature_extractors import create_extractor
from ..models.domains import load_domain
from ..runtime import atomic_files, command, dist_util, run_folder
from ..translation.sequences import Recipe
from ..translation.walks import Engine

PLACES = ("data_dir", "target_data_dir", "val_data_dir", "val_target_data_dir")
NETWORK = "--num_res_blocks 1 --channel_mult 1,2,2 --num_head_channels 32 --dropout 0".split()
SAME = "image_size num_channels attention_resolutions lr batch_size ema_rate precision seed device"
LOOP = "--augment dihedral --sample_interval 0 --log_interval 100 --save_interval 500".split()
ENGINE = Engine("dpmpp", 3, 40, 40, level_convention="aligned", max_batch=64)
SHOWN = 3  # source images of the picture


@command.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags and find or draw the images.
    args = flags.create_parser(__doc__, tool_options.AblationOptions).parse_args(argv)
    dist_util.setup_dist(device=args.device)
    with blame("out_dir"):
        atomic_files.make_folder(Path(args.out_dir))
    folders = find_folders(args)

    # Train what is missing, several chains at once.
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda chain: train(chain, args, folders), ablation.trainings()))

    # Measure every row on the held-out images.
    sets = []
    for place in PLACES:
        with blame(place):
            sets.append(open_images(folders[place], args.image_size))
    batches = [images.batch(range(min(len(images), args.num_images)))[0] for images in sets]
    extractor = create_extractor(args.features, "", dist_util.dev())
    tiles = [to_uint8(images) for images in batches]
    reference = ablation.features_of(extractor, tiles[1])
    sources = sets[2].first(args.num_images)
    material = ablation.Material(tuple(batches[:2]), tuple(batches[2:]), sources, reference)
    recipe = Recipe(args.amount, "uniform", batch_size=16, engine=ENGINE)
    table, pictures = [], []
    for row in ablation.ROWS:
        ends = [
            load_domain(folder_of(args, name, domain), read_with, device=dist_util.dev())
            for name, domain, read_with in row.ends
        ]
        numbers, sequences = ablation.measure(*ends, material, recipe, extractor, args.seed)
        table.append({"name": row.name, **numbers})
        pictures.append(sequences[:SHOWN])

    # Print the table, and keep it with a picture.
    limits = [ablation.distance(extractor, reference, tiles[k], args.seed) for k in (2, 3)]
    print("\n".join(ablation.lines(table, limits)))
    record = {"rows": table, "kid_of_sources_and_of_targets": limits, "args": vars(args)}
    with atomic_files.atomic_write(Path(args.out_dir) / "ablation.json", "w") as file:
        json.dump(record | run_folder.versions(), file, indent=2)
    with atomic_files.atomic_write(Path(args.out_dir) / "ablation.png") as file:
        ablation.picture([row["name"] for row in table], pictures).save(file, "png")


def find_folders(args: argparse.Namespace) -> dict[str, Path]:
    """Return the folder of each place; drawn tissue where none is named."""
    named = {place: Path(getattr(args, place)) for place in PLACES if getattr(args, place)}
    if named and len(named) < len(PLACES):
        missing = next(place for place in PLACES if place not in named)
        raise ArgumentError(
            missing,
            f"expected together with --{next(iter(named))}, got none; "
            "give all four folders, or none for drawn tissue",
        )
    if named:
        return named
    base = Path(args.out_dir) / "tissue"
    for name, count, seed in (("train", 250, 0), ("val", 60, 100000)):
        words = [
            "--stages",
            "gland=0.05,carcinoma=0.75",
            "--severity_spread",
            0.25,
            "--seed",
            seed,
            "--num_images",
            count,
            "--image_size",
            args.image_size,
        ]
        command("make_tissue", *words, "--out_dir", base / name)
    stages = [base / name / stage for name in ("train", "val") for stage in ("gland", "carcinoma")]
    return dict(zip(PLACES, stages, strict=True))


def train(chain: list, args: argparse.Namespace, folders: dict[str, Path]) -> None:
    """Train the models of a chain, one after another, by the project's own command."""
    for name, domain, network, start in chain:
        asked = flags.args_to_dict(args, SAME.split()) | network
        asked["lr_anneal_steps"] = args.max_steps
        asked["data_dir"] = folders["data_dir" if domain == "source" else "target_data_dir"]
        asked["out_dir"] = folder_of(args, name, domain)
        if "attention_kind" in network:
            asked["attention_window"] = args.attention_window
        if start:
            asked["init_checkpoint"] = folder_of(args, start, "source")
        words = [word for flag, value in asked.items() for word in (f"--{flag}", value)]
        command("image_train", *NETWORK, *LOOP, *words)


def folder_of(args: argparse.Namespace, name: str, domain: str) -> Path:
    """Return the run folder of a model."""
    return Path(args.out_dir) / "models" / f"{name}_{domain}"


def command(script: str, *words: object) -> None:
    """Run one of the scripts beside this one; its error ends this one too."""
    line = [sys.executable, "-m", "guided_diffusion", script, *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{script}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
