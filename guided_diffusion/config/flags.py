"""Flags as data: what a flag is, and the parser and default dicts that follow from a group of them.

A group is a dataclass (see `options`). A field made by `option` carries its help text, its choices
or range, and whether a run folder may be continued with another value of it (`free`: it changes
where or how fast, not what, is computed).
"""

import argparse
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import ArgumentError


def option(
    default: Any,
    help: str,
    *,
    choices: Iterable[Any] | None = None,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    also: Sequence[int] = (),
    free: bool = False,
) -> Any:
    """Declare one flag.

    Args:
        default: its value where it is not given; also tells its type.
        help: what it is, with its unit.
        choices: the values it may have.
        minimum: smallest value of a number.
        maximum: largest value of a number.
        also: values outside that range with a meaning of their own.
        free: whether a run may be continued with another value.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices) if choices else None,
        "free": free,
        "minimum": minimum,
        "maximum": maximum,
        "also": also,
    }
    return dataclasses.field(default=default, metadata=metadata)


def str2bool(v: str | bool) -> bool:
    """Read a boolean flag value.

    Raises:
        argparse.ArgumentTypeError: for anything but yes/no, true/false, t/f, y/n, 1/0.
    """
    if isinstance(v, bool):
        return v
    if v.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if v.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected a boolean such as True or False, got {v!r}")


def numbers(flag: str, text: str, kind: type = int) -> tuple:
    """Read numbers with commas between.

    Raises:
        UserError: naming the flag, if they are none.
    """
    try:
        return tuple(kind(part) for part in str(text).split(","))
    except ValueError:
        raise ArgumentError(flag, f"expected numbers with commas between, got {text!r}") from None


def names(flag: str, text: str, known: Collection[str]) -> list[str]:
    """Read names with commas between.

    Raises:
        UserError: naming the flag, if one is not known.
    """
    found = text.split(",")
    if not set(found) <= set(known):
        raise ArgumentError(flag, f"expected some of {','.join(known)}, got {text!r}")
    return found


class _Parser(argparse.ArgumentParser):
    # {value of --defaults: maker of the parser that has them}, this one among them; or no such flag
    variants: Mapping[str, Callable[[], argparse.ArgumentParser]] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if not self.variants:
            return super().parse_known_args(words, namespace)
        # The defaults of all other flags hang on this one, so it is read before them.
        own = self.get_default("defaults")
        reader = _Parser(prog=self.prog, add_help=False, allow_abbrev=False)
        reader.add_argument("--defaults", default=own, choices=tuple(self.variants))
        chosen = reader.parse_known_args(words)[0].defaults
        if chosen != own:
            return self.variants[chosen]().parse_known_args(words, namespace)
        found, rest = super().parse_known_args(words, namespace)
        del found.defaults  # the flags themselves tell
        return found, rest

    def error(self, message: str) -> NoReturn:
        # One line, as for every user mistake; the usage text would bury it.
        self.exit(2, f"error: {message} (--help lists all flags)\n")


def create_parser(
    description: str,
    *groups: type,
    overrides: Mapping[str, Any] | None = None,
    sets: Mapping[str, Mapping[str, Any]] | None = None,
) -> argparse.ArgumentParser:
    """Return the parser of a command with the flags of each group.

    Args:
        description: what the command is for.
        *groups: dataclasses of options.
        overrides: defaults of this command that are not those of its groups.
        sets: {name: defaults} for a flag `--defaults`, which chooses between them; the first is
            the one without the flag. What a set says of flags of other commands is passed over.
    """
    parser = _Parser(
        description=description, usage="%(prog)s [--FLAG VALUE ...]", allow_abbrev=False
    )
    if sets:
        shown, known = next(iter(sets)), defaults(*groups)
        _add_flag(parser, "defaults", shown, "whose defaults the other flags have", tuple(sets))
        parser.variants = {
            name: functools.partial(
                create_parser, description, *groups, overrides=overrides, sets={name: own, **sets}
            )
            for name, own in sets.items()
        }
        own = {flag: value for flag, value in sets[shown].items() if flag in known}
        overrides = {**(overrides or {}), **own}
    add_options(parser, *groups, overrides=overrides)
    return parser


def defaults(*groups: type) -> dict[str, Any]:
    """Return {flag: default} of the groups, in order; a later group wins."""
    return {f.name: f.default for group in groups for f in dataclasses.fields(group)}


def free_flags(*groups: type) -> set[str]:
    """Return the names of flags that may differ when a run is continued."""
    return {f.name for g in groups for f in dataclasses.fields(g) if f.metadata.get("free")}


def add_options(
    parser: argparse.ArgumentParser, *groups: type, overrides: Mapping[str, Any] | None = None
) -> None:
    """Add the flags of each group to a parser, once each, with help, unit, default and range."""
    overrides = dict(overrides or {})
    seen: set[str] = set()
    for group in groups:
        section = parser.add_argument_group(group.__doc__.splitlines()[0].rstrip("."))
        for field in dataclasses.fields(group):
            if field.name not in seen:
                seen.add(field.name)
                default = overrides.pop(field.name, field.default)
                _add_flag(section, field.name, default, **field.metadata)
    if overrides:
        raise ValueError(f"overrides name no flag: {sorted(overrides)}")


def _add_flag(
    parser: Any,
    name: str,
    default: Any,
    help: str,
    choices: tuple | None = None,
    free: bool = False,
    **limits: Any,
) -> None:
    shown = repr(default) if default == "" else default
    text = f"{help} (default: {shown})".replace("%", "%%")
    keywords: dict[str, Any] = {"default": default, "help": text}
    if isinstance(default, bool):
        keywords |= {"type": str2bool, "nargs": "?", "const": True, "metavar": "BOOL"}
    else:
        kind = str if default is None else type(default)
        keywords |= {"type": kind if kind is str else _number(kind, **limits), "choices": choices}
        if choices is None:
            keywords["metavar"] = kind.__name__.upper()
    parser.add_argument(f"--{name}", **keywords)


def _number(
    kind: type,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    also: Sequence[int] = (),
) -> Callable[[str], float]:
    expected = "a whole number" if kind is int else "a number"
    if maximum < math.inf:
        expected += f" from {minimum:g} to {maximum:g}"
    elif minimum > -math.inf:
        expected += f" of at least {minimum:g}"
    expected += "".join(f" or {value}" for value in also)

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and (minimum <= value <= maximum or value in also):
            return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return read


def add_dict_to_argparser(parser: argparse.ArgumentParser, default_dict: dict[str, Any]) -> None:
    """Add one flag per entry, typed by its default (None means text), as upstream's helper."""
    for name, default in default_dict.items():
        _add_flag(parser, name, default, help="see upstream's documentation")


def args_to_dict(args: Any, keys: Iterable[str]) -> dict[str, Any]:
    """Return {key: args.key}."""
    return {key: getattr(args, key) for key in keys}


def given_flags(argv: Iterable[str]) -> set[str]:
    """Return the names of the flags that stand on a command line, as opposed to defaults."""
    return {word[2:].split("=")[0] for word in argv if word.startswith("--")}
