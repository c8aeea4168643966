"""Translation of points and images, after the scripts of DDIB and ADD."""

import os

import numpy as np
import torch as th
import torch.distributed as dist
from settings import TINY, load, parse

from guided_diffusion import dist_util, logger
from guided_diffusion.fourier_trans import get_adaptive_list
from guided_diffusion.image_datasets import load_source_data_for_domain_translation
from guided_diffusion.script_util import (
    create_model_and_diffusion,
    create_model_and_diffusion_2d,
    model_and_diffusion_defaults,
    model_and_diffusion_defaults_2d,
)
from guided_diffusion.synthetic_datasets import Synthetic2DType, load_2d_data


def points_model(data, name):
    """Return a model of points in the plane, its process and its flags."""
    words = "--num_channels 32 --diffusion_steps 40 --timestep_respacing 10".split()
    defaults = model_and_diffusion_defaults_2d()
    args = parse(defaults, words, batch_size=6, source=0, target=3)
    return *load(create_model_and_diffusion_2d, defaults, args, os.path.join(data, name)), args


def translate_points(data, out):
    """Translate points of one shape to another, and back: source, latent, target, cycle."""
    source, diffusion, args = points_model(data, "points_a.pt")
    target, _, _ = points_model(data, "points_b.pt")
    shape, kept = list(Synthetic2DType)[args.source], []
    data_loader = load_2d_data(
        batch_size=args.batch_size, shape=shape, training=False, n_samples=20
    )
    for i, (points, extra) in enumerate(data_loader):
        logger.log(f"translating batch {i}, {points.shape[0]} points, {extra}")
        points = points.to(dist_util.dev())
        noise = diffusion.ddim_reverse_sample_loop(
            source, points, clip_denoised=False, device=dist_util.dev()
        )
        moved = diffusion.ddim_sample_loop(
            target, (args.batch_size, 2), noise=noise, clip_denoised=False, device=dist_util.dev()
        )
        back = diffusion.ddim_reverse_sample_loop(target, moved, clip_denoised=False)
        again = diffusion.ddim_sample_loop(
            source, (args.batch_size, 2), noise=back, clip_denoised=False
        )
        kept.append(th.stack([points, noise, moved, again]).cpu().numpy())
    path = os.path.join(out, f"points_{dist.get_rank()}.npz")
    np.savez(path, np.concatenate(kept, axis=1), [part.shape[1] for part in kept])


def image_model(data, name, *flags):
    """Return a model of images, its process and its flags."""
    defaults = model_and_diffusion_defaults()
    args = parse(defaults, [*TINY, *flags], batch_size=2, val_data_dir="", amount=3)
    return *load(create_model_and_diffusion, defaults, args, os.path.join(data, name)), args


def translate_classes(data, out):
    """Translate each rank's images from the class in their name to the next one."""
    model, diffusion, args = image_model(data, "conditional.pt", "--class_cond", "True")
    loader = load_source_data_for_domain_translation(
        batch_size=args.batch_size,
        image_size=args.image_size,
        class_cond=True,
        data_dir=os.path.join(data, "numbered"),
    )
    for i, (source, extra) in enumerate(loader):
        logger.log(f"translating batch {i}, shape {source.shape}")
        source, y = source.to(dist_util.dev()), extra["y"].to(dist_util.dev())
        noise = diffusion.ddim_reverse_sample_loop(
            model, source, clip_denoised=False, model_kwargs={"y": y}, device=dist_util.dev()
        )
        target = diffusion.ddim_sample_loop(
            model,
            (args.batch_size, 3, args.image_size, args.image_size),
            noise=noise,
            clip_denoised=False,
            model_kwargs={"y": y + 1},
            device=dist_util.dev(),
            eta=0.0,
        )
        for path, image, label in zip(extra["filepath"], target, y, strict=True):
            name = os.path.basename(path).split(".")[0]
            np.savez(os.path.join(out, f"class_{name}.npz"), image.cpu().numpy(), label.item())


def progress_images(data, out):
    """Make the images between two domains: measure, choose depths, walk from one to the next."""
    source, diffusion, args = image_model(data, "conditionless.pt", "--learn_sigma", "True")
    target, _, _ = image_model(data, "learned.pt", "--learn_sigma", "True")
    loader = load_source_data_for_domain_translation(
        batch_size=1,
        image_size=args.image_size,
        class_cond=False,
        data_dir=os.path.join(data, "numbered"),
    )
    for image, extra in loader:
        image = image.to(dist_util.dev())
        magnitudes = diffusion.fourier_frequency_list_loop(source, image, clip_denoised=False)
        depths = get_adaptive_list(magnitudes, args.amount)
        latent, previous, made = image, 0, []
        for depth in depths:
            latent = diffusion.ddim_reverse_sample_loop(
                source,
                latent,
                clip_denoised=False,
                amount=args.amount,
                diffway_start=previous,
                diffway_end=depth,
                device=dist_util.dev(),
            )
            made.append(
                diffusion.ddim_sample_loop(
                    target,
                    tuple(image.shape),
                    noise=latent,
                    clip_denoised=False,
                    amount=args.amount,
                    diffway_end=depth,
                    device=dist_util.dev(),
                )
            )
            previous = depth
        name = os.path.basename(extra["filepath"][0]).split(".")[0]
        np.savez(os.path.join(out, f"progress_{name}.npz"), th.cat(made).cpu().numpy(), depths)
