"""Settings of how image files are read: which, which part of each, and what their numbers mean."""

import dataclasses
import math

from ..config.parser import numbers
from ..config.settings import Settings, setting
from ..errors import ArgumentError

CROPS = ("fit", "native")
PAGES = ("first", "all")


@dataclasses.dataclass(frozen=True)
class ReadingSettings(Settings):
    """How images are read from files."""

    exclude: str = setting(
        "",
        "files to leave out, as patterns: *_mask.png,thumbs,a/b*; with a / they are of paths below "
        "the folder, else of names at any depth; one that fits a folder leaves out all of it",
    )
    crop: str = setting(
        "fit",
        "fit: resize the short side to the size of the network, then cut the middle; native: cut "
        "that many pixels without resizing, at random places in training (in the middle with "
        "--random_crop False), in the middle elsewhere",
        choices=CROPS,
    )
    intensity_range: str = setting(
        "",
        "LOW,HIGH: the values that become black and white in files of more than 8 bits, as 0,4095 "
        "for 12-bit data; empty: what the file says, or 0,65535",
    )
    pages: str = setting(
        "first", "of files with several pages or frames: the first, or all as images", choices=PAGES
    )
    max_pixels: int = setting(
        300_000_000,
        "largest image to open, pixels; one takes about 10 bytes of memory",
        minimum=1,
        free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.span

    @property
    def span(self) -> tuple[float, float] | None:
        """Values that become black and white, None if they are not given.

        Raises:
            ArgumentError: if the text does not hold two rising numbers.
        """
        if not self.intensity_range:
            return None
        found = numbers("intensity_range", self.intensity_range, float)
        if len(found) != 2 or not all(map(math.isfinite, found)) or not found[0] < found[1]:
            expected = "expected two rising numbers LOW,HIGH, as 0,4095"
            raise ArgumentError("intensity_range", f"{expected}, got {self.intensity_range!r}")
        return found

    @property
    def excluded(self) -> list[str]:
        """Patterns of the files to leave out."""
        return [part.strip() for part in self.exclude.split(",") if part.strip()]

    @property
    def reading(self) -> "ReadingSettings":
        """These settings alone, of a group that has others too."""
        names = [field.name for field in dataclasses.fields(ReadingSettings)]
        found = ReadingSettings(**{name: getattr(self, name) for name in names})
        return found.with_given(self.given & set(names))


READING = ReadingSettings()
