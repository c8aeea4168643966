"""Pictures of 8 bits: from the range of a model, laid out in grids, read back from files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch as th
from PIL import Image, ImageDraw

from ..errors import UserError

GAP = 2  # pixels between tiles


def to_uint8(images: th.Tensor) -> np.ndarray:
    """Map [..., C, H, W] in [-1, 1] to [..., H, W, C] uint8, as upstream does (truncating)."""
    scaled = ((images.detach().float().cpu() + 1) * 127.5).clamp(0, 255).to(th.uint8)
    return scaled.movedim(-3, -1).contiguous().numpy()


def to_picture(tile: np.ndarray) -> Image.Image:
    """Return a tile [H, W, C] uint8 of 1 to 4 channels as a picture."""
    return Image.fromarray(tile[..., 0] if tile.shape[-1] == 1 else tile)


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    captions: Sequence[Sequence[str]] | None = None,
    scale: int = 1,
) -> Image.Image:
    """Lay out rows of tiles [H, W, C] uint8 of one size.

    Args:
        rows: rows of tiles.
        captions: text below each tile; None: no captions.
        scale: enlargement of the tiles, a whole number.
    """
    height, width = (scale * side for side in rows[0][0].shape[:2])
    band = 14 if captions else 0
    columns = max(len(row) for row in rows)
    size = (columns * (width + GAP) + GAP, len(rows) * (height + band + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            corner = (GAP + j * (width + GAP), GAP + i * (height + band + GAP))
            picture = to_picture(tile).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture.convert("RGB"), corner)
            if captions:
                pen.text((corner[0] + 1, corner[1] + height + 1), captions[i][j], fill="black")
    return sheet


def square_grid(tiles: Sequence[np.ndarray]) -> Image.Image:
    """Lay out tiles in rows of about as many columns as rows."""
    columns = int(np.ceil(np.sqrt(len(tiles))))
    return grid([tiles[i : i + columns] for i in range(0, len(tiles), columns)])


def scale_of(tile: np.ndarray) -> int:
    """Return the enlargement, a whole number, at which captions fit below tiles [H, W, C]."""
    return -(-96 // tile.shape[1])


def read_tile(path: Path) -> np.ndarray:
    """Read a picture of a run, [H, W, C] uint8; a damaged file is a `UserError`."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            tile = np.array(picture)
    except (OSError, SyntaxError) as error:
        raise UserError(
            f"{path}: expected a whole picture, got {error}; delete it, the same command makes it"
        ) from None
    return tile if tile.ndim == 3 else tile[..., None]
