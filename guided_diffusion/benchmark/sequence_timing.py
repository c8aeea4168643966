"""The time of sequences, over that of the published procedure.

The models are the demo's; where a flag of the network is given, both are made of the flags, with
fresh weights, which take the same time. All engines choose depths by the published policy.

A whole published sequence takes minutes and more. Within a budget the walks of all levels are
made on fewer levels at even distances, and the published one of a single image; their seconds are
multiplied by the network evaluations of the whole over those that were timed. The depths that say
how many these are come from the published search on the encoding of the preset `fast`. Few-step
engines always run whole.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch as th

from ..config import flags
from ..config.flags import args_to_dict
from ..config.options import DiffusionOptions
from ..config.translation_options import PRESETS
from ..data.image_formats import open_images
from ..data.image_source import ImageSource
from ..errors import blame
from ..generation import cost, demo
from ..models.domains import Domain, load_domain
from ..models.script_util import create_gaussian_diffusion, create_model_and_diffusion
from ..runtime import dist_util, execution
from ..runtime.work_sharing import Dealing
from ..translation import depth_policies, walks
from ..translation.sequences import Recipe, Sequences
from ..translation.walks import Engine
from . import published, timing
from .network_timing import NETWORK
from .timing import BASELINE, Timed

# What --engines can name: flags of the engine.
ENGINES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fast": {**PRESETS["fast"], "precision": "auto"},
    "draft": {**PRESETS["draft"], "precision": "auto"},
}


PROBED_LEVELS = 10

Depths = Sequence[tuple[int, ...]]  # of each image


@dataclass(frozen=True)
class Sequenced:
    """Depths of each image that was made, and the network evaluations of all."""

    depths: Depths
    forwards: int


def sequence(args: argparse.Namespace, given: Set[str]) -> dict[str, Any]:
    """Time sequences by the published procedure and by our engines.

    Raises:
        UserError: if the flags do not fit.
    """
    start = time.perf_counter()
    names = (BASELINE, *flags.names("engines", args.engines, ENGINES))
    args.data_dir = args.data_dir or str(demo.PLACES["data_dir"])
    source, _ = domains(args, given)
    whole, depths = source.diffusion.num_timesteps, search_depths(source, args)
    images = dict.fromkeys(names, len(depths)) | ({BASELINE: 1} if args.budget else {})
    with timing.workers(names, contestant, args, given, device=args.device) as workers:
        fewest = min(whole, PROBED_LEVELS)
        probes = {
            name: partial(worker.run, fewest, shorter(depths[: images[name]], fewest, whole))
            for name, worker in workers.items()
        }
        *_, warm = [{name: probe() for name, probe in probes.items()} for _ in range(2)]
        levels, rounds = plan(args, warm, fewest, whole, time.perf_counter() - start)
        given_depths = shorter(depths, levels, whole) if args.budget else None
        runs = timing.interleaved(
            {
                name: partial(worker.run, whole)
                if few(name) or not args.budget
                else partial(worker.run, levels, given_depths[: images[name]])
                for name, worker in workers.items()
            },
            rounds,
        )
    peaks, flops = timing.matmul_peaks(dist_util.dev()), cost.flops(source.args)
    rows = _rows(runs, depths if args.budget else None, whole, peaks, flops)
    found = {"images": len(depths), "levels": whole, "levels_timed": levels}
    record = timing.record("sequence", args, start, peaks, rows)
    return record | found | {"rounds": rounds, "network": source.args}


def search_depths(source: Domain, args: argparse.Namespace) -> Depths:
    """Return the depths of each image that the published search finds on a short encoding."""
    levels = source.diffusion.num_timesteps
    engine = replace(Engine(max_batch=args.max_batch), **PRESETS["fast"]).within(levels)
    images = open_first(source, args)
    clean, _ = images.batch(range(len(images)))
    _, features = walks.encode(walks.Predictor(source, engine, "global"), clean, engine)
    return [depth_policies.choose("add", curve, args.amount).values for curve in features]


def open_first(source: Domain, args: argparse.Namespace) -> ImageSource:
    """Open the first `num_images` of `data_dir`, as the source model takes them."""
    with blame("data_dir"):
        images = open_images(args.data_dir, source.args["image_size"], source.args["in_channels"])
    return images.first(args.num_images)


def shorter(depths: Depths, levels: int, whole: int) -> Depths:
    """Return depths of the whole process on so many of its levels."""
    return [tuple(round(d * levels / whole) for d in image) for image in depths]


def few(name: str) -> bool:
    """Whether an engine takes a few steps, and not all levels."""
    return "encode_steps" in ENGINES.get(name, {})


def domains(args: argparse.Namespace, given: Set[str]) -> list[Domain]:
    """Return the domains of source and target, on the device."""
    asked = args_to_dict(args, flags.defaults(*NETWORK))
    if given & asked.keys():
        return [_fresh(asked) for _ in range(2)]
    places = (demo.PLACES[role] for role in ("source_model", "target_model"))
    return [load_domain(place, device=dist_util.dev()) for place in places]


def _fresh(asked: dict[str, Any]) -> Domain:
    model, diffusion = create_model_and_diffusion(**asked)
    model.to(dist_util.dev(), memory_format=th.channels_last).eval().requires_grad_(False)
    return Domain(model, diffusion, "fresh", Path("fresh weights"), asked)


def on_levels(domain: Domain, levels: int) -> Domain:
    """Return a domain on so many of its levels, at even distances."""
    if levels == domain.diffusion.num_timesteps:
        return domain
    asked = args_to_dict(argparse.Namespace(**domain.args), flags.defaults(DiffusionOptions))
    asked |= {"steps": asked.pop("diffusion_steps"), "timestep_respacing": str(levels)}
    return replace(domain, diffusion=create_gaussian_diffusion(**asked))


def contestant(
    name: str, args: argparse.Namespace, given: Set[str]
) -> Callable[[int, Depths | None], Sequenced]:
    """Return what makes sequences on so many levels; None: of all images, searching the depths."""
    pair = domains(args, given)
    images = open_first(pair[0], args)
    if name == BASELINE:
        return partial(_published_sequences, pair, images, args.amount)
    engine = replace(Engine(max_batch=args.max_batch), **ENGINES[name])
    precision = execution.settle_precision(engine.precision, dist_util.dev())
    engine = replace(engine, precision=precision)
    recipe = Recipe(args.amount, batch_size=args.batch_size, engine=engine)
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
    recipe = replace(recipe, engine=recipe.engine.within(levels))
    source, target = (on_levels(domain, levels) for domain in pair)
    sequences = Sequences(source, target, images, recipe)
    if depths is None:
        depths = [made.depths.values for made in sequences]
    else:
        _walk(sequences, depths)
    return Sequenced(depths, sequences.encoder.forwards + sequences.decoder.forwards)


def _walk(sequences: Sequences, depths: Depths) -> None:
    """Make what `sequences` would, but at given depths."""
    engine = sequences.recipe.engine
    for batch in Dealing(sequences.todo, sequences.recipe.batch_size):
        clean, _ = sequences.images.batch(batch)
        trajectory, _ = walks.encode(sequences.encoder, clean, engine)
        latents = th.cat([trajectory.at(i, depths[index]) for i, index in enumerate(batch)])
        walks.decode(sequences.decoder, latents, sum((depths[i] for i in batch), ()), engine)


def plan(
    args: argparse.Namespace, warm: Mapping[str, Timed], fewest: int, whole: int, spent: float
) -> tuple[int, int]:
    """Return levels and rounds that fit into the budget; at least the fewest, once.

    Args:
        args: with `budget` (0: all levels), `rounds` and `amount`.
        warm: a run of each contestant on the fewest levels.
        fewest: those levels.
        whole: all levels.
        spent: seconds of the budget that are gone.
    """
    if not args.budget:
        return whole, args.rounds
    long = sum(one.seconds for name, one in warm.items() if not few(name))
    short = sum(_whole_seconds(name, one, args.amount) for name, one in warm.items() if few(name))
    left = args.budget - spent
    rounds = max(1, min(args.rounds, int(left / (long + short))))
    levels = int(fewest * (left / rounds - short) / long)
    return max(fewest, min(whole, levels)), rounds


def _whole_seconds(name: str, warm: Timed, amount: int) -> float:
    # At most: every image of the sequence decoded from full depth.
    steps = ENGINES[name]["encode_steps"] + amount * ENGINES[name]["decode_steps"]
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
        precision = ENGINES.get(name, {}).get("precision", "fp32")
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
