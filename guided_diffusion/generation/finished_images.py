"""The images that a run made, for those who measure them: which files of its folder count.

A generation's folder also holds source tiles and contact sheets, the folder of a sampling command
its archive beside pictures. Any other folder or file is a plain set of images.
"""

from collections.abc import Sequence
from pathlib import Path

from ..data.image_formats import open_set
from ..data.image_source import ImageFiles, ImageSource, common_size
from ..data.reading import READING, ReadingSettings
from ..errors import ArgumentError, UserError
from ..runtime.run_folder import RECORD, read_args
from . import manifest
from .manifest import Row

NEEDED = "file_name", "sequence", "step", "source", "target"
SAMPLERS = "image_sample", "classifier_sample", "super_res_sample"
AGAIN = "give its command again to complete it"


def open_results(
    path: str, image_size: int, steps: Sequence[int], reading: ReadingSettings = READING
) -> tuple[ImageSource, str]:
    """Open a set of images: of a run folder what the run made, else all images of the place.

    Args:
        path: run folder, translation_<source>_<target> in it or its images, other folder, or file.
        image_size: side of the square that is cut from the centre, pixels; 0: whole images.
        steps: steps of a generation's sequences that count; (): all from 1.
        reading: how pixels are read.

    Returns:
        the images, and in words which images of a generation they are ("" if not of one).

    Raises:
        UserError: if there are no images, or the run is unfinished.
    """
    place, script = Path(path), _script(Path(path))
    if folder := _translation_folder(place, script):
        return _of_generation(folder, place, image_size, steps, reading)
    if script in SAMPLERS:
        place = _archive(place)
    elif script == "imagenet_translation":
        return _of_classes(place, image_size, reading), ""
    elif script.endswith("_train"):
        raise UserError(f"expected images, got {path}, the run folder of {script}")
    return open_set(place, image_size, reading), ""


def _script(folder: Path) -> str:
    try:
        return read_args(folder / RECORD).get("script", "")
    except UserError:
        return ""  # not a run folder of ours


def _translation_folder(place: Path, script: str) -> Path | None:
    """Return the folder of one direction that a path is, is in, or holds."""
    if script == "frequency_generating_m_samples":
        found = sorted(path.parent for path in place.glob("translation_*/manifest.csv"))
        if len(found) > 1:
            names = ", ".join(folder.name for folder in found)
            raise UserError(f"expected one direction, got {place} with {names}; name one of them")
        if not found:
            raise UserError(f"expected a finished generation, got {place} without any; {AGAIN}")
        return found[0]
    for folder in (place, *place.absolute().parents[:2]):
        header = manifest.columns_of(folder / "manifest.csv") if place.is_dir() else []
        if set(NEEDED) <= set(header) and folder.name.startswith("translation_"):
            return folder
    return None


def _of_generation(
    folder: Path, place: Path, image_size: int, steps: Sequence[int], reading: ReadingSettings
) -> tuple[ImageSource, str]:
    if left := [*folder.glob("manifest.part*.csv"), *folder.glob("*.npy.partial")]:
        problem = f"got {folder}, which is unfinished ({left[0].name} is there)"
        raise UserError(f"expected a finished generation, {problem}; {AGAIN}")
    rows = [r for r in manifest.read_any(folder / "manifest.csv", NEEDED) if manifest.is_sound(r)]
    known = sorted({int(row["step"]) for row in rows})
    if unknown := [step for step in steps if step not in known]:
        expected = f"expected some of the steps 0 to {max(known, default=0)} of {folder}"
        raise ArgumentError("steps", f"{expected}, got {unknown[0]}")
    wanted = set(steps or known) - (set() if steps else {0})
    inside = place.resolve() if "images" in place.resolve().parts[-2:] else folder.resolve()
    chosen = [row for row in rows if int(row["step"]) in wanted and _is_in(folder, row, inside)]
    files = [str(folder / row["file_name"]) for row in chosen]
    if gone := [file for file in files if not Path(file).is_file()]:
        raise UserError(f"expected a finished generation, but {gone[0]} is gone; {AGAIN}")
    if not files:
        raise UserError(f"expected a finished generation, got none in {place}; {AGAIN}")
    sequences = len({row["sequence"] for row in chosen})
    listed = ", ".join(map(str, sorted(wanted)))
    return _source(place, files, image_size, reading), f"steps {listed} of {sequences} sequences"


def _is_in(folder: Path, row: Row, inside: Path) -> bool:
    return inside in (folder.resolve() / row["file_name"]).parents


def _archive(place: Path) -> Path:
    found = sorted(place.glob("samples_*.npz"))
    if len(found) != 1:
        got = f"{len(found)} of samples_*.npz in {place}"
        raise UserError(f"expected the samples of a finished run, got {got}; {AGAIN}")
    return found[0]


def _of_classes(place: Path, image_size: int, reading: ReadingSettings) -> ImageSource:
    table = place / "translations.csv"
    if not table.is_file():
        raise UserError(f"expected a finished run, got {place} without {table.name}; {AGAIN}")
    names = [row["file_name"] for row in manifest.read_any(table, ["file_name"])]
    files = [place / name for name in names if not Path(name).is_absolute()]
    if gone := [file for file in files if not file.is_file() or ".." in file.parts]:
        raise UserError(f"expected a finished run, but {gone[0]} is gone; {AGAIN}")
    return _source(place, list(map(str, files)), image_size, reading)


def _source(
    place: Path, files: Sequence[str], image_size: int, reading: ReadingSettings
) -> ImageSource:
    images = ImageFiles(files, image_size, reading=reading)
    images.path, images.keep_bytes = place, 0
    if not image_size:
        images.size = common_size(files, reading)
    return images
