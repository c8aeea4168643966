"""Classes of images: read from file names or folders, numbered in alphabetical order."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config.network_settings import NUM_CLASSES
from ..errors import ArgumentError
from ..runtime import atomic_files, dist_util, logger
from .image_files import list_image_files

Folder = str | os.PathLike


class LabelSource(NamedTuple):
    """A source of the classes of image files."""

    class_of: Callable[[str, Folder], str]  # (path of a file, folder of all) -> name of its class
    meaning: str  # description of a class's name, for messages


def prefix_of(file: str, data_dir: Folder) -> str:
    """Return a file's name up to the first _ in it."""
    return os.path.basename(file).split("_")[0]


def folder_of(file: str, data_dir: Folder) -> str:
    """Return the name of the folder right below `data_dir` that holds a file."""
    folder, *below = Path(file).relative_to(data_dir).parts
    if not below:
        raise ArgumentError(
            "labels", f"folder: expected every image in a folder of its class, found {file}"
        )
    return folder


# Choices of `--labels`.
LABEL_SOURCES = {
    "prefix": LabelSource(prefix_of, "file name up to its first _"),
    "folder": LabelSource(folder_of, "folder right below --data_dir"),
}


def class_names(files: Sequence[str], data_dir: Folder = "", labels: str = "prefix") -> list[str]:
    """Return the name of the class of each image file in a folder.

    Args:
        files: paths of the images.
        data_dir: path of the folder.
        labels: source of the classes, a key of `LABEL_SOURCES`.

    Raises:
        UserError: if a file has no class.
    """
    if labels not in LABEL_SOURCES:
        expected = ", ".join(LABEL_SOURCES)
        raise ArgumentError("labels", f"expected one of {expected}, got {labels!r}")
    return [LABEL_SOURCES[labels].class_of(file, data_dir) for file in files]


def class_numbers(data_dir: Folder, files: Sequence[str], labels: str) -> dict[str, int]:
    """Return {class: number}, numbered from 0 in alphabetical order; see `class_names`.

    Raises:
        UserError: if there are more classes than a network knows, or a file has no class.
    """
    names = sorted(set(class_names(files, data_dir, labels)))
    if len(names) > NUM_CLASSES:
        raise ArgumentError(
            "class_cond",
            f"expected at most {NUM_CLASSES} classes, found {len(names)}; "
            f"the class is a {LABEL_SOURCES[labels].meaning}, here {names[0]!r}",
        )
    return {name: number for number, name in enumerate(names)}


def class_of_each(data_dir: Folder, files: Sequence[str], labels: str) -> list[int]:
    """Return the number of the class of each file; see `class_numbers`."""
    numbers = class_numbers(data_dir, files, labels)
    return [numbers[name] for name in class_names(files, data_dir, labels)]


def record_classes(out_dir: Path, data_dir: Folder, labels: str) -> None:
    """Log the number of each class, and write the numbers to `labels.json` of a run folder.

    Raises:
        UserError: if the run began with other numbers.
    """
    numbers = class_numbers(data_dir, list_image_files(data_dir), labels)
    dist_util.once(lambda: _write_classes(out_dir / "labels.json", numbers))
    logger.log("classes: " + ", ".join(f"{number} {name}" for name, number in numbers.items()))


def _write_classes(path: Path, numbers: dict[str, int]) -> None:
    if not path.exists():
        with atomic_files.atomic_write(path, "w") as file:
            json.dump(numbers, file, indent=2)
    elif (before := json.loads(path.read_text(encoding="utf-8"))) != numbers:
        differing = sorted(before.items() ^ numbers.items())[0][0]
        raise ArgumentError(
            "data_dir",
            f"the classes are not those that the run in {path.parent} was begun with; "
            f"{differing!r} was {before.get(differing)}, is {numbers.get(differing)}",
        )
