"""Memory of generation for several numbers of images, and its time on one and on two ranks.

The sampler's own command runs in new processes, on the demo's models and copies of the demo's
tiles. For the comparison of ranks, each process has one thread.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..config.parser import numbers
from ..data.image_files import list_image_files
from ..errors import ArgumentError, UserError
from ..generation import demo
from . import timing
from .settings import ScalingSettings

PACKAGE = Path(__file__).resolve().parents[1]
SAMPLER = ["-m", "guided_diffusion", "sequences"]
MEASURING = """
import sys
from guided_diffusion.commands import launcher
launcher.run(sys.argv.pop(1))
from guided_diffusion.benchmark import timing
from guided_diffusion.runtime import dist_util
print(timing.peak_memory(dist_util.dev()))
"""
MEASURED = ["-c", MEASURING, "sequences"]  # the last line that it prints is its peak of memory


def scaling(asked: ScalingSettings) -> dict[str, Any]:
    """Measure memory for several numbers of images, and time on one and on two ranks."""
    start, counts = time.perf_counter(), numbers("counts", asked.counts)
    if min(counts) < 1:
        raise ArgumentError("counts", f"expected numbers above 0, got {asked.counts}")
    with tempfile.TemporaryDirectory() as folder:
        place, runs = Path(folder), []
        tiles = place / "tiles"
        tiles.mkdir()
        known = list_image_files(demo.PLACES["data_dir"])
        for index in range(max(*counts, asked.rank_images)):
            shutil.copy(known[index % len(known)], tiles / f"{index:05d}.png")
        for turn in range(asked.rounds):
            flags = {n: _flags(asked, tiles, n, place / f"memory{n}_{turn}") for n in counts}
            runs.append({n: int(run(MEASURED, flags[n]).split()[-1]) for n in counts})
        ranks = {n: _times(asked, tiles, n, place / f"ranks{n}") for n in (1, 2)}
    memory = {n: statistics.median(peaks[n] for peaks in runs) for n in counts}
    whole, made = ([ranks[n][key] for n in (1, 2)] for key in ("whole", "without_start"))
    return {
        "measurement": "scaling",
        "peak_memory": memory,
        "peak_memory_of_each": {n: [peaks[n] for peaks in runs] for n in counts},
        "memory_ratio": max(memory.values()) / (min(memory.values()) or 1),  # 0: not measured
        "ranks": ranks,
        "ratio": whole[0] / whole[1],
        "ratio_without_start": made[0] / made[1],
        "extrapolated": False,
    } | timing.circumstances(start)


def lines(record: dict[str, Any]) -> list[str]:
    """Return the record as lines of text."""
    found = []
    for n, peak in record["peak_memory"].items():
        each = record["peak_memory_of_each"][n]
        found.append(
            f"{n} images: peak memory {peak / 1e6:.0f} MB, median of {len(each)} runs "
            f"({min(each) / 1e6:.0f} to {max(each) / 1e6:.0f})"
        )
    found.append(f"largest over smallest: {record['memory_ratio']:.3f}")
    for n, times in record["ranks"].items():
        made = f"{times['without_start']:.1f} s without their start"
        found.append(f"{n} rank{'s' * (n > 1)}: {times['whole']:.1f} s, {made}")
    line = "2 ranks over 1: {ratio:.2f} times as fast, {ratio_without_start:.2f} without the start"
    return [*found, line.format(**record)]


def _times(asked: ScalingSettings, tiles: Path, ranks: int, out_dir: Path) -> dict[str, float]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    program = [*launcher, *SAMPLER] if ranks > 1 else SAMPLER
    flags = _flags(asked, tiles, asked.rank_images, out_dir)
    seconds = []
    for _ in range(2):  # the second time all files are there already, and only the start is left
        begun = time.perf_counter()
        run(program, flags, OMP_NUM_THREADS="1")
        seconds.append(time.perf_counter() - begun)
    return {"whole": seconds[0], "without_start": seconds[0] - seconds[1]}


def _flags(asked: ScalingSettings, tiles: Path, count: int, out_dir: Path) -> list[str]:
    flags = demo.PLACES | {"data_dir": tiles, "out_dir": out_dir, "num_images": count}
    flags |= {"batch_size": asked.batch_size, "device": asked.device, "preset": "draft"}
    flags |= {"encode_steps": asked.steps, "decode_steps": asked.steps}
    return [f"--{name}={value}" for name, value in flags.items()]


def run(program: Sequence[str], flags: Iterable[object], **env: str | None) -> str:
    """Run a command in a new process, and return the text that it prints.

    Args:
        program: words after the interpreter's name; the last is the name of the command.
        flags: flags of the command.
        **env: environment variables to set, or to unset by None.

    Raises:
        UserError: with the last line of its errors, if it fails.
    """
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    asked = os.environ | {"PYTHONPATH": path} | env
    done = subprocess.run(
        [sys.executable, *program, *map(str, flags)],
        env={name: value for name, value in asked.items() if value is not None},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"{program[-1]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout
