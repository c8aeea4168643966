"""Settings: each is declared once, as a field with its default, unit, range or choices.

A group is a frozen dataclass that inherits from `Settings`. Its fields are the flags of commands
(`parser.parse` returns instances) and the keywords of Python programs alike; functions take the
instance. Instances never change; a preset or the demo makes new ones.
"""

import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar

from ..errors import ArgumentError

Group = TypeVar("Group", bound="Settings")
MOST = 2**31 - 1  # largest number of a setting that declares no limit


@dataclasses.dataclass(frozen=True)
class Limits:
    """Range of a number; see `setting`.

    Attributes:
        minimum: smallest value.
        maximum: largest value.
        also: values outside the range that are allowed.
        told: whether the maximum is told where a value does not exceed it.
        excluded: whether the maximum is the number just below a limit that is excluded itself.
    """

    minimum: float = -math.inf
    maximum: float = math.inf
    also: tuple[float, ...] = ()
    told: bool = True
    excluded: bool = False

    def allow(self, value: float) -> bool:
        """Return whether a number is in range; infinities and NaN never are."""
        finite = abs(value) <= sys.float_info.max
        return finite and (self.minimum <= value <= self.maximum or value in self.also)

    def expected(self, kind: type, value: Any = None) -> str:
        """Describe the numbers that are allowed, such as "a whole number of at least 1 or -1".

        Args:
            kind: type of the numbers.
            value: what was found in place of one.
        """
        text = "a whole number" if kind is int else "a number"
        exceeds = isinstance(value, (int, float)) and self.maximum < value < math.inf
        if exceeds or (self.told and self.maximum < math.inf):
            text += f" from {self.minimum:.10g} to {self.maximum:.10g}"
            if self.excluded and value == math.nextafter(self.maximum, math.inf):
                text += f", {value:g} excluded"
        elif self.minimum > -MOST and self.minimum != -self.maximum:
            text += f" of at least {self.minimum:g}"
        return text + "".join(f" or {value:g}" for value in self.also)


def setting(
    default: Any,
    help: str,
    *,
    choices: Iterable[Any] | None = None,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    below: float = math.inf,
    most: float = MOST,
    also: Iterable[float] = (),
    free: bool = False,
    place: str = "",
    required: bool = False,
) -> Any:
    """Declare one setting, as the value of a field.

    Args:
        default: value where none is given; its type is the type of the setting.
        help: description of the setting, with its unit.
        choices: allowed values, for example the keys of a registry. If a range is given too,
            commands take the choices alone, and Python programs every number in the range.
        minimum: smallest value of a number.
        maximum: largest value of a number.
        below: limit of a number that it does not reach, in place of `maximum`.
        most: largest value that makes sense where `maximum` is not given; told only to who exceeds
            it. The smallest one is `-most` where `minimum` is not given.
        also: values outside the range that are allowed, each with a meaning of its own.
        free: whether a run may be continued with another value.
        place: name in the help of a positional argument, which must be given; empty: the setting
            is a flag.
        required: whether help marks it as a flag that must be given; its command refuses an empty
            value.
    """
    limits = Limits()
    maximum = min(maximum, math.nextafter(below, -math.inf)) if below < math.inf else maximum
    ranged = choices is None or minimum > -math.inf or maximum < math.inf
    if type(default) in (int, float) and ranged:
        told, least = maximum < math.inf, max(minimum, -most)
        limits = Limits(least, min(maximum, most), tuple(also), told, below < math.inf)
    metadata = {
        "help": help,
        "choices": tuple(choices) if choices is not None else None,
        "limits": limits,
        "free": free,
        "place": place,
        "required": required,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of all groups of settings; an instance holds allowed values only."""

    _given: ClassVar[frozenset[str] | None] = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))

    @property
    def given(self) -> frozenset[str]:
        """Names of the settings given on the command line; in Python, of all not at defaults."""
        if self._given is not None:
            return self._given
        known = defaults(type(self))
        return frozenset(name for name, value in self.values().items() if value != known[name])

    def values(self) -> dict[str, Any]:
        """Return {name: value} of all settings of the group."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def given_values(self) -> dict[str, Any]:
        """Return {name: value} of the settings that were given."""
        return {name: getattr(self, name) for name in sorted(self.given)}

    def replace(self: Group, **changes: Any) -> Group:
        """Return these settings with some changed; the changed ones count as given.

        Raises:
            ArgumentError: if a value is not allowed.
        """
        return self.with_given(self.given | changes.keys(), **changes)

    def with_given(self: Group, given: Iterable[str], **changes: Any) -> Group:
        """Return these settings with some changed, and a record of the names that were given."""
        made = dataclasses.replace(self, **changes)
        object.__setattr__(made, "_given", frozenset(given))
        return made


def _check(field: dataclasses.Field, value: Any) -> None:
    choices, limits = field.metadata["choices"], field.metadata["limits"]
    kind = type(field.default)
    fits = isinstance(value, (int, float) if kind is float else kind)
    fits = fits and isinstance(value, bool) == (kind is bool)  # a bool is an int to Python
    if kind in (int, float) and (choices is None or limits != Limits()):
        fits, expected = fits and limits.allow(value), limits.expected(kind, value)
    elif choices is not None:
        fits, expected = fits and value in choices, f"one of {', '.join(map(str, choices))}"
    else:
        expected = "True or False" if kind is bool else "text"
    if not fits:
        raise ArgumentError(field.name, f"expected {expected}, got {value!r}")


def fields_of(*groups: type[Settings]) -> Iterator[dataclasses.Field]:
    """Yield the fields of groups; of several fields of one name, only the first."""
    seen: set[str] = set()
    for group in groups:
        for field in dataclasses.fields(group):
            if field.name not in seen:
                seen.add(field.name)
                yield field


def defaults(*groups: type[Settings]) -> dict[str, Any]:
    """Return {name: default} of groups; a name counts in the first group that has it."""
    return {field.name: field.default for field in fields_of(*groups)}


def free_settings(*groups: type[Settings]) -> frozenset[str]:
    """Return the names of the settings that may differ when a run is continued."""
    return frozenset(field.name for field in fields_of(*groups) if field.metadata["free"])


def joined(*groups: Settings) -> dict[str, Any]:
    """Return {name: value} of several groups; a name counts in the first group that has it."""
    return {name: value for group in reversed(groups) for name, value in group.values().items()}
