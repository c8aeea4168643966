"""Turn source images step by step into the target domain, each image with a soft label.

With --bidirectional True it goes back too, and with --stages between several stages. Without
models and data it runs on two small demo models of drawn tissue. Running the same command again
makes only what is missing. Flags of network and process are read from the args.json beside each
model; those given here win, and the defaults below are for models without one.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import flags, options
from ..config.flags import args_to_dict
from ..config.translation_options import SequenceOptions, apply_preset
from ..generation import demo, dry_run
from ..generation.plan import Plan, Stage
from ..generation.progress import Pace
from ..generation.run import Generation
from ..models.checkpoint import weights_file
from ..models.domains import Domain, load_domain
from ..runtime import command, dist_util, execution, logger, run_folder
from ..training.loop_log import open_loop_log

NETWORK = (options.ModelOptions, options.DiffusionOptions)
GROUPS = (SequenceOptions, options.RunOptions, *NETWORK)
DEFAULTS, DEFAULTS_OF_MODELS = flags.defaults(*GROUPS), flags.defaults(*NETWORK)
# Encoding and decoding draw nothing; models are known by their digests, not by their places.
FREE = flags.free_flags(*GROUPS) | {"seed", "source_model", "target_model", "stages"}


@command.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, fill in the demo where nothing is named, and join the other ranks.
    argv = sys.argv[1:] if argv is None else list(argv)
    args = create_argparser().parse_args(argv)
    given = flags.given_flags(argv)
    if not args.stages:
        demo.fill_in(args, given)
    plan = Plan.of(args, given)
    dist_util.setup_dist(device=args.device)

    # Load the models, whose levels bound the steps of a preset.
    domains = {stage.name: load(args, stage, given) for stage in plan.stages}
    apply_preset(args, given, min(domain.diffusion.num_timesteps for domain in domains.values()))
    asked = dict(vars(args))
    args.precision = execution.settle_precision(args.precision, dist_util.dev())
    out_dir = Path(args.out_dir or run_folder.default_folder(plan.name, asked, FREE, GROUPS))

    # Check everything that can be wrong, before the first forward.
    models = {name: domain.args | {"sha256": domain.sha256} for name, domain in domains.items()}
    older = record(DEFAULTS, plan, dict.fromkeys(models, DEFAULTS_OF_MODELS))
    identity = (out_dir, "frequency_generating_m_samples", record(asked, plan, models), FREE, older)
    run_folder.refuse_other_run(*identity)
    generation = Generation(plan, domains, args, out_dir)
    generation.open_every_image()

    # Say what it would cost, if that is the question.
    if args.dry_run:
        return dry_run.show(generation)

    # Claim the run folder, and find out what an earlier run left to do.
    run_folder.claim(*identity)
    open_loop_log(out_dir, together=False)
    generation.prepare()

    # Make the sequences of this rank.
    logger.log(f"{len(generation)} of {generation.count} sequences to make in {args.precision}")
    pace = Pace(direction.sequences for direction in generation.directions)
    for direction, sequence in generation:
        direction.exporter.save(sequence)
        failed, depths = sequence.depths.fallback, " ".join(map(str, sequence.depths.values))
        logger.logkvs({"sequence": sequence.index, "fallback": int(failed), "depths": depths})
        logger.logkvs(generation.where(direction) | pace.after())
        logger.dumpkvs()
        if failed:
            logger.warn(f"{sequence.source_file}: the depth search failed; depths evenly spaced")

    # Merge the manifests and draw the contact sheets.
    dist_util.barrier()
    if dist_util.rank() == 0:
        rows, shown = generation.finish()
        failed = sum(row["depth_fallback"] == "True" and row["step"] == "1" for row in rows)
        logger.log(f"{failed} of {generation.count} depth searches fell back to even spacing")
        logger.log(f"look at {shown}")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS, overrides=options.ADD_DEFAULTS)


def load(args: argparse.Namespace, stage: Stage, given: set[str]) -> Domain:
    """Load the model of a stage; flags on the command line go before those of its training."""
    file = weights_file(Path(stage.model), stage.key.replace(".", " "))
    own = args_to_dict(args, DEFAULTS_OF_MODELS)
    override = {name: value for name, value in own.items() if name in given}
    domain = load_domain(file, override, stage.name, dist_util.dev(), own | stage.assumed)
    execution.compiled(domain.model, args.compile, static=True)
    return domain


def record(
    asked: Mapping[str, Any], plan: Plan, models: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what decides the files of a run: its own flags, and those that its models have."""
    own = {name: value for name, value in asked.items() if name not in DEFAULTS_OF_MODELS}
    # The text of --stages has places in it, which may change; the names may not.
    names = {"stages.names": plan.name if asked["stages"] else ""}
    of_models = {
        f"{stage.key}.{name}": value
        for stage in plan.stages
        for name, value in models[stage.name].items()
    }
    return own | names | of_models
