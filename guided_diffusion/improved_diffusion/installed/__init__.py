"""What `import improved_diffusion` finds where this package is installed; see setup.py."""

import guided_diffusion.improved_diffusion  # noqa: F401  (takes the name over)
