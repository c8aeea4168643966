"""Time of sequences, compared with the time of the published procedure.

The models are the demo's; if a flag of the network is given, both models are built from the flags,
with fresh weights, which take the same time. All engines choose depths by the published policy.

A whole published sequence takes minutes and more. Within a budget, engines of all levels walk on
fewer levels at even distances, and the published procedure makes a single image. Their seconds are
multiplied by the network evaluations of a whole run, over the evaluations that were timed. The
depths in that count come from the published search on the encoding of the preset `fast`. Few-step
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
from ..data.reading import READING, ReadingSettings
from ..diffusion.settings import ProcessSettings
from ..errors import blame
from ..generation import cost, demo
from ..models import script_util
from ..models.domains import Domain, load_domain
from ..models.reading_of_training import reading_for
from ..runtime import dist_util, execution
from ..runtime.settings import ExecutionSettings
from ..runtime.work_sharing import SharedBatches
from ..translation import encode_decode
from ..translation.predictor import Predictor
from ..translation.sequences import Recipe, Sequences
from ..translation.settings import PRESETS, BatchSettings, DepthSettings, WalkSettings
from . import published, timing
from .settings import SequenceTimingSettings
from .timing import BASELINE, Timed

# Choices of --engines: preset of the walks, and precision.
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
    """Depths of each image of a run, and the network evaluations of all images."""

    depths: Depths
    forwards: int


def sequence(
    asked: SequenceTimingSettings, network: ModelSettings, process: ProcessSettings
) -> dict[str, Any]:
    """Time sequences by the published procedure and by our engines."""
    start = time.perf_counter()
    engines = (BASELINE, *names("engines", asked.engines, ENGINES))
    asked = asked.replace(data_dir=asked.data_dir or str(demo.PLACES["data_dir"]))
    source, _ = domains(network, process)
    whole, depths = source.diffusion.num_timesteps, search_depths(source, asked)
    images = dict.fromkeys(engines, len(depths)) | ({BASELINE: 1} if asked.budget else {})
    lent = timing.workers(engines, contestant, asked, network, process, device=asked.device)
    with lent as workers:

        def run(name: str, levels: int) -> Timed:
            """Run an engine on a number of levels, at the depths that are known, scaled to them."""
            known = depths[: images[name]]
            scaled = [tuple(round(d * levels / whole) for d in image) for image in known]
            return workers[name].run(levels, scaled)

        fewest = min(whole, PROBED_LEVELS)
        # The first runs of each warm up.
        _, warm = [{name: run(name, fewest) for name in engines} for _ in range(2)]
        levels, rounds = plan(asked, warm, fewest, whole, time.perf_counter() - start)
        contestants = {
            name: partial(workers[name].run, whole)
            if few(name) or not asked.budget
            else partial(run, name, levels)
            for name in engines
        }
        runs = timing.interleaved(contestants, rounds)
    peaks, flops = timing.matmul_peaks(dist_util.dev()), cost.flops(source.network, source.process)
    rows = _rows(runs, depths if asked.budget else None, whole, peaks, flops)
    found = {"images": len(depths), "levels": whole, "levels_timed": levels}
    record = timing.record("sequence", asked, start, peaks, rows)
    return record | found | {"rounds": rounds, "network": source.args}


def search_depths(source: Domain, asked: SequenceTimingSettings) -> Depths:
    """Choose the depths of each image by the published search, on a short encoding."""
    walk = WalkSettings(preset="fast").resolved(source.diffusion.num_timesteps)
    wanted = DepthSettings(asked.amount, "add")
    wanted.check(source.diffusion.num_timesteps)  # before the encoding, which takes long
    images = open_first(source, asked.data_dir, asked.num_images)
    clean, _ = images.batch(range(len(images)))
    encoder = Predictor(source, max_batch=asked.max_batch, priority="global")
    _, features = encode_decode.encode(encoder, clean, walk)
    return [wanted.choose(curve).values for curve in features]


def open_first(
    source: Domain, data_dir: str, num_images: int, reading: ReadingSettings = READING
) -> ImageSource:
    """Open the first images of a folder, as the source model takes them."""
    network, reading = source.network, reading_for(source, reading)
    with blame("data_dir"):
        size, channels = network.image_size, network.in_channels
        images = open_images(data_dir, size, channels, reading=reading)
    return images.first(num_images)


def few(name: str) -> bool:
    """Tell whether an engine takes few steps in place of all levels."""
    return name in ENGINES and "encode_steps" in PRESETS[ENGINES[name][0]]


def domains(network: ModelSettings, process: ProcessSettings) -> list[Domain]:
    """Load or build the domains of source and target, on the device."""
    if not network.given and not process.given:
        places = (demo.PLACES[role] for role in ("source_model", "target_model"))
        return [load_domain(place, device=dist_util.dev()) for place in places]
    pair = [script_util.build(network, process) for _ in range(2)]
    for model, _ in pair:
        execution.to_use(model, dist_util.dev(), network.use_fp16)
    return [Domain(*each, "fresh", Path("fresh weights"), network, process) for each in pair]


def on_levels(pair: Sequence[Domain], levels: int) -> Sequence[Domain]:
    """Return domains respaced to a number of levels, at even distances."""
    if levels == pair[0].diffusion.num_timesteps:
        return pair
    settings = [domain.process.replace(timestep_respacing=str(levels)) for domain in pair]
    found = zip(pair, map(script_util.build_process, settings), strict=True)
    return [replace(domain, diffusion=diffusion) for domain, diffusion in found]


def contestant(
    name: str, asked: SequenceTimingSettings, network: ModelSettings, process: ProcessSettings
) -> Callable[..., Sequenced]:
    """Return a function that makes sequences by an engine.

    The function takes a number of levels, and the depths of the images to make; without depths it
    chooses them, and makes all images.
    """
    pair = domains(network, process)
    images = open_first(pair[0], asked.data_dir, asked.num_images)
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
    pair: Sequence[Domain], images: ImageSource, amount: int, levels: int, depths: Depths = ()
) -> Sequenced:
    source, target = on_levels(pair, levels)
    with published.arithmetic(source.model, target.model):
        made = [
            published.sequence(source, target, images.batch([index])[0], amount, d)
            for index, d in enumerate(depths or [None] * len(images))
        ]
    return Sequenced([m.depths for m in made], sum(m.forwards for m in made))


def _our_sequences(
    pair: Sequence[Domain], images: ImageSource, recipe: Recipe, levels: int, depths: Depths = ()
) -> Sequenced:
    walk = recipe.walk.within(levels)
    sequences = Sequences(*on_levels(pair, levels), images, replace(recipe, walk=walk))
    encoder, decoder, walk = sequences.encoder, sequences.decoder, sequences.recipe.walk
    if not depths:
        depths = [made.depths.values for made in sequences]
        return Sequenced(depths, sequences.forwards)
    for batch in SharedBatches(sequences.todo, recipe.batches.batch_size):
        trajectory, _ = encode_decode.encode(encoder, images.batch(batch)[0], walk)
        latents = th.cat([trajectory.at(i, depths[index]) for i, index in enumerate(batch)])
        encode_decode.decode(decoder, latents, sum((depths[i] for i in batch), ()), walk)
    return Sequenced(depths, sequences.forwards)


def plan(
    asked: SequenceTimingSettings, warm: Mapping[str, Timed], fewest: int, whole: int, spent: float
) -> tuple[int, int]:
    """Return the levels and rounds that fit into the budget; at least the fewest levels, once.

    Args:
        asked: budget (0: all levels), rounds and amount.
        warm: a run of each contestant on the fewest levels.
        fewest: number of levels of these runs.
        whole: number of all levels.
        spent: seconds of the budget that are gone.
    """
    if not asked.budget:
        return whole, asked.rounds
    # Seconds of a round: of the engines of all levels, on the fewest; and of the few-step engines.
    long = sum(one.seconds for name, one in warm.items() if not few(name))
    short = 0.0
    for name in filter(few, warm):  # at most, as if every image were decoded from full depth
        preset, made = PRESETS[ENGINES[name][0]], warm[name].result
        steps = preset["encode_steps"] + asked.amount * preset["decode_steps"]
        short += warm[name].seconds * steps * len(made.depths) / made.forwards
    left = asked.budget - spent
    rounds = max(1, min(asked.rounds, int(left / (long + short))))
    levels = int(fewest * (left / rounds - short) / long)
    return max(fewest, min(whole, levels)), rounds


def _rows(
    runs: Mapping[str, Sequence[Timed]],
    depths: Depths | None,
    whole: int,
    peaks: Mapping[str, float],
    flops: int,
) -> list[dict[str, Any]]:
    made = {name: each[0].result for name, each in runs.items()}
    forwards = {
        name: one.forwards if depths is None or few(name) else count_forwards(name, depths, whole)
        for name, one in made.items()
    }
    scales = {name: forwards[name] / made[name].forwards for name in runs}
    rows = []
    for name, one in made.items():
        precision = ENGINES[name][1] if name in ENGINES else "fp32"
        peak = peaks[execution.settle_precision(precision, dist_util.dev())]
        row = {"name": name, "extrapolated": scales[name] != 1, "forwards_timed": one.forwards}
        row["depths"] = one.depths if scales[name] == 1 else depths
        rows.append(row | timing.compared(runs, name, forwards[name], flops, peak, scales))
    return rows


def count_forwards(name: str, depths: Depths, levels: int) -> int:
    """Count the network evaluations of sequences at these depths by an engine of all levels."""
    if name == BASELINE:
        return sum(published.count_forwards(each, levels) for each in depths)
    return sum(levels + sum(each) for each in depths)
