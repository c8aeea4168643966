"""Images that are files: of a folder, or of a list."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..errors import UserError
from .class_labels import class_of_each
from .image_files import UNREADABLE, list_image_files, open_image
from .image_source import ImageSource


class ImageFiles(ImageSource):
    """Image files in the order of a list; for size and channels see `ImageSource`."""

    def __init__(self, files: Sequence[str], image_size: int, in_channels: int = 3) -> None:
        super().__init__("", image_size, in_channels)
        self.files, self.count = files, len(files)

    def name(self, index: int) -> str:
        """Return the path of a file."""
        return self.files[index]

    def picture(self, index: int) -> Image.Image:
        """Open a whole image; see `ImageSource.picture`."""
        return open_image(self.files[index], self.in_channels)


class ImageFolder(ImageFiles):
    """The images of a folder and of those below it, in order of path; see `open_images`."""

    def __init__(
        self, path: str | os.PathLike, image_size: int = 0, in_channels: int = 3, labels: str = ""
    ) -> None:
        super().__init__(list_image_files(path), image_size, in_channels)
        self.path = Path(path)
        if not image_size:
            self.size = _common_size(self.files)
        if labels:
            self.labels = class_of_each(path, self.files, labels)


def _common_size(files: Sequence[str]) -> tuple[int, int]:
    first = _size_of(files[0])
    for file in files:
        if (size := _size_of(file)) != first:
            raise UserError(
                f"{file}: expected {first[0]}x{first[1]} pixels as of {files[0]}, got "
                f"{size[0]}x{size[1]}; give --image_size to bring all to one size"
            )
    return first


def _size_of(file: str) -> tuple[int, int]:
    try:
        with Image.open(file) as image:  # reads the header alone
            return image.height, image.width
    except UNREADABLE as error:
        raise UserError(f"{file}: expected a readable image, got {error}") from None
