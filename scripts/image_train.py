"""Train the diffusion model of one domain on a folder of images.

Running the same command again resumes from the newest whole checkpoint in --out_dir.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from guided_diffusion import dist_util, flags, logger, options, report, run, train_util
from guided_diffusion.flags import args_to_dict
from guided_diffusion.image_datasets import load_data
from guided_diffusion.resample import create_named_schedule_sampler
from guided_diffusion.script_util import (
    NUM_CLASSES,
    create_gaussian_diffusion,
    create_model_and_diffusion,
    diffusion_defaults,
    model_and_diffusion_defaults,
)

GROUPS = (
    options.TrainOptions, options.ModelOptions, options.DiffusionOptions, options.RunOptions,
)  # fmt: skip
GRID_IMAGES = 16
LOOP_FLAGS = (
    "batch_size microbatch lr ema_rate log_interval save_interval use_fp16 fp16_scale_growth "
    "weight_decay lr_anneal_steps precision seed max_steps"
).split()
DATA_FLAGS = (
    "data_dir batch_size image_size class_cond in_channels random_crop augment seed".split()
)


@run.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, join the other ranks, and see whether the run folder can be ours.
    args = create_argparser().parse_args(argv)
    train_util.refuse_flags(args.ema_rate, args.use_fp16, args.precision)
    dist_util.setup_dist(args.device)
    args.precision = run.settle_precision(args.precision, dist_util.dev())
    out_dir = Path(args.out_dir or os.getenv("OPENAI_LOGDIR") or default_out_dir(args.data_dir))
    identity = (out_dir, "image_train", vars(args), flags.free_flags(*GROUPS))
    run.refuse_other_run(*identity)

    # Build everything that a wrong flag or a broken file can stop.
    torch.manual_seed(int(run.generator(args.seed, 6).integers(2**62)))  # of the first weights
    model, diffusion = create_model_and_diffusion(
        **args_to_dict(args, model_and_diffusion_defaults())
    )
    loop = train_util.TrainLoop(
        model=model.to(dist_util.dev()),
        diffusion=diffusion,
        data=(),
        schedule_sampler=create_named_schedule_sampler(args.schedule_sampler, diffusion),
        resume_checkpoint=args.resume_checkpoint,
        out_dir=out_dir,
        **args_to_dict(args, LOOP_FLAGS),
    )
    loop.data = load_data(start_step=loop.resume_step, **args_to_dict(args, DATA_FLAGS))

    # Claim the run folder and train, with a grid of samples every so often.
    run.claim(*identity)
    train_util.open_loop_log(out_dir)
    logger.log(f"training on from {loop.start}" if loop.start else "training from scratch")
    every = args.save_interval if args.sample_interval == -1 else args.sample_interval
    bar = {"unit": "image", "unit_scale": loop.global_batch, "initial": loop.done}
    for done in run.progress(loop.steps(), total=loop.max_steps or None, **bar):
        if every and (done % every == 0 or done == loop.max_steps):
            save_grid(loop, args, out_dir / "samples" / f"{done:06d}.png")
    logger.log(f"trained {loop.done} steps; the run is in {out_dir}")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS)


def default_out_dir(data_dir: str) -> str:
    """Return results/train_<name of the image folder>."""
    return os.path.join("results", f"train_{Path(data_dir).resolve().name or 'images'}")


def save_grid(loop: train_util.TrainLoop, args: argparse.Namespace, path: Path) -> None:
    """Draw samples with the averaged weights and save them as one picture (rank 0)."""
    if dist_util.rank() == 0:
        steps = min(args.sample_steps, args.diffusion_steps)
        asked = args_to_dict(args, diffusion_defaults()) | {"timestep_respacing": str(steps)}
        diffusion = create_gaussian_diffusion(steps=asked.pop("diffusion_steps"), **asked)
        shape = (args.in_channels, args.image_size, args.image_size)
        noise = run.ImageNoise(args.seed, range(GRID_IMAGES)).draw(shape).to(loop.device)
        y = torch.arange(GRID_IMAGES, device=loop.device) % NUM_CLASSES
        with loop.averaged_weights() as model, run.autocast(loop.device, args.precision):
            images = diffusion.ddim_sample_loop(
                model, noise.shape, noise, model_kwargs={"y": y} if args.class_cond else None
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with run.atomic_write(path) as file:
            report.square_grid(report.to_uint8(images)).save(file, "png")
    dist_util.barrier()


if __name__ == "__main__":
    main()
