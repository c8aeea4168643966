"""Sampling, likelihood and super-resolution, as someone writes them after upstream's scripts."""

import os

import numpy as np
import torch as th
import torch.distributed as dist
import torch.nn.functional as F
from settings import TINY, gathered, load, parse, to_pixels

from guided_diffusion import dist_util, logger
from guided_diffusion.image_datasets import load_data
from guided_diffusion.script_util import (
    NUM_CLASSES,
    args_to_dict,
    classifier_defaults,
    create_classifier,
    create_model_and_diffusion,
    model_and_diffusion_defaults,
    sr_create_model_and_diffusion,
    sr_model_and_diffusion_defaults,
)


def sample_images(data, out, cond_fn=None, name="samples"):
    """Sample class-conditional images until there are enough, and save them on rank 0."""
    words = [*TINY, "--class_cond", "True", "--num_samples", 5, "--batch_size", 2]
    defaults = model_and_diffusion_defaults()
    args = parse(defaults, words, num_samples=10, batch_size=4, clip_denoised=True, use_ddim=True)
    model, diffusion = load(
        create_model_and_diffusion, defaults, args, os.path.join(data, "conditional.pt")
    )
    loop = diffusion.ddim_sample_loop if args.use_ddim else diffusion.p_sample_loop
    images, labels = [], []
    while len(images) * args.batch_size < args.num_samples:
        classes = th.randint(0, NUM_CLASSES, (args.batch_size,), device=dist_util.dev())
        sample = loop(
            lambda x, t, y: model(x, t, y),
            (args.batch_size, 3, args.image_size, args.image_size),
            clip_denoised=args.clip_denoised,
            model_kwargs={"y": classes},
            cond_fn=cond_fn,
            device=dist_util.dev(),
        )
        images.extend(gathered(to_pixels(sample)))
        labels.extend(gathered(classes))
        logger.log(f"created {len(images) * args.batch_size} samples")
    if dist.get_rank() == 0:
        array = np.concatenate(images)[: args.num_samples]
        shape = "x".join(str(size) for size in array.shape)
        path = os.path.join(logger.get_dir(), f"{name}_{shape}.npz")
        np.savez(path, array, np.concatenate(labels)[: args.num_samples])
    dist.barrier()


def sample_with_a_classifier(data, out):
    """Sample images that a classifier of noisy images steers."""
    defaults = classifier_defaults()
    words = "--image_size 64 --classifier_width 32 --classifier_depth 1".split()
    args = parse(defaults, [*words, "--classifier_attention_resolutions", "8"])
    classifier = create_classifier(**args_to_dict(args, defaults.keys()))
    dist_util.sync_params(classifier.parameters())
    classifier.to(dist_util.dev()).eval()
    steered = []

    def cond_fn(x, t, y=None):
        with th.enable_grad():
            x_in = x.detach().requires_grad_(True)
            log_probs = F.log_softmax(classifier(F.interpolate(x_in, size=64), t), dim=-1)
            chosen = log_probs[range(len(log_probs)), y.view(-1)]
            steered.append(len(x))
            return th.autograd.grad(chosen.sum(), x_in)[0] * 1.0

    sample_images(data, out, cond_fn, "guided")
    assert steered


def measure_likelihood(data, out):
    """Average the bound on the likelihood of images over the ranks."""
    defaults = model_and_diffusion_defaults()
    args = parse(defaults, [*TINY, "--learn_sigma", "True"], num_samples=4, batch_size=2)
    model, diffusion = load(
        create_model_and_diffusion, defaults, args, os.path.join(data, "learned.pt")
    )
    batches = load_data(
        data_dir=os.path.join(data, "images"),
        batch_size=args.batch_size,
        image_size=args.image_size,
        deterministic=True,
    )
    found, complete = [], 0
    while complete < args.num_samples:
        batch, kwargs = next(batches)
        terms = diffusion.calc_bpd_loop(model, batch.to(dist_util.dev()), model_kwargs=kwargs)
        total = terms["total_bpd"].mean() / dist.get_world_size()
        dist.all_reduce(total)
        vb = terms["vb"].mean(dim=0) / dist.get_world_size()
        dist.all_reduce(vb)
        found.append(total.item())
        complete += dist.get_world_size() * batch.shape[0]
        logger.log(f"done {complete} samples: bpd={np.mean(found)}")
    values = np.array([np.mean(found), complete, vb.sum().item()])
    np.savez(os.path.join(out, f"likelihood_{dist.get_rank()}.npz"), values)


def low_resolution(path, batch_size):
    """Yield this rank's share of base samples, again and again."""
    with np.load(path) as arrays:
        images = arrays["arr_0"]
    rank, ranks, buffer = dist.get_rank(), dist.get_world_size(), []
    while True:
        for index in range(rank, len(images), ranks):
            buffer.append(th.from_numpy(images[index]).float() / 127.5 - 1.0)
            if len(buffer) == batch_size:
                yield {"low_res": th.stack(buffer).permute(0, 3, 1, 2)}
                buffer = []


def enlarge(data, out):
    """Sample large images from small ones."""
    words = "--large_size 64 --small_size 16 --num_channels 32 --num_res_blocks 1".split()
    words += "--attention_resolutions 8 --diffusion_steps 40 --timestep_respacing 2".split()
    defaults = sr_model_and_diffusion_defaults()
    args = parse(defaults, words, num_samples=3, batch_size=1)
    model, diffusion = load(sr_create_model_and_diffusion, defaults, args)
    dist_util.sync_params(model.parameters())
    base, images = low_resolution(os.path.join(data, "base.npz"), args.batch_size), []
    while len(images) * args.batch_size < args.num_samples:
        kwargs = {key: value.to(dist_util.dev()) for key, value in next(base).items()}
        sample = diffusion.p_sample_loop(
            model, (args.batch_size, 3, args.large_size, args.large_size), model_kwargs=kwargs
        )
        images.extend(gathered(to_pixels(sample)))
    if dist.get_rank() == 0:
        np.savez(os.path.join(out, "enlarged.npz"), np.concatenate(images)[: args.num_samples])
    dist.barrier()
