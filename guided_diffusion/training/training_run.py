"""Shared parts of the training commands: the run folder, the loop, and pictures of samples.

A command makes a `Training` from its settings, gets the run folder and the loop from it, gives the
loop data, claims the folder, and calls `train`. Before the claim nothing is written.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th
from PIL import Image

from ..config.settings import Settings, joined
from ..data.classes import Classes
from ..data.image_datasets import Batch, load_data
from ..data.image_source import ImageSource
from ..data.settings import FolderSettings
from ..diffusion.resample import create_named_schedule_sampler
from ..diffusion.schedules import betas_of_flags
from ..diffusion.settings import ProcessSettings
from ..errors import ArgumentError
from ..models.checkpoint import checkpoint_files
from ..models.script_util import NUM_CLASSES, build, build_process
from ..networks.attention import set_priority
from ..runtime import atomic_files, dist_util, execution, logger, progress_bars
from ..runtime.command import Command
from ..runtime.random_streams import ImageNoise, Stream, seed_torch
from ..runtime.run_folder import PER_STEP, RunFolder
from ..runtime.run_lock import refuse_running
from ..runtime.run_log import drop_later_rows, open_run_log
from ..runtime.settings import ExecutionSettings, RunSettings
from ..runtime.stop_requests import BY_SIGNAL, StopSignal, stop
from . import start_report
from .class_records import record_classes
from .resume import complete_digests, refuse_other_training, remove_unfinished
from .settings import DenoisingSettings, GridSettings, LoopSettings
from .shown_weights import shown_weights
from .train_util import TrainLoop, ema_rates


@dataclass(frozen=True)
class Training:
    """Settings of a training command; they make its run folder, its loop and its samples.

    Raises:
        ArgumentError: if settings cannot work together.
    """

    loop: LoopSettings
    network: Any
    process: ProcessSettings
    run: RunSettings
    execution: ExecutionSettings

    def __post_init__(self) -> None:
        loop, precision = self.loop, self.execution.precision
        if self.use_fp16 and precision != "fp32":
            problem = f"{precision} and --{self._fp16_flag} True exclude each other; choose one"
            raise ArgumentError("precision", problem)
        if isinstance(loop, DenoisingSettings):
            ema_rates(loop.ema_rate)
        if loop.init_checkpoint and loop.resume_checkpoint:
            raise ArgumentError(
                "init_checkpoint",
                "expected alone, got --resume_checkpoint too; the first starts a training "
                "anew, the second goes on with one",
            )
        steps = self.process.diffusion_steps
        betas_of_flags(self.process.noise_schedule, steps, "diffusion_steps", pure_noise=False)

    @property
    def _fp16_flag(self) -> str:
        return "use_fp16" if hasattr(self.network, "use_fp16") else "classifier_use_fp16"

    @property
    def use_fp16(self) -> bool:
        """True if the network is trained by upstream's float16 recipe."""
        return getattr(self.network, self._fp16_flag)

    def folder(
        self,
        command: Command,
        default: str | Path,
        *others: Settings,
        free: Collection[str] = (),
    ) -> RunFolder:
        """Return the run folder, not claimed yet.

        Args:
            command: the command, for its name and defaults.
            default: path of the run folder if the settings name none.
            *others: further settings of the command.
            free: names of further settings that may differ when the run is continued.

        Raises:
            UserError: if the folder holds a run with other settings.
        """
        path = folder_of(self.run, default)
        own = self.loop, *others, self.network, self.process, self.run, self.execution
        # A step learns from the batch of all ranks together.
        asked = {**joined(*own), PER_STEP: self.loop.batch_size * dist_util.world_size()}
        train_on = (
            "; to train on from its newest checkpoint with these flags, add "
            f"--out_dir ANOTHER_FOLDER --resume_checkpoint {path}"
        )
        advice = train_on if checkpoint_files(path) else ""
        may_differ = command.free | {"batch_size", *free}
        folder = RunFolder(path, command.name, asked, may_differ, command.defaults, advice)
        folder.refuse_other_run()
        refuse_running(path)
        return folder

    def claim(self, folder: RunFolder) -> None:
        """Claim the run folder."""
        precision = execution.settle_precision(self.execution.precision, dist_util.dev())
        folder.claim(precision=precision, processes=dist_util.world_size())

    def create_loop(
        self,
        folder: Path,
        loop_class: Callable[..., TrainLoop] = TrainLoop,
        num_classes: int = NUM_CLASSES,
        **options: Any,
    ) -> TrainLoop:
        """Build the network and its loop, without data; resume if the folder holds a checkpoint.

        Args:
            folder: path of the run folder.
            loop_class: class of the loop.
            num_classes: number of classes of a classifier.
            **options: further keywords of the loop.
        """
        asked = joined(self.network, self.process)
        refuse_other_training(self.loop.resume_checkpoint, folder, asked)
        # Layers draw their first weights from torch's global generator and take no other.
        seed_torch(self.run.seed, Stream.FIRST_WEIGHTS)
        model, diffusion = build(self.network, self.process, num_classes)
        precision, own = self.execution.precision, self.loop.values()
        execution.to_train(model, dist_util.dev(), precision, self.use_fp16)
        own["schedule_sampler"] = create_named_schedule_sampler(own["schedule_sampler"], diffusion)
        return loop_class(
            model=execution.compiled(model, self.execution.compile),
            diffusion=diffusion,
            data=(),
            out_dir=folder,
            use_fp16=self.use_fp16,
            precision=precision,
            seed=self.run.seed,
            **own | options,
        )

    def draw_samples(
        self,
        loop: TrainLoop,
        shape: Sequence[int],
        conditions: dict[str, th.Tensor],
        steps: int,
    ) -> th.Tensor:
        """Draw samples by DDIM, with averaged weights once the average has left its start behind.

        Args:
            loop: the training loop.
            shape: shape of the samples, (N, C, H, W).
            conditions: conditions of the network, {name: tensor [N, ...]}.
            steps: number of DDIM steps, limited to the steps of the process.

        Returns:
            Images of this shape in [-1, 1], from the same noise at every call.
        """
        visited = str(min(steps, self.process.diffusion_steps))
        diffusion = build_process(self.process.replace(timestep_respacing=visited))
        noise = ImageNoise(self.run.seed, range(shape[0])).draw(shape[1:]).to(loop.device)
        conditions = {name: value.to(loop.device) for name, value in conditions.items()}
        with shown_weights(loop) as model, execution.autocast(loop.device, loop.precision):
            set_priority(model, "local")
            return diffusion.ddim_sample_loop(model, noise.shape, noise, model_kwargs=conditions)


def folder_of(run: RunSettings, default: str | Path) -> Path:
    """Return the path of the run folder, which is the default if the settings name none."""
    return Path(run.out_dir or os.getenv("OPENAI_LOGDIR") or default)


def default_folder(prefix: str, data_dir: str) -> Path:
    """Return results/<prefix>_<name of the image folder>."""
    return Path("results") / f"{prefix}_{Path(os.path.realpath(data_dir)).name or 'images'}"


def refuse_labels_of_no_use(images: FolderSettings, class_cond: bool) -> None:
    """Raise an `ArgumentError` if labels are asked for, but the network takes no class."""
    if images.labels != "prefix" and not class_cond:
        raise ArgumentError("labels", "expected together with --class_cond True, got it alone")


def save_picture_if_due(
    loop: TrainLoop, draw: Callable[[], Image.Image] | None, every: int, missing: bool = False
) -> None:
    """Save a picture of samples as samples/NNNNNN.png, if one is due at the present step.

    Args:
        loop: the training loop.
        draw: function that makes the picture, called on rank 0; None: no pictures.
        every: steps between pictures; -1: as between checkpoints, 0: no pictures.
        missing: whether the picture is made only if it is missing.
    """
    every = loop.save_interval if every == -1 else every
    if not (draw and every and (loop.done % every == 0 or loop.done == loop.max_steps)):
        return
    path = loop.out_dir / "samples" / f"{loop.done:06d}.png"
    if dist_util.rank() == 0 and not (missing and path.exists()):
        atomic_files.make_subfolder(path.parent)
        picture = draw()
        with atomic_files.atomic_write(path) as file:
            picture.save(file, "png")
    dist_util.barrier()


def train(
    loop: TrainLoop,
    draw: Callable[[], Image.Image] | None = None,
    every: int = 0,
    *,
    unit: str = "image",
    note: str = "",
    images: ImageSource | None = None,
) -> None:
    """Train to the end in a claimed folder; if asked to stop, save and stop.

    A third request ends the training without a save; see `StopSignal`.

    Args:
        loop: the training loop, with its data.
        draw: function that makes a picture of samples, see `save_picture_if_due`.
        every: steps between pictures of samples, see `save_picture_if_due`.
        unit: name of one example.
        note: first lines of the log.
        images: images to learn from, which were opened; None: there is no end of examples.
    """
    # Remove files and rows of steps that are trained again, and open the log.
    dist_util.once(lambda: remove_unfinished(loop.out_dir, loop.done))
    dist_util.once(lambda: complete_digests(loop.out_dir, loop.done))
    dist_util.once(lambda: drop_later_rows(loop.out_dir, loop.done))
    open_run_log(loop.out_dir)
    if note:
        logger.log(note)
    for line in start_report.lines(loop, unit, images):
        logger.log(line)
    if loop.resume_checkpoint and Path(loop.resume_checkpoint).parent == loop.out_dir:
        # A kill may have come between this checkpoint and its picture.
        save_picture_if_due(loop, draw, every, missing=True)

    # Train.
    bar = {"unit": unit, "unit_scale": loop.global_batch, "initial": loop.done}
    ballot = dist_util.Ballot()
    with StopSignal() as signal:
        for _ in progress_bars.progress(loop.steps(), total=loop.max_steps or None, **bar):
            save_picture_if_due(loop, draw, every)
            reason = ballot.ask(signal.due())
            if reason and loop.done != loop.max_steps:
                why = "asked to stop" if reason == BY_SIGNAL else "the time limit is near: stopped"
                logger.log(f"{why} after {loop.done} steps")
                if loop.done % loop.save_interval:  # else it has just been saved
                    loop.save()
                stop(reason)
    logger.log(f"trained {loop.done} steps{_skipped(loop)}; the run is in {loop.out_dir}")


def _skipped(loop: TrainLoop) -> str:
    skipped, steps = loop.health.skipped, loop.health.steps
    return f", {skipped} of the last {steps} skipped" if skipped else ""


def train_on_images(
    training: Training,
    folder: RunFolder,
    images: FolderSettings,
    image_size: int,
    grid: GridSettings,
    draw_grid: Callable[[TrainLoop], Image.Image],
    condition: Callable[[Iterator[Batch]], Iterator[Batch]] = iter,
    classes: Classes | None = None,
    note: str = "",
) -> None:
    """Train a diffusion model on a folder of images, and save grids of samples on the way.

    Args:
        training: settings of the command.
        folder: the run folder, not claimed yet.
        images: folder of the images, and changes to them.
        image_size: side of the images in pixels.
        grid: steps between grids of samples.
        draw_grid: function that makes a picture of samples.
        condition: function that makes the loop's batches from batches of images.
        classes: classes of the images, for a class-conditional network.
        note: line of the log about the grids.
    """
    loop, network = training.loop, training.network
    trainer = training.create_loop(folder.path)
    batches = load_data(
        batch_size=loop.batch_size,
        image_size=image_size,
        class_cond=network.class_cond,
        in_channels=network.in_channels,
        seed=training.run.seed,
        start_step=trainer.resume_step,
        classes=classes,
        **images.loading,
    )
    trainer.data = condition(batches)
    training.claim(folder)
    if classes:
        note = "\n".join(filter(None, [record_classes(classes, folder.path), note]))
    source = batches.dataset.source
    train(trainer, lambda: draw_grid(trainer), grid.sample_interval, note=note, images=source)
