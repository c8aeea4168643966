"""The time of sequences, over that of the published procedure.

The models are the demo's; where a flag of the network is given, both are made of the flags, with
fresh weights, which take the same time. All engines choose depths by the published policy.

A whole published sequence takes minutes and more. Within a budget the walks of all levels are
made on fewer levels at even distances, and the published one of a single image; their seconds are
multiplied by the network evaluations of the whole over those that were timed. The depths that say
how many these are come from the published search on the encoding of the preset `fast`. Few-step
engines always run whole.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch as th

from ..config.network_settings import ModelSettings
from ..config.parser import names
from ..data.image_formats import open_images
from ..data.image_source import ImageSource
from ..diffusion.settings import ProcessSettings
from ..errors import blame
from ..generation import cost, demo
from ..models.domains import Domain, load_domain
from ..models.script_util import build, build_process
from ..runtime import dist_util, execution
from ..runtime.settings import ExecutionSettings
from ..runtime.work_sharing import SharedBatches
from ..translation import walks
from ..translation.predictor import Predictor
from ..translation.sequences import Recipe, Sequences
from ..translation.settings import PRESETS, BatchSettings, DepthSettings, WalkSettings
from . import published, timing
from .settings import SequenceTimingSettings
from .timing import BASELINE, Timed

# What --engines can name: preset of the walks, and precision.
ENGINES = {
    "fp32": ("published", "fp32"),
    "bf16": ("published", "bf16"),
    "fast": ("fast", "auto"),
    "draft": ("draft", "auto"),
}


PROBED_LEVELS = 10

Depths = Sequence[tuple[int, ...]]  # of each image


@dataclass(frozen=True)
class Sequenced:
    """Depths of each image that was made, and the network evaluations of all."""

    depths: Depths
    forwards: int


def sequence(
    asked: SequenceTimingSettings, network: ModelSettings, process: ProcessSettings
) -> dict[str, Any]:
    """Time sequences by the published procedure and by our engines.

    Raises:
        UserError: if the settings do not fit.
    """
    start = time.perf_counter()
    engines = (BASELINE, *names("engines", asked.engines, ENGINES))
    asked = asked.replace(data_dir=asked.data_dir or str(demo.PLACES["data_dir"]))
    source, _ = domains(network, process)
    whole, depths = source.diffusion.num_timesteps, search_depths(source, asked)
    images = dict.fromkeys(engines, len(depths)) | ({BASELINE: 1} if asked.budget else {})
    with timing.workers(
        engines, contestant, asked, network, process, device=asked.device
    ) as workers:
        fewest = min(whole, PROBED_LEVELS)
        probes = {
            name: partial(worker.run, fewest, shorter(depths[: images[name]], fewest, whole))
            for name, worker in workers.items()
        }
        *_, warm = [{name: probe() for name, probe in probes.items()} for _ in range(2)]
        levels, rounds = plan(asked, warm, fewest, whole, time.perf_counter() - start)
        given_depths = shorter(depths, levels, whole) if asked.budget else None
        runs = timing.interleaved(
            {
                name: partial(worker.run, whole)
                if few(name) or not asked.budget
                else partial(worker.run, levels, given_depths[: images[name]])
                for name, worker in workers.items()
            },
            rounds,
        )
    peaks, flops = timing.matmul_peaks(dist_util.dev()), cost.flops(source.network, source.process)
    rows = _rows(runs, depths if asked.budget else None, whole, peaks, flops)
    found = {"images": len(depths), "levels": whole, "levels_timed": levels}
    record = timing.record("sequence", asked, start, peaks, rows)
    return record | found | {"rounds": rounds, "network": source.args}


def search_depths(source: Domain, asked: SequenceTimingSettings) -> Depths:
    """Return the depths of each image that the published search finds on a short encoding."""
    walk = WalkSettings(preset="fast").resolved(source.diffusion.num_timesteps)
    images = open_first(source, asked)
    clean, _ = images.batch(range(len(images)))
    encoder = Predictor(source, max_batch=asked.max_batch, priority="global")
    _, features = walks.encode(encoder, clean, walk)
    wanted = DepthSettings(asked.amount, "add")
    return [wanted.choose(curve).values for curve in features]


def open_first(source: Domain, asked: SequenceTimingSettings) -> ImageSource:
    """Open the first `num_images` of `data_dir`, as the source model takes them."""
    network = source.network
    with blame("data_dir"):
        images = open_images(asked.data_dir, network.image_size, network.in_channels)
    return images.first(asked.num_images)


def shorter(depths: Depths, levels: int, whole: int) -> Depths:
    """Return depths of the whole process on so many of its levels."""
    return [tuple(round(d * levels / whole) for d in image) for image in depths]


def few(name: str) -> bool:
    """Whether an engine takes a few steps, and not all levels."""
    return name in ENGINES and "encode_steps" in PRESETS[ENGINES[name][0]]


def domains(network: ModelSettings, process: ProcessSettings) -> list[Domain]:
    """Return the domains of source and target, on the device."""
    if network.given or process.given:
        return [_fresh(network, process) for _ in range(2)]
    places = (demo.PLACES[role] for role in ("source_model", "target_model"))
    return [load_domain(place, device=dist_util.dev()) for place in places]


def _fresh(network: ModelSettings, process: ProcessSettings) -> Domain:
    model, diffusion = build(network, process)
    model.to(dist_util.dev(), memory_format=th.channels_last).eval().requires_grad_(False)
    return Domain(model, diffusion, "fresh", Path("fresh weights"), network, process)


def on_levels(domain: Domain, levels: int) -> Domain:
    """Return a domain on so many of its levels, at even distances."""
    if levels == domain.diffusion.num_timesteps:
        return domain
    process = domain.process.replace(timestep_respacing=str(levels))
    return replace(domain, diffusion=build_process(process))


def contestant(
    name: str, asked: SequenceTimingSettings, network: ModelSettings, process: ProcessSettings
) -> Callable[[int, Depths | None], Sequenced]:
    """Return what makes sequences on so many levels; None: of all images, searching the depths."""
    pair = domains(network, process)
    images = open_first(pair[0], asked)
    if name == BASELINE:
        return partial(_published_sequences, pair, images, asked.amount)
    preset, precision = ENGINES[name]
    recipe = Recipe(
        DepthSettings(asked.amount),
        WalkSettings(preset=preset).resolved(pair[0].diffusion.num_timesteps),
        BatchSettings(asked.batch_size, asked.max_batch),
        ExecutionSettings(precision=precision),
    )
    return partial(_our_sequences, pair, images, recipe)


def _published_sequences(
    pair: Sequence[Domain],
    images: ImageSource,
    amount: int,
    levels: int,
    depths: Depths | None = None,
) -> Sequenced:
    source, target = (on_levels(domain, levels) for domain in pair)
    wanted = [None] * len(images) if depths is None else depths
    with published.arithmetic(source.model, target.model):
        made = [
            published.sequence(source, target, images.batch([index])[0], amount, d)
            for index, d in enumerate(wanted)
        ]
    return Sequenced([m.depths for m in made], sum(m.forwards for m in made))


def _our_sequences(
    pair: Sequence[Domain],
    images: ImageSource,
    recipe: Recipe,
    levels: int,
    depths: Depths | None = None,
) -> Sequenced:
    recipe = replace(recipe, walk=recipe.walk.within(levels))
    source, target = (on_levels(domain, levels) for domain in pair)
    sequences = Sequences(source, target, images, recipe)
    if depths is None:
        depths = [made.depths.values for made in sequences]
    else:
        _walk(sequences, depths)
    return Sequenced(depths, sequences.encoder.forwards + sequences.decoder.forwards)


def _walk(sequences: Sequences, depths: Depths) -> None:
    """Make what `sequences` would, but at given depths."""
    walk = sequences.recipe.walk
    for batch in SharedBatches(sequences.todo, sequences.recipe.batches.batch_size):
        clean, _ = sequences.images.batch(batch)
        trajectory, _ = walks.encode(sequences.encoder, clean, walk)
        latents = th.cat([trajectory.at(i, depths[index]) for i, index in enumerate(batch)])
        walks.decode(sequences.decoder, latents, sum((depths[i] for i in batch), ()), walk)


def plan(
    asked: SequenceTimingSettings,
    warm: Mapping[str, Timed],
    fewest: int,
    whole: int,
    spent: float,
) -> tuple[int, int]:
    """Return levels and rounds that fit into the budget; at least the fewest, once.

    Args:
        asked: budget (0: all levels), rounds and amount.
        warm: a run of each contestant on the fewest levels.
        fewest: those levels.
        whole: all levels.
        spent: seconds of the budget that are gone.
    """
    if not asked.budget:
        return whole, asked.rounds
    long = sum(one.seconds for name, one in warm.items() if not few(name))
    short = sum(_whole_seconds(name, one, asked.amount) for name, one in warm.items() if few(name))
    left = asked.budget - spent
    rounds = max(1, min(asked.rounds, int(left / (long + short))))
    levels = int(fewest * (left / rounds - short) / long)
    return max(fewest, min(whole, levels)), rounds


def _whole_seconds(name: str, warm: Timed, amount: int) -> float:
    # At most: every image of the sequence decoded from full depth.
    preset = PRESETS[ENGINES[name][0]]
    steps = preset["encode_steps"] + amount * preset["decode_steps"]
    return warm.seconds * steps * len(warm.result.depths) / warm.result.forwards


def _rows(
    runs: Mapping[str, Sequence[Timed]],
    depths: Depths | None,
    whole: int,
    peaks: Mapping[str, float],
    flops: int,
) -> list[dict[str, Any]]:
    made = {name: each[0].result for name, each in runs.items()}
    forwards = {
        name: made[name].forwards
        if depths is None or few(name)
        else count_forwards(name, depths, whole)
        for name in runs
    }
    scales = {name: forwards[name] / made[name].forwards for name in runs}
    rows = []
    for name in runs:
        _, precision = ENGINES.get(name, ("", "fp32"))
        peak = peaks[execution.settle_precision(precision, dist_util.dev())]
        row = {
            "name": name,
            "extrapolated": scales[name] != 1,
            "forwards_timed": made[name].forwards,
            "depths": made[name].depths if scales[name] == 1 else depths,
        }
        rows.append(row | timing.compared(runs, name, forwards[name], flops, peak, scales))
    return rows


def count_forwards(name: str, depths: Depths, levels: int) -> int:
    """Return the network evaluations of sequences at these depths by an engine of all levels."""
    if name == BASELINE:
        return sum(published.count_forwards(each, levels) for each in depths)
    return sum(levels + sum(each) for each in depths)
