"""Turn source images step by step into the target domain, each image with a soft label.

With --bidirectional True it goes back too, and with --stages between several stages. Without
models and data it runs on two small demo models of drawn tissue. Running the same command again
makes only what is missing. Flags of network and process are read from the args.json beside each
model; flags given here win, and the defaults below are for models without one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.network_settings import ModelSettings
from ..config.settings import defaults, joined
from ..config.upstream import ADD_DEFAULTS
from ..diffusion.settings import ProcessSettings
from ..errors import blame
from ..generation import demo, dry_run
from ..generation.plan import Plan
from ..generation.progress import Progress
from ..generation.run import Generation
from ..generation.settings import SequenceSettings
from ..models.checkpoint import weights_file
from ..models.domains import Domain, load_asked
from ..runtime import dist_util, faults, logger
from ..runtime.command import command
from ..runtime.execution import settle_precision
from ..runtime.run_folder import RunFolder, default_folder
from ..runtime.run_log import open_run_log
from ..runtime.settings import ExecutionSettings, RunSettings
from ..translation.sequences import Recipe
from ..translation.settings import BatchSettings, DepthSettings, WalkSettings

OF_MODELS = defaults(ModelSettings, ProcessSettings)
# Sequences draw no random numbers; models are known by their digests, not by their paths.
FREE = {"seed", "source_model", "target_model", "stages"}


@command(overrides=ADD_DEFAULTS)
def main(
    asked: SequenceSettings,
    depths: DepthSettings,
    walk: WalkSettings,
    batches: BatchSettings,
    run: RunSettings,
    execution: ExecutionSettings,
    network: ModelSettings,
    process: ProcessSettings,
) -> None:
    """Make the sequences that are missing."""
    # Fill in the demo where nothing is named, and load the models.
    if not asked.stages:
        asked, depths, batches, execution = demo.fill_in(asked, depths, batches, execution)
    plan = Plan.of(asked)
    domains = {}
    for stage in plan.stages:
        with blame(stage.key.replace(".", " ")):
            file = weights_file(Path(stage.model))
        options = {"label": stage.name, "assumed": stage.assumed, "compile": execution.compile}
        domains[stage.name] = load_asked(str(file), network, process, static=True, **options)

    # Check everything that can be wrong, before the first forward.
    depths = depths.resolved()
    levels = min(domain.diffusion.num_timesteps for domain in domains.values())
    recipe = Recipe(depths, walk.resolved(levels), batches, execution)
    own = asked, depths, recipe.walk, batches, run, execution, network, process
    folder = run_folder(joined(*own), plan, domains)
    folder.refuse_other_run()
    generation = Generation(plan, domains, recipe, asked, folder.path)
    generation.open_every_image()

    # Print the cost, if asked for it alone.
    if asked.dry_run:
        return dry_run.show(generation)

    # Claim the run folder.
    precision = settle_precision(execution.precision, dist_util.dev())
    folder.claim(precision=precision)
    open_run_log(folder.path, together=False)
    if depths.fixed:
        logger.log("the depths are fixed; soft labels count steps, whatever the depths are")

    # Make the sequences that are missing, and again those whose files are lost meanwhile.
    for left in generation.rounds():
        logger.log(f"{left} of {generation.count} sequences to make in {precision}")
        make(generation)
    folder.claim(precision=precision)  # its record may have vanished too

    # Give the arrays their names and draw the contact sheets.
    if dist_util.rank() == 0:
        rows, shown = generation.finish()
        if depths.policy == "add":
            failed = sum(row["depth_fallback"] == "True" and row["step"] == "1" for row in rows)
            searches = f"{failed} of {generation.count} depth searches"
            logger.log(f"{searches} fell back to evenly spaced depths")
        logger.log(f"look at {shown}")


def make(generation: Generation) -> None:
    """Make this rank's share of the sequences that are left, with a row of the log for each."""
    progress = Progress(direction.sequences for direction in generation.directions)
    for direction, sequence in generation:
        direction.exporter.save(sequence)
        faults.point("sequence.done")
        failed, chosen = sequence.depths.fallback, " ".join(map(str, sequence.depths.values))
        logger.logkvs({"sequence": sequence.index, "fallback": int(failed), "depths": chosen})
        logger.logkvs(generation.names_of(direction) | progress.update())
        logger.dumpkvs()
        if failed:
            logger.warn(f"{sequence.source_file}: the depth search failed; depths evenly spaced")


def run_folder(asked: dict[str, Any], plan: Plan, domains: Mapping[str, Domain]) -> RunFolder:
    """Return the run folder, not claimed yet; `asked` is {name: value} of all resolved settings."""
    free = main.free | FREE
    path = Path(asked["out_dir"] or default_folder(plan.name, asked, free, main.defaults))
    models = {name: domain.identity for name, domain in domains.items()}
    older = record(main.defaults, plan, dict.fromkeys(models, OF_MODELS))
    return RunFolder(path, main.name, record(asked, plan, models), free, older)


def record(
    asked: Mapping[str, Any], plan: Plan, models: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return all settings that decide the files of a run, the settings of its models included."""
    found = {name: value for name, value in asked.items() if name not in OF_MODELS}
    # The paths in --stages may change when a run is continued; the names may not.
    found["stages.names"] = plan.name if asked["stages"] else ""
    for stage in plan.stages:
        found |= {f"{stage.key}.{name}": value for name, value in models[stage.name].items()}
    return found
