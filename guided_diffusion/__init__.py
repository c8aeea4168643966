"""Progressive pathology images from diffusion models: train, translate, evaluate."""

__version__ = "0.1.0"
