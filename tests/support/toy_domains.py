"""Domains without a trained network, for tests of what is built on domains."""

from pathlib import Path

import torch

from guided_diffusion.config.network_settings import ModelSettings
from guided_diffusion.diffusion.settings import ProcessSettings
from guided_diffusion.models.domains import Domain
from guided_diffusion.models.script_util import build_process


class ReferenceSource(torch.nn.Module):
    """The network of the reference numbers (learned variance: eps and v on the channels)."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        tt = (t.float() / 1000).reshape(-1, 1, 1, 1)
        eps = 0.9 * x * torch.cos(tt) + 0.05 * torch.sin(3 * x)
        return torch.cat([self.bend(eps, x), 0.5 * torch.tanh(x + tt)], dim=1)

    def bend(self, eps: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return eps


class ReferenceTarget(ReferenceSource):
    """The target network of the reference pipeline."""

    def bend(self, eps: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return 0.9 * eps + 0.1 * torch.tanh(x.roll(1, 1))


def domain(network: torch.nn.Module, image_size: int, respacing: str = "") -> Domain:
    """A domain of 1000 linear steps, respaced, with learned variances."""
    process = ProcessSettings(learn_sigma=True, timestep_respacing=respacing)
    settings = ModelSettings(image_size=image_size)
    return Domain(network, build_process(process), "toy", Path("toy.pt"), settings, process)
