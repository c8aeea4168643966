"""The classes that a training learns: those of its images, or those of the weights it begins with.

A run records them as `labels.json` when it begins. Whatever uses its weights later, a further
training included, numbers images by this record.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..config.network_settings import NUM_CLASSES
from ..data.class_labels import counted, refuse_a_class_for_each_image
from ..data.classes import RECORD, Classes, read_classes
from ..data.image_formats import open_images
from ..data.image_source import ImageSource
from ..data.reading import ReadingSettings
from ..data.settings import FolderSettings
from ..errors import ArgumentError, blame
from ..runtime import dist_util
from .settings import LoopSettings

FEW = 10  # images a class; fewer are told


def classes_to_learn(
    images: FolderSettings,
    in_channels: int,
    loop: LoopSettings,
    run_folder: Path,
    rows: int = NUM_CLASSES,
) -> Classes:
    """Return the classes of a training, with their images counted; writes nothing.

    Args:
        images: images to learn from.
        in_channels: channels of an image.
        loop: settings of the loop; they may name weights to begin with.
        run_folder: folder of the run, which may hold the record of an earlier part of it.
        rows: number of classes that the network can tell apart.

    Raises:
        UserError: if images have no classes, almost each has its own, or a record has others.
    """
    own = read_classes(run_folder / RECORD, rows, images.labels)
    begun = loop.resume_checkpoint or getattr(loop, "init_checkpoint", "")
    known = own or (read_classes(_folder_of(begun) / RECORD, rows) if begun else None)
    with blame("data_dir"):
        source = open_labelled(images.data_dir, in_channels, images.labels, images)
        found = counted_classes(source)
        if not known:
            names = [source.name(index) for index in range(len(source))]
            refuse_a_class_for_each_image(found, names, images.data_dir)
            return found
        known.refuse_unknown(found)
        if own and not begun and not own.same_as(found):
            problem = f"expected images of all classes of the run in {run_folder}: {own.listed}"
            raise ArgumentError("data_dir", f"{problem}; found {', '.join(found.numbers)}")
        return known.counted(found)


def open_labelled(
    data_dir: str, in_channels: int, labels: str, reading: ReadingSettings
) -> ImageSource:
    """Open images with their classes, to count them."""
    return open_images(data_dir, 1, in_channels, labels=labels, reading=reading, quiet=True)


def counted_classes(images: ImageSource) -> Classes:
    """Return the classes of opened images, with the number of images of each."""
    if images.classes is None or images.labels is None:
        raise ArgumentError("labels", f"expected images with classes, found none in {images.path}")
    return counted(images.classes, images.labels)


def record_classes(classes: Classes, run_folder: Path) -> str:
    """Write the classes into a claimed run folder; return their table, for the log."""
    dist_util.once(lambda: classes.save(run_folder))
    images = sum(classes.counts.values())
    if len(classes) > 2 and images < FEW * len(classes):
        suspected = (
            f"only {images / len(classes):.3g} images a class: if these are patients or slides"
        )
        ways = "give classes by --labels folder, or by file names as CLASS_NAME.png"
        return f"{classes.table}\n{suspected}, {ways}"
    if len(classes) > 1:
        return classes.table
    advice = "a model of one class learns nothing of classes; --labels folder takes them of folders"
    return f"{classes.table}\n{advice}"


def _folder_of(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent


def shared_among(tiles: int, classes: Classes) -> list[int]:
    """Return the class of each tile of a grid: neighbours share one, as far as tiles go round."""
    numbers = list(classes.numbers.values())
    return [numbers[tile * len(numbers) // tiles] for tile in range(tiles)]


def legend(shown: Sequence[int], classes: Classes) -> str:
    """Say which tiles of a grid are of which class, for the log."""
    tiles = [f"{count} of {n} {classes.name_of(n)}".strip() for n, count in Counter(shown).items()]
    return f"grids in samples/, tiles in rows from the top: {', '.join(tiles)}"
