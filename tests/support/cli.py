"""Run the project's commands as a user does: in this process, or under a launcher."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np
from PIL import Image

from guided_diffusion import logger

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = {"python": 1, "mpiexec -n 1": 1, "mpiexec": 2, "torchrun": 2}  # and their ranks
DEADLINE = 120  # seconds that no run under test may exceed
SEQUENCES = "frequency_generating_m_samples"

# The smallest network and process that the flags can describe.
TINY_MODEL = (
    "--image_size 16 --num_channels 32 --num_res_blocks 1 --channel_mult 1,2 "
    "--attention_resolutions 8 --num_heads 2 --diffusion_steps 40"
).split()
# A rate that makes a network do something visible within a few steps.
TRAINING = (
    "--batch_size 2 --lr 3e-3 --ema_rate 0.5 --dropout 0.1 --augment dihedral --max_steps 8 "
    "--save_interval 4 --log_interval 1 --sample_steps 2 --device cpu"
).split()
TINY_CLASSIFIER = (
    "--image_size 16 --classifier_width 32 --classifier_depth 1 --diffusion_steps 40 "
    "--classifier_attention_resolutions 8 --num_classes 2 --batch_size 2 --iterations 4 "
    "--log_interval 2 --eval_interval 2 --save_interval 2 --device cpu"
).split()
DRAWING = "--timestep_respacing 8 --device cpu".split()


class Killed(BaseException):
    """Ends a command in this process as a kill would: nothing of ours catches it."""


@dataclass(frozen=True)
class Runs:
    """Images, and two runs that were trained on them."""

    images: Path
    source: Path
    target: Path

    @property
    def training(self) -> list[str]:
        """The flags of the source run, --out_dir excepted."""
        return [*TINY_MODEL, *TRAINING, "--data_dir", str(self.images)]

    @property
    def sequences(self) -> list[str]:
        """The flags of a small generation run, --out_dir excepted."""
        models = ["--source_model", str(self.source), "--target_model", str(self.target)]
        data = ["--data_dir", str(self.images), "--num_images", "3", "--amount", "3"]
        return [*models, *data, *DRAWING]


def train_two_runs(folder: Path) -> Runs:
    """Draw images into a folder and train two runs on them that differ in their seed."""
    runs = Runs(draw_images(folder / "images", 5), folder / "source", folder / "target")
    succeed("image_train", *runs.training, "--out_dir", runs.source)
    succeed("image_train", *runs.training, "--out_dir", runs.target, "--seed", 1)
    return runs


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.strip().rpartition("\n")[2]


def load_script(name: str) -> ModuleType:
    """Return the module of a command."""
    return importlib.import_module(f"guided_diffusion.commands.{name}")


def call(name: str | ModuleType, *argv: object) -> Result:
    """Run a script's main in this process; any exception but SystemExit comes through."""
    module = load_script(name) if isinstance(name, str) else name
    if (
        logger.Logger.CURRENT is logger.Logger.DEFAULT
    ):  # it would go on writing to an earlier stdout
        logger.Logger.CURRENT = None
    logger.Logger.DEFAULT = None
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            module.main([str(word) for word in argv])
        except SystemExit as leaving:
            code = leaving.code or 0
    return Result(code, out.getvalue(), err.getvalue())


def succeed(name: str | ModuleType, *argv: object) -> Result:
    """Run a script's main in this process and insist that it ends well."""
    result = call(name, *argv)
    assert result.code == 0, result.err
    return result


def environment(**changes: object) -> dict[str, str]:
    """This process's environment without traces of a launcher, one thread per process."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "OPENAI_LOGDIR")}
    return kept | {"OMP_NUM_THREADS": "1"} | {k: str(v) for k, v in changes.items()}


def command(launcher: str, script: str | Path, *argv: object) -> list[str]:
    """Return the command line of a script under a launcher.

    Args:
        launcher: one of `LAUNCHERS`.
        script: name of a command, or path of a Python file.
        *argv: its arguments.
    """
    ranks = LAUNCHERS[launcher]
    words: list[object] = [sys.executable]
    if launcher.startswith("mpiexec"):
        beside = Path(sys.executable).with_name("mpiexec")
        words = [beside if beside.exists() else "mpiexec", "-n", ranks, *words]
    if launcher == "torchrun":
        words += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]
    if isinstance(script, str):
        script = ROOT / "scripts" / f"{script}.py"
    return [str(word) for word in (*words, script, *argv)]


def launch(line: Sequence[str], cwd: Path | None = None, **env: object) -> Result:
    """Run a command line in a process of its own, within the deadline."""
    with start(line, cwd, **env) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE)
        finally:
            kill(process)
    return Result(process.returncode, out, err)


def launch_together(line: Sequence[str], places: Sequence[dict[str, object]]) -> list[Result]:
    """Run a command line in several processes at once, each with variables of its own."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(start(line, **place)) for place in places]
        try:
            outputs = [process.communicate(timeout=DEADLINE) for process in processes]
        finally:
            for process in processes:
                kill(process)
    return [Result(p.returncode, *texts) for p, texts in zip(processes, outputs, strict=True)]


def start(
    line: Sequence[str],
    cwd: Path | None = None,
    output: IO | int = subprocess.PIPE,
    **env: object,
) -> subprocess.Popen:
    """Start a command line as the leader of a process group of its own."""
    return subprocess.Popen(
        line,
        cwd=cwd,
        env=environment(**env),
        start_new_session=True,
        text=True,
        stdout=output,
        stderr=output,
    )


def kill(process: subprocess.Popen) -> None:
    """Kill a started command and all that it started, if they still run."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def draw_images(folder: Path, count: int, size: int = 16, seed: int = 0) -> Path:
    """Write `count` smooth random pictures into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        tile = coarse.resize((size, size), Image.Resampling.BICUBIC)
        tile.save(folder / f"tile{index % 2}_{index:03d}.png")
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return {relative path: content} of every file below a folder; {} if there is none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def picture(path: Path) -> np.ndarray:
    """Return the pixels of a picture, [H, W, C]."""
    with Image.open(path) as image:
        return np.array(image)


def grey_levels_apart(one: np.ndarray, other: np.ndarray) -> int:
    """Return the largest difference of two arrays of pixels of one shape."""
    assert one.shape == other.shape and one.dtype == other.dtype == np.uint8
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@contextlib.contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    """Change into a folder for a block."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
