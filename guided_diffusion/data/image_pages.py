"""Pages and frames of image files. A TIFF's smaller copies and masks of a page are none."""

import itertools
from collections.abc import Iterator

from PIL import Image

NEW_SUBFILE_TYPE = 254  # tag of TIFF
REDUCED_OR_MASK = 5  # its bits for a smaller copy of another page, and for a mask


def page_numbers(image: Image.Image) -> Iterator[int]:
    """Yield the numbers of the pages of an image just opened, which stands at each in turn."""
    found = 0
    for number in itertools.count():
        try:
            image.seek(number)
        except EOFError:
            break
        kind = getattr(image, "tag_v2", {}).get(NEW_SUBFILE_TYPE, 0)
        if not (isinstance(kind, int) and kind & REDUCED_OR_MASK):  # some are no numbers
            found += 1
            yield number
    if not found:
        image.seek(0)
        yield 0


def first_page(image: Image.Image) -> int:
    """Return the number of the first page of an image just opened, which stands at it then."""
    return next(page_numbers(image)) if image.format == "TIFF" else 0


def has_pages(image: Image.Image) -> bool:
    """Return whether an image has several pages; a photograph's previews (MPO) do not count."""
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return False
    if image.format != "TIFF":
        return True
    several = len(list(itertools.islice(page_numbers(image), 2))) > 1
    first_page(image)
    return several
