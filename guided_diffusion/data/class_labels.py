"""Class labels of images: read from file names or folders, counted, and refused where senseless."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config.network_settings import NUM_CLASSES
from ..errors import ArgumentError, UserError
from .classes import Classes

Folder = str | os.PathLike


class NoClassError(ArgumentError):
    """An image whose path holds no class."""


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
        raise NoClassError(
            "labels",
            f"folder: expected every image in a folder of its class below {data_dir}, found "
            f"{file}; give the folder that holds a folder for each class",
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


def classes_of_files(
    files: Sequence[str], data_dir: Folder, labels: str
) -> tuple[list[int], Classes]:
    """Return the number of the class of each file, and all classes in alphabetical order.

    Raises:
        UserError: if there are more classes than a network knows, or a file has no class.
    """
    names = class_names(files, data_dir, labels)
    meaning = LABEL_SOURCES[labels].meaning
    classes = Classes.of(names, f"{meaning}, in {data_dir}", labels)
    if len(classes) > NUM_CLASSES:
        raise ArgumentError(
            "labels",
            f"expected at most {NUM_CLASSES} classes, found {len(classes)}; "
            f"the class is a {meaning}, here {next(iter(classes.numbers))!r}; "
            f"{_ways(files, data_dir)}",
        )
    return [classes.numbers[name] for name in names], classes


def known_classes_of_files(
    files: Sequence[str], data_dir: Folder, known: Classes
) -> tuple[list[int], Classes]:
    """Return the number of the class of each file, as a model numbers its classes, and the classes.

    A model whose classes have no names gets the numbers in alphabetical order.

    Where the labels that the model was trained with do not give its classes, but others do, these
    are taken: a model of images in folders may be shown images with the class in their names.

    Raises:
        UserError: if images are of other classes, with both lists.
    """
    problem: UserError | None = None
    for labels in sorted(LABEL_SOURCES, key=lambda source: source != known.labels):
        try:
            numbers, found = classes_of_files(files, data_dir, labels)
            own = known.number_in(found)
            return [own[number] for number in numbers], known if known.named else found
        except NoClassError as error:
            expected = f"expected images of the classes {known.listed} ({known.origin})"
            problem = problem or UserError(f"{expected}; labels of a {error.problem}")
        except UserError as error:
            problem = problem or error
    raise problem or UserError("no labels")


def counted(classes: Classes, numbers: Sequence[int]) -> Classes:
    """Return classes with the number of images of each, by the class of every image."""
    counts = Counter(numbers)
    return Classes(classes.numbers, classes.origin, classes.labels, classes.named, counts)


def refuse_a_class_for_each_image(found: Classes, files: Sequence[str], data_dir: Folder) -> None:
    """Refuse labels that tell images apart rather than classes.

    They do where there are more than two classes and fewer than two images a class (one may be
    missing), or where most classes are whole file names, in which no _ ends the class.

    Args:
        found: classes of the images.
        files: names of the images.
        data_dir: folder of the images.

    Raises:
        ArgumentError: for such labels, with other ways to give them.
    """
    whole = [name for name in map(os.path.basename, files) if name in found.numbers]
    no_prefix = found.labels == "prefix" and 2 * len(set(whole)) > len(found)
    if not no_prefix and (len(found) <= 2 or 2 * len(found) <= len(files) + 1):
        return
    shown = ", ".join(list(found.numbers)[:3])
    raise ArgumentError(
        "labels",
        f"expected classes of several images each, found {len(found)} for {len(files)} images: "
        f"{shown}{', ...' * (len(found) > 3)}; the class is the {found.origin}; "
        f"{_ways(files, data_dir)}",
    )


def _ways(files: Sequence[str], data_dir: Folder) -> str:
    places = {Path(file).parent.name for file in files if Path(file).parent != Path(data_dir)}
    hint = f" (here {', '.join(sorted(places)[:3])})" if len(places) > 1 else ""
    return (
        f"name files as CLASS_NAME.png, or sort them into a folder for each class{hint} and give "
        "--labels folder; a diffusion model can also be trained without --class_cond True"
    )
