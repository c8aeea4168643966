"""Progressive pathology images from diffusion models: train, translate, evaluate."""

import importlib
import typing

__all__ = ()
__version__ = "0.1.0"

if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> typing.Any:
        """Import a module when it is first read, as upstream's modules do with one another."""
        try:
            if name.isidentifier() and not name.startswith("_"):
                return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
