"""The parser of a command: from its arguments to typed settings.

Boolean flags take upstream's syntax (`--flag True`), and `--flag` alone means True. A mistake ends
in one line and exit code 2.
"""

import argparse
import contextlib
import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import ArgumentError
from .settings import Limits, Settings, defaults, fields_of

Sets = Mapping[str, Mapping[str, Any]]
_UNSET = object()


def parse(
    argv: Sequence[str] | None, description: str, *groups: type[Settings], **options: Any
) -> tuple[Any, ...]:
    """Parse the arguments of a command into settings, one instance per group.

    Args:
        argv: arguments after the command's name; None: `sys.argv[1:]`.
        description: text at the head of the help.
        *groups: groups of settings. A name that several groups have is one flag, with the default
            of the first.
        **options: `overrides` and `sets`, see `create_parser`.

    Returns:
        One instance per group, which knows the names of the settings that were given.
    """
    parser = create_parser(description, *groups, **options)
    # argparse leaves a value that the namespace has already, unless its flag is given.
    unset = argparse.Namespace(**dict.fromkeys(defaults(*groups), _UNSET))
    found = vars(parser.parse_args(argv, unset))
    given = {name for name, value in found.items() if value is not _UNSET}
    values = {name: found[name] if name in given else parser.get_default(name) for name in found}
    own = [defaults(group).keys() for group in groups]
    return tuple(
        group(**{name: values[name] for name in known}).with_given(given & known)
        for group, known in zip(groups, own, strict=True)
    )


def create_parser(
    description: str,
    *groups: type[Settings],
    overrides: Mapping[str, Any] | None = None,
    sets: Sets | None = None,
) -> argparse.ArgumentParser:
    """Return a parser with the settings of each group as flags.

    Args:
        description: text at the head of the help.
        *groups: groups of settings.
        overrides: {name: default} where this command differs from its groups.
        sets: {name: {name of a setting: default}}, the choices of a flag `--defaults`, whose own
            default is the first. Settings that are not flags of this command are ignored.

    Raises:
        ValueError: if an override names no flag.
    """
    parser = _Parser(
        prog=os.path.basename(sys.argv[0]),  # argparse would name the package under python -m
        description=description,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    if sets:
        text = "project from which the defaults of the other flags come"
        _add_flag(parser, "defaults", next(iter(sets)), text, choices=tuple(sets))
    known: set[str] = set()
    for group in groups:
        section = parser.add_argument_group(str(group.__doc__).splitlines()[0].rstrip("."))
        for field in fields_of(group):
            if field.name not in known:
                known.add(field.name)
                _add_flag(section, field.name, field.default, **field.metadata)
    places = [field.metadata["place"] for field in fields_of(*groups)]
    parser.usage = " ".join(["%(prog)s", *filter(None, places), "[--FLAG VALUE ...]"])
    if unknown := sorted((overrides or {}).keys() - known):
        raise ValueError(f"overrides name no flag: {unknown}")
    parser.set_defaults(**overrides or {})
    parser.usual = {name: parser.get_default(name) for name in known}
    for name, values in (sets or {}).items():
        parser.sets[name] = {flag: value for flag, value in values.items() if flag in known}
    parser.set_defaults(**next(iter(parser.sets.values()), {}))
    return parser


class _Formatter(argparse.HelpFormatter):
    """A formatter that shows the default of each flag, as it is when help is printed."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if not action.option_strings or action.dest == "help":
            return action.help or ""
        if action.default == "" and getattr(action, "must_be_given", False):
            return f"{action.help} (required)".replace("%", "%%")
        return _with_default(action.help, action.default)


def _with_default(text: str | None, default: Any) -> str:
    return f"{text} (default: {default if default != '' else repr('')})".replace("%", "%%")


class _Parser(argparse.ArgumentParser):
    """An argument parser with sets of defaults and one-line errors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # A value may begin with a minus: -2000,2000 and -1e-3 are no flags.
        self._negative_number_matcher = re.compile(r"-\.?\d")
        self.sets: dict[str, dict[str, Any]] = {}
        self.usual: dict[str, Any] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if not self.sets:
            return super().parse_known_args(words, namespace)
        # The defaults of all other flags depend on this one, so it is read before them.
        ahead = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        ahead.add_argument("--defaults", default=next(iter(self.sets)), nargs="?")
        chosen = ahead.parse_known_args(words)[0].defaults
        self.set_defaults(**{**self.usual, **self.sets.get(chosen, {})}, defaults=chosen)
        found, rest = super().parse_known_args(words, namespace)
        del found.defaults  # only the flags that it set are settings
        return found, rest

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [word.partition("=")[0].lower() for word in unknown if word[:2] == "--"]
            known = ["--help", *["--defaults"] * bool(self.sets), *(f"--{n}" for n in self.usual)]
            near = difflib.get_close_matches(flags[0], known, 1, cutoff=0.75) if flags else []
            hint = "".join(f"; did you mean {one}?" for one in near)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return found

    def error(self, message: str) -> NoReturn:
        # One line, as for every user mistake, without argparse's usage text.
        self.exit(2, f"error: {message} (--help lists all flags)\n")


def _add_flag(
    parser: Any,
    name: str,
    default: Any,
    help: str,
    choices: tuple | None = None,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    free: bool = False,
    place: str = "",
    required: bool = False,
) -> None:
    if place:
        parser.add_argument(name, metavar=place, help=help)
        return
    keywords: dict[str, Any] = {"default": default, "help": help}
    if isinstance(default, bool):
        keywords |= {"type": str2bool, "nargs": "?", "const": True, "metavar": "BOOL"}
    else:
        kind = str if default is None else type(default)
        keywords |= {"type": kind if kind is str else _number(kind, limits), "choices": choices}
        if choices is None:
            keywords["metavar"] = kind.__name__.upper()
    action = parser.add_argument(f"--{name}", **keywords)
    action.must_be_given = required


def _number(kind: type, limits: Limits) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = None
        with contextlib.suppress(ValueError, OverflowError):
            value = kind(text)
            if limits.allow(value):
                return value
        raise argparse.ArgumentTypeError(f"expected {limits.expected(kind, value)}, got {text!r}")

    return read


def str2bool(v: str | bool) -> bool:
    """Read the value of a boolean flag.

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


def add_dict_to_argparser(parser: argparse.ArgumentParser, default_dict: dict[str, Any]) -> None:
    """Add one flag per entry, typed by its default (None means text), as upstream's helper."""
    for name, default in default_dict.items():
        _add_flag(parser, name, default, _with_default("see upstream's documentation", default))


def args_to_dict(args: Any, keys: Iterable[str]) -> dict[str, Any]:
    """Return {key: args.key}, as upstream's helper."""
    return {key: getattr(args, key) for key in keys}


def numbers(name: str, text: str, kind: type = int) -> tuple:
    """Read numbers with commas between, given for the argument `name`.

    Raises:
        ArgumentError: if the text holds something else.
    """
    try:
        return tuple(kind(part) for part in str(text).split(","))
    except ValueError:
        raise ArgumentError(name, f"expected numbers with commas between, got {text!r}") from None


def names(name: str, text: str, known: Collection[str]) -> list[str]:
    """Read known names with commas between, given for the argument `name`.

    Raises:
        ArgumentError: if a name is not known.
    """
    found = text.split(",")
    if not set(found) <= set(known):
        raise ArgumentError(name, f"expected some of {','.join(known)}, got {text!r}")
    return found
