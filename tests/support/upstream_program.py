"""What the strangers share: small networks and data, built the way upstream's scripts build them.

A stranger is a program written for upstream that knows nothing of this project. Only names,
arguments and attributes of upstream's public modules appear in these tests: a failure means that
such a program stopped to run unmodified.
"""

import argparse
import gzip
import json

import numpy as np
import torch as th
import torch.nn as nn
from support.reference_images import REFERENCE

from guided_diffusion import dist_util
from guided_diffusion.resample import create_named_schedule_sampler
from guided_diffusion.script_util import (
    NUM_CLASSES,
    add_dict_to_argparser,
    args_to_dict,
    create_model_and_diffusion,
    model_and_diffusion_defaults,
)

# Per repository and module, what it offers; see `test_stranger_imports.py`.
NAMESPACES = json.loads(gzip.decompress((REFERENCE / "upstream_namespaces.json.gz").read_bytes()))
SMALL = (
    "--image_size 16 --num_channels 32 --num_res_blocks 1 --channel_mult 1,2 --num_heads 2 "
    "--attention_resolutions 8 --diffusion_steps 100 --timestep_respacing 10"
).split()
SHAPE = (2, 3, 16, 16)


def create_argparser():
    """Return a parser like the one in upstream's image_sample.py."""
    defaults = dict(clip_denoised=True, num_samples=4, batch_size=2, use_ddim=False, model_path="")
    defaults.update(model_and_diffusion_defaults())
    parser = argparse.ArgumentParser()
    add_dict_to_argparser(parser, defaults)
    return parser


def build(*flags):
    """Return arguments, network and process of a small model that these flags change."""
    args = create_argparser().parse_args([*SMALL, *flags])
    model, diffusion = create_model_and_diffusion(
        **args_to_dict(args, model_and_diffusion_defaults().keys())
    )
    return args, awake(model).to(dist_util.dev()).eval(), diffusion


def awake(model):
    """Draw all weights of a network, whose layers that start at zero would hide its input."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model


class NoisyImages(th.utils.data.Dataset):
    """Eight pictures of noise, each of its own class."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        values = np.random.RandomState(index).uniform(-1, 1, (3, 16, 16)).astype(np.float32)
        return values, {"y": np.array(index % NUM_CLASSES, dtype=np.int64)}


def batches():
    """Yield batches of four of them for ever."""
    loader = th.utils.data.DataLoader(NoisyImages(), batch_size=4, drop_last=True)
    while True:
        yield from loader


def loop_arguments(model, diffusion, **changes):
    """Return the arguments that upstream's image_train.py gives its loop."""
    arguments = dict(
        model=model,
        diffusion=diffusion,
        data=batches(),
        batch_size=4,
        microbatch=2,
        lr=1e-4,
        ema_rate="0.9,0.99",
        log_interval=1,
        save_interval=2,
        resume_checkpoint="",
        use_fp16=False,
        fp16_scale_growth=1e-3,
        schedule_sampler=create_named_schedule_sampler("uniform", diffusion),
        weight_decay=0.0,
        lr_anneal_steps=3,
    )
    return {**arguments, **changes}


def differ(one, other):
    """Return whether two lists of tensors differ in any number."""
    return any(not th.equal(a, b) for a, b in zip(one, other, strict=True))
