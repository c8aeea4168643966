"""Print the cost of a generation run, instead of making it; nothing is written."""

import math
import operator
import time

import torch as th

from ..runtime import dist_util
from ..translation.predictor import Predictor
from . import cost
from .run import Direction, Generation

TIMED = 3  # forwards
PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def show(generation: Generation) -> None:
    """Print the work and the cost of a run; every rank calls it, before `prepare`."""
    jobs = [Job(direction) for direction in generation.directions]
    names = "left", "forwards", "bound", "all_flops", "array_bytes", "picture_bytes"
    left, forwards, bound, *sizes = (sum(getattr(job, name) for job in jobs) for name in names)
    about = "" if forwards == bound else "about "
    per_forward = dict.fromkeys(readable(n, "FLOP") for job in jobs for n in job.flops)
    flops, arrays, pictures = map(readable, sizes, ("FLOP", "B", "B"))
    lines = [
        f"sequences  {left} of {generation.count} to make",
        f"forwards   {about}{forwards:,}{f', at most {bound:,}' if about else ''}",
        f"FLOPs      {' and '.join(per_forward)} per forward, {about}{flops}",
        f"disk       {arrays} of arrays, about {pictures} of pictures, in all",
    ]
    if dist_util.rank() == 0:
        print("\n".join(lines), flush=True)
    ranks = dist_util.world_size()
    seconds = duration(sum(job.seconds() for job in jobs) / ranks)
    if dist_util.rank() == 0:
        where = f"on this machine with {ranks} rank{'s' * (ranks > 1)}"
        by = f"by {TIMED} forwards of each network"
        print(f"time       about {seconds} {where}, {by}", flush=True)
    dist_util.barrier()  # a rank that ends while another still talks to it can abort


class Job:
    """Work that is left in one direction: sequences, forwards, FLOPs, bytes, time."""

    def __init__(self, direction: Direction) -> None:
        self.sequences, exporter = direction.sequences, direction.exporter
        domains, recipe = (self.sequences.source, self.sequences.target), exporter.recipe
        self.left = exporter.count - len(dist_util.once(exporter.finished))
        self.plan = cost.forwards(*(domain.diffusion for domain in domains), recipe)
        self.forwards = self.left * self.plan.total
        self.bound = self.left * (self.plan.encoding + self.plan.bound)
        self.flops = [cost.flops(domain.network, domain.process) for domain in domains]
        counts = self.plan.encoding, self.plan.decoding
        self.all_flops = self.left * sum(map(operator.mul, counts, self.flops))
        height, width, channels = self.sequences.images.tile(0).shape
        self.shape = channels, height, width
        common = recipe.depths.amount, self.shape, exporter.count
        self.array_bytes = cost.array_bytes(exporter.arrays, *common)
        self.picture_bytes = cost.picture_bytes(*common)

    def seconds(self) -> float:
        """Return the seconds that one rank would take, timed on batches of full size."""
        sequences, recipe = self.sequences, self.sequences.recipe
        batch = max(1, min(recipe.batches.batch_size, self.left))
        decoded = batch * recipe.depths.amount
        encoding = self._per_image(sequences.encoder, batch) * self.plan.encoding
        decoding = self._per_image(sequences.decoder, decoded) * self.plan.decoding
        return self.left * (encoding + decoding)

    def _per_image(self, predict: Predictor, count: int) -> float:
        """Return the seconds of a forward per image, for `count` images, mean over the ranks."""
        count = min(count, predict.max_batch)
        states = th.zeros(count, *self.shape, device=predict.domain.device)
        with th.no_grad():
            for number in range(TIMED + 1):
                if number == 1:  # forward 0 only warms up
                    start = time.perf_counter()
                predict(states, th.zeros(count, dtype=th.long)).sum().item()  # waits for a GPU
        seconds = (time.perf_counter() - start) / TIMED / count
        return sum(dist_util.Ranks().gather(seconds)) / dist_util.world_size()


def readable(value: float, unit: str) -> str:
    """Return a number with its unit, as 1.2 TFLOP."""
    power = min(len(PREFIXES) - 1, int(math.log10(max(value, 1)) / 3))
    return f"{value / 1000**power:.3g} {PREFIXES[power]}{unit}"


def duration(seconds: float) -> str:
    """Return a time in its two largest units, as 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
