"""The classes of a model: their names and numbers, recorded as `labels.json` beside its weights.

A training numbers the classes of its images in alphabetical order and records the numbers; from
then on they belong to the model. Commands that load it number other images by the record, so that
a folder of tumours alone is not taken for class 0.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.network_settings import NUM_CLASSES
from ..errors import ArgumentError, UserError
from ..runtime import atomic_files, input_files

RECORD = "labels.json"
LISTED = 12  # classes in a message
TABLED = 40  # rows of a table
LARGEST_RECORD = 2**22  # bytes
BY_NAME, BY_NUMBER = "name:", "number:"


@dataclass(frozen=True)
class Classes:
    """Classes by name and number.

    Attributes:
        numbers: {name: number}, by number.
        origin: description of the place that they come from, for messages.
        labels: source of the class of an image file, a key of `LABEL_SOURCES`.
        named: whether classes have names; otherwise the names are the numbers as text.
        counts: {number: images of the class}, where images were counted.
    """

    numbers: Mapping[str, int]
    origin: str
    labels: str = "prefix"
    named: bool = True
    counts: Mapping[int, int] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, names: Iterable[str], origin: str, labels: str = "prefix") -> "Classes":
        """Number names from 0 in alphabetical order."""
        return cls({name: i for i, name in enumerate(sorted(set(names)))}, origin, labels)

    @classmethod
    def unnamed(cls, numbers: Iterable[int], origin: str) -> "Classes":
        """Return classes that are known by their numbers alone."""
        return cls({str(number): number for number in sorted(set(numbers))}, origin, named=False)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def listed(self) -> str:
        """All classes in one line, as "0 benign, 1 tumour"; a long list is cut."""
        if not self.named and len(self) > LISTED:
            return f"{min(self.numbers.values())} to {max(self.numbers.values())}"
        every = [
            f"{number} {name}" if name != str(number) else name
            for name, number in self.numbers.items()
        ]
        return ", ".join(every[:LISTED] + [f"... ({len(self)} in all)"] * (len(self) > LISTED))

    @property
    def table(self) -> str:
        """A line for each class: its number, name, and images where they were counted.

        Of classes without names just those that have images, where they were counted.
        """
        hidden = {n for n in self.numbers.values() if self.counts and not self.named} - {
            number for number, count in self.counts.items() if count
        }
        shown = {name: number for name, number in self.numbers.items() if number not in hidden}
        rows = [f"{number:>6}  {name}" for name, number in shown.items()]
        if self.counts:
            images = [self.counts.get(number, 0) for number in shown.values()]
            counted = [f"{count} image{'s' * (count != 1)}" for count in images]
            rows = [f"{row}: {text}" for row, text in zip(rows, counted, strict=True)]
        more = len(rows) - TABLED
        rest = [f"        ... and {more} more, see {RECORD}"] if more > 0 else []
        return "\n".join([f"{len(self)} classes ({self.origin}):", *rows[:TABLED], *rest])

    def name_of(self, number: int) -> str:
        """Return the name of a class; empty if classes have no names."""
        by_number = {own: name for name, own in self.numbers.items()}
        return by_number[number] if self.named else ""

    def chosen(self, argument: str, text: str) -> list[int]:
        """Return the numbers of classes given by name or number with commas between.

        A name that is the number of another class needs `name:` or `number:` before it.

        Args:
            argument: name of the argument that the text was given for.
            text: names or numbers; empty: all classes.

        Raises:
            ArgumentError: for a class that is not among these, with the list.
        """
        if not text:
            return list(self.numbers.values())
        return [self._number(argument, part.strip()) for part in text.split(",")]

    def _number(self, argument: str, text: str) -> int:
        kind, _, rest = text.rpartition(":")
        name = rest if f"{kind}:" in (BY_NAME, BY_NUMBER) else text
        number = int(name) if name.isdecimal() and name.isascii() and len(name) < 10 else -1
        meant = []
        if name in self.numbers and not text.startswith(BY_NUMBER):
            meant.append(self.numbers[name])
        if number in self.numbers.values() and not text.startswith(BY_NAME):
            meant.append(number)
        if not meant:
            expected = "names or numbers" if self.named else "numbers"
            problem = f"expected {expected} with commas between, of the classes {self.listed}"
            raise ArgumentError(argument, f"{problem} ({self.origin}), got {text!r}")
        if len(set(meant)) > 1:
            ways = f"{BY_NAME}{name} or {BY_NUMBER}{name}"
            problem = f"{name} is the name of class {meant[0]} and the number of another; write"
            raise ArgumentError(argument, f"{problem} {ways} ({self.listed})")
        return meant[0]

    def text_of(self, numbers: Iterable[int]) -> str:
        """Return chosen classes as text for a record, with commas between."""
        return ",".join(self.name_of(number) or str(number) for number in numbers)

    def refuse_unknown(self, found: "Classes") -> None:
        """Refuse classes of images that are not among these.

        Raises:
            UserError: with both lists.
        """
        if found.named and self.named:
            known = found.numbers.keys() <= self.numbers.keys()
        else:
            known = found.is_part_of(self)
        if not known:
            names = list(found.numbers)
            listed = ", ".join(names[:LISTED] + ["..."] * (len(names) > LISTED))
            expected = f"expected images of the classes {self.listed} ({self.origin})"
            raise UserError(f"{expected}, found the classes {listed} ({found.origin})")

    def number_in(self, found: "Classes") -> dict[int, int]:
        """Return {number in found: number here} of classes of images, see `refuse_unknown`."""
        self.refuse_unknown(found)
        by_name = found.named and self.named
        return {n: self.numbers[name] if by_name else n for name, n in found.numbers.items()}

    def counted(self, found: "Classes") -> "Classes":
        """Return these classes with the counts of images that were found."""
        own = self.number_in(found)
        counts = {own[number]: count for number, count in found.counts.items()}
        return Classes(self.numbers, self.origin, self.labels, self.named, counts)

    def same_as(self, other: "Classes") -> bool:
        """Return whether both have the same numbers, and the same names where both have names."""
        if self.named and other.named:
            return dict(self.numbers) == dict(other.numbers)
        return set(self.numbers.values()) == set(other.numbers.values())

    def is_part_of(self, other: "Classes") -> bool:
        """Return whether all numbers are among the other's."""
        return set(self.numbers.values()) <= set(other.numbers.values())

    def save(self, folder: Path) -> None:
        """Write the record into the folder of a training, if it is not there."""
        if not (path := folder / RECORD).exists():
            with atomic_files.atomic_write(path, "w") as file:
                json.dump(dict(self.numbers), file, indent=2, ensure_ascii=False)


def read_classes(path: Path, rows: int, labels: str = "prefix") -> Classes | None:
    """Read a record of classes.

    Args:
        path: the `labels.json`.
        rows: number of classes that the network can tell apart.
        labels: source of the classes in the training, a key of `LABEL_SOURCES`.

    Returns:
        The classes; None where there is no record.

    Raises:
        UserError: if it is damaged, of another form, or has numbers that the network lacks.
    """
    if not path.exists() and not path.is_symlink():
        return None
    try:
        content = input_files.read_bytes(path, LARGEST_RECORD)
        pairs = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_Pairs)
        numbers = _checked(pairs, rows)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        found = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"{path}: expected the classes of the weights beside it, as {{NAME: NUMBER}} with each "
            f"number once and below {rows}, got {found}; bring the file back from the training, or "
            "take it away if it is something else's"
        ) from None
    return Classes(numbers, str(path), labels)


def beside(weights: Path, rows: int = NUM_CLASSES, labels: str = "prefix") -> Classes | None:
    """Read the record of classes that lies beside weights; see `read_classes`."""
    return read_classes(weights.with_name(RECORD), rows, labels)


class _Pairs(list):
    """The pairs of a JSON object, a name that stands twice included."""


def _checked(pairs: Any, rows: int) -> dict[str, int]:
    if not isinstance(pairs, _Pairs) or not pairs:
        raise ValueError("no names" if isinstance(pairs, _Pairs) else type(pairs).__name__)
    for name, number in pairs:
        if type(number) is not int or not 0 <= number < rows:
            raise ValueError(f"{name!r} as {str(number)[:40]}")
        if not name.isprintable():
            raise ValueError(f"the name {name!r}")
    names, numbers = (set(column) for column in zip(*pairs, strict=True))
    if min(len(names), len(numbers)) < len(pairs):
        raise ValueError("a name or a number that stands twice")
    return dict(sorted(pairs, key=lambda pair: pair[1]))
