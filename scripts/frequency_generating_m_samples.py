"""Turn source images step by step into the target domain, each image with a soft label.

Without models and data it runs on two small demo models of drawn tissue. Running the same
command again makes only what is missing. Flags of network and process are read from the args.json
beside each model; those given here win, and the defaults below are for models without one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guided_diffusion import bridge, demo, dist_util, flags, logger, options, run
from guided_diffusion.checkpoint import Domain, load_domain
from guided_diffusion.export import Exporter, check_names
from guided_diffusion.flags import args_to_dict
from guided_diffusion.image_files import list_image_files
from guided_diffusion.report import save_contact_sheet
from guided_diffusion.train_util import open_loop_log

NETWORK = (options.ModelOptions, options.DiffusionOptions)
GROUPS = (options.SequenceOptions, options.RunOptions, *NETWORK)
# Encoding and decoding draw nothing; models are known by their digests, not by their places.
FREE = flags.free_flags(*GROUPS) | {"seed", "source_model", "target_model"}
ORDER = {"source": True, "target": False}  # its use_new_attention_order, by role


@run.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, fill in the demo where nothing is named, and join the other ranks.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    given = flags.given_flags(argv)
    demo.fill_in(args, given)
    options.apply_preset(args, given)
    dist_util.setup_dist(args.device)
    asked = dict(vars(args))
    args.precision = run.settle_precision(args.precision, dist_util.dev())
    default = run.default_folder(f"{args.source}_to_{args.target}", asked, FREE)
    out_dir = Path(args.out_dir or default)

    # Check everything that can be wrong, before the first forward.
    check_names(args.source, args.target)
    domains = [load(args, role, given) for role in ORDER]
    identity = (out_dir, "frequency_generating_m_samples", record(asked, domains), FREE)
    run.refuse_other_run(*identity)
    recipe = bridge.Recipe.of(args)
    files = list_image_files(args.data_dir)[: args.num_images or None]
    sequences = bridge.Sequences(*domains, files, recipe, watch=run.inner_progress)
    dist_util.everywhere(lambda: [sequences.tile(index).shape for index in range(len(files))])

    # Claim the run folder, find out what an earlier run left to do, and deal it to the ranks.
    run.claim(*identity)
    open_loop_log(out_dir, together=False)
    exporter = create_exporter(args, out_dir, domains, recipe, len(files))
    finished = dist_util.once(lambda: exporter.prepare(files, sequences.tile))
    sequences.todo = todo = [index for index in range(len(files)) if index not in finished]

    # Make the sequences of this rank.
    logger.log(f"{len(todo)} of {len(files)} sequences to make in {args.precision}")
    for sequence in run.progress(sequences, unit="sequence"):
        exporter.save(sequence)
        failed, depths = sequence.depths.fallback, " ".join(map(str, sequence.depths.values))
        logger.logkvs({"sequence": sequence.index, "fallback": int(failed), "depths": depths})
        logger.dumpkvs()
        if failed:
            logger.warn(f"{sequence.source_file}: the depth search failed; depths evenly spaced")

    # Merge the manifest and draw the contact sheet.
    dist_util.barrier()
    if dist_util.rank() == 0:
        rows = exporter.merge()
        sheet = save_contact_sheet(exporter.folder, rows, anew=bool(todo))
        failed = sum(row["depth_fallback"] == "True" and row["step"] == "1" for row in rows)
        logger.log(f"{failed} of {len(files)} depth searches fell back to even spacing")
        logger.log(f"look at {sheet}")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS, overrides=options.ADD_DEFAULTS)


def load(args: argparse.Namespace, role: str, given: set[str]) -> Domain:
    """Load the model of a role; flags on the command line go before those of its training."""
    own = args_to_dict(args, flags.defaults(*NETWORK))
    override = {name: value for name, value in own.items() if name in given}
    assumed = own | {"use_new_attention_order": ORDER[role]}
    path, label = getattr(args, f"{role}_model"), getattr(args, role)
    domain = load_domain(path, override, label, dist_util.dev(), assumed)
    domain.model = run.compiled(domain.model, args.compile, static=True)
    return domain


def record(asked: dict[str, Any], domains: Sequence[Domain]) -> dict[str, Any]:
    """Return what decides the files of a run: its own flags, and those that its models have."""
    of_models = {
        f"{role}_model.{name}": value
        for role, domain in zip(ORDER, domains, strict=True)
        for name, value in (domain.args | {"sha256": domain.sha256}).items()
    }
    network = flags.defaults(*NETWORK)
    return {k: v for k, v in asked.items() if k not in network} | of_models


def create_exporter(
    args: argparse.Namespace, out_dir: Path, domains: Sequence[Domain], recipe: bridge.Recipe,
    count: int,
) -> Exporter:  # fmt: skip
    """Return the writer of this rank's files."""
    return Exporter(
        out_dir / f"translation_{args.source}_{args.target}",
        (args.source, args.target), recipe, count,
        save_npy=args.save_npy, save_latents=args.save_latents, part=dist_util.rank(),
        provenance={f"{role}_model": str(d.origin) for role, d in zip(ORDER, domains, strict=True)},
    )  # fmt: skip


if __name__ == "__main__":
    main()
