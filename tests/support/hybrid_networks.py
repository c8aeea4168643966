"""Small networks with attention of either kind, and pictures to show them."""

import torch

from guided_diffusion import script_util
from guided_diffusion.config.network_settings import ModelSettings
from guided_diffusion.config.settings import defaults
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.unet import UNetModel

TINY = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "16,8",
    "num_heads": 2,
}
PRIORITIES = ("global", "local", "both")


def build(seed: int = 0, **changes: object) -> UNetModel:
    """Build a network whose flags differ from the usual ones by these, with weights of a seed."""
    torch.manual_seed(seed)
    flags = defaults(ModelSettings, ProcessSettings) | TINY | changes
    model, _ = script_util.create_model_and_diffusion(**flags)
    # The last layers of blocks start at zero, behind which nothing shows.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("blend"):
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def hybrid(priority: str, **changes: object) -> UNetModel:
    """Build a network with hybrid attention that starts with a priority."""
    return build(attention_kind="hybrid", attention_priority=priority, **changes)


def pictures(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Return states [count, 3, 16, 16] and their timesteps."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 3, 16, 16, generator=generator)
    return x, torch.arange(count) * 7
