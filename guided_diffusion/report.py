"""Pictures of results: grids of samples and the contact sheet of sequences.

Images come in as NCHW in [-1, 1] and leave as 8-bit RGB.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch as th
from PIL import Image, ImageDraw, UnidentifiedImageError

from . import run
from .flags import UserError

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
    """Lay out rows of tiles [H, W, C] uint8, with an optional caption below each.

    Args:
        rows: tiles of one size.
        captions: text per tile, or None.
        scale: enlargement in whole pixels.
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
            sheet.paste(picture, corner)
            if captions:
                pen.text((corner[0] + 1, corner[1] + height + 1), captions[i][j], fill="black")
    return sheet


def square_grid(tiles: Sequence[np.ndarray]) -> Image.Image:
    """Lay out tiles in rows of about as many columns as rows."""
    columns = int(np.ceil(np.sqrt(len(tiles))))
    return grid([tiles[i : i + columns] for i in range(0, len(tiles), columns)])


def contact_sheet(folder: Path, rows: Sequence[dict[str, str]], sequences: int = 16) -> Image.Image:
    """Return the first sequences of a manifest as rows of captioned pictures, source first.

    Args:
        folder: of the manifest.
        rows: of the manifest, in order.
        sequences: how many to show at most.
    """
    names = list(dict.fromkeys(row["sequence"] for row in rows))[:sequences]
    shown = [[row for row in rows if row["sequence"] == name] for name in names]
    tiles = [[read_tile(folder / row["file_name"]) for row in line] for line in shown]
    scale = -(-96 // tiles[0][0].shape[1])  # captions need about 60 pixels
    captions = [[_caption(row) for row in line] for line in shown]
    return grid(tiles, captions, scale)


def save_contact_sheet(folder: Path, rows: Sequence[dict[str, str]], *, anew: bool) -> Path:
    """Save the contact sheet beside a manifest, over an existing one only if `anew`.

    Returns:
        its path.
    """
    path = folder / "contact_sheet.png"
    if anew or not path.exists():
        with run.atomic_write(path) as file:
            contact_sheet(folder, rows).save(file, "png")
    return path


def read_tile(path: Path) -> np.ndarray:
    """Return a picture that was written here, [H, W, C] uint8.

    Raises:
        UserError: if it was damaged since.
    """
    try:
        with Image.open(path) as picture:
            tile = np.array(picture)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(
            f"{path}: expected a whole picture, got {error}; delete it, the same command makes it"
        ) from None
    return tile if tile.ndim == 3 else tile[..., None]


def _caption(row: dict[str, str]) -> str:
    share = float(row[f"label_{row['target']}"])
    return f"{row['source']}" if row["step"] == "0" else f"{share:.2f}  d{row['depth']}"
