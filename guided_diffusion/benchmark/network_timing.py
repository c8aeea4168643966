"""The time of one network: of a forward in its variants, and of training.

A measurement takes the parsed flags of its group and the names of those given, and returns the
record to keep. The network has fresh weights, which take the same time as trained ones; it has
the demo's shape, unless a flag of the network is given.
"""

import argparse
import atexit
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch as th

from ..config import flags
from ..config.flags import args_to_dict, numbers
from ..config.options import DiffusionOptions, ModelOptions, RunOptions, TrainOptions
from ..data.image_datasets import ImageDataset, load_data
from ..data.image_files import list_image_files
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..errors import ArgumentError, blame
from ..generation import cost, demo
from ..models.domains import load_domain
from ..models.script_util import create_model_and_diffusion
from ..networks.attention import HybridAttention
from ..runtime import dist_util, execution, logger
from ..training import training_run
from . import published, timing
from .timing import BASELINE, Timed

NETWORK = (ModelOptions, DiffusionOptions)
TRAINED = ("fp32", "bf16")  # precisions of our training
NEVER = 10**9  # steps
FORWARDS_OF_A_STEP = 3  # in FLOPs: forward, and backward to activations and to weights


@dataclass(frozen=True)
class Variant:
    """A way to compute one forward.

    Attributes:
        precision: "fp32" or "bf16".
        channels_last: layout of the memory; else NCHW.
        fused: attention, SiLU and enlarging convolutions by fused kernels; else as published.
        flags: of the network, that differ from those asked for.
        blend: share of the windows in hybrid attention; None: as it starts.
    """

    precision: str = "fp32"
    channels_last: bool = True
    fused: bool = True
    flags: Mapping[str, Any] = field(default_factory=dict)
    blend: float | None = None


HYBRID = {"attention_kind": "hybrid"}
VARIANTS = {
    BASELINE: Variant(channels_last=False, fused=False),
    "fp32, NCHW": Variant(channels_last=False),
    "fp32, unfused": Variant(fused=False),
    "fp32": Variant(),
    "fp32, hybrid global": Variant(flags=HYBRID),
    "fp32, hybrid local": Variant(flags=HYBRID | {"attention_priority": "local"}),
    "fp32, hybrid blended": Variant(flags=HYBRID, blend=0.5),
    "bf16, NCHW": Variant("bf16", channels_last=False),
    "bf16, unfused": Variant("bf16", fused=False),
    "bf16": Variant("bf16"),
    "bf16, hybrid blended": Variant("bf16", flags=HYBRID, blend=0.5),
}


def network_flags(args: argparse.Namespace, given: Set[str]) -> dict[str, Any]:
    """Return the flags of the network to time: those asked for, if any is given, or the demo's."""
    asked = args_to_dict(args, flags.defaults(*NETWORK))
    return asked if given & asked.keys() else load_domain(demo.PLACES["source_model"]).args


def forward(args: argparse.Namespace, given: Set[str]) -> dict[str, Any]:
    """Time a forward in all variants, for each batch size.

    Raises:
        UserError: if the flags do not fit.
    """
    start, asked = time.perf_counter(), network_flags(args, given)
    sizes = numbers("batch_sizes", args.batch_sizes)
    if min(sizes) < 1:
        raise ArgumentError("batch_sizes", f"expected numbers above 0, got {args.batch_sizes}")
    networks = {name: _network(asked, variant) for name, variant in VARIANTS.items()}
    peaks, rows = timing.matmul_peaks(dist_util.dev()), []
    for done, size in enumerate(sizes):
        contestants = {
            name: partial(_forwards, networks[name], variant, *_inputs(asked, size))
            for name, variant in VARIANTS.items()
        }
        once = sum(run(1).seconds for run in contestants.values())  # warms up, too
        left = (args.budget - time.perf_counter() + start) / (len(sizes) - done)
        repeats = timing.affordable(args, once, left, args.repeats)
        runs = timing.interleaved(
            {name: partial(run, repeats) for name, run in contestants.items()}, args.rounds
        )
        for name, variant in VARIANTS.items():
            flops = cost.flops(asked | variant.flags)
            row = timing.compared(runs, name, repeats * size, flops, peaks[variant.precision])
            rows.append({"name": name, "batch_size": size, **row})
            if args.profile:
                rows[-1]["operators"] = timing.operators(
                    partial(contestants[name], repeats), dist_util.dev()
                )
    return timing.record("forward", args, start, peaks, rows) | {"network": asked}


def _network(asked: dict[str, Any], variant: Variant) -> th.nn.Module:
    network, _ = create_model_and_diffusion(**asked | variant.flags)
    layout = th.channels_last if variant.channels_last else th.contiguous_format
    for module in network.modules():
        if variant.blend is not None and isinstance(module, HybridAttention):
            module.blend.data.fill_(variant.blend)
    return network.to(dist_util.dev(), memory_format=layout).eval().requires_grad_(False)


def _inputs(asked: dict[str, Any], size: int) -> tuple[th.Tensor, th.Tensor]:
    side, device = asked["image_size"], dist_util.dev()
    states = th.ones(size, asked["in_channels"], side, side, device=device)
    return states, th.zeros(size, dtype=th.long, device=device)


@th.no_grad()
def _forwards(
    network: th.nn.Module, variant: Variant, states: th.Tensor, t: th.Tensor, repeats: int
) -> Timed:
    layers = contextlib.nullcontext() if variant.fused else published.unfused()
    with layers, execution.autocast(states.device, variant.precision):
        return timing.timed(lambda: [network(states, t) for _ in range(repeats)], states.device)


def train(args: argparse.Namespace, given: Set[str]) -> dict[str, Any]:
    """Time training steps by the published procedure and by our loop.

    Raises:
        UserError: if the flags do not fit, or there are too few images for a batch.
    """
    start, asked = time.perf_counter(), network_flags(args, given)
    args.data_dir = args.data_dir or str(demo.PLACES["data_dir"])
    with blame("data_dir"):
        count = len(list_image_files(args.data_dir))
    if count < args.batch_size:
        raise ArgumentError(
            "batch_size", f"expected at most the {count} images there are, got {args.batch_size}"
        )
    with (
        tempfile.TemporaryDirectory() as folder,
        timing.workers(
            (BASELINE, *TRAINED), training, args, asked, folder, device=args.device
        ) as workers,
    ):
        for worker in workers.values():
            worker.run(1)  # the first step allocates
        once = sum(worker.run(1).seconds for worker in workers.values())
        left = args.budget - time.perf_counter() + start
        steps = timing.affordable(args, once, left, args.steps)
        runs = timing.interleaved(
            {name: partial(worker.run, steps) for name, worker in workers.items()}, args.rounds
        )
        profiles = {
            name: {"operators": worker.operators(steps)} if args.profile else {}
            for name, worker in workers.items()
        }
    peaks, flops = timing.matmul_peaks(dist_util.dev()), FORWARDS_OF_A_STEP * cost.flops(asked)
    images, rows = steps * args.batch_size, []
    for name in runs:
        peak = peaks["bf16" if name == "bf16" else "fp32"]
        row = timing.compared(runs, name, images, flops, peak)
        rate = {"images_per_second": images / row["median"]}
        rows.append({"name": name} | rate | row | profiles[name])
    return timing.record("train", args, start, peaks, rows) | {"network": asked, "steps": steps}


def training(
    name: str, args: argparse.Namespace, asked: dict[str, Any], folder: str
) -> Callable[[int], None]:
    """Return what trains n steps more, by the published procedure or in a precision of ours.

    Args:
        name: `BASELINE` or one of `TRAINED`.
        args: of the measurement.
        asked: flags of network and process.
        folder: an empty one, which stays so.
    """
    logger.configure(folder, [])  # rows are gathered and dumped, to nowhere
    network, diffusion = create_model_and_diffusion(**asked)
    network.to(dist_util.dev())
    if name == BASELINE:
        steps = _published_steps(network, diffusion, args, asked)
    else:
        steps = _our_steps(network, diffusion, args, asked | {"precision": name}, folder)
    atexit.register(steps.close)  # ended at the interpreter's end, it would miss what it imports
    return partial(_advance, steps)


def _advance(steps: Iterator[int], count: int) -> None:
    for _ in range(count):
        next(steps)


def _published_steps(
    network: th.nn.Module, diffusion: GaussianDiffusion, args: argparse.Namespace, asked: dict
) -> Iterator[int]:
    files, usual = list_image_files(args.data_dir), flags.defaults(TrainOptions)
    dataset = ImageDataset(asked["image_size"], files, in_channels=asked["in_channels"])
    data = published.batches(dataset, args.batch_size)
    with published.arithmetic(network):
        yield from published.train(network, diffusion, data, usual["lr"], float(usual["ema_rate"]))


def _our_steps(
    network: th.nn.Module,
    diffusion: GaussianDiffusion,
    args: argparse.Namespace,
    asked: dict[str, Any],
    folder: str,
) -> Iterator[int]:
    usual = flags.defaults(TrainOptions, RunOptions) | asked
    usual |= {"batch_size": args.batch_size, "save_interval": NEVER}
    loop = training_run.create_loop(network, diffusion, argparse.Namespace(**usual), Path(folder))
    loop.data = load_data(
        data_dir=args.data_dir,
        batch_size=args.batch_size,
        image_size=asked["image_size"],
        in_channels=asked["in_channels"],
    )
    return loop.steps()
