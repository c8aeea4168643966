"""Training of a model, a classifier and a model of points, after upstream's scripts."""

import os

import numpy as np
import torch as th
import torch.distributed as dist
import torch.nn.functional as F
from settings import TINY, folder, gathered, load, parse
from torch.nn.parallel.distributed import DistributedDataParallel as DDP

from guided_diffusion import dist_util, logger
from guided_diffusion.fp16_util import MixedPrecisionTrainer
from guided_diffusion.image_datasets import load_data
from guided_diffusion.resample import create_named_schedule_sampler
from guided_diffusion.script_util import (
    classifier_and_diffusion_defaults,
    create_classifier_and_diffusion,
    create_model_and_diffusion,
    create_model_and_diffusion_2d,
    model_and_diffusion_defaults,
    model_and_diffusion_defaults_2d,
)
from guided_diffusion.synthetic_datasets import Synthetic2DType, load_2d_data
from guided_diffusion.train_util import TrainLoop, parse_resume_step_from_filename

LOOP = dict(
    schedule_sampler="uniform",
    lr=1e-3,
    weight_decay=0.0,
    lr_anneal_steps=0,
    batch_size=1,
    microbatch=-1,
    ema_rate="0.9",
    log_interval=10,
    save_interval=10000,
    resume_checkpoint="",
    use_fp16=False,
    fp16_scale_growth=1e-3,
)


def run(model, diffusion, data, args):
    """Run upstream's loop with the flags of its script."""
    TrainLoop(
        model=model,
        diffusion=diffusion,
        data=data,
        batch_size=args.batch_size,
        microbatch=args.microbatch,
        lr=args.lr,
        ema_rate=args.ema_rate,
        log_interval=args.log_interval,
        save_interval=args.save_interval,
        resume_checkpoint=args.resume_checkpoint,
        use_fp16=args.use_fp16,
        fp16_scale_growth=args.fp16_scale_growth,
        schedule_sampler=create_named_schedule_sampler(args.schedule_sampler, diffusion),
        weight_decay=args.weight_decay,
        lr_anneal_steps=args.lr_anneal_steps,
    ).run_loop()


def train_images(data, out):
    """Train on pictures for two steps, and again from what that saved for two more."""
    words = [*TINY, "--timestep_respacing=", "--class_cond", "True", "--batch_size", 2]
    words += ["--save_interval", 2, "--log_interval", 1]
    defaults, place = model_and_diffusion_defaults(), folder(out, "trained")
    resume = ""
    for last in (2, 4):
        args = parse(
            defaults,
            [*words, "--lr_anneal_steps", last, "--resume_checkpoint", resume],
            **{key: value for key, value in LOOP.items() if key not in defaults},
        )
        model, diffusion = load(create_model_and_diffusion, defaults, args)
        batches = load_data(
            data_dir=os.path.join(data, "images"),
            batch_size=args.batch_size,
            image_size=args.image_size,
            class_cond=args.class_cond,
        )
        with logger.scoped_configure(dir=place):
            run(model.train(), diffusion, batches, args)
        resume = os.path.join(place, f"model{last:06d}.pt")
    assert parse_resume_step_from_filename(resume) == 4
    sums = gathered(th.stack([p.detach().double().sum() for p in model.parameters()]))
    if dist.get_rank() == 0:
        np.savez(os.path.join(out, "trained.npz"), np.stack(sums))


def train_points(data, out):
    """Train a model of points in the plane."""
    words = "--num_channels 32 --diffusion_steps 40 --batch_size 8 --lr_anneal_steps 2".split()
    defaults = model_and_diffusion_defaults_2d()
    args = parse(
        defaults,
        [*words, "--save_interval", 2],
        task=1,
        **{key: value for key, value in LOOP.items() if key not in defaults},
    )
    model, diffusion = load(create_model_and_diffusion_2d, defaults, args)
    shape = list(Synthetic2DType)[args.task]
    with logger.scoped_configure(dir=folder(out, "points")):
        points = load_2d_data(batch_size=args.batch_size, shape=shape, n_samples=100)
        run(model, diffusion, points, args)


def train_classifier(data, out):
    """Train a classifier of noisy pictures for two steps, on all ranks together."""
    words = "--image_size 64 --classifier_width 32 --classifier_depth 1".split()
    words += "--classifier_attention_resolutions 8 --diffusion_steps 40".split()
    defaults = classifier_and_diffusion_defaults()
    args = parse(defaults, words, batch_size=2, iterations=2, lr=1e-3, weight_decay=0.05)
    model, diffusion = load(create_classifier_and_diffusion, defaults, args)
    sampler = create_named_schedule_sampler("uniform", diffusion)
    trainer = MixedPrecisionTrainer(model=model, initial_lg_loss_scale=16.0)
    dist_util.sync_params(model.parameters())
    ddp_model = DDP(model, broadcast_buffers=False, bucket_cap_mb=128, find_unused_parameters=False)
    batches = load_data(
        data_dir=os.path.join(data, "images"),
        batch_size=args.batch_size,
        image_size=args.image_size,
        class_cond=True,
    )
    optimizer = th.optim.AdamW(trainer.master_params, lr=args.lr, weight_decay=args.weight_decay)
    for step in range(args.iterations):
        logger.logkv("step", step)
        batch, extra = next(batches)
        labels, batch = extra["y"].to(dist_util.dev()), batch.to(dist_util.dev())
        t, _ = sampler.sample(batch.shape[0], dist_util.dev())
        logits = ddp_model(diffusion.q_sample(batch, t), timesteps=t)
        loss = F.cross_entropy(logits, labels, reduction="none").mean()
        trainer.zero_grad()
        trainer.backward(loss)
        trainer.optimize(optimizer)
        logger.logkv_mean("train_loss", loss.item())
        logger.dumpkvs()
    sums = gathered(th.stack([p.detach().double().sum() for p in model.parameters()]))
    if dist.get_rank() == 0:
        path = os.path.join(out, "classifier.pt")
        th.save(trainer.master_params_to_state_dict(trainer.master_params), path)
        np.savez(os.path.join(out, "classifier.npz"), np.stack(sums))
    dist.barrier()
