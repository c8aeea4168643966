"""What the scripts of this folder share: flags, models from files, and the work of each rank.

The scripts are written as upstream's own: they know upstream's modules and torch alone.
"""

import argparse
import os

import torch as th
import torch.distributed as dist

from guided_diffusion import dist_util
from guided_diffusion.script_util import add_dict_to_argparser, args_to_dict

TINY = (
    "--image_size 16 --num_channels 32 --num_res_blocks 1 --channel_mult 1,2 --num_heads 2 "
    "--attention_resolutions 8 --diffusion_steps 40 --timestep_respacing ddim4"
).split()


def parse(defaults, words=(), **own):
    """Parse a command line as upstream's scripts do, `own` being the script's own flags."""
    parser = argparse.ArgumentParser()
    add_dict_to_argparser(parser, {**own, **defaults})
    return parser.parse_args([str(word) for word in words])


def load(create, defaults, args, weights=""):
    """Build a model from flags, and load its weights where there are any."""
    model, diffusion = create(**args_to_dict(args, defaults.keys()))
    if weights:
        model.load_state_dict(dist_util.load_state_dict(weights, map_location="cpu"))
    model.to(dist_util.dev())
    return model.eval(), diffusion


def gathered(tensor):
    """Return every rank's tensor, in the order of ranks."""
    parts = [th.zeros_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return [part.cpu().numpy() for part in parts]


def to_pixels(sample):
    """Return images as [N, H, W, C] in 8 bits."""
    sample = ((sample + 1) * 127.5).clamp(0, 255).to(th.uint8)
    return sample.permute(0, 2, 3, 1).contiguous()


def folder(out, name):
    """Make a folder of a script, and return its path."""
    path = os.path.join(out, name)
    os.makedirs(path, exist_ok=True)
    return path
