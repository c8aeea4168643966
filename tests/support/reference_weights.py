"""Weights and inputs that are drawn rather than stored, as the reference numbers were computed.

Convention: an input is drawn by a seed; a parameter or buffer by the CRC-32 of its state-dict name.
"""

import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

REFERENCE = Path(__file__).parents[1] / "reference"


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal float32 numbers of a shape, the same on every machine."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


def load_drawn_weights(model: nn.Module) -> nn.Module:
    """Give every parameter and buffer of a float32 model its drawn value; returns the model."""
    state = {}
    for name, old in model.state_dict().items():
        value = draw(zlib.crc32(name.encode()), *old.shape)
        if old.ndim == 1:
            state[name] = 0.1 * value + float(name.endswith("weight"))
        else:
            state[name] = value / math.sqrt(math.prod(old.shape[1:]))
    model.load_state_dict(state)
    return model
