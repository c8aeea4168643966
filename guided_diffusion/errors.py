"""Mistakes of a user, told in one line: what was expected, what was found, and where.

A function names its own argument (`ArgumentError`), or just the file or folder (`UserError`). A
command then names its flag, by the context `blame` around the call.
"""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any


class UserError(ValueError):
    """A mistake in a flag, a file or a folder: reported in one line, exit code 2, no traceback."""

    @property
    def report(self) -> str:
        """The line that a command ends with."""
        return str(self)


class ArgumentError(UserError):
    """A mistake in one argument, which a command reports under the flag of the same name.

    Args:
        name: name of the argument, without dashes; in capitals if it is not a flag, as REF.
        problem: text that names the expected and the found value.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"

    @property
    def report(self) -> str:
        """The line that a command ends with."""
        return str(self) if self.name.isupper() else f"--{self}"


class DivergedError(UserError):
    """The numbers of a training are not finite any more, or its steps change nothing."""


class DamagedFileError(UserError):
    """A file that is itself damaged, so that an older whole one may take its place."""


class MissingExtraError(UserError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class IncompleteError(UserError):
    """Results vanished or changed during a run, again and again: reported with exit code 3.

    Args:
        place: folder of the results.
        missing: names of all results that are not whole.
    """

    def __init__(self, place: object, missing: Sequence[str]) -> None:
        super().__init__(place, missing)
        self.place, self.missing = place, list(missing)

    def __str__(self) -> str:
        return (
            f"{self.place}: incomplete, {len(self.missing)} results vanished or changed while the "
            f"run was at work, and did so again when made anew: {', '.join(self.missing)}; find "
            "out what removes or changes them, then give the same command again"
        )


@contextlib.contextmanager
def blame(name: str) -> Iterator[None]:
    """Name the argument that mistakes inside the block came from.

    A `UserError` becomes an `ArgumentError`, unless it is one already.
    """
    try:
        yield
    except (ArgumentError, MissingExtraError):
        raise
    except UserError as error:
        raise ArgumentError(name, str(error)) from None


def require(module: str, extra: str) -> Any:
    """Import a module that an extra of this package installs, or raise `MissingExtraError`."""
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)  # a part of it may be loaded although it is missing
        return importlib.import_module(module)
    except ImportError:
        command = f"pip install 'guided-diffusion-add[{extra}]'"
        raise MissingExtraError(f"this needs {package}: {command}") from None
