"""Run a command by its name: `python -m guided_diffusion COMMAND [--FLAG VALUE ...]`."""

import importlib
import sys


def main() -> None:
    """Run the command that the command line names first."""
    name = sys.argv.pop(1)
    importlib.import_module(f"guided_diffusion.commands.{name}").main()


if __name__ == "__main__":
    main()
