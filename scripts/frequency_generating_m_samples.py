"""Turn source images step by step into the target domain, each image with a soft label.

Without models and data it runs on two small demo models of drawn tissue. Running the same
command again makes only what is missing. Flags of network and process are read from the args.json
beside each model; those given here win, and the defaults below are for models without one.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guided_diffusion import bridge, dist_util, image_datasets, logger, options, report, run
from guided_diffusion.checkpoint import Domain, load_domain
from guided_diffusion.export import Exporter, check_names
from guided_diffusion.options import UserError, args_to_dict
from guided_diffusion.train_util import open_loop_log

NETWORK = (options.ModelOptions, options.DiffusionOptions)
GROUPS = (options.SequenceOptions, options.RunOptions, *NETWORK)
FREE = options.free_flags(*GROUPS)
DEMO = Path(__file__).resolve().parents[1] / "assets" / "demo"
DEMO_FLAGS = {
    "source": "gland", "target": "carcinoma", "num_images": 2, "batch_size": 2, "precision": "auto",
}  # fmt: skip
# The published script's network and process, for checkpoints without an args.json.
PUBLISHED = {
    "image_size": 256, "num_channels": 256, "num_head_channels": 64, "learn_sigma": True,
    "attention_resolutions": "32,16,8", "resblock_updown": True, "use_fp16": True,
}  # fmt: skip
ORDER = {"source": True, "target": False}  # its use_new_attention_order, by role


@run.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, fill in the demo where nothing is named, and join the other ranks.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    given = options.given_flags(argv)
    fill_in_demo(args, given)
    dist_util.setup_dist(args.device)
    args.precision = run.settle_precision(args.precision, dist_util.dev())
    out_dir = Path(args.out_dir or default_out_dir(args))

    # Check everything that can be wrong, before the first forward.
    check_names(args.source, args.target)
    domains = [load(args, role, given) for role in ORDER]
    identity = (out_dir, "frequency_generating_m_samples", record(args, domains), FREE)
    run.refuse_other_run(*identity)
    recipe = bridge.Recipe(**args_to_dict(args, bridge.Recipe.__dataclass_fields__))
    files = image_datasets.list_image_files(args.data_dir)[: args.num_images or None]
    sequences = bridge.Sequences(*domains, files, recipe)
    shapes = [sequences.tile(index).shape for index in range(len(files))]

    # Claim the run folder, find out what an earlier run left to do, and deal it to the ranks.
    run.claim(*identity)
    open_loop_log(out_dir, together=False)
    exporter = create_exporter(args, out_dir, domains, recipe, len(files))
    height, width, channels = shapes[0]
    finished = dist_util.once(lambda: exporter.prepare(files, (channels, height, width)))
    todo = [index for index in range(len(files)) if index not in finished]
    batches = [[todo[i] for i in b] for b in bridge.deal(len(todo), recipe.batch_size)]
    sequences.batches = batches[dist_util.rank() :: dist_util.world_size()]

    # Make the sequences of this rank.
    logger.log(f"{len(todo)} of {len(files)} sequences to make in {exporter.folder}")
    for sequence in run.progress(sequences, unit="sequence"):
        exporter.save(sequence)
        logger.logkvs({"sequence": sequence.index, "fallback": int(sequence.depths.fallback)})
        logger.logkv("depths", " ".join(map(str, sequence.depths.values)))
        logger.dumpkvs()
        if sequence.depths.fallback:
            logger.warn(f"{sequence.source_file}: the depth search failed; depths evenly spaced")

    # Merge the manifest and draw the contact sheet.
    dist_util.barrier()
    if dist_util.rank() == 0:
        rows, sheet = exporter.merge(), exporter.folder / "contact_sheet.png"
        if todo or not sheet.exists():
            with run.atomic_write(sheet) as file:
                report.contact_sheet(exporter.folder, rows).save(file, "png")
        failed = sum(row["depth_fallback"] == "True" and row["step"] == "1" for row in rows)
        logger.log(f"{failed} of {len(files)} depth searches fell back to even spacing")
        logger.log(f"look at {sheet}")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return options.create_parser(__doc__, *GROUPS, overrides=PUBLISHED)


def fill_in_demo(args: argparse.Namespace, given: set[str]) -> None:
    """Name the demo's models and tiles where nothing is named.

    Raises:
        UserError: if only a part of the three is named.
    """
    named = {name for name in ("source_model", "target_model", "data_dir") if getattr(args, name)}
    if len(named) == 3:
        return
    if named:
        missing = {"source_model", "target_model", "data_dir"} - named
        raise UserError(
            f"--{sorted(missing)[0]}: expected together with --{sorted(named)[0]}, got none; "
            "give all of --source_model, --target_model and --data_dir, or none for the demo"
        )
    for name, value in DEMO_FLAGS.items():
        if name not in given:
            setattr(args, name, value)
    args.source_model, args.target_model = (str(DEMO / name) for name in ("gland", "carcinoma"))
    args.data_dir = str(DEMO / "source")


def load(args: argparse.Namespace, role: str, given: set[str]) -> Domain:
    """Load the model of a role; flags on the command line go before those of its training."""
    own = args_to_dict(args, options.defaults(*NETWORK))
    override = {name: value for name, value in own.items() if name in given}
    assumed = own | {"use_new_attention_order": ORDER[role]}
    return load_domain(
        getattr(args, f"{role}_model"), override, getattr(args, role), dist_util.dev(), assumed
    )


def record(args: argparse.Namespace, domains: Sequence[Domain]) -> dict[str, Any]:
    """Return what decides the files of a run: its own flags, and those that its models have."""
    of_models = {
        f"{role}.{name}": value
        for role, domain in zip(ORDER, domains, strict=True)
        for name, value in domain.args.items()
    }
    network = options.defaults(*NETWORK)
    return {k: v for k, v in vars(args).items() if k not in network} | of_models


def default_out_dir(args: argparse.Namespace) -> str:
    """Return results/<source>_to_<target>_<digest of the flags>: another folder for other flags."""
    fixed = {k: v for k, v in vars(args).items() if k not in FREE}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:8]
    return str(Path("results") / f"{args.source}_to_{args.target}_{digest}")


def create_exporter(
    args: argparse.Namespace, out_dir: Path, domains: Sequence[Domain], recipe: bridge.Recipe,
    count: int,
) -> Exporter:  # fmt: skip
    """Return the writer of this rank's files."""
    return Exporter(
        out_dir / f"translation_{args.source}_{args.target}",
        (args.source, args.target),
        recipe,
        count,
        save_npy=args.save_npy,
        save_latents=args.save_latents,
        provenance={"source_model": str(domains[0].origin), "target_model": str(domains[1].origin)},
        part=dist_util.rank(),
    )


if __name__ == "__main__":
    main()
