"""DDIB between two classes of one class-conditional model.

An image of the source class is encoded to noise by DDIM run backwards, conditioned on the source
class, and decoded by DDIM conditioned on the target class; a classifier may steer the decoding.
Classes have the names and numbers that the training of the model recorded.

Reference: arXiv:2203.08382, section 4.3.
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch as th

from ..config.parser import numbers
from ..data import pictures, sealed_pictures
from ..data.class_labels import class_names, classes_of_files, known_classes_of_files
from ..data.classes import Classes
from ..data.image_files import log_if_fewer
from ..data.image_folders import list_folder
from ..data.image_source import ImageSource
from ..data.reading import READING, ReadingSettings
from ..errors import ArgumentError, blame
from ..runtime import atomic_files, execution, input_files, logger
from ..runtime.random_streams import ImageNoise
from ..sampling.guidance import Guided

GRID_PAIRS, PAIRS_A_ROW = 32, 4
NUMBER = re.compile(r"[0-9]{1,9}")
LARGEST_MAP = 2**24  # bytes
LISTED_CLASSES = 5  # in a message


@dataclass(frozen=True)
class Translation:
    """One image on its way to another class.

    Attributes:
        index: number among all translations.
        source_file: path of the image.
        source: class of the image.
        target: class to translate to.
        file_name: path of the result, below the run folder.
    """

    index: int
    source_file: str
    source: int
    target: int
    file_name: str

    @property
    def text(self) -> dict[str, str]:
        """What the picture of the result carries as text."""
        return {"source": str(self.source), "target": str(self.target)}


def list_translations(
    folder: str,
    source: str,
    target: str,
    label_map: str = "",
    num_images: int = 0,
    classes: Classes | None = None,
    reading: ReadingSettings = READING,
) -> list[Translation]:
    """List the translations to make: for each pair of classes, the images of the first.

    Args:
        folder: folder of images, searched recursively.
        source: names or numbers of the classes to translate from, separated by commas.
        target: names or numbers of the classes to translate to, one for each of `source`.
        label_map: text file with the class of each image, see `read_label_map`; empty: none.
        num_images: number of images of each pair, in order of name; 0: all.
        classes: classes of the model; None: numbers alone, images are numbered in alphabetical
            order.
        reading: settings of how files are read.

    Raises:
        UserError: if the flags or the files do not fit.
    """
    if reading.pages != "first":
        raise ArgumentError(
            "pages", f"expected first, as each file has one result, got {reading.pages}"
        )
    with blame("val_dir"):
        files = list_folder(folder, reading).files
    paths = [path.relative_to(folder) for path in map(Path, files)]
    numbers, origin = _class_numbers(files, paths, folder, label_map, classes)
    found: list[Translation] = []
    taken: dict[str, str] = {}
    for pair in _pairs(source, target, classes):
        chosen = [i for i, number in enumerate(numbers) if number == pair[0]]
        if not chosen:
            problem = f"no image of class {pair[0]} in {folder}, where {origin}"
            raise ArgumentError("source", f"{problem}; --label_map can say otherwise")
        log_if_fewer(num_images, len(chosen), f"{folder} of class {pair[0]}")
        for i in chosen[: num_images or None]:
            result = Path("{}_to_{}".format(*pair), paths[i]).with_suffix(".png").as_posix()
            if (other := taken.setdefault(result, files[i])) != files[i]:
                problem = f"expected images of different names, got {other} and {files[i]}"
                raise ArgumentError("val_dir", f"{problem}, which would both become {result}")
            found.append(Translation(len(found), files[i], *pair, result))
    return found


def _pairs(source: str, target: str, classes: Classes | None) -> Iterable[tuple[int, int]]:
    chosen = classes.chosen if classes else numbers
    sides = chosen("source", source), chosen("target", target)
    if len(sides[0]) != len(sides[1]):
        expected = f"expected a class for each of the {len(sides[0])} of --source"
        raise ArgumentError("target", f"{expected}, got {len(sides[1])}")
    return dict.fromkeys(zip(*sides, strict=True))


def _class_numbers(
    files: Sequence[str],
    paths: Sequence[Path],
    folder: str,
    label_map: str,
    classes: Classes | None,
) -> tuple[list[int], str]:
    """Return the number of the class of each image, and all classes there in words."""
    # Images lie in a folder for each class, or in one folder with the class in their names.
    labels = "folder" if all(len(path.parts) > 1 for path in paths) else "prefix"
    if label_map:
        names = class_names(files, folder, labels)
        found = _mapped(paths, names, label_map)
        listed = sorted(set(zip(found, names, strict=True)))
    elif classes and classes.named:
        with blame("val_dir"):
            found, _ = known_classes_of_files(files, folder, classes)
        listed = [(number, classes.name_of(number)) for number in sorted(set(found))]
    else:
        found, own = classes_of_files(files, folder, labels)
        listed = [(number, name) for name, number in own.numbers.items()]
        if classes:
            logger.log(f"classes of {folder}, numbered in alphabetical order: {own.listed}")
    words = [f"{number} is {name}" for number, name in listed[:LISTED_CLASSES]]
    return found, ", ".join(words + ["..."] * (len(listed) > LISTED_CLASSES))


def _mapped(paths: Sequence[Path], names: Sequence[str], label_map: str) -> list[int]:
    known, found = read_label_map(label_map), []
    for path, name in zip(paths, names, strict=True):
        entries = [known[key] for key in (path.as_posix(), path.name, name) if key in known]
        if not entries:
            problem = f"expected {path} or its class {name!r} in {label_map}"
            raise ArgumentError("label_map", problem)
        found.append(entries[0])
    return found


def read_label_map(path: str | os.PathLike) -> dict[str, int]:
    """Read the number of each name from a text file.

    A line holds the name of an image (ILSVRC2012_val_00000001.JPEG) or of a class (n01440764, the
    name of a folder or the beginning of a file name), then the number of the class. Where no line
    has a number, as in lists of ImageNet's synsets, lines are numbered from 0.

    Raises:
        UserError: if the file has another form.
    """
    try:
        text = input_files.read_bytes(path, LARGEST_MAP).decode("utf-8")
        lines = [line.split(maxsplit=1) for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise ArgumentError("label_map", f"expected a text file, got {path} ({error})") from None
    lines = [line for line in lines if line]
    numbered = [len(line) == 2 and bool(NUMBER.fullmatch(line[1].strip())) for line in lines]
    expected = f"expected a NAME and a NUMBER a line in {path}"
    if not lines or (any(numbered) and not all(numbered)):
        broken = f"no number in {lines[numbered.index(False)][0]!r}" if lines else "nothing"
        raise ArgumentError("label_map", f"{expected}, got {broken}")
    found: dict[str, int] = {}
    for index, (name, *rest) in enumerate(lines):
        number = int(rest[0]) if all(numbered) else index
        if found.setdefault(name, number) != number:
            broken = f"{found[name]} and {number} for {name!r}"
            raise ArgumentError("label_map", f"{expected}, got {broken}")
    return found


def translate(
    guided: Guided,
    images: ImageSource,
    batch: Sequence[Translation],
    *,
    clip_denoised: bool = True,
    eta: float = 0.0,
    seed: int = 0,
    precision: str = "fp32",
) -> th.Tensor:
    """Translate a batch of images; an image's result does not depend on its batch.

    Args:
        guided: class-conditional model, with or without a classifier.
        images: source images of all translations, by their index, as the model takes them.
        batch: N translations.
        clip_denoised: whether each predicted clean image is clipped to [-1, 1].
        eta: share of fresh noise in decoding, 0 to 1; 0 is deterministic.
        seed: base seed of the fresh noise.
        precision: arithmetic of the networks, "fp32" or "bf16".

    Returns:
        translated images [N, C, H, W].
    """
    indices = [item.index for item in batch]
    noise = ImageNoise(seed, indices)
    device, diffusion = guided.domain.device, guided.domain.diffusion.drawing(noise)
    clean = images.batch(indices)[0].to(device)
    sources = {"y": th.tensor([item.source for item in batch], device=device)}
    targets = {"y": th.tensor([item.target for item in batch], device=device)}
    model, steer = guided.model, guided.cond_fn
    with execution.autocast(device, precision):
        latents = diffusion.ddim_reverse_sample_loop(
            model, clean, clip_denoised, model_kwargs=sources
        )
        translated = diffusion.ddim_sample_loop(
            model, latents.shape, latents, clip_denoised, None, steer, targets, eta=eta
        )
    guided.domain.refuse_infinite(latents, translated)
    return translated


def save(folder: Path, item: Translation, image: th.Tensor) -> None:
    """Save one translated image [C, H, W] in the run folder."""
    path = folder / item.file_name
    atomic_files.make_subfolder(path.parent)
    sealed_pictures.save(path, pictures.to_uint8(image), item.text)


def is_made(folder: Path, item: Translation, plain: bool) -> bool:
    """Return whether a translated image is there, unchanged since it was saved.

    Args:
        folder: the run folder.
        item: the translation.
        plain: whether the run was begun by an older version, whose pictures carry no text.
    """
    path = folder / item.file_name
    return sealed_pictures.is_whole(path, item.text) or (
        plain and sealed_pictures.is_whole(path, {}, plain=True)
    )


def save_overview(folder: Path, images: ImageSource, items: Sequence[Translation]) -> None:
    """Save translations.csv with a row per image, and pairs.png with the first pairs of images."""
    columns = ["file_name", "source_file", "source", "target"]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(map(vars, items))
    atomic_files.write_if_changed(folder / "translations.csv", table.getvalue().encode())
    pairs = [
        (images.tile(item.index), pictures.read_tile(folder / item.file_name))
        for item in items[:GRID_PAIRS]
    ]
    rows = [sum(pairs[i : i + PAIRS_A_ROW], ()) for i in range(0, len(pairs), PAIRS_A_ROW)]
    content = io.BytesIO()
    pictures.grid(rows).save(content, "png")
    atomic_files.write_if_changed(folder / "pairs.png", content.getvalue())
