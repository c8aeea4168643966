"""Train DDIB's two-dimensional model of one distribution of points.

Running the same command again resumes from the newest whole checkpoint in --out_dir.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from guided_diffusion import dist_util, flags, logger, options, run, synthetic_bridge, train_util
from guided_diffusion.flags import args_to_dict
from guided_diffusion.resample import create_named_schedule_sampler
from guided_diffusion.script_util import (
    create_model_and_diffusion_2d,
    model_and_diffusion_defaults_2d,
)
from guided_diffusion.synthetic_datasets import Synthetic2DType, load_2d_data

GROUPS = (
    options.SyntheticTrainOptions, options.SyntheticModelOptions, options.DiffusionOptions,
    options.RunOptions,
)  # fmt: skip
LOOP_FLAGS = (
    "batch_size microbatch lr ema_rate log_interval save_interval use_fp16 fp16_scale_growth "
    "weight_decay lr_anneal_steps precision seed max_steps"
).split()


@run.command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command with the given flags, those of the command line by default."""
    # Read the flags, join the other ranks, and see whether the run folder can be ours.
    args = create_argparser().parse_args(argv)
    train_util.refuse_flags(args.ema_rate, args.use_fp16, args.precision)
    dist_util.setup_dist(args.device)
    args.precision = run.settle_precision(args.precision, dist_util.dev())
    folder = synthetic_bridge.run_of_task(args.task)
    out_dir = Path(args.out_dir or os.getenv("OPENAI_LOGDIR") or folder)
    identity = (out_dir, "synthetic_train", vars(args), flags.free_flags(*GROUPS))
    run.refuse_other_run(*identity)

    # Build everything that a wrong flag or a broken file can stop.
    torch.manual_seed(int(run.generator(args.seed, 6).integers(2**62)))  # of the first weights
    model, diffusion = create_model_and_diffusion_2d(
        **args_to_dict(args, model_and_diffusion_defaults_2d())
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
    shape = Synthetic2DType(args.task)
    loop.data = load_2d_data(
        args.batch_size, shape, seed=args.seed, start_step=loop.resume_step
    )

    # Claim the run folder and train.
    run.claim(*identity)
    train_util.open_loop_log(out_dir)
    logger.log(f"training on from {loop.start}" if loop.start else "training from scratch")
    bar = {"unit": "point", "unit_scale": loop.global_batch, "initial": loop.done}
    for _ in run.progress(loop.steps(), total=loop.max_steps or None, **bar):
        pass
    logger.log(f"trained {loop.done} steps; the run is in {out_dir}")


def create_argparser() -> argparse.ArgumentParser:
    """Return the parser of all flags."""
    return flags.create_parser(__doc__, *GROUPS)


if __name__ == "__main__":
    main()
