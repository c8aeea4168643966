"""Defaults in which the upstream projects differ from guided-diffusion."""

from typing import Any

# Where ADD's sampler differs from guided-diffusion: its network and its process.
ADD_DEFAULTS: dict[str, Any] = {
    "image_size": 256,
    "num_channels": 256,
    "num_head_channels": 64,
    "learn_sigma": True,
    "attention_resolutions": "32,16,8",
    "resblock_updown": True,
    "use_fp16": True,
}

# Choices of --defaults: the flags of each upstream whose defaults differ from guided-diffusion.
# Neither improved-diffusion nor ADD flips images in training.
DEFAULT_SETS: dict[str, dict[str, Any]] = {
    "guided": {},
    "improved": {"rescale_timesteps": True, "rescale_learned_sigmas": True, "augment": "none"},
    "ddib": {},
    "add": {**ADD_DEFAULTS, "augment": "none"},
}
