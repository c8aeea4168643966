"""The parsers of all commands, read as a user meets them."""

import argparse
import pkgutil

from support.cli import load_script

from guided_diffusion import commands
from guided_diffusion.runtime.command import Command


def all_commands() -> dict[str, Command]:
    """Return every command by its name, and every measurement of the benchmark."""
    found = {}
    for place in pkgutil.iter_modules(commands.__path__):
        module = load_script(place.name)
        for name, measurement in getattr(module, "MEASUREMENTS", {}).items():
            found[f"benchmark {name}"] = measurement.command()
        if isinstance(getattr(module, "main", None), Command):
            found[module.main.name] = module.main
    return found


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return {"--name": action} of the flags of a parser, --help excepted."""
    flags = (action for action in parser._actions if action.option_strings)
    return {action.option_strings[0]: action for action in flags if action.dest != "help"}
