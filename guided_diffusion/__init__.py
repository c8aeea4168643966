"""Progressive pathology images from diffusion models: train, translate, grade."""
