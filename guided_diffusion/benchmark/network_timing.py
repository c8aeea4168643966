"""Time of one network: a forward in several variants, and training steps.

The network has fresh weights, which take the same time as trained ones. It has the demo's shape,
unless a setting of the network is given.
"""

import atexit
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch as th

from ..config.network_settings import ModelSettings
from ..config.parser import numbers
from ..config.settings import joined
from ..data.image_datasets import ImageDataset, load_data
from ..data.image_files import list_image_files
from ..diffusion.settings import ProcessSettings
from ..errors import ArgumentError, blame
from ..generation import cost, demo
from ..models import script_util
from ..models.domains import load_domain
from ..networks.attention import HybridAttention
from ..runtime import dist_util, execution, logger
from ..runtime.settings import ExecutionSettings, RunSettings
from ..training.settings import DenoisingSettings
from ..training.training_run import Training
from . import published, timing
from .settings import ForwardTimingSettings, TrainTimingSettings
from .timing import BASELINE, Timed

TRAINED = ("fp32", "bf16")  # precisions of our training
NEVER = 10**9  # steps
# FLOPs of a training step over FLOPs of a forward: gradients of activations and of weights too.
FORWARDS_OF_A_STEP = 3


@dataclass(frozen=True)
class Variant:
    """Way to compute one forward."""

    precision: str = "fp32"  # or "bf16"
    channels_last: bool = True  # layout of the memory; else NCHW
    fused: bool = True  # fused kernels of attention, SiLU and enlarging; else as published
    flags: Mapping[str, Any] = field(default_factory=dict)  # settings of the network to change
    blend: float | None = None  # share of windows in hybrid attention; None: as initialized


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


def network_to_time(
    network: ModelSettings, process: ProcessSettings
) -> tuple[ModelSettings, ProcessSettings]:
    """Return the settings of the network if one of them was given, else the demo's."""
    if network.given or process.given:
        return network, process
    domain = load_domain(demo.PLACES["source_model"])
    return domain.network, domain.process


def forward(
    asked: ForwardTimingSettings, network: ModelSettings, process: ProcessSettings
) -> dict[str, Any]:
    """Time a forward in all variants, for each batch size."""
    start, (network, process) = time.perf_counter(), network_to_time(network, process)
    sizes = numbers("batch_sizes", asked.batch_sizes)
    if min(sizes) < 1:
        raise ArgumentError("batch_sizes", f"expected numbers above 0, got {asked.batch_sizes}")
    shapes = {name: network.replace(**variant.flags) for name, variant in VARIANTS.items()}
    networks = {name: _network(shapes[name], process, VARIANTS[name]) for name in VARIANTS}
    flops = {name: cost.flops(shape, process) for name, shape in shapes.items()}
    device, side = dist_util.dev(), network.image_size
    peaks, rows = timing.matmul_peaks(device), []
    for done, size in enumerate(sizes):
        states = th.ones(size, network.in_channels, side, side, device=device)
        t = th.zeros(size, dtype=th.long, device=device)
        contestants = {
            name: partial(_forwards, networks[name], variant, states, t)
            for name, variant in VARIANTS.items()
        }
        once = sum(run(1).seconds for run in contestants.values())  # also warms up
        left = (asked.budget - time.perf_counter() + start) / (len(sizes) - done)
        repeats = timing.affordable(asked, once, left, asked.repeats)
        repeated = {name: partial(run, repeats) for name, run in contestants.items()}
        runs = timing.interleaved(repeated, asked.rounds)
        for name, variant in VARIANTS.items():
            peak = peaks[variant.precision]
            row = timing.compared(runs, name, repeats * size, flops[name], peak)
            rows.append({"name": name, "batch_size": size, **row})
            if asked.profile:
                rows[-1]["operators"] = timing.operators(repeated[name], device)
    found = {"network": joined(network, process)}
    return timing.record("forward", asked, start, peaks, rows) | found


def _network(shape: ModelSettings, process: ProcessSettings, variant: Variant) -> th.nn.Module:
    network = script_util.build_network(shape, process.learn_sigma)
    layout = th.channels_last if variant.channels_last else th.contiguous_format
    for module in network.modules():
        if variant.blend is not None and isinstance(module, HybridAttention):
            module.blend.data.fill_(variant.blend)
    return network.to(dist_util.dev(), memory_format=layout).eval().requires_grad_(False)


@th.no_grad()
def _forwards(
    network: th.nn.Module, variant: Variant, states: th.Tensor, t: th.Tensor, repeats: int
) -> Timed:
    layers = contextlib.nullcontext() if variant.fused else published.unfused()
    with layers, execution.autocast(states.device, variant.precision):
        return timing.timed(lambda: [network(states, t) for _ in range(repeats)], states.device)


def train(
    asked: TrainTimingSettings, network: ModelSettings, process: ProcessSettings
) -> dict[str, Any]:
    """Time training steps by the published procedure and by our loop."""
    start, (network, process) = time.perf_counter(), network_to_time(network, process)
    asked = asked.replace(data_dir=asked.data_dir or str(demo.PLACES["data_dir"]))
    with blame("data_dir"):
        count = len(list_image_files(asked.data_dir))
    if count < asked.batch_size:
        expected = f"expected at most the {count} images there are"
        raise ArgumentError("batch_size", f"{expected}, got {asked.batch_size}")
    folder, names = tempfile.TemporaryDirectory(), (BASELINE, *TRAINED)
    built = training, asked, network, process, folder.name
    with folder, timing.workers(names, *built, device=asked.device) as workers:
        for worker in workers.values():
            worker.run(1)  # the first step allocates
        once = sum(worker.run(1).seconds for worker in workers.values())
        left = asked.budget - time.perf_counter() + start
        steps = timing.affordable(asked, once, left, asked.steps)
        repeated = {name: partial(worker.run, steps) for name, worker in workers.items()}
        runs = timing.interleaved(repeated, asked.rounds)
        profiles = {
            name: {"operators": worker.operators(steps)} if asked.profile else {}
            for name, worker in workers.items()
        }
    peaks = timing.matmul_peaks(dist_util.dev())
    flops = FORWARDS_OF_A_STEP * cost.flops(network, process)
    images, rows = steps * asked.batch_size, []
    for name in runs:
        row = timing.compared(runs, name, images, flops, peaks.get(name, peaks["fp32"]))
        rate = {"images_per_second": images / row["median"]}
        rows.append({"name": name} | rate | row | profiles[name])
    found = {"network": joined(network, process), "steps": steps}
    return timing.record("train", asked, start, peaks, rows) | found


def training(
    name: str,
    asked: TrainTimingSettings,
    network: ModelSettings,
    process: ProcessSettings,
    folder: str,
) -> Callable[[int], None]:
    """Start a training, and return a function that goes on with it for a number of steps.

    Args:
        name: `BASELINE` for the published procedure, or a precision of `TRAINED` for ours.
        asked: images and batch size.
        network: settings of the network.
        process: settings of the process.
        folder: path of an empty folder, which stays empty.
    """
    logger.configure(folder, [])  # rows are gathered, and written nowhere
    if name == BASELINE:
        steps = _published_steps(asked, network, process)
    else:
        loop = DenoisingSettings(batch_size=asked.batch_size, save_interval=NEVER)
        settings = loop, network, process, RunSettings(), ExecutionSettings(precision=name)
        trainer = Training(*settings).create_loop(Path(folder))
        shape = {"image_size": network.image_size, "in_channels": network.in_channels}
        trainer.data = load_data(data_dir=asked.data_dir, batch_size=asked.batch_size, **shape)
        steps = trainer.steps()
    atexit.register(steps.close)  # closed later, it would miss modules that are gone by then

    def train_more(count: int) -> None:
        for _ in range(count):
            next(steps)

    return train_more


def _published_steps(
    asked: TrainTimingSettings, network: ModelSettings, process: ProcessSettings
) -> Iterator[int]:
    usual, files = DenoisingSettings(), list_image_files(asked.data_dir)
    model, diffusion = script_util.build(network, process)
    model.to(dist_util.dev())
    dataset = ImageDataset(network.image_size, files, in_channels=network.in_channels)
    data = published.batches(dataset, asked.batch_size)
    with published.arithmetic(model):
        yield from published.train(model, diffusion, data, usual.lr, float(usual.ema_rate))
