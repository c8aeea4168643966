"""Progressive pathology images from diffusion models: train, translate, grade."""

__version__ = "0.1.0"
