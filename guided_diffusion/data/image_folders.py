"""Image files of a folder and the folders below it, and a count of what is left out and why."""

import dataclasses
import fnmatch
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import UserError
from ..runtime import input_files, run_folder
from ..runtime.input_files import kind_of
from .image_decoding import dangling, is_array
from .npy_arrays import read_header, why_no_image
from .reading import READING, ReadingSettings

EXTENSIONS = tuple(
    ".jpg .jpeg .jpe .jfif .png .apng .tif .tiff .webp .jp2 .j2k .jpx .jpf .jpc .j2c .gif .bmp "
    ".dib .ppm .pgm .pbm .pnm .avif .tga .qoi .npy".split()
)
LISTED_KINDS = 8
# Names of folders, and first or last words of names, of files that usually hold labels of pixels.
MASKS = "mask masks seg label labels annotation annotations gt groundtruth".split()


@dataclasses.dataclass
class Listing:
    """What a folder holds.

    Attributes:
        folder: path of the folder.
        files: paths of its images, sorted.
        left_out: {reason: number of files} of the others.
        useless: patterns that fit no file.
    """

    folder: Path
    files: list[str] = dataclasses.field(default_factory=list)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    useless: list[str] = dataclasses.field(default_factory=list)

    @property
    def counts(self) -> str:
        """Numbers of what is left out, by reason; empty: nothing is."""
        counted = [
            f"{number} {reason}{'s' * (number > 1 and reason.endswith('folder'))}"
            for reason, number in self.left_out.most_common()
        ]
        if len(counted) > LISTED_KINDS:
            rest = counted[LISTED_KINDS:]
            number = sum(int(text.split()[0]) for text in rest)
            counted[LISTED_KINDS:] = [f"{number} of {len(rest)} other kinds"]
        return ", ".join(counted)

    @property
    def report(self) -> str:
        """One line on the number of images, and on what is left out."""
        return report(self.folder, len(self.files), self.counts)

    @property
    def warnings(self) -> list[str]:
        """Lines on names that may be a mistake."""
        found = [
            f"{self.folder}: --exclude {pattern} fits no file there (patterns are of names, or of "
            "paths below the folder)"
            for pattern in self.useless
        ]
        below = [os.path.relpath(file, self.folder) for file in self.files]
        masks = {file: pattern for file in below if (pattern := mask_pattern(file))}
        if masks:
            patterns = ",".join(sorted(set(masks.values()))[:LISTED_KINDS])
            found.append(
                f"{self.folder}: {len(masks)} of the images have names of masks, such as "
                f"{next(iter(masks))}; if they are, leave them out: --exclude '{patterns}'"
            )
        return found


def mask_pattern(below: str) -> str:
    """Return a pattern that leaves out a file, by its path, if it is named as masks are; or ""."""
    *folders, name = below.split("/")
    if folder := next((part for part in folders if part.lower() in MASKS), ""):
        return folder
    stem, suffix = os.path.splitext(name)
    words = re.split(r"[_. -]", stem)
    if len(words) > 1 and words[-1].lower() in MASKS:
        return f"*{stem[-len(words[-1]) - 1 :]}{suffix}"
    if len(words) > 1 and words[0].lower() in MASKS:
        return f"{stem[: len(words[0]) + 1]}*{suffix}"
    return ""


def report(place: Path, number: int, left_out: str) -> str:
    """Return a line on the number of images in a place, and on what is left out."""
    images = f"{place}: {number} image{'s' * (number != 1)}"
    return f"{images}; left out: {left_out}" if left_out else images


def list_folder(data_dir: str | os.PathLike, reading: ReadingSettings = READING) -> Listing:
    """List the images of a folder and the folders below it.

    Raises:
        UserError: if there is no such folder, a part of it cannot be read, or it holds no image.
    """
    folder = Path(data_dir)
    if not str(data_dir) or not folder.is_dir():
        raise UserError(f"expected a folder of images, got {str(data_dir)!r}{instead(data_dir)}")
    walk = _Walk(folder, reading)
    walk.visit(folder, "")
    found = walk.found
    found.files.sort()
    found.useless = [pattern for pattern in reading.excluded if pattern not in walk.used]
    if not found.files:
        known = " ".join(EXTENSIONS)
        left_out = f"; left out: {found.counts}" if found.left_out else ""
        raise UserError(f"no image in {folder} or below it (looked for {known}){left_out}")
    refuse_unprintable(found.files)
    return found


def instead(path: str | os.PathLike) -> str:
    """Return the end of a message on a path that is no folder or file: what it is, if unusual."""
    place = Path(path)
    if place.is_symlink() and not place.exists():
        return f", a link to {place.readlink()}, which is not there"
    kind = kind_of(place.stat().st_mode) if str(path) and place.exists() else ""
    return f", {kind}" if kind else ""


def refuse_unprintable(files: Iterable[str]) -> None:
    """Raise a `UserError` for names with undecodable bytes or line breaks, as no manifest holds."""
    for file in files:
        if file.isprintable():
            continue
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in file):
            raise UserError(f"expected file names of printable text, found {file!a}")


class _Walk:
    """A walk through a folder; links to folders are followed, as upstream does."""

    def __init__(self, folder: Path, reading: ReadingSettings) -> None:
        self.reading, self.found = reading, Listing(folder)
        self.seen: set[str] = set()
        self.used: set[str] = set()

    def visit(self, place: Path, below: str) -> None:
        """Enter a folder, whose path below the first one is given, into the listing."""
        real = os.path.realpath(place)
        if real in self.seen:  # a link may lead back to a folder above
            self.found.left_out["link to a folder that is read already"] += 1
            return
        self.seen.add(real)
        if below and is_run_record(place / run_folder.RECORD):
            number = sum(1 for name in _names_below(place) if name.lower().endswith(EXTENSIONS))
            self.found.left_out[f"in {below} (a run folder)"] += number
            return
        for entry in _entries(place):
            self._enter(entry, f"{below}/{entry.name}" if below else entry.name)

    def _enter(self, entry: os.DirEntry, below: str) -> None:
        image = entry.name.lower().endswith(EXTENSIONS)
        folder = _is_folder(entry)
        if entry.name.startswith("."):
            self.found.left_out["hidden folder" if folder else "hidden"] += 1
        elif self._excluded(below):
            self.found.left_out["excluded folder" if folder else "by --exclude"] += 1
        elif folder:
            self.visit(Path(entry.path), below)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            if image:
                raise UserError(dangling(Path(entry.path)))
            self.found.left_out[f"dangling link ({below})"] += 1
        elif not entry.is_file():
            kind = kind_of(entry.stat().st_mode).removeprefix("a ")
            self.found.left_out[f"{kind} ({below})"] += 1
        elif not image:
            ending = os.path.splitext(entry.name)[1].lower()
            self.found.left_out[ending or "without an ending"] += 1
        elif is_array(entry.name) and (reason := _other_array(entry.path, self.reading)):
            self.found.left_out[f".npy {reason}"] += 1
        else:
            self.found.files.append(str(Path(entry.path)))

    def _excluded(self, below: str) -> bool:
        for pattern in self.reading.excluded:
            asked = pattern.removesuffix("/").removeprefix("./")
            path = f"/{below}" if asked.startswith("**/") else below
            path = path if "/" in asked else below.rpartition("/")[2]
            if fnmatch.fnmatchcase(path, asked):
                self.used.add(pattern)
                return True
        return False


def _entries(place: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(place) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        problem = f"{place}: the folder cannot be read ({error.strerror})"
        raise UserError(
            f"{problem}; change its permissions, or leave it out by --exclude"
        ) from None


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a loop of links
        raise UserError(f"{entry.path}: {error.strerror}; leave it out by --exclude") from None


def _names_below(place: Path) -> Iterator[str]:
    for _, _, names in os.walk(place):
        yield from names


def is_run_record(path: Path) -> bool:
    """Return whether an args.json is the record of a run of this project."""
    try:
        record = input_files.read_json(path, "the record of a run")
    except (OSError, UserError):
        return False
    kinds = {"script": str, "args": dict, "versions": dict}
    fits = isinstance(record, dict) and all(
        isinstance(record.get(name), kind) for name, kind in kinds.items()
    )
    return fits and "guided_diffusion" in record["versions"]


def _other_array(path: str, reading: ReadingSettings) -> str:
    """Say why an array is no image; "" for images and for damaged files."""
    try:
        with open(path, "rb") as file:
            header = read_header(file)
    except (OSError, ValueError):
        return ""  # opening it will tell
    return why_no_image(header, reading)
