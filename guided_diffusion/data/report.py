"""Pictures of results: grids of samples, the contact sheet and the page of sequences.

Images come in as NCHW in [-1, 1] and leave as 8-bit RGB.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch as th
from PIL import Image, ImageDraw, UnidentifiedImageError

from ..errors import UserError
from ..runtime import atomic_files

Row = dict[str, str]
GAP = 2  # pixels between tiles
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Progressive sequences</title>
<style>
body {{ font-family: sans-serif; margin: 2em; color: #222 }}
figure {{ display: inline-block; margin: 2px; text-align: center; font-size: 12px }}
img {{ min-width: 96px; image-rendering: pixelated; display: block }}
.sequence {{ white-space: nowrap; overflow-x: auto }}
</style>
<h1>Progressive sequences</h1>
<p>Each line is one source image (left) on its way. Below a picture: its soft label, and the
depth d from which it was decoded.</p>
{sections}
</html>
"""


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


def contact_sheet(folder: Path, rows: Sequence[Row], sequences: int = 16) -> Image.Image:
    """Return the first sequences of a manifest as rows of captioned pictures, source first.

    Args:
        folder: of the manifest.
        rows: of the manifest, in order.
        sequences: how many to show at most, shared evenly by the directions.
    """
    directions = by_direction(rows).values()
    each = max(1, sequences // len(directions))
    shown = [line for lines in directions for line in lines[:each]]
    tiles = [[read_tile(folder / row["file_name"]) for row in line] for line in shown]
    several = len(directions) > 1
    captions = [[_caption(row, named=several) for row in line] for line in shown]
    return grid(tiles, captions, scale_of(tiles[0][0]))


def scale_of(tile: np.ndarray) -> int:
    """Return the enlargement, in whole pixels, that gives the captions of tiles room."""
    return -(-96 // tile.shape[1])  # they need about 60 pixels


def by_direction(rows: Sequence[Row]) -> dict[tuple[str, str], list[list[Row]]]:
    """Return {(source, target): rows of each sequence} of a manifest, in its order."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        lines = found.setdefault((row["source"], row["target"]), {})
        lines.setdefault(row["sequence"], []).append(row)
    return {ends: list(lines.values()) for ends, lines in found.items()}


def page(rows: Sequence[Row], sequences: int = 100) -> str:
    """Return a manifest as an HTML page, to be saved beside it: a section per direction.

    Args:
        rows: of the manifest, in order.
        sequences: how many of each direction to show at most.
    """
    sections = []
    for ends, lines in by_direction(rows).items():
        shown = lines[:sequences]
        title = escape(" to ".join(ends))
        depths = "; ".join(f"{line[0]['sequence']}: {_depths(line)}" for line in shown)
        sections.append(
            f"<h2>{title}</h2>\n<p>{len(shown)} of {len(lines)} sequences.</p>\n"
            + "\n".join(_line(line) for line in shown)
            + f"\n<p>Depths: {escape(depths)}</p>"
        )
    return PAGE.format(sections="\n".join(sections))


def _line(rows: Sequence[Row]) -> str:
    figures = "".join(
        f'<figure><img loading="lazy" src="{escape(quote(row["file_name"]))}" '
        f'alt="{escape(row["sequence"])}, step {escape(row["step"])}">'
        f"<figcaption>{escape(_caption(row))}<br>{escape(_label(row))}</figcaption></figure>"
        for row in rows
    )
    title = escape(f"{rows[0]['sequence']}: {rows[0]['source_file']}")
    return f'<div class="sequence"><p>{title}</p>{figures}</div>'


def _depths(rows: Sequence[Row]) -> str:
    return " ".join(row["depth"] for row in rows[1:])


def _label(row: Row) -> str:
    shares = {key[6:]: float(value) for key, value in row.items() if key.startswith("label_")}
    return ", ".join(f"{name} {share:.2f}" for name, share in shares.items() if share)


def save_contact_sheet(folder: Path, rows: Sequence[Row], *, anew: bool) -> Path:
    """Save the contact sheet beside a manifest, over an existing one only if `anew`.

    Returns:
        its path.
    """
    path = folder / "contact_sheet.png"
    if anew or not path.exists():
        with atomic_files.atomic_write(path) as file:
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


def _caption(row: Row, named: bool = False) -> str:
    share = f"{float(row['label_' + row['target']]):.2f}"
    share = f"{row['target'][:9]} {share}" if named else share
    return f"{row['source']}" if row["step"] == "0" else f"{share}  d{row['depth']}"
