"""Names of ImageNet's validation images by class, from the three lists that come with the images.

Networks number the classes in alphabetical order of their synsets, from 0; the validation labels
follow the devkit's order, from 1. The synsets join the two.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..runtime import input_files

LARGEST_LIST = 2**24  # bytes
CLASSES = "synset_words.txt"  # a synset per line, in the order of the networks
DEVKIT_NUMBERS = "map_clsloc.txt"  # synset, number, name
VALIDATION_LABELS = "ILSVRC2012_validation_ground_truth.txt"  # a number per validation image


def get_image_filenames_for_label(
    label: int, *, folder: str | os.PathLike = "evaluations"
) -> list[str]:
    """Return the names of the validation images of a class, in their order.

    Args:
        label: the class as networks number it, 0 to 999.
        folder: path of the folder with the three lists.

    Raises:
        UserError: if a list is missing or cannot be read, or there is no such class.
    """
    synsets = [words[0] for words in _rows(folder, CLASSES)]
    if not 0 <= label < len(synsets):
        raise UserError(f"label: expected 0 to {len(synsets) - 1}, got {label}")
    numbers = {words[0]: words[1] for words in _rows(folder, DEVKIT_NUMBERS, columns=2)}
    if synsets[label] not in numbers:
        raise UserError(f"{Path(folder, DEVKIT_NUMBERS)}: no line for {synsets[label]!r}")
    rows = enumerate(_rows(folder, VALIDATION_LABELS), 1)
    wanted = numbers[synsets[label]]
    return [f"ILSVRC2012_val_{index:08d}.JPEG" for index, words in rows if words[0] == wanted]


def _rows(folder: str | os.PathLike, name: str, columns: int = 1) -> Iterator[list[str]]:
    path = Path(folder, name)
    try:
        lines = input_files.read_bytes(path, LARGEST_LIST).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a readable list, got {error}") from None
    for line in lines:
        words = line.split()
        if len(words) < columns:
            raise UserError(f"{path}: expected {columns} or more words in a line, got {line!r}")
        yield words
