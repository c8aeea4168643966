"""The package behind `import improved_diffusion` where this project is installed; see setup.py."""

import guided_diffusion.improved_diffusion  # noqa: F401  (takes the name over)
