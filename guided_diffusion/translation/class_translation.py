"""DDIB between two classes of one class-conditional model.

An image of the source class is encoded to noise by DDIM run backwards, conditioned on that class,
and decoded by DDIM conditioned on the target class, where a classifier may steer it. Classes are
the numbers that the model was trained with.

Reference: arXiv:2203.08382, section 4.3.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch as th

from ..config.parser import numbers
from ..data import pictures
from ..data.class_labels import class_names
from ..data.image_files import list_image_files, log_if_fewer
from ..data.image_source import ImageSource
from ..errors import ArgumentError, blame
from ..runtime import atomic_files, execution
from ..runtime.random_streams import ImageNoise
from ..sampling.guidance import Guided

GRID_PAIRS, GRID_COLUMNS = 32, 8


@dataclass(frozen=True)
class Translation:
    """One image on its way to another class.

    Attributes:
        index: its number among all.
        source_file: path of the image.
        source: its class.
        target: the class to translate to.
        file_name: where the result goes, below the run folder.
    """

    index: int
    source_file: str
    source: int
    target: int
    file_name: str


def list_translations(
    folder: str, source: str, target: str, label_map: str = "", num_images: int = 0
) -> list[Translation]:
    """Return what is to be translated: for each pair of classes, the images of the first.

    Args:
        folder: of the images, searched recursively.
        source: classes to translate from, with commas between.
        target: for each of them, the class to translate to.
        label_map: text file that says which class an image has; see `read_label_map`.
        num_images: how many images of each pair, in order of name; 0: all.

    Raises:
        UserError: if the flags or the files do not fit.
    """
    with blame("val_dir"):
        files = list_image_files(folder)
    names = [path.relative_to(folder) for path in map(Path, files)]
    classes = _classes(names, label_map)
    found = []
    for pair in _pairs(source, target):
        chosen = [i for i, number in enumerate(classes) if number == pair[0]]
        if not chosen:
            raise ArgumentError(
                "source",
                f"no image of class {pair[0]} in {folder}, where "
                f"{_overview(classes, names)}; --label_map can say otherwise",
            )
        log_if_fewer(num_images, len(chosen), f"{folder} of class {pair[0]}")
        for i in chosen[: num_images or None]:
            place = Path("{}_to_{}".format(*pair), names[i]).with_suffix(".png").as_posix()
            found.append(Translation(len(found), files[i], *pair, place))
    _refuse_equal_names(found)
    return found


def _pairs(source: str, target: str) -> list[tuple[int, int]]:
    sides = numbers("source", source), numbers("target", target)
    if len(sides[0]) != len(sides[1]):
        raise ArgumentError(
            "target",
            f"expected a class for each of the {len(sides[0])} of --source, got {len(sides[1])}",
        )
    return list(dict.fromkeys(zip(*sides, strict=True)))


def _class_names(files: Sequence[Path]) -> list[str]:
    # As the images lie: in a folder for each class, or all in one, with the class in their names.
    if all(len(file.parts) > 1 for file in files):
        return [file.parts[0] for file in files]
    return class_names([str(file) for file in files])


def _classes(files: Sequence[Path], label_map: str) -> list[int]:
    names = _class_names(files)
    if not label_map:
        known = {name: number for number, name in enumerate(sorted(set(names)))}
        return [known[name] for name in names]
    known = read_label_map(label_map)
    classes = []
    for file, name in zip(files, names, strict=True):
        entries = [known[key] for key in (file.as_posix(), file.name, name) if key in known]
        if not entries:
            raise ArgumentError(
                "label_map", f"expected {file} or its class {name!r} in {label_map}"
            )
        classes.append(entries[0])
    return classes


def read_label_map(path: str | os.PathLike) -> dict[str, int]:
    """Read which number a name has.

    A line names an image (ILSVRC2012_val_00000001.JPEG) or a class (n01440764, the name of a
    folder or the beginning of a file name), and then its number. Where no line has a number, as
    in lists of ImageNet's synsets, lines are numbered from 0.

    Raises:
        UserError: if it cannot be read so.
    """
    try:
        lines = [line.split(maxsplit=1) for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError("label_map", f"expected a text file, got {path} ({error})") from None
    lines = [[*line, ""] for line in lines if line]
    numbered = [line[1].strip().isdecimal() for line in lines]
    if not lines or (any(numbered) and not all(numbered)):
        broken = f"no number in {lines[numbered.index(False)][0]!r}" if lines else "nothing"
        raise ArgumentError(
            "label_map", f"expected a NAME and a NUMBER a line in {path}, got {broken}"
        )
    return {line[0]: int(line[1]) if all(numbered) else index for index, line in enumerate(lines)}


def _overview(classes: Sequence[int], files: Sequence[Path], shown: int = 5) -> str:
    names = dict(sorted(zip(classes, _class_names(files), strict=True)))
    listed = ", ".join(f"{number} is {name}" for number, name in list(names.items())[:shown])
    return listed + (", ..." if len(names) > shown else "")


def _refuse_equal_names(translations: Sequence[Translation]) -> None:
    taken: dict[str, str] = {}
    for item in translations:
        other = taken.setdefault(item.file_name, item.source_file)
        if other != item.source_file:
            raise ArgumentError(
                "val_dir",
                f"expected images of different names, got {other} and "
                f"{item.source_file}, which would both become {item.file_name}",
            )


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
    """Return the translated images [N, C, H, W], each the same in whatever batch.

    Args:
        guided: a class-conditional model, with or without a classifier.
        images: the source image of each translation, as the model takes it.
        batch: N translations.
        clip_denoised: limit each implied clean image to [-1, 1].
        eta: share of fresh noise in decoding; 0 is deterministic.
        seed: of that noise.
        precision: "fp32" or "bf16" arithmetic of the networks.
    """
    noise = ImageNoise(seed, [item.index for item in batch])
    device, diffusion = guided.domain.device, guided.domain.diffusion.drawing(noise)
    clean, _ = images.batch([item.index for item in batch])
    sources = {"y": th.tensor([item.source for item in batch], device=device)}
    targets = {"y": th.tensor([item.target for item in batch], device=device)}
    with execution.autocast(device, precision):
        latents = diffusion.ddim_reverse_sample_loop(
            guided.model, clean.to(device), clip_denoised, model_kwargs=sources
        )
        return diffusion.ddim_sample_loop(
            guided.model,
            latents.shape,
            latents,
            clip_denoised,
            cond_fn=guided.cond_fn,
            model_kwargs=targets,
            eta=eta,
        )


def save(folder: Path, item: Translation, image: th.Tensor) -> None:
    """Save one translated image [C, H, W] in the run folder."""
    path = folder / item.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.atomic_write(path) as file:
        pictures.to_picture(pictures.to_uint8(image)).save(file, "png")


def save_overview(folder: Path, images: ImageSource, items: Sequence[Translation]) -> None:
    """Save translations.csv, a row per image, and the first pairs side by side in pairs.png."""
    columns = ["file_name", "source_file", "source", "target"]
    with atomic_files.atomic_write(folder / "translations.csv", "w") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(vars(item) for item in items)
    tiles = []
    for item in items[:GRID_PAIRS]:
        tiles += [images.tile(item.index), pictures.read_tile(folder / item.file_name)]
    with atomic_files.atomic_write(folder / "pairs.png") as file:
        rows = [tiles[i : i + GRID_COLUMNS] for i in range(0, len(tiles), GRID_COLUMNS)]
        pictures.grid(rows).save(file, "png")
