"""improved-diffusion under its own name.

    import guided_diffusion.improved_diffusion

After this line `import improved_diffusion`, `from improved_diffusion.unet import UNetModel` and so
on reach the code of this package. Where the package is installed, the line is not needed.

The two projects share most of their names. Modules of this folder hold the names that differ, with
improved-diffusion's arguments and defaults; all other modules serve both projects.
"""

import importlib
import sys

OWN = ("fp16_util", "image_datasets", "script_util", "train_util", "unet")
SHARED = "dist_util gaussian_diffusion logger losses nn resample respace".split()

sys.modules["improved_diffusion"] = sys.modules[__name__]
for _name in (*OWN, *SHARED):
    _home = __name__ if _name in OWN else "guided_diffusion"
    _module = importlib.import_module(f"{_home}.{_name}")
    sys.modules[f"improved_diffusion.{_name}"] = globals()[_name] = _module
