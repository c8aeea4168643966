"""The flags of all commands, read as a user meets them."""

import argparse

from guided_diffusion.commands import flag_table
from guided_diffusion.runtime.command import Command

COMMANDS: dict[str, Command] = dict(flag_table.commands())


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return {"--name": action} of the flags of a parser, --help excepted."""
    flags = (action for action in parser._actions if action.option_strings)
    return {action.option_strings[0]: action for action in flags if action.dest != "help"}
